#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/require_ids.hpp>
#include <distil_xlstm/device/captured_graph.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/model/model.hpp>
#include <distil_xlstm/model/require_weights.hpp>
#include <distil_xlstm/model/sampler.hpp>
#include <distil_xlstm/model/saved_text.hpp>
#include <distil_xlstm/op/logits/op.hpp>
#include <distil_xlstm/op/sampling/op.hpp>

namespace distil_xlstm {

/// The room that a `decoder` has. It changes no text but for rounding.
struct decoder_options {
  index capacity = 64;  ///< texts that grow at once
  index context = 0;    ///< tokens that a text may have, of a model that remembers them in caches
  index part = 64;      ///< tokens of a prompt that are read at once
  index prompts = 16;   ///< prompts that a GPU reads at once, those of texts beyond the capacity ahead; the CPU
                        ///< reads them one by one, up to four parts in a step
  index patience = 4;   ///< steps for which a prompt waits for others, to be read with them
};

/// Continues texts, one or many beside one another: each joins and leaves as it likes, and each step adds a token to
/// every one. `Model` is any `model`, which must outlive the decoder.
///
/// A text is the same whoever is beside it, token for token and bit for bit: on a GPU every step has the shape
/// of all places, taken or not; on the CPU it has the texts that are there, and products whose sums do not
/// depend on their number. Beside a `reader` with a `sampler` it is the same but for rounding: of
/// products of another shape, and of the sums by which a token is drawn.
///
/// A prompt is read in parts, at most one a step on a GPU, while other texts go on: all but its last token,
/// which is the text's first step. A few more texts may join than grow at once: they follow as others leave.
/// Greedy and plain sampling choose on the device (`choose_tokens`); for a text with top-k or top-p its logits
/// come to the host. A step waits for the device once, and once more for each run of neighbours among those.
template <class Model>
class decoder {
  using T = typename Model::scalar;
  using D = typename Model::device_type;
  using saved_type = saved_text<T, product_t<typename D::precision, T>>;

 public:
  using scalar = T;  ///< the model's
  /// A text's name: no two texts of a decoder have the same.
  enum class handle : std::uint64_t {};

  /// Throws `error` naming the option that makes no sense.
  decoder(D& device, const Model& model, decoder_options options = {})
      : device_(&device),
        model_(&model),
        options_(checked(options, model.has_cache())),
        state_(model.make_state(device, places(), options_.context)),
        memory_(device, options.capacity * (model.width() + model.vocabulary())),
        ids_(size(2 * options.capacity)),
        numbers_(size(2 * options.capacity)),
        chosen_(device, options.capacity),
        reading_(model.make_state(device, lanes(), options_.context)),
        reading_memory_(device, lanes() * options_.part * model.width()),
        reading_ids_(size(2 * lanes() * options_.part)),
        read_(size(lanes())) {
    present_.reserve(size(options.capacity));
    for (index row = capacity(); row < places(); ++row) free_rows_.push_back(row);
  }
  /// An error of the compiler: a temporary model would not live as long.
  template <std::same_as<Model> M>
  decoder(D&, const M&&, decoder_options = {}) {
    static_assert(
        sizeof(M) == 0,
        "distil_xlstm::decoder(device, model) refers to the model, which must live as long: give it a name "
        "first");
  }

  /// Texts that grow at once.
  index capacity() const { return options_.capacity; }
  /// Texts that may be there: those that grow, and a few whose prompts are read ahead.
  index places() const { return capacity() + lanes(); }
  /// Texts that have joined and have not left.
  index texts() const {
    index n = 0;
    for_each_text(*this, [&](const text& t) { n += !t.gone; });
    return n;
  }
  /// How many may join.
  index free() const { return places() - texts(); }

