#include <boost/test/unit_test.hpp>

#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/testing/check_block.hpp>

// Blocks with one fault each: the checker names the law that each breaks.
namespace distil_xlstm {
namespace {

enum class fault {
  none,
  ignores_state,  ///< starts from zero in every call
  step_differs,   ///< a call of one token is another thing than a call of several
  mixes_sequences,
  crosses_documents,    ///< carries on where another document begins
  gradient_crosses,     ///< its backward does
  remembers_elsewhere,  ///< in the program, not in the state
  assigns,
  adds_to_dx,
  wrong_sign,
  not_finite
};

/// h[t] = w h[t-1] + x[t], per channel, as a user without any device verb might write it.
struct integrator {
  index width = 3;
  fault broken = fault::none;

  index width_in() const { return width; }
  index width_out() const { return width; }
  template <class L>
  auto params(L& l) const {
    return linear_params<typename L::matrix_type, typename L::pointer>{
        {}, l.tensor("decay", {width}, initial::normal(0.1))};
  }
  template <class L>
  auto state(L& l) const {
    return l.state("h", {width});
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    struct kept {
      matrix_view<typename L::scalar> before;
    };
    return kept{l.matrix("before", seq.rows(), width)};
  }
  template <class D, class P, class S, class K, class T>
  void forward(D&, sequence_view seq, const P& p, const S& s, const K& k, matrix_view<const T> x,
               matrix_view<T> y) const {
    for (index b = 0; b < seq.batch; ++b)
      for (index c = 0; c < width; ++c) {
        T h = broken == fault::ignores_state ? T(0) : s.of(b)[c];
        for (index t = 0; t < seq.time; ++t) {
          const index r = b * seq.time + t;
          if (seq.begins(b, t) && broken != fault::crosses_documents) h = 0;
          k.before.row(r)[c] = h;
          h = p.bias[c] * h + x.row(r)[c];
          if (broken == fault::step_differs && seq.time == 1) h += x.row(r)[c];
          if (broken == fault::mixes_sequences) h += x.row(t)[c];
          y.row(r)[c] = h;
          if (broken == fault::not_finite && h > 0) y.row(r)[c] = T(0) / T(0);
          if (broken == fault::remembers_elsewhere) y.row(r)[c] += 1e-15 * static_cast<T>(++calls());
        }
        s.of(b)[c] = h;
      }
  }
  template <class D, class P, class G, class K, class T>
  void backward(D&, sequence_view seq, const P& p, const G& g, const K& k, matrix_view<const T>,
                matrix_view<const T> dy, matrix_view<T> dx) const {
    for (index c = 0; c < width; ++c) {
      T sum = 0;
      for (index b = 0; b < seq.batch; ++b) {
        T dh = 0;
        for (index t = seq.time - 1; t >= 0; --t) {
          const index r = b * seq.time + t;
          dh += dy.row(r)[c];
          sum += dh * k.before.row(r)[c];
          dx.row(r)[c] = broken == fault::adds_to_dx ? dx.row(r)[c] + dh : dh;
          dh = seq.begins(b, t) && broken != fault::gradient_crosses ? T(0) : p.bias[c] * dh;
        }
      }
      if (broken == fault::wrong_sign) sum = -sum;
      g.bias[c] = broken == fault::assigns ? sum : g.bias[c] + sum;
    }
  }

 private:
  static index& calls() {
    static index n = 0;
    return n;
  }
};

testing::law_report report(fault f) {
  device::cpu cpu(1);
  return testing::check_block(cpu, integrator{3, f});
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_right_block_passes) {
  const auto r = report(fault::none);
  BOOST_TEST(r.ok(), r.text);
}

BOOST_AUTO_TEST_CASE(every_fault_is_found_under_its_law) {
  const std::pair<fault, const char*> faults[] = {
      {fault::not_finite, "outputs are finite"},
      {fault::ignores_state, "two halves with carried state are one whole"},
      {fault::step_differs, "steps of one token are one forward"},
      {fault::mixes_sequences, "sequences of a batch do not touch"},
      {fault::crosses_documents, "nothing crosses a document boundary"},
      {fault::gradient_crosses, "nothing crosses a document boundary"},
      {fault::remembers_elsewhere, "a copied state goes on as the state does"},
      {fault::assigns, "backward adds to gradients and overwrites dx"},
      {fault::adds_to_dx, "backward adds to gradients and overwrites dx"},
      {fault::wrong_sign, "the gradient is the finite difference"}};
  for (const auto& [f, law] : faults) {
    const auto r = report(f);
    BOOST_TEST(r.law == law, static_cast<int>(f) << ": " << r.text);
    BOOST_TEST(r.text.find(law) == 0);
    BOOST_TEST(!(r.error <= 0));
  }
}

BOOST_AUTO_TEST_CASE(the_report_says_where) {
  BOOST_TEST(report(fault::wrong_sign).text.find("tensor decay") != std::string::npos);
  BOOST_TEST(report(fault::crosses_documents).text.find(", from a past, with documents") != std::string::npos);
  device::cpu cpu(1);
  BOOST_CHECK_THROW(testing::check_block(cpu, integrator{}, {.time = 3}), error);
}

}  // namespace distil_xlstm
