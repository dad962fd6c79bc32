#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/tensor_info.hpp>

namespace distil_xlstm::io {

/// A safetensors file, memory-mapped: u64 length of a JSON header, the header, then the tensors end to end.
/// The header must describe the file exactly: no overlap, no hole, no byte left over, no name twice.
/// Types: F64 F32 BF16 F16 I64 I32 U16 U8; a tensor of another type is listed and refused once it is asked for.
class safetensors_file {
 public:
  static constexpr std::uint64_t longest_header = 100'000'000;

  /// Throws `error` naming the file (and tensor) when the file cannot be read or is malformed.
  explicit safetensors_file(const std::filesystem::path& path) : file_(path), name_(file_.path()) {
    parse(file_.bytes());
  }
  /// Over memory that the caller keeps; `name` is what errors call it.
  safetensors_file(std::span<const std::byte> bytes, std::string name) : name_(std::move(name)) {
    parse(bytes);
  }

  const std::string& path() const { return name_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// All tensors in the order of their data in the file.
  const std::vector<tensor_info>& tensors() const { return tensors_; }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& t : tensors_) out.push_back(t.name);
    return out;
  }
  /// The tensor, or null where there is none; throws where its type is not supported.
  const tensor_info* find(std::string_view name) const {
    const tensor_info* t = index_.find(tensors_, name);
    require(!t || t->readable, name_, ": tensor ", detail::printable(name), " has the unsupported type ",
            t ? detail::printable(t->type) : "");
    return t;
  }
  /// As `find`; throws naming the file and the tensor where there is none.
  const tensor_info& at(std::string_view name) const {
    const tensor_info* t = find(name);
    require(t, name_, ": there is no tensor ", detail::printable(name));
    return *t;
  }

 private:
  void parse(std::span<const std::byte> file) {
    require(file.size() >= 8, name_, ": ", file.size(), " bytes are too few for a safetensors file");
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), 8);
    require(length <= longest_header, name_, ": a header of ", length, " bytes is more than the ",
            longest_header, " that safetensors allows");
    require(length <= file.size() - 8, name_, ": a header of ", length, " bytes in a file of ", file.size());
    const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, length);
    require(text.starts_with('{'), name_, ": not a safetensors file (the header does not begin with {)");
    const json header = parse_json(text, name_);
    const auto data = file.subspan(8 + static_cast<std::size_t>(length));

    struct extent_of {
      std::uint64_t begin, end;
      std::size_t entry;
    };
    std::vector<extent_of> extents;
    std::vector<tensor_info> found;
    for (const auto& [key, value] : header.items()) {
      if (key == "__metadata__") {
        require(value.is_object(), name_, ": __metadata__ must be an object of strings");
        for (const auto& [k, v] : value.items()) metadata_.emplace(k, io::get<std::string>(value, k, name_));
        continue;
      }
      tensor_info t;
      t.name = key;
      const std::string where = name_ + ": tensor " + detail::printable(key);
      t.type = io::get<std::string>(value, "dtype", where);
      t.shape = io::get<std::vector<index>>(value, "shape", where);
      const auto offsets = io::get<std::vector<std::uint64_t>>(value, "data_offsets", where);
      require(offsets.size() == 2, where, ": data_offsets must be two numbers, not ", offsets.size());
      require(offsets[0] <= offsets[1] && offsets[1] <= data.size(), where, ": data_offsets ", offsets[0],
              " to ", offsets[1], " do not lie in the ", data.size(), " bytes of data");
      t.data = data.data() + offsets[0];
      t.bytes = static_cast<index>(offsets[1] - offsets[0]);
      t.readable = dtype_named(t.type, t.dtype);
      index size = 1;
      for (index d : t.shape)
        require(d >= 0 && detail::multiply(size, d, size), where, ": the shape ", detail::shape_text(t.shape),
                " is not possible");
      if (t.readable) {
        index bytes = 0;
        require(detail::multiply(size, traits(t.dtype).bytes, bytes) && bytes == t.bytes, where, ": ", t.type,
                " ", detail::shape_text(t.shape), " does not take the ", t.bytes, " bytes of its data_offsets");
      }
      extents.push_back({offsets[0], offsets[1], found.size()});
      found.push_back(std::move(t));
    }

    std::sort(extents.begin(), extents.end(), [](const extent_of& a, const extent_of& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end) ||
             (std::pair(a.begin, a.end) == std::pair(b.begin, b.end) && a.entry < b.entry);
    });
    std::uint64_t end = 0;
    tensors_.reserve(found.size());
    for (const auto& e : extents) {
      require(e.begin == end, name_, ": the data of tensor ", detail::printable(found[e.entry].name),
              " begins at ", e.begin, ", the tensor before ends at ", end);
      end = e.end;
      tensors_.push_back(std::move(found[e.entry]));
    }
    require(end == data.size(), name_, ": the tensors end at byte ", end, " of the data, the file at ",
            data.size());
    index_ = detail::tensor_index(tensors_, name_);
  }
  static bool dtype_named(std::string_view type, dtype& out) {
    for (dtype e :
         {dtype::f64, dtype::f32, dtype::bf16, dtype::f16, dtype::i64, dtype::i32, dtype::u16, dtype::u8})
      if (type == traits(e).name) {
        out = e;
        return true;
      }
    return false;
  }

  mapped_file file_;
  std::string name_;
  std::map<std::string, std::string> metadata_;
  std::vector<tensor_info> tensors_;
  detail::tensor_index index_;
};