  /// A text that begins with `prompt`; its tokens are chosen as by `sampler(how)`. Throws `error` when there is
  /// no room, when the prompt is empty, too long or has an id that the vocabulary does not have, when all of a
  /// student's weights are 0 as the first text joins, and as `sampler` does.
  handle join(std::span<const std::int32_t> prompt, const sampling& how = {}) {
    require(!prompt.empty(), "decoder: a text needs a token to begin with");
    require_ids(prompt, model_->vocabulary());
    require_context(std::ssize(prompt), "a prompt");
    return wait({handle{}, sampler(how), {prompt.begin(), prompt.end()}, prompt.back()});
  }
  /// A text that goes on from where another was saved, token for token as that one does. Throws `error` when there
  /// is no room, and as `saved_text::read` does.
  handle join(std::span<const std::byte> saved) {
    auto from = saved_type::read(saved, model_->fingerprint(*device_), options_.context);
    require(from.next >= 0, "decoder: the saved text has no token that comes next");
    require_ids({&from.next, 1}, model_->vocabulary());
    const index read = state_.length_of(from.state);
    text t{handle{}, sampler(from.how), {from.next}, from.next};
    t.choose.random_state(from.random_state);
    t.length = read, t.from = std::move(from.state);
    return wait(std::move(t));
  }
  /// The text a second time: both go on alike, token for token. Throws `error` as `save` and `join` do.
  handle fork(handle name) { return join(save(name)); }

  /// The text is over, and its place is free. Throws `error` when it has left before.
  void leave(handle name) { named(name).gone = true; }

  /// A text that has drawn a token, which is not in its memory yet: `join` goes on from it, here or in another
  /// decoder of the model and its context, and `reader::restore` reads on. Throws `error` when the text has left, or
  /// has drawn nothing yet.
  std::vector<std::byte> save(handle name) const {
    for (index r = 0; r < std::ssize(present_); ++r)
      if (const text& t = present_[size(r)]; t.name == name && !t.gone && t.drawn)
        return saved_type{state_.save(r), t.last, t.choose.how(), t.choose.random_state()}.bytes(
            model_->fingerprint(*device_), options_.context);
    fail("decoder: text ", static_cast<std::uint64_t>(name), " has left, or has drawn nothing yet");
  }

  /// A token more for every text that grows, given to `on_token(handle, id)`, which returns whether that text
  /// goes on (false at the end of text, say). It may let others join and leave. Returns how many tokens were
  /// given; call it while `texts()` is above 0.
  ///
  /// Throws `numeric_error` naming a text of which no logit is a finite number, and `error` naming one that would
  /// have more tokens than the context: it has left, the others have gone on. What `on_token` throws
  /// passes through, and the tokens that were still to be given are lost.
  template <class OnToken>
  index step(OnToken&& on_token) {
    static_assert(
        requires(handle name, std::int32_t id) {
          { on_token(name, id) } -> std::convertible_to<bool>;
        },
        "distil_xlstm::decoder::step(on_token): on_token(handle, id) returns whether the text goes on; "
        "write [&](auto text, std::int32_t id) { ...; return true; }");
    advance();
    index given = 0;
    const handle* lost = nullptr;
    for (text& t : present_) {
      if (t.gone) continue;
      if (t.last < 0) {
        t.gone = t.failed = true, lost = &t.name;
        continue;
      }
      ++given;
      if (!on_token(t.name, t.last)) t.gone = true;
    }
    if (lost)
      throw numeric_error("decoder: no logit of text " + std::to_string(static_cast<std::uint64_t>(*lost)) +
                          " is a finite number");
    if (!outgrown_.empty()) {
      const auto first = static_cast<std::uint64_t>(outgrown_.front());
      outgrown_.clear();
      fail("decoder: text ", first, " would have ", options_.context + 1, " tokens, its place holds ",
           options_.context);
    }
    return given;
  }

 private:
  struct text {
    handle name;
    sampler choose;
    std::vector<std::int32_t> prompt;
    std::int32_t last;         ///< the next step reads it
    index read = 0;            ///< tokens of the prompt that the state has seen
    index length = 0;          ///< tokens of the text that the state has seen
    std::vector<T> from = {};  ///< the state that it begins with; none: an empty one
    index waited = 0;          ///< steps in which it might have begun to read
    index row = -1;            ///< of the state, while it is ready and nobody has left
    bool drawn = false, gone = false, failed = false;
  };

