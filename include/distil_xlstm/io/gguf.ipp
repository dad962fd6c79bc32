#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/gguf.hpp>

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE gguf_file::gguf_file(const std::filesystem::path& path) : gguf_file(path, one_part()) {
  const std::uint64_t count = get_u64_or("split.count", 1);
  if (count > 1) read_parts(path, count);
}

DISTIL_XLSTM_INLINE gguf_file::gguf_file(std::span<const std::byte> bytes, std::string name)
    : name_(std::move(name)) {
  parse(bytes);
  const std::uint64_t count = get_u64_or("split.count", 1);
  require(count <= 1, name_, ": is one of the ", count, " parts of a split model");
}

DISTIL_XLSTM_INLINE std::vector<std::filesystem::path> gguf_file::files() const {
  std::vector<std::filesystem::path> out = {name_};
  for (const auto& part : parts_) out.push_back(part.path());
  return out;
}

DISTIL_XLSTM_INLINE const gguf_value* gguf_file::find_key(std::string_view key) const {
  const auto at = std::lower_bound(keys_by_name_.begin(), keys_by_name_.end(), key,
                                   [&](std::size_t i, std::string_view k) { return keys_[i].first < k; });
  return at != keys_by_name_.end() && keys_[*at].first == key ? &keys_[*at].second : nullptr;
}

DISTIL_XLSTM_INLINE std::uint64_t gguf_file::get_u64_or(std::string_view key, std::uint64_t otherwise) const {
  const gguf_value* v = find_key(key);
  return v ? integer<std::uint64_t>(key, *v) : otherwise;
}

DISTIL_XLSTM_INLINE std::int64_t gguf_file::get_i64_or(std::string_view key, std::int64_t otherwise) const {
  const gguf_value* v = find_key(key);
  return v ? integer<std::int64_t>(key, *v) : otherwise;
}

DISTIL_XLSTM_INLINE double gguf_file::get_f64_or(std::string_view key, double otherwise) const {
  const gguf_value* v = find_key(key);
  return v ? number(key, *v) : otherwise;
}

DISTIL_XLSTM_INLINE bool gguf_file::get_bool_or(std::string_view key, bool otherwise) const {
  const gguf_value* v = find_key(key);
  return v ? boolean(key, *v) : otherwise;
}

DISTIL_XLSTM_INLINE std::string_view gguf_file::get_string_or(std::string_view key,
                                                              std::string_view otherwise) const {
  const gguf_value* v = find_key(key);
  return v ? string(key, *v) : otherwise;
}

DISTIL_XLSTM_INLINE const std::vector<std::string_view>& gguf_file::get_strings(std::string_view key) const {
  return array(key, gguf_type::string, "strings").strings;
}

DISTIL_XLSTM_INLINE std::vector<std::int32_t> gguf_file::get_i32s(std::string_view key) const {
  const gguf_value& v = required(key);
  require(v.type == gguf_type::array && is_integer(v.of), name_, ": key ", detail::printable(key), " is ",
          described(v), ", not an array of integers");
  std::vector<std::int32_t> out(static_cast<std::size_t>(v.count));
  const std::size_t width = size_of(v.of);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t bits = load_bits(v.of, v.packed + i * width);
    const bool fits = v.of == gguf_type::u64 ? std::in_range<std::int32_t>(bits)
                                             : std::in_range<std::int32_t>(static_cast<std::int64_t>(bits));
    require(fits, name_, ": key ", detail::printable(key), ": element ", i, " does not fit 32 bits");
    out[i] = static_cast<std::int32_t>(bits);
  }
  return out;
}

DISTIL_XLSTM_INLINE std::vector<float> gguf_file::get_f32s(std::string_view key) const {
  const gguf_value& v = array(key, gguf_type::f32, "f32");
  std::vector<float> out(static_cast<std::size_t>(v.count));
  if (!out.empty()) std::memcpy(out.data(), v.packed, out.size() * sizeof(float));
  return out;
}

DISTIL_XLSTM_INLINE const tensor_info& gguf_file::at(std::string_view name) const {
  const tensor_info* t = find(name);
  require(t, name_, ": there is no tensor ", detail::printable(name));
  return *t;
}

DISTIL_XLSTM_INLINE const std::byte* gguf_file::take(std::uint64_t n) {
  require(n <= left(), name_, ": cut short: ", n, " bytes are needed at byte ", at_, " of ", bytes_.size());
  const std::byte* p = bytes_.data() + at_;
  at_ += static_cast<std::size_t>(n);
  return p;
}

DISTIL_XLSTM_INLINE std::string_view gguf_file::read_string() {
  const auto n = read<std::uint64_t>();
  return {reinterpret_cast<const char*>(take(n)), static_cast<std::size_t>(n)};
}

