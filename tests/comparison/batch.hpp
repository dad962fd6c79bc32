#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/llama.hpp>
#include <distil_xlstm/model/reader.hpp>
#include <distil_xlstm/model/xlstm.hpp>
#include <distil_xlstm/testing/on_host.hpp>

namespace distil_xlstm::testing {

/// A random student: an sLSTM and an mLSTM between random ends.
template <class T, class D>
struct random_student {
  static constexpr index vocabulary = 2500, width = 64;
  buffer<float, D> embedding, head;
  xlstm<T, D> model;

  /// The embedding of `poison` is not a number.
  random_student(D& d, std::int32_t poison = -1)
      : embedding(d, vocabulary * width),
        head(d, vocabulary * width),
        model(d, shape(), {embedding.data(), dtype::f32, vocabulary, width},
              {head.data(), dtype::f32, vocabulary, width}, nullptr) {
    to_device(d, embedding, make(poison));
    to_device(d, head, make(-1));
    model.initialise(d, 5);
  }

 private:
  static xlstm_config shape() {
    auto c = xlstm_architecture("default", vocabulary, width, 2, 4, false);
    c.blocks = 2, c.slstm_at = {0};
    return c;
  }
  static std::vector<float> make(std::int32_t poison) {
    rng random(2);
    std::vector<float> out(static_cast<std::size_t>(vocabulary * width));
    for (auto& x : out) x = static_cast<float>(0.5 * random.normal());
    for (index c = 0; poison >= 0 && c < width; ++c)
      out[static_cast<std::size_t>(poison * width + c)] = std::numeric_limits<float>::quiet_NaN();
    return out;
  }
};

/// A random teacher: two layers of a transformer, whose texts are remembered in caches. It has what families have:
/// norms of the heads, a layer without positions, scaled positions in the other.
template <class T, class D>
struct random_teacher {
  static constexpr index vocabulary = 2500, width = 64;
  llama<T, D> model;

  explicit random_teacher(D& d, index window = 0, bool plain = false) : model(make(d, window, plain)) {}

