#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>

namespace distil_xlstm::io::detail {

DISTIL_XLSTM_INLINE bf16 to_bf16(double x) {
  const float f = static_cast<float>(x);
  if (!std::isfinite(f) || static_cast<double>(f) == x) return bf16(f);
  std::uint32_t u = std::bit_cast<std::uint32_t>(f);
  if (std::abs(static_cast<double>(f)) > std::abs(x)) --u;
  return bf16(std::bit_cast<float>(u | 1u));
}

}  // namespace distil_xlstm::io::detail

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE void safetensors_writer::declare(std::string name, dtype type, std::vector<index> shape) {
  require(!out_, "tensor ", detail::printable(name), " is declared after the file was opened");
  require(name != "__metadata__", "a tensor cannot be called __metadata__");
  require(traits(type).block_size == 1, "tensor ", detail::printable(name), ": safetensors cannot hold ",
          traits(type).name);
  require(declared_.insert(name).second, "tensor ", detail::printable(name), " is declared twice");
  entry e{std::move(name), type, std::move(shape), 1, 0, nullptr};
  for (index d : e.shape)
    require(d >= 0 && detail::multiply(e.size, d, e.size), "tensor ", detail::printable(e.name), ": the shape ",
            detail::shape_text(e.shape), " is not possible");
  require(detail::multiply(e.size, traits(type).bytes, e.bytes), "tensor ", detail::printable(e.name),
          ": the shape ", detail::shape_text(e.shape), " is not possible");
  entries_.push_back(std::move(e));
}

DISTIL_XLSTM_INLINE void safetensors_writer::write(const std::filesystem::path& path) {
  for (const entry& e : entries_)
    require(e.source != nullptr, "tensor ", detail::printable(e.name),
            " is declared, but has no memory to write from");
  open(path);
  for (std::size_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].size > 0) entries_[i].source(*this, entries_[i].size);
  commit();
}

DISTIL_XLSTM_INLINE void safetensors_writer::open(const std::filesystem::path& path) {
  require(!out_, path.string(), ": the writer is already open");
  std::string header = header_text(path.string());
  header.append((64 - (8 + header.size()) % 64) % 64, ' ');
  const std::uint64_t length = header.size();
  require(length <= safetensors_file::longest_header, path.string(), ": a header of ", length,
          " bytes is more than safetensors allows");
  out_ = std::make_unique<atomic_file>(path);
  out_->write(&length, 8);
  out_->write(header);
  current_ = 0, done_ = 0;
  skip_complete();
}

DISTIL_XLSTM_INLINE void safetensors_writer::commit() {
  require(out_ != nullptr, "safetensors_writer: commit before open");
  require(current_ == entries_.size(), out_->path(), ": tensor ",
          current_ < entries_.size() ? detail::printable(entries_[current_].name) : "", " lacks ",
          current_ < entries_.size() ? entries_[current_].size - done_ : 0, " numbers");
  out_->commit();
  *this = safetensors_writer();
}

DISTIL_XLSTM_INLINE std::string safetensors_writer::header_text(const std::string& file) const {
  ordered_json root = ordered_json::object();
  if (!metadata_.empty()) root["__metadata__"] = metadata_;
  index at = 0;
  for (const entry& e : entries_) {
    const index begin = at;
    require(!__builtin_add_overflow(at, e.bytes, &at), file, ": the tensors are too large together");
    // Each name is there once: appended, not looked up.
    root.get_ref<ordered_json::object_t&>().Container::emplace_back(
        e.name, ordered_json{{"dtype", traits(e.dtype).name},
                             {"shape", e.shape},
                             {"data_offsets", ordered_json::array({begin, at})}});
  }
  try {
    return root.dump();
  } catch (const ordered_json::exception&) {
    fail(file, ": a name is not UTF-8");
  }
}

DISTIL_XLSTM_INLINE void safetensors_writer::skip_complete() {
  while (current_ < entries_.size() && done_ == entries_[current_].size) ++current_, done_ = 0;
}

}  // namespace distil_xlstm::io
