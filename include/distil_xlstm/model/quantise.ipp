#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/config_json.hpp>
#include <distil_xlstm/io/gguf_writer.hpp>
#include <distil_xlstm/io/read_tokenizer.hpp>
#include <distil_xlstm/io/store_as.hpp>
#include <distil_xlstm/io/write_gguf_tokenizer.hpp>
#include <distil_xlstm/model/load_language_model.hpp>
#include <distil_xlstm/model/quantise.hpp>

namespace distil_xlstm {

namespace detail {

/// Whether `quantise` stores the tensor in blocks of 32.
inline bool is_quantised(const manifest_entry& e) {
  if (e.shape.size() != 2 || e.shape[1] % 32 != 0) return false;
  constexpr std::array<std::string_view, 5> gates = {"igate", "fgate", "gates", "igate_preact", "fgate_preact"};
  const std::string_view scope = std::string_view(e.name).substr(0, e.name.rfind('.'));
  return std::find(gates.begin(), gates.end(), scope.substr(scope.rfind('.') + 1)) == gates.end();
}

/// A tensor on its way into a GGUF file.
struct outgoing_tensor {
  std::string name;                     ///< there
  dtype type;                           ///< and as what
  std::vector<index> shape;             ///< row-major
  std::function<stored_tensor()> find;  ///< valid until the next is found
  index head_dim = 0;                   ///< 0, or rows of heads get their rotary pairs side by side
};

/// Writes keys and tensors as one file.
class quantised_file {
 public:
  template <class Config>
  quantised_file(const std::filesystem::path& model, const Config& config, dtype type)
      : model_(model.string()), names_{config.embedding_name, config.head_name}, type_(type) {}
  io::gguf_writer& keys() { return keys_; }

  /// A tensor of the model; `head_dim` as in `outgoing_tensor`.
  void add(const manifest_entry& e, std::string name, std::function<stored_tensor()> find, index head_dim = 0) {
    const bool matrix = is_quantised(e),
               of_either = std::find(names_.begin(), names_.end(), e.name) != names_.end();
    const dtype type = !matrix ? dtype::f32 : of_either ? dtype::q8_0 : type_;
    tensors_.push_back({std::move(name), type, e.shape, std::move(find), head_dim});
    totals_.numbers += e.size, ++totals_.tensors;
    if (matrix) totals_.quantised_numbers += e.size, ++totals_.matrices;
  }
  /// A tensor that is no weight, as it is.
  void add(const io::tensor_info& t) {
    tensors_.push_back({t.name, t.dtype, t.shape, [&t] { return t.stored(); }, 0});
    totals_.numbers += t.size(), ++totals_.tensors;
  }

  quantised_model write(const std::filesystem::path& out) {
    // llama.cpp's numbers of a file that is mostly of this type, and of the format of its blocks.
    keys_.u32("general.file_type", type_ == dtype::q8_0 ? 7 : 2);
    keys_.u32("general.quantization_version", 2);
    for (const auto& t : tensors_) keys_.declare(t.name, t.type, t.shape);
    keys_.open(out);
    for (const auto& t : tensors_) append(t);
    keys_.commit();
    return totals_;
  }

 private:
  void append(const outgoing_tensor& t) {
    const stored_tensor from = t.find();
    index size = 1;
    for (const index n : t.shape) size *= n;
    // A bias of heads is rows of one number.
    const index cols = t.head_dim > 0 && t.shape.size() == 1 ? 1 : t.shape.back(), half = t.head_dim / 2;
    const index from_bytes = row_bytes(from.dtype, cols), bytes = row_bytes(t.type, cols);
    row_.resize(static_cast<std::size_t>(bytes)), numbers_.resize(static_cast<std::size_t>(cols));
    for (index r = 0; r < size / cols; ++r) {
      const index within = t.head_dim > 0 ? r % t.head_dim : 0;
      const index source = t.head_dim > 0 ? r - within + within % 2 * half + within / 2 : r;
      const auto* at = static_cast<const std::byte*>(from.data) + source * from_bytes;
      if (from.dtype == t.type) {
        keys_.append(at, bytes);
        continue;
      }
      unpack(from.dtype, at, cols, numbers_.data());
      require(io::store_as(t.type, numbers_.data(), cols, row_.data()), model_, ": tensor ", t.name,
              " holds numbers that are too large for ", traits(t.type).name);
      keys_.append(row_.data(), bytes);
    }
    totals_.bytes += size / cols * bytes;
  }

