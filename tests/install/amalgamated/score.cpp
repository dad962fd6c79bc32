#include "student.hpp"

double nll(dx::device::cpu& device, const student& model, const std::vector<std::int32_t>& ids,
           const std::vector<std::int32_t>& next) {
  const auto n = static_cast<dx::index>(ids.size());
  std::vector<float> numbers(ids.size() * width);
  const dx::matrix_view<float> hidden(numbers.data(), n, width);
  auto state = model.make_state(device, 1);
  model.forward(device, {1, n, nullptr}, ids.data(), state, hidden);
  const auto scores =
      dx::loss::score_tokens(device, dx::const_view<float>(hidden), model.head(), next.data(), nullptr);
  return scores.nll / static_cast<double>(n);
}