namespace detail {

/// The element of a C++ type that the writer takes.
template <class T>
constexpr dtype dtype_of_scalar() {
  if constexpr (std::is_same_v<T, double>)
    return dtype::f64;
  else if constexpr (std::is_same_v<T, float>)
    return dtype::f32;
  else if constexpr (std::is_same_v<T, bf16>)
    return dtype::bf16;
  else if constexpr (std::is_integral_v<T> && std::is_signed_v<T> && sizeof(T) == 8)
    return dtype::i64;
  else if constexpr (std::is_same_v<T, std::int32_t>)
    return dtype::i32;
  else if constexpr (std::is_same_v<T, std::uint16_t>)
    return dtype::u16;
  else if constexpr (std::is_same_v<T, std::uint8_t>)
    return dtype::u8;
  else
    static_assert(sizeof(T) == 0, "safetensors_writer: double, float, bf16, int64, int32, uint16, uint8");
}

/// double to bf16 with one rounding: the float between is rounded to odd, so that the second rounding sees
/// that something was cut off (Boldo and Melquiond, 2008).
inline bf16 to_bf16(double x) {
  const float f = static_cast<float>(x);
  if (!std::isfinite(f) || static_cast<double>(f) == x) return bf16(f);
  std::uint32_t u = std::bit_cast<std::uint32_t>(f);
  if (std::abs(static_cast<double>(f)) > std::abs(x)) --u;
  return bf16(std::bit_cast<float>(u | 1u));
}
inline bf16 to_bf16(float x) { return bf16(x); }

}  // namespace detail

/// Writes a safetensors file: the same calls give the same bytes. The data begins at a multiple of 64.
///
/// In memory:  `w.add(name, kind, shape, pointer)...; w.write(path)`; the memory must last until `write`.
/// Streaming:  `w.declare(name, kind, shape)...; w.open(path); w.append(values, n)...; w.commit()`, with the
///             tensors' numbers in the order of their declaration, in as many parts as suits.
/// Floating-point memory (double, float, bf16) is converted to the kind asked for (F64, F32 or BF16, rounded to
/// nearest even); integers must have their own kind. The file appears under its name only when complete
/// (`atomic_file`). Every error is one line naming the file or the tensor.
class safetensors_writer {
 public:
  /// A string of `__metadata__`; a key given again takes the new value.
  void metadata(std::string key, std::string value) { metadata_[std::move(key)] = std::move(value); }

  void declare(std::string name, dtype type, std::vector<index> shape) {
    require(!out_, "tensor ", detail::printable(name), " is declared after the file was opened");
    require(name != "__metadata__", "a tensor cannot be called __metadata__");
    require(traits(type).block_size == 1, "tensor ", detail::printable(name), ": safetensors cannot hold ",
            traits(type).name);
    require(declared_.insert(name).second, "tensor ", detail::printable(name), " is declared twice");
    entry e{std::move(name), type, std::move(shape), 1, 0, nullptr};
    for (index d : e.shape)
      require(d >= 0 && detail::multiply(e.size, d, e.size), "tensor ", detail::printable(e.name),
              ": the shape ", detail::shape_text(e.shape), " is not possible");
    require(detail::multiply(e.size, traits(type).bytes, e.bytes), "tensor ", detail::printable(e.name),
            ": the shape ", detail::shape_text(e.shape), " is not possible");
    entries_.push_back(std::move(e));
  }

  template <class T>
  void add(std::string name, dtype type, std::vector<index> shape, const T* values) {
    check_conversion<T>(name, type);
    declare(std::move(name), type, std::move(shape));
    entry& e = entries_.back();
    e.source = [values](safetensors_writer& w, index n) { w.append(values, n); };
  }

  /// Writes everything that was `add`ed.
  void write(const std::filesystem::path& path) {
    for (const entry& e : entries_)
      require(e.source != nullptr, "tensor ", detail::printable(e.name),
              " is declared, but has no memory to write from");
    open(path);
    for (std::size_t i = 0; i < entries_.size(); ++i)
      if (entries_[i].size > 0) entries_[i].source(*this, entries_[i].size);
    commit();
  }