DISTIL_XLSTM_INLINE gguf_type gguf_file::read_type(std::string_view key) {
  const auto t = read<std::uint32_t>();
  require(t <= static_cast<std::uint32_t>(gguf_type::f64), name_, ": key ", detail::printable(key),
          " has the unknown type ", t);
  return static_cast<gguf_type>(t);
}

DISTIL_XLSTM_INLINE std::uint64_t gguf_file::read_count(std::uint64_t each, std::string_view what) {
  const auto n = read<std::uint64_t>();
  check_count(n, each, what);
  return n;
}

DISTIL_XLSTM_INLINE void gguf_file::check_count(std::uint64_t n, std::uint64_t each,
                                                std::string_view what) const {
  require(n <= left() / each, name_, ": ", n, " ", detail::printable(what), " cannot fit the ", left(),
          " bytes that follow");
}

DISTIL_XLSTM_INLINE std::size_t gguf_file::cautious(std::uint64_t count) {
  return static_cast<std::size_t>(std::min<std::uint64_t>(count, 65536));
}

DISTIL_XLSTM_INLINE bool gguf_file::is_integer(gguf_type t) {
  return t <= gguf_type::i32 || t == gguf_type::u64 || t == gguf_type::i64;
}

DISTIL_XLSTM_INLINE std::size_t gguf_file::size_of(gguf_type t) {
  switch (t) {
    case gguf_type::u8:
    case gguf_type::i8:
    case gguf_type::boolean: return 1;
    case gguf_type::u16:
    case gguf_type::i16: return 2;
    case gguf_type::u32:
    case gguf_type::i32:
    case gguf_type::f32: return 4;
    case gguf_type::u64:
    case gguf_type::i64:
    case gguf_type::f64: return 8;
    default: return 0;
  }
}

DISTIL_XLSTM_INLINE const char* gguf_file::type_name(gguf_type t) {
  static constexpr const char* names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                          "bool", "string", "array", "u64", "i64", "f64"};
  return names[static_cast<std::size_t>(t)];
}

DISTIL_XLSTM_INLINE std::string gguf_file::described(const gguf_value& v) {
  return v.type == gguf_type::array ? std::string("an array of ") + type_name(v.of) : type_name(v.type);
}

DISTIL_XLSTM_INLINE std::uint64_t gguf_file::load_bits(gguf_type t, const std::byte* p) {
  const auto widen = [](auto x) { return static_cast<std::uint64_t>(static_cast<std::int64_t>(x)); };
  switch (t) {
    case gguf_type::u8:
    case gguf_type::boolean: return load<std::uint8_t>(p);
    case gguf_type::i8: return widen(load<std::int8_t>(p));
    case gguf_type::u16: return load<std::uint16_t>(p);
    case gguf_type::i16: return widen(load<std::int16_t>(p));
    case gguf_type::u32: return load<std::uint32_t>(p);
    case gguf_type::i32: return widen(load<std::int32_t>(p));
    case gguf_type::f32: return std::bit_cast<std::uint64_t>(static_cast<double>(load<float>(p)));
    default: return load<std::uint64_t>(p);
  }
}

DISTIL_XLSTM_INLINE gguf_file::gguf_file(const std::filesystem::path& path, one_part)
    : file_(path), name_(file_.path()) {
  parse(file_.bytes());
}

