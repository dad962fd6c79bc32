#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <distil_xlstm/model/generate.hpp>
#include <distil_xlstm/model/session.hpp>
#include <distil_xlstm/model/student_batch.hpp>
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

/// A text to be written, and what became of it: its tokens, and its memory at the end.
template <class T>
struct writing {
  std::vector<std::int32_t> prompt;
  sampling how;
  index most = 1;
  std::vector<std::int32_t> written = {};
  std::vector<T> memory = {};
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
template <class T, class D, class Joins>
void write_beside(D& d, const xlstm<T, D>& model, batch_options options, index beside, const Joins& joins,
                  std::vector<writing<T>>& texts) {
  using batch_type = student_batch<xlstm<T, D>>;
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
template <class T, class D>
void same_alone_and_beside(D& d, batch_options options, index count) {
  const random_student<T, D> s(d);
  auto texts = some_writings<T>(count, 3 * options.part, s.vocabulary), alone = texts;
  rng random(3);
  write_beside(
      d, s.model, options, -1, [&](index) { return random.uniform() < 0.4; }, texts);
  write_beside(
      d, s.model, options, 1, [](index) { return true; }, alone);
  for (std::size_t i = 0; i < texts.size(); ++i)
    BOOST_TEST_CONTEXT("text " << i << " of " << texts[i].prompt.size() << " tokens") {
      BOOST_TEST(std::ssize(texts[i].written) == texts[i].most);
      BOOST_TEST(texts[i].written == alone[i].written);
      BOOST_TEST((texts[i].memory == alone[i].memory));
    }
}

/// What `generate` writes with a session and a sampler; the session goes on with the batch's memory.
template <class T, class D>
void same_as_a_session(D& d, batch_options options, index count, double most) {
  const random_student<T, D> s(d);
  auto texts = some_writings<T>(count, 3 * options.part, s.vocabulary);
  write_beside(
      d, s.model, options, -1, [](index step) { return step % 2 == 0; }, texts);
  for (const auto& t : texts) {
    xlstm_session<T, D> session(d, s.model);
    sampler choose(t.how);
    std::vector<std::int32_t> written;
    generate(d, session, t.prompt, t.most, choose, [&](std::int32_t id) {
      written.push_back(id);
      return true;
    });
    BOOST_TEST(written == t.written);
    const auto memory = session.save();
    BOOST_TEST_REQUIRE(memory.size() == t.memory.size());
    double worst = 0, largest = 0;
    for (std::size_t i = 0; i < memory.size(); ++i) {
      worst = std::max(worst, static_cast<double>(std::abs(memory[i] - t.memory[i])));
      largest = std::max(largest, static_cast<double>(std::abs(memory[i])));
    }
    BOOST_TEST(worst <= most * largest, "memory off by " << worst / largest);
    session.restore(t.memory);
  }
}

/// Every text goes on at every step, however long the prompts that others bring.
template <class T, class D>
void nobody_waits(D& d, batch_options options) {
  const random_student<T, D> s(d);
  student_batch<xlstm<T, D>> batch(d, s.model, options);
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
  using batch_type = student_batch<xlstm<T, D>>;
  using handle = typename batch_type::handle;
  const auto says = [](const char* words) {
    return [words](const error& e) { return std::string(e.what()).find(words) != std::string::npos; };
  };
  BOOST_CHECK_EXCEPTION(batch_type(d, s.model, {.capacity = 0}), error, says("capacity"));
  BOOST_CHECK_EXCEPTION(batch_type(d, s.model, {.part = 0}), error, says("parts"));
  batch_type batch(d, s.model, {.capacity = 3, .part = 4, .prompts = 2});
  const std::vector<std::int32_t> good = {1, 2, 3}, bad = {1, 2500};
  BOOST_CHECK_EXCEPTION(batch.join(bad), error, says("2500"));
  BOOST_CHECK_EXCEPTION(batch.join({}), error, says("begin"));
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