  std::string model_;
  std::array<std::string_view, 2> names_;  ///< of embedding and head
  dtype type_;
  io::gguf_writer keys_;
  std::vector<outgoing_tensor> tensors_;
  quantised_model totals_;
  std::vector<std::byte> row_;
  std::vector<float> numbers_;
};

/// Another file's keys, but for those that `quantised_file` writes or that speak of how that file lies.
inline void copy_keys(const io::gguf_file& from, io::gguf_writer& to) {
  for (const auto& [key, value] : from.keys())
    if (key != "general.file_type" && key != "general.quantization_version" && key != "general.alignment" &&
        !key.starts_with("split."))
      to.copy(key, value);
}

/// The tokenizer of a folder that has one.
inline void put_tokenizer(const std::filesystem::path& folder, index vocabulary, io::gguf_writer& to) {
  if (!std::filesystem::exists(folder / "tokenizer.json")) return;
  const io::tokenizer_data d = io::read_tokenizer(folder);
  require(std::ssize(d.tokens) <= vocabulary, d.name, ": the tokenizer has a vocabulary of ", d.tokens.size(),
          ", the model one of ", vocabulary);
  io::write_gguf_tokenizer(to, d, vocabulary);
}

/// The keys of a transformer of a Hugging Face folder.
inline void put_llama_keys(const llama_config& c, std::string_view path, io::gguf_writer& to) {
  const std::string architecture = c.model_type == "mistral" ? "llama" : c.model_type, a = architecture + ".";
  const auto number = [&](const char* key, index n) { to.u32(a + key, static_cast<std::uint32_t>(n)); };
  to.string("general.architecture", architecture);
  if (c.context > 0) number("context_length", c.context);
  number("embedding_length", c.width), number("block_count", c.layers);
  number("feed_forward_length", c.intermediate), number("vocab_size", c.vocabulary);
  number("attention.head_count", c.heads), number("attention.head_count_kv", c.kv_heads);
  number("attention.key_length", c.head_dim), number("attention.value_length", c.head_dim);
  number("rope.dimension_count", c.head_dim);
  to.f32(a + "attention.layer_norm_rms_epsilon", static_cast<float>(c.epsilon));
  to.f32(a + "rope.freq_base", static_cast<float>(c.theta));
  if (c.window > 0) number("attention.sliding_window", c.window);
  if (c.scaling.type == rope_scaling::kind::linear) {
    to.string(a + "rope.scaling.type", "linear");
    to.f32(a + "rope.scaling.factor", static_cast<float>(c.scaling.factor));
  }
  for (std::size_t i = 0; i < c.rotates.size(); ++i)
    require(c.rotates[i] == ((i + 1) % 4 != 0), path, ": no_rope_layers: GGUF has no key for layers without ",
            "positions that are not each fourth");
}

/// The divisors of llama3's scaling, which llama.cpp has as a tensor.
inline std::vector<float> rope_divisors(const llama_config& c) {
  std::vector<float> out;
  for (index i = 0; i < c.head_dim / 2; ++i)
    out.push_back(static_cast<float>(
        c.scaling.divisor(std::pow(c.theta, -static_cast<double>(2 * i) / static_cast<double>(c.head_dim)))));
  return out;
}

inline quantised_model quantise_transformer(const std::filesystem::path& model, dtype type,
                                            const std::filesystem::path& out) {
  const llama_files files(model);
  quantised_file file(model, files.config, type);
  const io::gguf_file* gguf = files.folder.gguf();
  const std::vector<float> divisors = !gguf && files.config.scaling.type == rope_scaling::kind::llama3
                                          ? rope_divisors(files.config)
                                          : std::vector<float>();
  if (gguf) {
    copy_keys(*gguf, file.keys());
    if (const auto* t = gguf->find("rope_freqs.weight")) file.add(*t);
  } else {
    put_llama_keys(files.config, files.path, file.keys());
    put_tokenizer(model, files.config.vocabulary, file.keys());
  }
  io::tensor_info of_divisors;
  if (!divisors.empty()) {
    of_divisors.name = "rope_freqs.weight", of_divisors.shape = {std::ssize(divisors)};
    of_divisors.data = reinterpret_cast<const std::byte*>(divisors.data());
    file.add(of_divisors);
  }
  // Mistral becomes a llama.
  const bool paired = !gguf && (files.config.model_type == "mistral" ||
                                find_llama_family(files.config.model_type, "quantise").paired);
  for (const auto& e : tensors_of(files.config)) {
    const io::tensor_info& t = *files.found.at(e.name);
    const bool of_heads = e.name.find("q_proj.") != e.name.npos || e.name.find("k_proj.") != e.name.npos;
    file.add(
        e, gguf_name(e.name),
        [&files, &t] {
          require_finite(t.stored(), t.name, files.path);
          return t.stored();
        },
        paired && of_heads ? files.config.head_dim : 0);
  }
  return file.write(out);
}

/// A family that GGUF has no keys for.
template <class Files>
quantised_model quantise_own(const std::filesystem::path& model, const char* architecture, Files files,
                             io::json config, dtype type, const std::filesystem::path& out) {
  quantised_file file(model, files.config, type);
  if (const auto* gguf = files.folder.gguf()) {
    copy_keys(*gguf, file.keys());
  } else {
    file.keys().string("general.architecture", architecture);
    file.keys().string(io::config_json::key, config.dump());
    put_tokenizer(model, files.config.vocabulary, file.keys());
  }
  for (const auto& e : tensors_of(files.config))
    file.add(e, e.name, [&files, name = e.name] { return files.find(name); });
  return file.write(out);
}

}  // namespace detail

template <class Result>
Result quantise(const std::filesystem::path& model, dtype type, const std::filesystem::path& out) {
  require(type == dtype::q8_0 || type == dtype::q4_0, "quantise: ", traits(type).name,
          " is not supported (Q8_0 and Q4_0 are)");
  std::error_code none;
  require(!std::filesystem::equivalent(model, out, none), out.string(), ": is the model itself");
  switch (kind_of_model(model)) {
    case model_kind::xlstm:
      return detail::quantise_own(model, "distilxlstm", detail::xlstm_files(model), io::config_json(model).root,
                                  type, out);
    case model_kind::linearised:
      return detail::quantise_own(model, "distilxlstmlinear", detail::linearised_files(model),
                                  io::config_json(model).root, type, out);
    case model_kind::xlstm_7b: {
      io::json config = io::config_json(model).root;
      config["weight_mode"] = "single";  // parts of fused tensors are tensors of their own
      return detail::quantise_own(model, "xlstm", detail::xlstm_7b_files(model), std::move(config), type, out);
    }
    case model_kind::transformer: break;
  }
  return detail::quantise_transformer(model, type, out);
}

}  // namespace distil_xlstm