DISTIL_XLSTM_INLINE std::string gguf_file::part_suffix(std::uint64_t part, std::uint64_t count) {
  const auto five = [](std::uint64_t n) {
    const std::string digits = std::to_string(n);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return "-" + five(part) + "-of-" + five(count) + ".gguf";
}

DISTIL_XLSTM_INLINE void gguf_file::read_parts(const std::filesystem::path& path, std::uint64_t count) {
  const std::uint64_t part = get_u64("split.no") + 1;
  require(part == 1, name_, ": is part ", part, " of ", count,
          " of a split model, which is opened by its first");
  const std::string file = path.filename().string(), suffix = part_suffix(1, count);
  require(file.ends_with(suffix), name_, ": is part 1 of ", count,
          " of a split model; without a name that ends in ", suffix, " the others cannot be found");
  const std::string stem = file.substr(0, file.size() - suffix.size());
  for (std::uint64_t next = 2; next <= count; ++next) {
    const auto other = path.parent_path() / (stem + part_suffix(next, count));
    require(std::filesystem::exists(other), name_, ": part ", next, " of ", count, " of the split model, ",
            other.string(), ", is missing");
    parts_.push_back(gguf_file(other, one_part()));
    const gguf_file& p = parts_.back();
    const std::uint64_t number = p.get_u64("split.no") + 1, of = p.get_u64("split.count");
    require(number == next && of == count, p.name_, ": says that it is part ", number, " of ", of, ", not ",
            next, " of ", count);
    tensors_.insert(tensors_.end(), p.tensors_.begin(), p.tensors_.end());
  }
  const std::uint64_t all = get_u64_or("split.tensors.count", tensors_.size());
  require(all == tensors_.size(), name_, ": the parts hold ", tensors_.size(),
          " tensors, split.tensors.count says ", all);
  index_ = detail::tensor_index(tensors_, name_);
}

DISTIL_XLSTM_INLINE void gguf_file::parse(std::span<const std::byte> file) {
  bytes_ = file;
  require(file.size() >= 4 && std::memcmp(file.data(), "GGUF", 4) == 0, name_, ": not a GGUF file");
  take(4);
  version_ = read<std::uint32_t>();
  require((version_ & 0xffffu) != 0, name_, ": big-endian GGUF is not supported");
  require(version_ == 2 || version_ == 3, name_, ": GGUF version ", version_,
          " is not supported (2 and 3 are)");
  const auto tensor_count = read<std::uint64_t>();
  const auto key_count = read_count(8 + 4 + 1, "keys");
  check_count(tensor_count, 8 + 4 + 4 + 8, "tensors");

  keys_.reserve(cautious(key_count));
  for (std::uint64_t i = 0; i < key_count; ++i) {
    const std::string_view key = read_string();
    const gguf_type type = read_type(key);
    keys_.emplace_back(key, read_value(key, type, 0));
  }
  keys_by_name_ = detail::sorted_order(
      keys_.size(), [&](std::size_t a, std::size_t b) { return keys_[a].first < keys_[b].first; });
  for (std::size_t i = 1; i < keys_by_name_.size(); ++i)
    require(keys_[keys_by_name_[i - 1]].first != keys_[keys_by_name_[i]].first, name_, ": key ",
            detail::printable(keys_[keys_by_name_[i]].first), " is there twice");

  alignment_ = get_u64_or("general.alignment", 32);
  require(std::has_single_bit(alignment_) && alignment_ <= largest_alignment, name_, ": general.alignment is ",
          alignment_, ", it must be a power of two up to ", largest_alignment);

  std::vector<std::uint64_t> offsets;
  tensors_.reserve(cautious(tensor_count));
  offsets.reserve(cautious(tensor_count));
  for (std::uint64_t i = 0; i < tensor_count; ++i) tensors_.push_back(read_tensor(offsets));
  index_ = detail::tensor_index(tensors_, name_);
  if (!tensors_.empty()) place_tensors(offsets);
}

DISTIL_XLSTM_INLINE gguf_value gguf_file::read_value(std::string_view key, gguf_type type, int depth) {
  gguf_value v;
  v.type = type;
  if (type == gguf_type::string) {
    v.text = read_string();
  } else if (type != gguf_type::array) {
    v.bits = load_bits(type, take(size_of(type)));
    require(type != gguf_type::boolean || v.bits <= 1, name_, ": key ", detail::printable(key),
            " is a bool of ", v.bits);
  } else {
    require(depth < deepest, name_, ": key ", detail::printable(key), ": arrays nested more than ", deepest,
            " deep");
    v.of = read_type(key);
    if (const std::size_t width = size_of(v.of)) {
      v.count = read_count(width, "array elements");
      v.packed = take(v.count * width);
    } else if (v.of == gguf_type::string) {
      v.count = read_count(8, "strings");
      v.strings.reserve(cautious(v.count));
      for (std::uint64_t i = 0; i < v.count; ++i) v.strings.push_back(read_string());
    } else {
      v.count = read_count(4 + 8, "arrays");
      for (std::uint64_t i = 0; i < v.count; ++i)
        v.nested.push_back(read_value(key, gguf_type::array, depth + 1));
    }
  }
  return v;
}

DISTIL_XLSTM_INLINE std::string gguf_file::ggml_type_name(std::uint32_t type) {
  static constexpr const char* names[] = {
      "F32",      "F16",      "Q4_0",    "Q4_1",  "Q4_2",       "Q4_3",       "Q5_0",       "Q5_1",
      "Q8_0",     "Q8_1",     "Q2_K",    "Q3_K",  "Q4_K",       "Q5_K",       "Q6_K",       "Q8_K",
      "IQ2_XXS",  "IQ2_XS",   "IQ3_XXS", "IQ1_S", "IQ4_NL",     "IQ3_S",      "IQ2_S",      "IQ4_XS",
      "I8",       "I16",      "I32",     "I64",   "F64",        "IQ1_M",      "BF16",       "Q4_0_4_4",
      "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",   "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4"};
  return type < std::size(names) ? names[type] : "number " + std::to_string(type);
}

DISTIL_XLSTM_INLINE std::string gguf_file::readable_names() {
  std::string out;
  for (const dtype t : readable) out += (out.empty() ? "" : " ") + std::string(traits(t).name);
  return out;
}

DISTIL_XLSTM_INLINE tensor_info gguf_file::read_tensor(std::vector<std::uint64_t>& offsets) {
  tensor_info t;
  t.name = read_string();
  const std::string where = name_ + ": tensor " + detail::printable(t.name);
  const auto dimensions = read<std::uint32_t>();
  require(dimensions <= 4, where, " has ", dimensions, " dimensions, more than 4");
  index size = 1;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto n = read<std::uint64_t>();
    require(n > 0 && std::in_range<index>(n) && detail::multiply(size, static_cast<index>(n), size), where,
            ": dimension ", i, " of ", n, " is not possible");
    t.shape.insert(t.shape.begin(), static_cast<index>(n));
  }
  t.type = ggml_type_name(read<std::uint32_t>());
  const auto* type =
      std::find_if(std::begin(readable), std::end(readable), [&](dtype d) { return t.type == traits(d).name; });
  require(type != std::end(readable), where, " has the unsupported type ", t.type, " (", readable_names(),
          " are)");
  t.dtype = *type;
  const index row = t.shape.empty() ? 1 : t.shape.back(), block = traits(t.dtype).block_size;
  require(row % block == 0, where, ": rows of ", row, " are not whole blocks of ", block, " (", t.type, ")");
  require(detail::multiply(size / block, traits(t.dtype).bytes, t.bytes), where, ": the shape ",
          detail::shape_text(t.shape), " is not possible");
  offsets.push_back(read<std::uint64_t>());
  require(offsets.back() % alignment_ == 0, where, ": the offset ", offsets.back(), " is not a multiple of ",
          alignment_);
  return t;
}

