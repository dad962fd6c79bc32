#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/kept_states.hpp>
#include <distil_xlstm/distil/score_divergence.hpp>

namespace distil_xlstm {
namespace {

constexpr index vocabulary = 37, tokens = 101;

/// A text of several documents in memory.
struct some_documents {
  std::vector<std::int32_t> ids;
  std::vector<index> starts{0, 5, 6, 30, 31, 77};
  some_documents() {
    rng random(1);
    for (index i = 0; i < tokens; ++i) ids.push_back(static_cast<std::int32_t>(random.below(vocabulary)));
  }
  index size() const { return tokens; }
  std::int32_t operator[](index i) const { return ids[static_cast<std::size_t>(i)]; }
  index document_start(index i) const { return *(std::upper_bound(starts.begin(), starts.end(), i) - 1); }
  bool starts_at(index i) const { return document_start(i) == i; }
};

/// A model that remembers half of what it has read of the document: h_t = h_(t-1) / 2 + embedding.
template <class T>
struct halving {
  index width;
  std::vector<T> embedding, head;
  halving(index w, std::uint64_t seed) : width(w) {
    rng random(seed);
    for (auto* m : {&embedding, &head})
      for (index i = 0; i < vocabulary * w; ++i) m->push_back(static_cast<T>(random.normal()));
  }
  frozen_matrix head_matrix() const {
    return {head.data(), sizeof(T) == 8 ? dtype::f64 : dtype::f32, vocabulary, width};
  }
  double number(const std::vector<T>& m, index row, index c) const {
    return static_cast<double>(m[static_cast<std::size_t>(row * width + c)]);
  }
  void operator()(sequence_view seq, const std::int32_t* ids, matrix_view<T> h) const {
    for (index b = 0; b < seq.batch; ++b)
      for (index t = 0; t < seq.time; ++t) {
        const index r = b * seq.time + t;
        for (index c = 0; c < width; ++c)
          h.row(r)[c] = (t > 0 && !seq.begins(b, t) ? h.row(r - 1)[c] / 2 : T(0)) +
                        static_cast<T>(number(embedding, ids[r], c));
      }
  }
  /// log softmax after the ids of one document's part, in double; of capped logits, where there is a cap.
  std::vector<double> log_probabilities(std::span<const std::int32_t> read, double cap = 0) const {
    std::vector<double> z(vocabulary, 0.0);
    for (index c = 0; c < width; ++c) {
      double h = 0;
      for (const auto id : read) h = h / 2 + number(embedding, id, c);
      for (index v = 0; v < vocabulary; ++v) z[static_cast<std::size_t>(v)] += h * number(head, v, c);
    }
    if (cap > 0)
      for (double& x : z) x = cap * std::tanh(x / cap);
    double sum = 0;
    for (const double x : z) sum += std::exp(x);
    for (double& x : z) x -= std::log(sum);
    return z;
  }
};

auto says(const std::string& part) {
  return [=](const error& e) {
    BOOST_TEST_MESSAGE(e.what());
    return std::string(e.what()).find(part) != std::string::npos;
  };
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(it_is_the_sum_written_out, T, decltype(std::tuple<float, double>{})) {
  device::cpu cpu(2);
  const some_documents text;
  const halving<T> teacher(6, 2), model(5, 3);
  const auto nearly = boost::test_tools::tolerance(sizeof(T) == 8 ? 1e-12 : 1e-5);
  for (const index window : {2, 7, 32, 1000}) {
    double kl = 0, nll = 0;
    index scored = 0;
    for (index t = 0; t + 1 < tokens; ++t) {
      // From the start of the window, or of the document, if that is later.
      const index from = std::max(t / window * window, text.document_start(t));
      if ((t + 1) % window == 0 || text.starts_at(t + 1)) continue;
      const auto read =
          std::span(text.ids).subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(t + 1 - from));
      const auto p = teacher.log_probabilities(read), q = model.log_probabilities(read);
      for (std::size_t v = 0; v < p.size(); ++v) kl += std::exp(p[v]) * (p[v] - q[v]);
      nll -= q[static_cast<std::size_t>(text[t + 1])], ++scored;
    }
    for (const index batch : {1, 3, 8}) {
      const auto s = score_divergence<T>(cpu, text, window, batch, teacher.head_matrix(), teacher,
                                         model.head_matrix(), model);
      BOOST_TEST(s.text.tokens == tokens);
      BOOST_TEST(s.text.scored == scored);
      BOOST_TEST(s.kl == kl, nearly);
      BOOST_TEST(s.mean_kl() == kl / static_cast<double>(scored), nearly);
      BOOST_TEST(s.text.nll == nll, nearly);
      // To the last digit what is said without a teacher.
      BOOST_TEST(s.text.nll == score_text<T>(cpu, text, window, batch, model.head_matrix(), model).nll);
    }
    // The other way round it is another number, and of a model from itself nothing.
    const auto other =
        score_divergence<T>(cpu, text, window, 3, model.head_matrix(), model, teacher.head_matrix(), teacher);
    BOOST_TEST(std::abs(other.kl - kl) > 1e-3 * kl);
    const auto copy = model;
    for (const auto* same : {&copy, &model}) {
      const auto s =
          score_divergence<T>(cpu, text, window, 3, same->head_matrix(), *same, model.head_matrix(), model);
      BOOST_TEST(std::abs(s.kl) < (sizeof(T) == 8 ? 1e-12 : 1e-5));
    }
  }
}

BOOST_AUTO_TEST_CASE(logits_that_are_capped) {
  device::cpu cpu(2);
  const some_documents text;
  const halving<double> teacher(6, 2), model(5, 3);
  const auto nearly = boost::test_tools::tolerance(1e-12);
  for (const auto& [cap_of_teacher, cap] : {std::pair{0.7, 0.0}, {0.0, 0.4}, {0.7, 0.4}}) {
    double kl = 0, nll = 0;
    for (index t = 0; t + 1 < tokens; ++t) {
      const index from = text.document_start(t);
      if (text.starts_at(t + 1)) continue;
      const auto read =
          std::span(text.ids).subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(t + 1 - from));
      const auto p = teacher.log_probabilities(read, cap_of_teacher), q = model.log_probabilities(read, cap);
      for (std::size_t v = 0; v < p.size(); ++v) kl += std::exp(p[v]) * (p[v] - q[v]);
      nll -= q[static_cast<std::size_t>(text[t + 1])];
    }
    const auto s = score_divergence<double>(cpu, text, 1000, 2, {teacher.head_matrix(), cap_of_teacher},
                                            teacher, {model.head_matrix(), cap}, model);
    BOOST_TEST(s.kl == kl, nearly);
    BOOST_TEST(s.text.nll == nll, nearly);
  }
}

BOOST_AUTO_TEST_CASE(a_teacher_reads_a_text_once) {
  device::cpu cpu(1);
  const some_documents text;
  const halving<double> teacher(6, 2), models[] = {{5, 3}, {4, 8}};
  index reads = 0;
  const auto counted = [&](sequence_view seq, const std::int32_t* ids, matrix_view<double> h) {
    ++reads;
    teacher(seq, ids, h);
  };
  // Of 101 tokens in windows of 7 the head reads 6 * 14 + 2 vectors: four batches of 24, 24, 24 and 12, and 2 more.
  for (const auto& [vectors, first, again] :
       {std::tuple<index, index, index>{86, 5, 0}, {85, 5, 1}, {83, 5, 2}, {48, 5, 3}, {47, 5, 4}, {0, 5, 5}}) {
    kept_states<double> kept(vectors * 6 * static_cast<index>(sizeof(double)));
    const auto compared = [&](const halving<double>& model, index window, auto&& read) {
      return score_divergence<double>(cpu, text, window, 4, teacher.head_matrix(), read, model.head_matrix(),
                                      model);
    };
    for (const index expected : {first, again, again}) {
      reads = 0;
      for (const auto& model : models) {
        const auto s = compared(model, 7, kept.pass(cpu, 7, counted)), want = compared(model, 7, teacher);
        BOOST_TEST(s.kl == want.kl);
        BOOST_TEST(s.text.nll == want.text.nll);
      }
      BOOST_TEST(reads == expected + again, vectors << " vectors: " << reads);
    }
    // Windows of another length are another thing to read.
    BOOST_TEST(compared(models[0], 9, kept.pass(cpu, 9, counted)).kl == compared(models[0], 9, teacher).kl);
    // The score itself is of the same pass.
    reads = 0;
    BOOST_TEST(score_text<double>(cpu, text, 7, 4, teacher.head_matrix(), kept.pass(cpu, 7, counted)).nll ==
               score_text<double>(cpu, text, 7, 4, teacher.head_matrix(), teacher).nll);
    BOOST_TEST(reads == again);
  }
}

BOOST_AUTO_TEST_CASE(what_cannot_be_compared_is_refused) {
  device::cpu cpu(1);
  const some_documents text;
  const halving<double> teacher(6, 2), model(5, 3);
  auto shorter = teacher.head_matrix();
  --shorter.rows;
  const auto of = [&](logit_head from, logit_head to) {
    return score_divergence<double>(cpu, text, 8, 2, from, teacher, to, model);
  };
  BOOST_CHECK_EXCEPTION(of(shorter, model.head_matrix()), error,
                        says("the model has a vocabulary of 37, the teacher of 36"));
  BOOST_CHECK_EXCEPTION((divergence_score{{.tokens = 3}, 0}.mean_kl()), error, says("of 3 tokens none"));
}

}  // namespace distil_xlstm