  static std::size_t size(index n) { return static_cast<std::size_t>(n); }
  static decoder_options checked(decoder_options o, bool caches) {
    require(o.capacity >= 1, "decoder: a capacity of ", o.capacity, " is not possible");
    require(o.part >= 1 && o.prompts >= 1, "decoder: prompts can not be read in parts of ", o.part, " tokens, ",
            o.prompts, " at once");
    require(o.patience >= 0 && o.context >= 0, "decoder: a patience of ", o.patience,
            " steps and a context of ", o.context, " tokens are not possible");
    require(!caches || o.context > 0,
            "decoder: this model remembers a text in caches; say how many tokens a text may have (context)");
    o.context = caches ? o.context : 0;
    if (caches) o.part = std::min(o.part, o.context);
    return o;
  }
  void require_context(index tokens, const char* what) const {
    require(options_.context == 0 || tokens <= options_.context, "decoder: ", what, " of ", tokens,
            " tokens, a place holds ", options_.context);
  }
  handle wait(text t) {
    require(free() > 0, "decoder: all ", places(),
            " places are taken; let a text leave first, or make the decoder with a larger capacity");
    if (joined_ == 0) detail::require_weights(*device_, *model_, "decoder");
    t.name = handle{++joined_};
    waiting_.push_back(std::move(t));
    return waiting_.back().name;
  }
  /// On the host a prompt is read alone, in a shape of its own; elsewhere a few at once, in one shape always.
  static constexpr bool fitted = D::host_memory;
  index lanes() const { return fitted ? 1 : std::min(options_.prompts, options_.capacity); }
  /// Rows of a step with n texts.
  index rows_for(index n) const {
    if constexpr (requires { D::few_rows; }) {
      const index few = D::few_rows;
      return capacity() <= few ? n : std::max(n, few + 1);
    } else {
      return capacity();
    }
  }

  template <class Self, class F>
  static void for_each_text(Self& self, const F& f) {
    for (auto& t : self.present_) f(t);
    for (auto& t : self.ready_) f(t);
    for (auto& t : self.read_)
      if (t) f(*t);
    for (auto& t : self.waiting_) f(t);
  }
  text& named(handle name) {
    text* found = nullptr;
    for_each_text(*this, [&](text& t) {
      if (t.name == name && !t.gone) found = &t;
    });
    require(found, "decoder: there is no text ", static_cast<std::uint64_t>(name),
            "; it has left, or never joined");
    return *found;
  }

  /// Everything of a step but what the caller makes of it.
  void advance() {
    for (text& t : present_)
      if (!t.gone && options_.context > 0 && t.length == options_.context)
        t.gone = true, outgrown_.push_back(t.name);
    close_ranks();
    read_prompts();
    const index n = std::ssize(present_);
    if (n == 0) return;
    const index rows = rows_for(n);
    bool drawing = false;
    for (index r = 0; r < n; ++r) {
      text& t = present_[size(r)];
      const bool draws = t.choose.how().plain();
      ids_[size(r)] = t.last, ids_[size(capacity() + r)] = -1, ++t.length;
      numbers_[size(r)] = draws ? t.choose.how().temperature : 0;
      numbers_[size(capacity() + r)] = draws ? t.choose.draw() : 0;
      drawing |= draws;
    }
    // What an empty place reads is a document of its own, so that its caches do not grow.
    for (index r = n; r < capacity(); ++r)
      ids_[size(r)] = ids_[size(capacity() + r)] = 0, numbers_[size(r)] = 0;
    const std::int32_t* ids = placed_ids_.put(*device_, ids_.data(), 2 * capacity());
    const double* numbers = drawing ? placed_numbers_.put(*device_, numbers_.data(), 2 * capacity()) : nullptr;
    const sequence_view seq{rows, 1, options_.context > 0 ? ids + capacity() : nullptr};
    const matrix_view<T> hidden(memory_.data(), rows, model_->width()),
        logits(hidden.data + hidden.size(), rows, model_->vocabulary());
    (drawing ? drawing_step_ : greedy_step_)(*device_, memory_.data(), [&] {
      model_->forward_unchecked(*device_, seq, ids, state_, hidden);
      write_logits(*device_, matrix_view<const T>(hidden), model_->head(), logits);
      choose_tokens(*device_, matrix_view<const T>(logits), numbers, numbers ? numbers + capacity() : nullptr,
                    chosen_.data());
    });
    const std::int32_t* chosen = fetched_ids_.get(*device_, chosen_.data(), n);
    for (index r = 0; r < n; ++r) present_[size(r)].last = chosen[r], present_[size(r)].drawn = true;
    // The logits of neighbours come together.
    const auto waits = [&](index r) {
      const text& t = present_[size(r)];
      return t.last >= 0 && !t.choose.how().greedy() && !t.choose.how().plain();
    };
    for (index first = 0, end; first < n; first = end) {
      end = first + 1;
      if (!waits(first)) continue;
      while (end < n && waits(end)) ++end;
      const T* row = fetched_logits_.get(*device_, logits.row(first), (end - first) * logits.cols);
      for (index r = first; r < end; ++r, row += logits.cols)
        present_[size(r)].last = present_[size(r)].choose(std::span<const T>(row, size(logits.cols)));
    }
  }

