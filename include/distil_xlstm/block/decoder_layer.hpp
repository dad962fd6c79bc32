#pragma once

#include <type_traits>

#include <distil_xlstm/block/attention.hpp>
#include <distil_xlstm/block/hybrid_attention.hpp>
#include <distil_xlstm/block/mixed.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/swiglu.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/op/decoder_layer/op.hpp>

namespace distil_xlstm {

/// Tape of `basic_decoder_layer`, of which one of the first two members is used.
template <class T, class Blocks>
struct decoder_layer_tape {
  Blocks blocks;           ///< of a forward whose backward follows
  rotary_tape<T> angles;   ///< of one that nothing follows, and the blocks' tape is the device's scratch
  bool transient = false;  ///< no backward follows
  bool own_angles = true;  ///< false: the blocks' are those of a layer before
};

/// x + mixer(RMS(x)), then x + SwiGLU(RMS(x)), under Hugging Face's names: with `attention` a layer of the Llama and
/// Qwen2 family. Another mixer than `attention` needs its `rope`, `take_angles`, `angles_of`, `past_of`,
/// `projections` and `counts_on`.
///
/// Where no backward follows, y may be x, and frozen weights of attention go through a device's own
/// `decoder_layer_forward`, if it has one.
template <class Mixer = attention>
struct basic_decoder_layer {
  Mixer mixer{};          ///< `attention` or `hybrid_attention`, of the layer's width
  index inner = 0;        ///< width of the feed-forward
  double epsilon = 1e-6;  ///< of the norms
  /// False: over a transient tape, whose memory the layers of a stack share, the angles of the call are there
  /// already, from the layer before, which counts positions as this one does.
  bool first = true;

  /// @name What every block has
  /// @{

  /// As the concept `Block` says.
  constexpr index width_in() const { return mixer.width_in(); }
  constexpr index width_out() const { return mixer.width_out(); }

  template <class L>
  auto params(L& l) const {
    return blocks().params(l);
  }
  template <class L>
  auto state(L& l) const {
    return blocks().state(l);
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    return tape(l, seq, static_cast<const rotary_tape<typename L::scalar>*>(nullptr));
  }
  template <class T>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y) const {
    if (!k.transient) return blocks(k.own_angles).forward(d, seq, p, s, k.blocks, x, y);
    const attention_state<T>& past = mixer.past_of(std::get<1>(std::get<0>(s)));
    if (first) mixer.rope().tables(d, seq, past.position, k.angles);
    using D = std::remove_reference_t<decltype(d)>;
    if constexpr (std::is_same_v<Mixer, attention> && DecoderDevice<D, T>)
      if constexpr (std::is_same_v<decltype(mixer_of(p).q_proj.weight), frozen_matrix>)
        if (const auto a = arguments(seq, p, past, k, x, y); has_decoder_layer(d, a))
          return decoder_layer_forward(d, a);
    const blocks_type inside = blocks(false);
    const auto describe = [&](layout<T> l) {
      l.transient(true);
      auto tape = inside.tape(l, seq);
      angles_of(tape) = k.angles;
      return std::pair{tape, l.size()};
    };
    const auto memory = d.template scratch<T>(describe(layout<T>()).second);
    inside.forward(d, seq, p, s, describe(layout<T>(memory.data())).first, x, y);
  }
  /// @}