DISTIL_XLSTM_INLINE void gguf_file::place_tensors(const std::vector<std::uint64_t>& offsets) {
  const std::size_t padding = (alignment_ - at_ % alignment_) % alignment_;
  take(padding);
  const auto data = bytes_.subspan(at_);
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    tensor_info& t = tensors_[i];
    require(offsets[i] <= data.size() && static_cast<std::uint64_t>(t.bytes) <= data.size() - offsets[i], name_,
            ": tensor ", detail::printable(t.name), ": ", t.bytes, " bytes at ", offsets[i],
            " do not lie in the ", data.size(), " bytes of data");
    t.data = data.data() + offsets[i];
  }
  const auto order = detail::sorted_order(
      tensors_.size(), [&](std::size_t a, std::size_t b) { return offsets[a] < offsets[b]; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const std::size_t before = order[i - 1], next = order[i];
    require(offsets[before] + static_cast<std::uint64_t>(tensors_[before].bytes) <= offsets[next], name_,
            ": tensors ", detail::printable(tensors_[before].name), " and ",
            detail::printable(tensors_[next].name), " overlap");
  }
}

DISTIL_XLSTM_INLINE const gguf_value& gguf_file::required(std::string_view key) const {
  const gguf_value* v = find_key(key);
  require(v, name_, ": key ", detail::printable(key), " is missing");
  return *v;
}

[[noreturn]] DISTIL_XLSTM_INLINE void gguf_file::refuse(std::string_view key, const gguf_value& v,
                                                        const char* wanted) const {
  fail(name_, ": key ", detail::printable(key), " is ", described(v), ", not ", wanted);
}

DISTIL_XLSTM_INLINE double gguf_file::number(std::string_view key, const gguf_value& v) const {
  if (v.type == gguf_type::f32 || v.type == gguf_type::f64) return std::bit_cast<double>(v.bits);
  if (v.type == gguf_type::u64) return static_cast<double>(v.bits);
  if (!is_integer(v.type)) refuse(key, v, "a number");
  return static_cast<double>(static_cast<std::int64_t>(v.bits));
}

DISTIL_XLSTM_INLINE bool gguf_file::boolean(std::string_view key, const gguf_value& v) const {
  if (v.type != gguf_type::boolean) refuse(key, v, "a bool");
  return v.bits != 0;
}

DISTIL_XLSTM_INLINE std::string_view gguf_file::string(std::string_view key, const gguf_value& v) const {
  if (v.type != gguf_type::string) refuse(key, v, "a string");
  return v.text;
}

DISTIL_XLSTM_INLINE const gguf_value& gguf_file::array(std::string_view key, gguf_type of,
                                                       const char* wanted) const {
  const gguf_value& v = required(key);
  require(v.type == gguf_type::array && (v.of == of), name_, ": key ", detail::printable(key), " is ",
          described(v), ", not an array of ", wanted);
  return v;
}

}  // namespace distil_xlstm::io