  /// Those that left are forgotten, and the texts that are there are the first rows again.
  void close_ranks() {
    for (index r = std::ssize(present_) - 1; r >= 0; --r) {
      text& t = present_[size(r)];
      if (!t.gone) continue;
      const bool failed = t.failed;
      const index last = std::ssize(present_) - 1;
      if (r != last) {
        state_.copy(r, state_, last);
        t = std::move(present_.back());
      }
      present_.pop_back();
      if (failed) state_.reset(last);  // nothing that is not a number stays
    }
    for (const text& t : ready_)
      if (t.gone) free_rows_.push_back(t.row);
    for (auto& t : read_)
      if (t && t->gone) t.reset();
    for (auto* texts : {&ready_, &waiting_}) std::erase_if(*texts, [](const text& t) { return t.gone; });
  }

  void read_prompts() {
    for (index pass = 0; pass < (fitted ? 4 : 1); ++pass) {
      fill_places();
      if (!time_to_read()) return;
      read_parts();
    }
  }

  /// Texts that are ready grow where others have left, and others get the lanes that are free.
  void fill_places() {
    for (; !ready_.empty() && std::ssize(present_) < capacity(); ready_.pop_front()) {
      state_.copy(std::ssize(present_), state_, ready_.front().row);
      free_rows_.push_back(ready_.front().row);
      present_.push_back(std::move(ready_.front()));
    }
    for (auto& lane : read_)
      for (; !lane && !waiting_.empty(); waiting_.pop_front())
        if (waiting_.front().prompt.size() == 1)
          grow(waiting_.front(), -1);  // there is nothing to read before its first step
        else
          lane = std::move(waiting_.front());
  }
  /// A text whose prompt has been read in a lane (-1: in none) grows, or gets ready to.
  void grow(text& t, index lane) {
    const bool now = std::ssize(present_) < capacity();
    t.row = std::ssize(present_);
    if (!now) t.row = free_rows_.back(), free_rows_.pop_back();
    if (lane >= 0)
      state_.copy(t.row, reading_, lane);
    else if (t.from.empty())
      state_.reset(t.row);
    else
      state_.restore(t.row, std::exchange(t.from, {}));
    if (lane >= 0) t.length = t.read;
    if (now)
      present_.push_back(std::move(t));
    else
      ready_.push_back(std::move(t));
  }

  /// Whether a part is read in this step. One prompt takes as long as several do: so, unless they are long,
  /// only when there is nobody to take a place, and a little later if others may come.
  bool time_to_read() {
    const bool room = std::ssize(present_) < capacity();
    index full = 0;
    bool now = false, overdue = present_.empty();
    for (auto& t : read_) {
      if (!t) continue;
      ++full;
      now |= t->read > 0 || std::ssize(t->prompt) - 1 > options_.part;
      if (room) overdue |= t->waited++ >= options_.patience;
    }
    return full > 0 && (now || (room && (overdue || full == lanes())));
  }

