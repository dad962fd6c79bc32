#pragma once

#include <cstddef>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/block/decoder_layer.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/model/model.hpp>

namespace distil_xlstm {

/// What lies between embedding and head, under Hugging Face's names.
using llama_stack = stack<decoder_layer, dynamic, named<"norm", rms_norm<>>, "layers">;

/// What tells one kind of these transformers from another, and what transformers takes where its config.json says
/// nothing.
struct llama_family {
  std::string_view name;  ///< `model_type`, and a GGUF file's architecture
  /// @{
  /// q, k and v have biases; all four projections have where the file says so.
  bool qkv_bias, attention_bias;
  /// @}
  bool head_norms;    ///< an RMS norm of each head of q and k
  bool every_fourth;  ///< layers without rotary positions, each fourth where the file does not say which
  bool paired;        ///< llama.cpp's converter stores the q and k rows with each rotary pair side by side
  bool tied;          ///< the head is the embedding
  double theta;       ///< base of the rotary angles
  /// @{
  /// Tokens that it was trained to see, and the width of a head; head_dim 0: width / heads.
  index context, head_dim;
  /// @}
  index window;  ///< 0: there is none
};
/// The families that are read.
inline constexpr llama_family llama_families[] = {
    {"llama", false, true, false, false, true, false, 1e4, 2048, 0, 0},
    {"mistral", false, false, false, false, true, false, 1e4, 131072, 0, 4096},
    {"qwen2", true, false, false, false, false, false, 1e4, 32768, 0, 0},
    {"qwen3", false, true, true, false, false, false, 1e4, 32768, 128, 0},
    {"smollm3", false, true, false, true, true, true, 2e6, 32768, 0, 0},
};
/// One of them by its name. Throws `error` that begins with `what`, and says which there are.
const llama_family& find_llama_family(const std::string& name, const std::string& what);

/// The shape of a transformer of the Llama family.
struct llama_config {
  /// @{
  /// What files call the tensors: the stack's begin with `prefix` and a dot; a head that is the embedding has none.
  static constexpr std::string_view prefix = "model", embedding_name = "model.embed_tokens.weight",
                                    head_name = "lm_head.weight";
  /// @}
  static constexpr index most_layers = 4096;  ///< that `check` lets pass
  std::string model_type = "llama";           ///< one of `llama_families`
  /// @{
  /// Tokens that there are, numbers of a hidden state, and layers.
  index vocabulary = 0, width = 0, layers = 0;
  /// @}
  /// @{
  /// Heads of the queries, and of keys and values, whose number divides theirs.
  index heads = 0, kv_heads = 0;
  /// @}
  index head_dim = 0;      ///< need not be width / heads
  index intermediate = 0;  ///< width of the feed-forward
  double epsilon = 1e-6;   ///< of the norms
  double theta = 10000;    ///< base of the rotary angles
  rope_scaling scaling{};  ///< of their frequencies
  /// @{
  /// The projections of q, k and v have biases; that of the output has one.
  bool qkv_bias = false, output_bias = false;
  /// @}
  bool head_norms = false;      ///< q and k are normed before they are rotated
  std::vector<bool> rotates{};  ///< whether each layer has rotary positions; empty: all have
  bool tied = false;            ///< the head is the embedding
  index context = 0;            ///< tokens that it was trained to see; not enforced
  index window = 0;             ///< tokens that a token sees, itself among them; 0: all before it

  /// The attention of layer i.
  attention mixer_of(index i) const;
  /// The layers and the final norm, of numbers that `check` has passed.
  template <class Stack = llama_stack>
  Stack stack() const;

  /// Adds what changes the model and no tensor tells, each number as a float.
  void identify(fnv_hash& hash) const;
  /// Throws `error` beginning with `name` unless the numbers make a model.
  void check(const std::string& name) const;
};

/// The teacher: a frozen transformer of the Llama family. `load_llama` reads one.
template <class T, class D>
using llama = model<llama_config, T, D, frozen>;

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
namespace distil_xlstm {
extern template llama_stack llama_config::stack() const;
}  // namespace distil_xlstm
#endif
#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/llama.ipp>
#endif
