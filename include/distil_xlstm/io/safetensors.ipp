#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/safetensors.hpp>

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE safetensors_file::safetensors_file(const std::filesystem::path& path)
    : file_(path), name_(file_.path()) {
  parse(file_.bytes());
}

DISTIL_XLSTM_INLINE safetensors_file::safetensors_file(std::span<const std::byte> bytes, std::string name)
    : name_(std::move(name)) {
  parse(bytes);
}

DISTIL_XLSTM_INLINE std::vector<std::string> safetensors_file::names() const {
  std::vector<std::string> out;
  for (const auto& t : tensors_) out.push_back(t.name);
  return out;
}

DISTIL_XLSTM_INLINE const tensor_info* safetensors_file::find(std::string_view name) const {
  const tensor_info* t = index_.find(tensors_, name);
  require(!t || t->readable, name_, ": tensor ", detail::printable(name), " has the unsupported type ",
          t ? detail::printable(t->type) : "");
  return t;
}

DISTIL_XLSTM_INLINE const tensor_info& safetensors_file::at(std::string_view name) const {
  const tensor_info* t = find(name);
  require(t, name_, ": there is no tensor ", detail::printable(name));
  return *t;
}

DISTIL_XLSTM_INLINE void safetensors_file::parse(std::span<const std::byte> file) {
  require(file.size() >= 8, name_, ": ", file.size(), " bytes are too few for a safetensors file");
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  require(length <= longest_header, name_, ": not a safetensors file (a header of ", length,
          " bytes is more than the ", longest_header, " that safetensors allows)");
  require(length <= file.size() - 8, name_, ": a header of ", length, " bytes in a file of ", file.size());
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, length);
  require(text.starts_with('{'), name_, ": not a safetensors file (the header does not begin with {)");
  const auto data = file.subspan(8 + static_cast<std::size_t>(length));
  read_header(text, data);

  std::vector<tensor_info> by_place;
  by_place.reserve(tensors_.size());
  for (const std::size_t i : detail::sorted_order(tensors_.size(), [&](std::size_t i, std::size_t j) {
         const tensor_info &a = tensors_[i], &b = tensors_[j];
         return std::tie(a.data, a.bytes, a.name) < std::tie(b.data, b.bytes, b.name);
       }))
    by_place.push_back(std::move(tensors_[i]));
  tensors_ = std::move(by_place);
  std::ptrdiff_t end = 0;
  for (const auto& t : tensors_) {
    require(t.data - data.data() == end, name_, ": the data of tensor ", detail::printable(t.name),
            " begins at ", t.data - data.data(), ", the tensor before ends at ", end);
    end += t.bytes;
  }
  require(end == std::ssize(data), name_, ": the tensors end at byte ", end, " of the data, the file at ",
          data.size());
  index_ = detail::tensor_index(tensors_, name_);
}

DISTIL_XLSTM_INLINE void safetensors_file::read_header(std::string_view text, std::span<const std::byte> data) {
  detail::json_scanner in(text, name_);
  in.object([&](const std::string& key) {
    if (key == "__metadata__") {
      require(in.peek() == '{', name_, ": __metadata__ must be an object of strings");
      in.object([&](const std::string& k) { metadata_.emplace(k, in.string(k, name_)); });
    } else {
      tensors_.push_back(read_tensor(in, key, data));
    }
  });
  in.end();
}

DISTIL_XLSTM_INLINE tensor_info safetensors_file::read_tensor(detail::json_scanner& in, const std::string& name,
                                                              std::span<const std::byte> data) {
  const std::string where = name_ + ": tensor " + detail::printable(name);
  if (in.peek() != '{') in.refuse("its description", where, "a JSON object");
  std::optional<std::string> type;
  std::optional<std::vector<index>> shape;
  std::optional<std::vector<std::uint64_t>> offsets;
  const auto read_integers = [&](const std::string& key, auto& out) {
    if (in.peek() != '[') in.refuse(key, where, "an array");
    auto& list = out.emplace();
    using integer = typename std::remove_reference_t<decltype(list)>::value_type;
    in.array([&] { list.push_back(in.template integer<integer>(key, where)); });
  };
  in.object([&](const std::string& key) {
    if (key == "dtype") {
      type = in.string(key, where);
    } else if (key == "shape") {
      read_integers(key, shape);
    } else if (key == "data_offsets") {
      read_integers(key, offsets);
    } else {
      in.skip();
    }
  });
  require(type.has_value(), where, ": dtype is missing");
  require(shape.has_value(), where, ": shape is missing");
  require(offsets.has_value(), where, ": data_offsets is missing");
  require(offsets->size() == 2, where, ": data_offsets must be two numbers, not ", offsets->size());
  const std::uint64_t begin = (*offsets)[0], end = (*offsets)[1];
  require(begin <= end && end <= data.size(), where, ": data_offsets ", begin, " to ", end,
          " do not lie in the ", data.size(), " bytes of data");

  tensor_info t;
  t.name = name;
  t.type = *type;
  t.shape = *shape;
  t.data = data.data() + begin;
  t.bytes = static_cast<index>(end - begin);
  t.readable = dtype_named(t.type, t.dtype);
  index size = 1;
  for (const index d : t.shape)
    require(d >= 0 && detail::multiply(size, d, size), where, ": the shape ", detail::shape_text(t.shape),
            " is not possible");
  index bytes = 0;
  if (t.readable)
    require(detail::multiply(size, traits(t.dtype).bytes, bytes) && bytes == t.bytes, where, ": ", t.type, " ",
            detail::shape_text(t.shape), " does not take the ", t.bytes, " bytes of its data_offsets");
  return t;
}

DISTIL_XLSTM_INLINE bool safetensors_file::dtype_named(std::string_view type, dtype& out) {
  for (dtype e :
       {dtype::f64, dtype::f32, dtype::bf16, dtype::f16, dtype::i64, dtype::i32, dtype::u16, dtype::u8})
    if (type == traits(e).name) {
      out = e;
      return true;
    }
  return false;
}

}  // namespace distil_xlstm::io
