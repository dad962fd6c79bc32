// expect: loss::head: a cap on logits has no gradient here
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/loss/head.hpp>

namespace dx = distil_xlstm;

void learn(dx::device::cpu& device, dx::matrix_view<const float> hidden, dx::matrix_view<float> dhidden,
           const dx::logit_head& head, const std::int32_t* targets) {
  const auto objective = dx::loss::cross_entropy().at<float>({});
#if defined(EXPECT_FAILURE)
  dx::loss::head(device, objective.logits, hidden, {}, head, targets, nullptr, 1.0f, dhidden);
#else
  dx::loss::head(device, objective.logits, hidden, {}, head.matrix, targets, nullptr, 1.0f, dhidden);
#endif
}