  /// The same part by part over a transient tape, else an `error`: on_mixer(u, a) sees what the mixer reads,
  /// u = RMS(x), stored as the device's `operand_t`, and what it gives, a; what another mixer in its place is to
  /// learn. y may be x.
  template <class T>
  void forward(auto& d, sequence_view seq, const auto& p, const auto& s, const auto& k, const_view<T> x,
               matrix_view<T> y, auto&& on_mixer) const {
    require(k.transient, "decoder_layer: a mixer is shown over a transient tape");
    const auto& [mixing, feeding] = p;
    const auto& past = std::get<1>(std::get<0>(s));
    if (first) mixer.rope().tables(d, seq, mixer.past_of(past).position, k.angles);
    Mixer mix = mixer;
    mix.take_angles();
    const swiglu feed{width_in(), inner};
    using operand = operand_t<decltype(d), T>;
    struct parts {
      matrix_view<T> u, a;
      norm_tape<T> norm;
      tape_t<Mixer, T> mixer{};
      swiglu_tape<T> feed{};
    };
    const auto memory = make_scratch<T>(d, [&](auto& l) {
      l.transient(true);
      parts z{l.matrix("u", seq.rows(), width_in()), l.matrix("a", seq.rows(), width_in()),
              norm().tape(l, seq)};
      const index mark = l.mark();
      z.mixer = mix.tape(l, seq);
      mix.angles_of(z.mixer) = k.angles;
      l.rewind(mark);
      l.transient(std::is_same_v<operand, T>);  // a tape for a backward holds what is rounded
      z.feed = feed.tape(l, seq);
      return z;
    });
    const parts& z = memory.views;
    const matrix_view<operand> u = detail::stored_as<operand>(z.u);
    const matrix_view<const operand> read = u;
    norm().forward(d, std::get<0>(mixing), z.norm, x, u);
    mix.forward(d, seq, std::get<1>(mixing), past, z.mixer, read, z.a);
    on_mixer(read, matrix_view<const T>(z.a));
    transform(d, z.a, math::plus{}, z.a, x);
    norm().forward(d, std::get<0>(feeding), z.norm, z.a, u);
    feed.forward(d, seq, std::get<1>(feeding), no_state{}, z.feed, read, y, z.a);
  }
  /// The tape where a layer before has computed `angles`, or null, as `angles_for` says.
  template <class L, class T>
  auto tape(L& l, sequence_view seq, const rotary_tape<T>* angles) const {
    decoder_layer_tape<T, tape_t<blocks_type, T>> k{};
    k.transient = l.transient();
    k.own_angles = !angles;
    if (k.transient)
      k.angles = mixer.rope().tape(l, seq);
    else
      k.blocks = blocks(k.own_angles).tape(l, seq);
    if (angles) angles_of(k.blocks) = *angles;
    return k;
  }
  /// The angles on this layer's tape, which is not transient, where a layer after it in a stack has the same in every
  /// call; else null.
  template <class Other, class T, class Blocks>
  const rotary_tape<T>* angles_for(const basic_decoder_layer<Other>& next,
                                   decoder_layer_tape<T, Blocks>& k) const {
    const attention &a = mixer.projections(), &b = next.mixer.projections();
    const bool same = a.rotates && b.rotates && a.rope().has_angles_of(b.rope()) &&
                      mixer.counts_on() == next.mixer.counts_on();
    return same && !k.transient ? &angles_of(k.blocks) : nullptr;
  }
  /// The mixer's part of the layer's weights, or of gradients.
  template <class P>
  static const auto& mixer_of(const P& p) {
    return std::get<1>(std::get<0>(p));
  }
  /// As the concept `Block` says.
  template <class T>
  void backward(auto& d, sequence_view seq, const auto& p, const auto& g, const auto& k, const_view<T> x,
                const_view<T> dy, matrix_view<T> dx) const {
    blocks().backward(d, seq, p, g, k.blocks, x, dy, dx);
  }

 private:
  using blocks_type = sequential<
      named<"", residual<sequential<named<"input_layernorm", rms_norm<>>, named<"self_attn", Mixer>>>>,
      named<"", residual<sequential<named<"post_attention_layernorm", rms_norm<>>, named<"mlp", swiglu>>>>>;
  blocks_type blocks(bool own_angles = true) const {
    named<"self_attn", Mixer> attend{mixer};
    if (!own_angles) attend.take_angles();
    return blocks_type{{{sequential{named<"input_layernorm", rms_norm<>>{norm()}, attend}}},
                       {{sequential{named<"post_attention_layernorm", rms_norm<>>{norm()},
                                    named<"mlp", swiglu>{{width_in(), inner}}}}}};
  }
  template <class K>
  auto& angles_of(K& blocks) const {
    return mixer.angles_of(std::get<1>(std::get<0>(blocks).inner).inner);
  }
  rms_norm<> norm() const {
    return {.width = width_in(), .groups = 1, .epsilon = epsilon, .for_products = true};
  }
  template <class P, class K, class T>
  decoder_layer_arguments<T> arguments(sequence_view seq, const P& p, const attention_state<T>& past,
                                       const K& k, const_view<T> x, matrix_view<T> y) const {
    const auto& a = mixer_of(p);
    const auto& f = std::get<1>(std::get<1>(p));
    return {seq,
            mixer.shape(),
            norm().template view<T>(std::get<0>(std::get<0>(p)).weight),
            norm().template view<T>(std::get<0>(std::get<1>(p)).weight),
            a.q_proj.weight,
            a.k_proj.weight,
            a.v_proj.weight,
            a.o_proj.weight,
            a.q_proj.bias,
            a.k_proj.bias,
            a.v_proj.bias,
            a.o_proj.bias,
            mixer.head_norm().template view<T>(a.q_norm.weight),
            mixer.head_norm().template view<T>(a.k_norm.weight),
            f.gate_proj.weight,
            f.up_proj.weight,
            f.down_proj.weight,
            mixer.rotates,
            k.angles.cosines,
            k.angles.sines,
            x,
            y,
            past.keys,
            past.values,
            past.position,
            past.capacity};
  }
};
/// A layer of Llama, Qwen2 and their like.
using decoder_layer = basic_decoder_layer<>;
/// With a recurrent memory for what lies beyond a window, or for all.
using hybrid_decoder_layer = basic_decoder_layer<hybrid_attention>;
/// A layer whose mixer is chosen when the program runs: attention, with a window or without, or a hybrid, with a
/// window or without. Over a transient tape each has angles of its own (`first`): only mixers with a state count on
/// from call to call.
using any_decoder_layer = mixed<decoder_layer, hybrid_decoder_layer>;

}  // namespace distil_xlstm