  /// The next part of every prompt that has a lane.
  void read_parts() {
    const index most = options_.part;
    // The first part is what the others, which are whole, leave over.
    const auto part_of = [&](const std::optional<text>& t) {
      return t ? (std::ssize(t->prompt) - 2 - t->read) % most + 1 : 0;
    };
    const index length = fitted ? part_of(read_[0]) : most, rows = lanes() * length;
    std::int32_t *ids = reading_ids_.data(), *start = ids + rows;
    for (index lane = 0; lane < lanes(); ++lane, ids += length, start += length) {
      const auto& t = read_[size(lane)];
      // What stands before a first part is a document of its own; so is what an empty lane reads.
      const index part = part_of(t), before = length - part;
      std::fill_n(ids, before, 0);
      std::fill_n(start, length, t && t->read > 0 ? -1 : 0);
      if (!t) continue;
      std::copy_n(t->prompt.begin() + t->read, part, ids + before);
      if (t->read > 0) continue;
      std::fill_n(start + before, part, static_cast<std::int32_t>(before));
      reading_.reset(lane);  // a window that the text does not fill keeps nothing of the text before
    }
    const std::int32_t* placed = placed_reading_.put(*device_, reading_ids_.data(), 2 * rows);
    const matrix_view<T> hidden(reading_memory_.data(), rows, model_->width());
    const sequence_view seq{lanes(), length, placed + rows};
    const auto work = [&] { model_->forward_unchecked(*device_, seq, placed, reading_, hidden); };
    if constexpr (fitted)
      work();
    else
      reading_step_(*device_, reading_memory_.data(), work);
    for (index lane = 0; lane < lanes(); ++lane) {
      auto& t = read_[size(lane)];
      if (!t) continue;
      t->read += part_of(t);
      if (t->read + 1 < std::ssize(t->prompt)) continue;
      grow(*t, lane);
      t.reset();
    }
  }

  D* device_;
  const Model* model_;
  decoder_options options_;
  std::uint64_t joined_ = 0;
  std::vector<handle> outgrown_;

  // Row r of the state, and of a step, is present_[r].
  std::vector<text> present_;
  typename Model::state_type state_;
  buffer<T, D> memory_;
  std::vector<std::int32_t> ids_;  ///< then -1 for a text that goes on, 0 for an empty place
  std::vector<double> numbers_;    ///< temperatures, then uniform numbers
  device_copy<std::int32_t, D> placed_ids_;
  device_copy<double, D> placed_numbers_;
  buffer<std::int32_t, D> chosen_;
  host_copy<std::int32_t, D> fetched_ids_;
  host_copy<T, D> fetched_logits_;
  captured_graph<D> greedy_step_, drawing_step_;

  // Those that wait for a lane, and those that wait for a place; what these have read is in rows of the state
  // beyond the capacity, of which `free_rows_` are free. Lane l of what is read is read_[l].
  std::deque<text> waiting_, ready_;
  std::vector<index> free_rows_;
  typename Model::state_type reading_;
  buffer<T, D> reading_memory_;
  std::vector<std::int32_t> reading_ids_;
  std::vector<std::optional<text>> read_;
  device_copy<std::int32_t, D> placed_reading_;
  captured_graph<D> reading_step_;
};

/// Continues one text: reads `prompt`, then draws up to `most` tokens and gives each to `on_token(id)`, which
/// returns whether to go on (false at the end of text, say). Returns how many tokens were drawn. Throws `error` as
/// `decoder` does.
template <class D, class Model, class OnToken>
index generate(D& device, const Model& model, std::span<const std::int32_t> prompt, index most,
               const sampling& how, OnToken&& on_token) {
  require(most >= 0, "generate: ", most, " tokens are not possible");
  if (most == 0) return 0;
  decoder<Model> texts(device, model, {.capacity = 1, .context = std::ssize(prompt) + most, .part = 256});
  texts.join(prompt, how);
  index drawn = 0;
  while (texts.texts() > 0)
    texts.step([&](auto, std::int32_t id) { return ++drawn, on_token(id) && drawn < most; });
  return drawn;
}

}  // namespace distil_xlstm