  /// Creates the file and writes the header.
  void open(const std::filesystem::path& path) {
    require(!out_, path.string(), ": the writer is already open");
    std::string header = "{";
    const auto quoted = [&](const std::string& s) {
      try {
        return json(s).dump();
      } catch (const json::exception&) {
        fail(path.string(), ": the name ", detail::printable(s), " is not UTF-8");
      }
    };
    if (!metadata_.empty()) {
      header += "\"__metadata__\":{";
      for (const auto& [k, v] : metadata_) header += quoted(k) + ":" + quoted(v) + ",";
      header.back() = '}';
      header += ',';
    }
    index at = 0;
    for (const entry& e : entries_) {
      header += quoted(e.name) + ":{\"dtype\":\"" + traits(e.dtype).name + "\",\"shape\":[";
      for (std::size_t i = 0; i < e.shape.size(); ++i) header += (i ? "," : "") + std::to_string(e.shape[i]);
      header += "],\"data_offsets\":[" + std::to_string(at) + ",";
      require(!__builtin_add_overflow(at, e.bytes, &at), path.string(), ": the tensors are too large together");
      header += std::to_string(at) + "]},";
    }
    if (header.back() == ',')
      header.back() = '}';
    else
      header += '}';
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

  /// The next n numbers of the tensor whose turn it is, none of the tensor after it.
  template <class T>
  void append(const T* values, index n) {
    require(out_ != nullptr, "safetensors_writer: append before open");
    if (n == 0) return;
    require(current_ < entries_.size(), out_->path(), ": ", n, " numbers more than were declared");
    const entry& e = entries_[current_];
    require(n > 0 && n <= e.size - done_, out_->path(), ": tensor ", detail::printable(e.name), " takes ",
            e.size - done_, " more numbers, not ", n);
    check_conversion<T>(e.name, e.dtype);
    if (e.dtype == detail::dtype_of_scalar<T>()) {
      out_->write(values, static_cast<std::size_t>(n) * sizeof(T));
    } else if constexpr (std::is_floating_point_v<T> || std::is_same_v<T, bf16>) {
      if (e.dtype == dtype::f64)
        write_as<double>(values, n);
      else if (e.dtype == dtype::f32)
        write_as<float>(values, n);
      else
        write_as<bf16>(values, n);
    }
    done_ += n;
    skip_complete();
  }

  /// Completes the file; throws when a tensor's numbers are missing. The writer is then empty again.
  void commit() {
    require(out_ != nullptr, "safetensors_writer: commit before open");
    require(current_ == entries_.size(), out_->path(), ": tensor ",
            current_ < entries_.size() ? detail::printable(entries_[current_].name) : "", " lacks ",
            current_ < entries_.size() ? entries_[current_].size - done_ : 0, " numbers");
    out_->commit();
    *this = safetensors_writer();
  }

 private:
  struct entry {
    std::string name;
    distil_xlstm::dtype dtype;
    std::vector<index> shape;
    index size, bytes;
    std::function<void(safetensors_writer&, index)> source;
  };

  template <class T>
  static void check_conversion(const std::string& name, dtype type) {
    constexpr dtype own = detail::dtype_of_scalar<T>();
    const bool floats = (std::is_floating_point_v<T> || std::is_same_v<T, bf16>)&&(
        type == dtype::f64 || type == dtype::f32 || type == dtype::bf16);
    require(type == own || floats, "tensor ", detail::printable(name), ": cannot store ", traits(own).name,
            " as ", traits(type).name);
  }
  template <class Out, class T>
  void write_as(const T* values, index n) {
    constexpr index chunk = 4096;
    Out part[chunk];
    for (index i = 0; i < n; i += chunk) {
      const index m = std::min(chunk, n - i);
      for (index j = 0; j < m; ++j) {
        if constexpr (std::is_same_v<Out, bf16> && !std::is_same_v<T, bf16>)
          part[j] = detail::to_bf16(values[i + j]);
        else
          part[j] = static_cast<Out>(values[i + j]);
      }
      out_->write(part, static_cast<std::size_t>(m) * sizeof(Out));
    }
  }
  void skip_complete() {
    while (current_ < entries_.size() && done_ == entries_[current_].size) ++current_, done_ = 0;
  }

  std::map<std::string, std::string> metadata_;
  std::vector<entry> entries_;
  std::set<std::string> declared_;
  std::unique_ptr<atomic_file> out_;
  std::size_t current_ = 0;
  index done_ = 0;
};

}  // namespace distil_xlstm::io