 private:
  static llama<T, D> make(D& d, index window, bool plain) {
    llama_config c{.vocabulary = vocabulary, .width = width, .layers = 2, .heads = 4, .kv_heads = 2};
    c.head_dim = 16, c.intermediate = 96;
    c.head_norms = !plain, c.window = window;
    if (!plain) c.rotates = {true, false};
    c.scaling = {rope_scaling::kind::llama3, 8, 1, 4, 64};
    const auto numbers = std::make_shared<std::map<std::string, std::vector<float>>>();
    manifest shapes;
    layout<float> l(nullptr, &shapes);
    l.matrix(c.embedding_name, vocabulary, width), l.matrix(c.head_name, vocabulary, width);
    l.scope(c.prefix, [&] { return c.stack().params(l); });
    rng random(6);
    for (const auto& e : shapes)
      for (index i = 0; i < e.size; ++i)
        (*numbers)[e.name].push_back(
            static_cast<float>(e.shape.size() == 1 ? 1 + 0.2 * random.normal() : 0.2 * random.normal()));
    const auto find = [&](const std::string& name) {
      for (const auto& e : shapes)
        if (e.name == name) return stored_tensor{numbers->at(name).data(), dtype::f32, e.shape};
      throw error("no such tensor");
    };
    return {d, c, find, numbers};
  }
};

/// The same with a window, whose texts have a memory of one size.
template <class T, class D>
struct random_window_teacher : random_teacher<T, D> {
  explicit random_window_teacher(D& d) : random_teacher<T, D>(d, 11) {}
};

/// Of layers that a GPU may take whole.
template <class T, class D>
struct random_plain_teacher : random_teacher<T, D> {
  explicit random_plain_teacher(D& d) : random_teacher<T, D>(d, 0, true) {}
};

/// A text to be written, and what became of it: its tokens, and its memory at the end.
template <class T>
struct writing {
  std::vector<std::int32_t> prompt;
  sampling how;
  index most = 1;
  std::vector<std::int32_t> written = {};
  std::vector<std::byte> memory = {};
};

/// Prompts short and long, every way to choose, lengths by chance.
template <class T>
std::vector<writing<T>> some_writings(index count, index longest_prompt, index vocabulary) {
  rng random(8);
  const auto below = [&](index n) { return static_cast<index>(random.below(static_cast<std::uint64_t>(n))); };
  std::vector<writing<T>> out;
  for (index i = 0; i < count; ++i) {
    writing<T> w;
    for (index n = 1 + (i % 5 == 0 ? below(3) : below(longest_prompt)); n > 0; --n)
      w.prompt.push_back(static_cast<std::int32_t>(below(vocabulary)));
    w.how.seed = static_cast<std::uint64_t>(100 + i);
    w.how.temperature = i % 4 == 0 ? 0 : 0.3 + random.uniform();
    if (i % 7 == 1) w.how.top_k = 1 + below(20);
    if (i % 7 == 2) w.how.top_p = 0.2 + 0.7 * random.uniform();
    w.most = 1 + below(24);
    out.push_back(w);
  }
  return out;
}

/// Writes texts in one batch: up to `beside` at once (-1: as many as it takes), which join when `joins(step)`
/// lets them; some leave before their time, from outside, and begin again later.
template <class T, class D, class Model, class Joins>
void write_beside(D& d, const Model& model, decoder_options options, index beside, const Joins& joins,
                  std::vector<writing<T>>& texts) {
  using batch_type = decoder<Model>;
  batch_type batch(d, model, options);
  if (beside < 0) beside = batch.places();
  std::map<typename batch_type::handle, std::size_t> who;
  std::vector<std::size_t> left(texts.size());
  for (std::size_t i = 0; i < left.size(); ++i) left[i] = left.size() - 1 - i;
  index step = 0, broken = 0, given = 0, steps_given = 0;
  while (!left.empty() || batch.texts() > 0) {
    while (!left.empty() && std::ssize(who) < beside && (who.empty() || joins(step))) {
      const std::size_t i = left.back();
      left.pop_back();
      texts[i].written.clear();
      who[batch.join(texts[i].prompt, texts[i].how)] = i;
    }
    BOOST_TEST_REQUIRE(batch.texts() == std::ssize(who));
    BOOST_TEST_REQUIRE(batch.free() == batch.places() - std::ssize(who));
    if (step % 11 == 5 && beside > 1 && broken < 4) {  // one is broken off
      const auto [name, i] = *who.begin();
      batch.leave(name);
      who.erase(name);
      left.insert(left.begin(), i);
      ++broken;
    }
    steps_given += batch.step([&](auto name, std::int32_t id) {
      writing<T>& t = texts[who.at(name)];
      t.written.push_back(id);
      ++given;
      if (std::ssize(t.written) < t.most) return true;
      t.memory = batch.save(name);
      who.erase(name);
      return false;
    });
    ++step;
  }
  BOOST_TEST(given == steps_given);
  BOOST_TEST(batch.free() == batch.places());
}

/// A text is the same, its memory bit for bit, alone and beside others that come and go.
template <class T, template <class, class> class Random = random_student, class D>
void same_alone_and_beside(D& d, decoder_options options, index count) {
  const Random<T, D> s(d);
  auto texts = some_writings<T>(count, 3 * options.part, s.vocabulary), alone = texts;
  rng random(3);
  write_beside<T>(
      d, s.model, options, -1, [&](index) { return random.uniform() < 0.4; }, texts);
  write_beside<T>(
      d, s.model, options, 1, [](index) { return true; }, alone);
  for (std::size_t i = 0; i < texts.size(); ++i)
    BOOST_TEST_CONTEXT("text " << i << " of " << texts[i].prompt.size() << " tokens") {
      BOOST_TEST(std::ssize(texts[i].written) == texts[i].most);
      BOOST_TEST(texts[i].written == alone[i].written);
      BOOST_TEST((texts[i].memory == alone[i].memory));
    }
}

/// What a reader and a sampler write, token by token; the reader goes on with the decoder's memory.
template <class T, template <class, class> class Random = random_student, class D>
void same_as_a_reader(D& d, decoder_options options, index count, double most) {
  const Random<T, D> s(d);
  auto texts = some_writings<T>(count, 3 * options.part, s.vocabulary);
  write_beside<T>(
      d, s.model, options, -1, [](index step) { return step % 2 == 0; }, texts);
  const buffer<T, D> memory(d, 3 * options.part * s.width + s.vocabulary);
  const matrix_view<T> logits(memory.data(), 1, s.vocabulary);
  for (const auto& t : texts) {
    reader read(d, s.model, options.context);
    sampler choose(t.how);
    std::vector<std::int32_t> written, next = t.prompt;
    while (std::ssize(written) < t.most) {
      const matrix_view<T> hidden(memory.data() + s.vocabulary, std::ssize(next), s.width);
      read.read(next, hidden);
      write_logits(d, matrix_view<const T>(hidden.slice(hidden.rows - 1, 1)), s.model.head(), logits);
      const auto row = on_host(d, logits.data, logits.cols);
      written.push_back(choose(std::span<const T>(row)));
      next = {written.back()};
    }
    BOOST_TEST(written == t.written);
    const auto numbers = [&](const std::vector<std::byte>& saved) {
      return saved_text<T>::read(saved, s.model.fingerprint(d), options.context).state;
    };
    const auto mine = numbers(read.save()), its = numbers(t.memory);
    BOOST_TEST_REQUIRE(mine.size() == its.size());
    double worst = 0, largest = 0;
    for (std::size_t i = 0; i < mine.size(); ++i) {
      worst = std::max(worst, static_cast<double>(std::abs(mine[i] - its[i])));
      largest = std::max(largest, static_cast<double>(std::abs(mine[i])));
    }
    BOOST_TEST(worst <= most * largest, "memory off by " << worst / largest);
    read.restore(t.memory);
  }
}

/// Every text goes on at every step, however long the prompts that others bring.
template <class T, class D>
void nobody_waits(D& d, decoder_options options) {
  const random_student<T, D> s(d);
  decoder<xlstm<T, D>> batch(d, s.model, options);
  const std::vector<std::int32_t> one = {7};
  const std::vector<std::int32_t> many(static_cast<std::size_t>(10 * options.part), 9);
  const auto first = batch.join(one, {.temperature = 0});
  auto second = first;
  index steps = 0, begun = 0;
  for (; begun == 0 && steps < 100; ++steps) {
    if (steps == 3) second = batch.join(many, {.temperature = 0});
    index mine = 0;
    batch.step([&](auto name, std::int32_t) {
      (name == first ? mine : begun) += 1;
      return true;
    });
    BOOST_TEST(mine == 1);
  }
  BOOST_TEST(steps == 3 + (D::host_memory ? 3 : 10));  // four parts a step, or one
  BOOST_TEST((second != first));
}

/// What a batch refuses, and that it goes on then; texts that join, leave and end each other while one is
/// told of its token; a text whose numbers are none.
template <class T, class D>
void odd_company(D& d) {
  const random_student<T, D> s(d, 11);
  using batch_type = decoder<xlstm<T, D>>;
  using handle = typename batch_type::handle;
  const auto says = [](const char* words) {
    return [words](const error& e) { return std::string(e.what()).find(words) != std::string::npos; };
  };
  BOOST_CHECK_EXCEPTION(batch_type(d, s.model, {.capacity = 0}), error, says("capacity"));
  BOOST_CHECK_EXCEPTION(batch_type(d, s.model, {.part = 0}), error, says("parts"));
  batch_type batch(d, s.model, {.capacity = 3, .part = 4, .prompts = 2});
  const std::vector<std::int32_t> good = {1, 2, 3}, bad = {1, 2500};
  BOOST_CHECK_EXCEPTION(batch.join(bad), error, says("2500"));
  BOOST_CHECK_EXCEPTION(batch.join(std::span<const std::int32_t>()), error, says("begin"));
  BOOST_CHECK_EXCEPTION(batch.join(good, {.top_p = 0}), error, says("top-p"));
  BOOST_TEST(batch.free() == batch.places());
  BOOST_TEST(batch.places() > 3);
  BOOST_TEST(batch.step([](handle, std::int32_t) { return true; }) == 0);
  const handle a = batch.join(good), b = batch.join(good);
  while (batch.free() > 0) batch.join(good);
  BOOST_CHECK_EXCEPTION(batch.join(good), error, says("larger capacity"));
  BOOST_CHECK_EXCEPTION(batch.save(a), error, says("drawn nothing"));

  // The first that is told ends another, and one joins in its place.
  handle late{};
  index told = 0;
  while (told == 0)
    batch.step([&](handle name, std::int32_t) {
      ++told;
      if (late == handle{}) {
        batch.leave(name == b ? a : b);
        late = batch.join(good);
      }
      return name != a && name != b;
    });
  BOOST_CHECK_EXCEPTION(batch.leave(a), error, says("has left"));
  BOOST_CHECK_EXCEPTION(batch.leave(b), error, says("has left"));
  BOOST_TEST(batch.free() == 1);
  // All end as soon as they have begun, whoever waited for a place among them.
  std::set<handle> ended;
  while (batch.texts() > 0) batch.step([&](handle name, std::int32_t) { return !ended.insert(name).second; });
  BOOST_TEST(ended.count(late) == 1);
  BOOST_TEST(batch.free() == batch.places());

  // Numbers that are none stay where they are.
  index others = 0;
  batch.join(good), batch.join(good);
  for (int i = 0; others < 2; ++i) {
    BOOST_TEST_REQUIRE(i < 10);
    others = batch.step([](handle, std::int32_t) { return true; });
  }
  for (const auto& prompt : {std::vector<std::int32_t>{11}, {11, 4, 5}, {4, 11}, {11, 1, 2, 3, 4, 5, 6, 7}}) {
    const handle lost = batch.join(prompt, {.temperature = 0.5});
    const index free = batch.free();
    bool thrown = false;
    for (int i = 0; i < 12; ++i) {
      others = 0;
      try {
        batch.step([&](handle name, std::int32_t id) {
          BOOST_TEST((name != lost));
          BOOST_TEST(id >= 0);
          ++others;
          return true;
        });
      } catch (const numeric_error& e) {
        BOOST_TEST(says("finite")(e));
        BOOST_TEST(batch.free() == free + 1);
        BOOST_TEST(!thrown);
        thrown = true;
      }
      BOOST_TEST(others == 2);
    }
    BOOST_TEST(thrown);
  }

  // What is thrown at a token passes; the batch goes on.
  BOOST_CHECK_THROW(batch.step([](handle, std::int32_t) -> bool { throw std::string("enough"); }), std::string);
  BOOST_TEST(batch.step([](handle, std::int32_t) { return false; }) == 2);
  BOOST_TEST(batch.free() == batch.places());
}

/// A text that was saved, or forked, goes on as it would have; what is no such text is refused by name.
template <class T, template <class, class> class Random = random_student, class D>
void saved_and_forked(D& d, index context) {
  const Random<T, D> s(d);
  using texts_type = decoder<std::remove_const_t<decltype(s.model)>>;
  const auto says = [](const char* words) {
    return [words](const error& e) { return std::string(e.what()).find(words) != std::string::npos; };
  };
  const std::vector<std::int32_t> prompt = {3, 1, 4, 1, 5};
  texts_type texts(d, s.model, {.capacity = 3, .context = context}),
      others(d, s.model, {.capacity = 3, .context = context});
  std::map<typename texts_type::handle, std::vector<std::int32_t>> written, written_there;
  const auto step = [](texts_type& of, auto& to) {
    of.step([&](auto name, std::int32_t id) { return to[name].push_back(id), true; });
  };
  const auto first = texts.join(prompt, {.temperature = 0.9, .seed = 4});
  for (int i = 0; written[first].size() < 3; ++i) {
    BOOST_TEST_REQUIRE(i < 9);
    step(texts, written);
  }
  const auto saved = texts.save(first);
  const auto forked = texts.fork(first), moved = others.join(saved);
  written[first].clear();
  for (int i = 0; i < 8; ++i) step(texts, written), step(others, written_there);
  BOOST_TEST(written[forked].size() == 8u);
  BOOST_TEST(written[forked] == written[first]);
  BOOST_TEST(written_there[moved] == written[first]);

  const auto refused = [&](std::vector<std::byte> bytes, const char* words) {
    BOOST_CHECK_EXCEPTION(others.join(bytes), error, says(words));
  };
  refused({}, "too few");
  refused({saved.begin(), saved.begin() + 60}, "too few");
  refused({saved.begin(), saved.end() - 1}, "bytes where");
  refused({saved.begin(), saved.end() - sizeof(T)}, "bytes where");
  for (const std::size_t at :
       {std::size_t{0}, std::size_t{8}, std::size_t{12}, std::size_t{16}, std::size_t{24}, std::size_t{32},
        std::size_t{40}, std::size_t{64}, saved.size() - 1}) {
    auto bytes = saved;
    bytes[at] ^= std::byte{0x11};
    BOOST_CHECK_EXCEPTION(others.join(bytes), error, says("saved text: "));
  }
  using other = std::conditional_t<sizeof(T) == 4, double, float>;
  const auto fingerprint = s.model.fingerprint(d);
  refused(saved_text<other>{std::vector<other>(7)}.bytes(fingerprint, context), "its numbers are");
  const model_fingerprint of_others[] = {{fingerprint.tensors, fingerprint.whole + 1},
                                         {fingerprint.tensors + 1, fingerprint.tensors}};
  for (const auto& unknown : of_others)
    refused(saved_text<T>{std::vector<T>(7)}.bytes(unknown, context), "another model's");
  refused(saved_text<T>{std::vector<T>(7)}.bytes(fingerprint, context), "no token that comes next");
  refused(saved_text<T>{std::vector<T>(7), 3}.bytes(fingerprint, context), "7 numbers");
  refused(saved_text<T>{{}, 2500}.bytes(fingerprint, context), "2500");
  if (context == 0) return;
  texts_type shorter(d, s.model, {.capacity = 3, .context = context - 1});
  BOOST_CHECK_EXCEPTION(shorter.join(saved), error, says("its caches hold"));
  auto hostile = saved_text<T>::read(saved, fingerprint, context);
  for (auto& x : hostile.state) x = T(1e9);
  refused(hostile.bytes(fingerprint, context), "position");
}

/// A text that outgrows its place leaves, by an error of both numbers, and the others go on.
template <class T, class D>
void outgrown(D& d) {
  const random_teacher<T, D> s(d);
  const auto says = [](const char* words) {
    return [words](const error& e) { return std::string(e.what()).find(words) != std::string::npos; };
  };
  BOOST_CHECK_EXCEPTION(decoder(d, s.model, {.capacity = 2}), error, says("context"));
  decoder texts(d, s.model, {.capacity = 2, .context = 12});
  const std::vector<std::int32_t> longer(10, 3), shorter(2, 4), too_long(13, 5);
  BOOST_CHECK_EXCEPTION(texts.join(too_long), error, says("a prompt of 13 tokens, a place holds 12"));
  texts.join(longer), texts.join(shorter);
  index steps = 0, given = 0;
  const auto step = [&] { return texts.step([&](auto, std::int32_t) { return ++given, true; }); };
  for (; texts.texts() == 2; ++steps) {
    BOOST_TEST_REQUIRE(steps < 20);
    if (given < 6)
      step();
    else
      BOOST_CHECK_EXCEPTION(step(), error, says("would have 13 tokens, its place holds 12"));
  }
  BOOST_TEST(given == 7);
  BOOST_TEST(step() == 1);
}

/// No token is drawn whose probability is 0, at neither end of the interval, and where nothing is left over or, by
/// rounding, more than there is.
template <class T, class D>
void chooses_what_is_possible(D& d) {
  for (const index columns : {256, 250, 5003}) {
    // At 1/1000 all but one or two weigh nothing beside the likeliest, or nothing at all.
    const index rows = 4;
    std::vector<T> logits(static_cast<std::size_t>(rows * columns), T(-5));
    const auto at = [&](index r, index c) -> T& { return logits[static_cast<std::size_t>(r * columns + c)]; };
    for (index r = 0; r < rows; ++r) at(r, 70) = T(3);
    at(0, 71) = T(2.9), at(1, 200) = T(3), at(2, 200) = T(3);
    for (index c = 0; c < columns; ++c)
      if (c % 2 || c < 64)
        at(2, c) = c % 3 ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::quiet_NaN();
    // Each adds twice its weight to the sum.
    for (index c = 96; c < 224; c += 32) at(3, c) = T(3 - 0.0366);
    const buffer<T, D> there(d, rows * columns);
    const buffer<double, D> numbers(d, 2 * rows);
    const buffer<std::int32_t, D> ids(d, rows);
    to_device(d, there, logits);
    for (const double u : {0.0, 0.25, 0.5, 1 - 0x1p-53}) {
      to_device(d, numbers, std::vector<double>{1e-3, 1e-3, 1e-3, 1e-3, u, u, u, u});
      choose_tokens(d, matrix_view<const T>(there.data(), rows, columns), numbers.data(), numbers.data() + rows,
                    ids.data());
      const std::int32_t of_two = u < 0.5 ? 70 : 200;
      BOOST_TEST(on_host(d, ids) == (std::vector<std::int32_t>{70, of_two, of_two, 70}),
                 boost::test_tools::per_element());
    }
  }
}

/// `choose_tokens` beside `sampler`, with the same numbers.
template <class T, class D>
void chooses_as_a_sampler(D& d) {
  const T infinity = std::numeric_limits<T>::infinity(), none = std::numeric_limits<T>::quiet_NaN();
  for (const index columns : {1, 3, 63, 64, 65, 2048, 2049, 5003}) {
    const index rows = 12;
    rng random(static_cast<std::uint64_t>(columns));
    std::vector<T> logits(static_cast<std::size_t>(rows * columns));
    for (auto& x : logits) x = static_cast<T>(2 * random.normal());
    const auto row = [&](index r) {
      return std::span(logits).subspan(static_cast<std::size_t>(r * columns),
                                       static_cast<std::size_t>(columns));
    };
    for (auto& x : row(0)) x = T(0.25);
    for (index c = 0; c < columns; ++c) {
      row(1)[static_cast<std::size_t>(c)] = c % 2 ? none : T(c % 5);
      row(2)[static_cast<std::size_t>(c)] = c % 3 ? -infinity : T(c % 7);
      if (c % 4 == 1) row(3)[static_cast<std::size_t>(c)] = infinity;
      row(4)[static_cast<std::size_t>(c)] = c % 3 ? none : infinity;
      row(5)[static_cast<std::size_t>(c)] = -infinity;
      row(6)[static_cast<std::size_t>(c)] = T(100) * row(7)[static_cast<std::size_t>(c)];
    }
    row(8).back() = T(30);
    const buffer<T, D> there(d, rows * columns);
    const buffer<double, D> numbers(d, 2 * rows);
    const buffer<std::int32_t, D> ids(d, rows);
    to_device(d, there, logits);
    const matrix_view<const T> all(there.data(), rows, columns);
    std::vector<sampler> samplers;
    std::vector<double> given(static_cast<std::size_t>(2 * rows));
    for (index r = 0; r < rows; ++r)
      samplers.emplace_back(sampling{.temperature = r % 4 == 3 ? 0 : 0.5 + 0.25 * static_cast<double>(r % 3),
                                     .seed = static_cast<std::uint64_t>(r)});
    std::vector<sampler> again = samplers;
    const auto compare = [&](const std::vector<sampler>* by) {
      const auto got = on_host(d, ids);
      for (index r = 0; r < rows; ++r) {
        sampler choose = by ? (*by)[static_cast<std::size_t>(r)] : sampler({.temperature = 0});
        const std::int32_t id = got[static_cast<std::size_t>(r)];
        if (r == 4 || r == 5)
          BOOST_TEST(id == -1);
        else
          BOOST_TEST(id == choose(std::span<const T>(row(r))), "row " << r << " of " << columns);
      }
    };
    choose_tokens(d, all, static_cast<const double*>(nullptr), static_cast<const double*>(nullptr), ids.data());
    compare(nullptr);
    for (int round = 0; round < 20; ++round) {
      const std::vector<sampler> before = samplers;
      for (std::size_t r = 0; r < samplers.size(); ++r) {
        given[r] = samplers[r].how().temperature;
        given[samplers.size() + r] = samplers[r].draw();
      }
      to_device(d, numbers, given);
      choose_tokens(d, all, numbers.data(), numbers.data() + rows, ids.data());
      compare(&before);
    }
    // The ends of the interval.
    for (const double u : {0.0, 1 - 0x1p-53}) {
      for (index r = 0; r < rows; ++r)
        given[static_cast<std::size_t>(r)] = 1, given[static_cast<std::size_t>(rows + r)] = u;
      to_device(d, numbers, given);
      choose_tokens(d, all, numbers.data(), numbers.data() + rows, ids.data());
      const auto got = on_host(d, ids);
      for (index r = 0; r < rows; ++r) {
        const std::int32_t id = got[static_cast<std::size_t>(r)];
        if (r == 4 || r == 5)
          BOOST_TEST(id == -1);
        else
          BOOST_TEST(std::isfinite(row(r)[static_cast<std::size_t>(id)]));
      }
      BOOST_TEST(got[0] == (u == 0 ? 0 : static_cast<std::int32_t>(columns - 1)));
    }
  }
}

}  // namespace distil_xlstm::testing
