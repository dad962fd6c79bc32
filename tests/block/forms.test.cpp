#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>

#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/forms.hpp"

// A cell is one function, however it is computed.
namespace distil_xlstm {
namespace {

using testing::mlstm_run;
using testing::slstm_run;
constexpr double limit = testing::tolerance<double>::forms;
constexpr index lengths[] = {1, 2, 63, 64, 65, 500}, head_sizes[] = {1, 3, 48, 96, 144, 288};

device::cpu& cpu() {
  static device::cpu device(2);
  return device;
}
/// All of 65 tokens and fewer; of the long ones those that take no time.
template <class F>
void each_size(const F& f) {
  for (const index time : lengths)
    for (const index head : head_sizes)
      if (time * head <= 500 * 96) BOOST_TEST_CONTEXT(time << " tokens, heads of " << head) f(time, head);
}
mlstm_run<double> mlstm_of(index time, index head, index chunk = 64) {
  return mlstm_run<double>::random(2, time, {2, head, head, chunk}, time / 2);
}
void check(const testing::tensor_errors& errors, double most = limit) {
  for (const auto& e : errors) BOOST_TEST(e.error <= most, e.name << ": " << e.error << " > " << most);
}

}  // namespace

BOOST_AUTO_TEST_CASE(mlstm_steps_halves_and_reference_are_the_whole) {
  each_size([](index time, index head) { check(testing::form_errors(cpu(), mlstm_of(time, head))); });
}
BOOST_AUTO_TEST_CASE(slstm_steps_halves_and_reference_are_the_whole) {
  each_size([](index time, index head) {
    check(testing::form_errors(cpu(), slstm_run<double>::random(2, time, 2, head, time / 2)));
  });
}
BOOST_AUTO_TEST_CASE(mlstm_chunks_are_the_parallel_form) {
  each_size([](index time, index head) {
    auto run = mlstm_of(time, head);
    for (const index chunk : {1, 17, 64}) check(testing::chunk_errors(cpu(), run, chunk));
    run.empty_state();
    const auto h = testing::parallel_form(run);
    for (const auto which : {testing::kernels::fused, testing::kernels::reference}) {
      auto r = run;
      r.forward(cpu(), which);
      check({{"parallel form: h", testing::relative_error(r.h, h)}});
    }
  });
}
BOOST_AUTO_TEST_CASE(values_wider_and_narrower_than_keys) {
  for (const auto& [query, value] : {std::pair<index, index>{3, 7}, {48, 96}, {96, 17}})
    for (const double empty_m : {-std::numeric_limits<double>::infinity(), 0.0}) {
      const auto run = mlstm_run<double>::random(2, 130, {2, query, value, 64, empty_m}, 64);
      check(testing::form_errors(cpu(), run)), check(testing::chunk_errors(cpu(), run, 32));
    }
}
BOOST_AUTO_TEST_CASE(a_mean_of_the_values) {
  constexpr auto sum = mlstm_normaliser::sum;
  for (const auto& [query, value] : {std::pair<index, index>{128, 64}, {3, 7}, {64, 64}})
    for (const double epsilon : {0.0, 1e-6}) {
      mlstm_shape shape{2, query, value};
      shape.epsilon = epsilon, shape.normaliser = sum;
      auto run = mlstm_run<double>::random(2, 130, shape, 64);
      check(testing::form_errors(cpu(), run)), check(testing::chunk_errors(cpu(), run, 32));
      check(testing::leaks(cpu(), run), 0);
      run.empty_state();
      // The first token's value is all that it sees, whatever its gate.
      for (const double gate : {0.0, 80.0, -80.0}) {
        run.i[0] = gate;
        auto r = run;
        r.forward(cpu());
        if (gate == 0) check({{"parallel form: h", testing::relative_error(r.h, testing::parallel_form(run))}});
        if (epsilon == 0) check({{"first", testing::relative_error(r.h.data(), r.v.data(), value)}});
      }
    }
}
BOOST_AUTO_TEST_CASE(heads_share_values) {
  for (const index group : {2, 3, 6})
    for (const double beta : {0.0, 1.0, -0.5}) {
      mlstm_shape shape{6, 16, 9};
      shape.value_group = group;
      auto run = mlstm_run<double>::random(2, 130, shape, 64);
      run.beta = beta;
      for (const auto which : {testing::kernels::fused, testing::kernels::reference})
        check(testing::sharing_errors<double>(cpu(), run, which));
      check(testing::chunk_errors(cpu(), run, 32));
      if (beta == 0) check(testing::form_errors(cpu(), run)), check(testing::leaks(cpu(), run), 0);
      run.empty_state();
      run.forward(cpu());
      check({{"parallel form: h", testing::relative_error(run.h, testing::parallel_form(run))}});
    }
}
BOOST_AUTO_TEST_CASE(a_mean_of_next_to_nothing_is_finite) {
  mlstm_shape shape{2, 16, 8};
  shape.epsilon = 0, shape.normaliser = mlstm_normaliser::sum;
  for (const float left : {1e-12f, 1e-25f, 0.0f}) {
    auto run = mlstm_run<float>::random(2, 70, shape, 30);
    run.empty_state();
    for (float& x : run.q) x *= left;
    run.forward(cpu()), run.backward(cpu());
    for (const auto& [name, x] : mlstm_run<float>::results())
      BOOST_TEST(std::all_of((run.*x).begin(), (run.*x).end(), [](float y) { return std::isfinite(y); }), name);
    if (left == 1e-12f) {  // a mean is the same, however little there is
      auto much = mlstm_run<float>::random(2, 70, shape, 30);
      much.empty_state();
      much.forward(cpu());
      BOOST_TEST(testing::relative_error(run.h, much.h) <= 1e-5);
    }
  }
}
BOOST_AUTO_TEST_CASE(nothing_crosses_a_document_boundary) {
  each_size([](index time, index head) {
    check(testing::leaks(cpu(), mlstm_of(time, head)), 0);
    check(testing::leaks(cpu(), slstm_run<double>::random(2, time, 2, head, time / 2)), 0);
  });
  // Where a chunk begins, too.
  check(testing::leaks(cpu(), mlstm_run<double>::random(2, 200, {2, 16, 16}, 128)), 0);
}

}  // namespace distil_xlstm
