#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>
#include <distil_xlstm/model/xlstm.hpp>

namespace dx = distil_xlstm;

// A student and a tokenizer: a header of every layer, and all libraries.
int main() {
  dx::device::cpu device;
  dx::xlstm_config config;
  config.vocabulary = 3, config.width = 8, config.blocks = 1, config.slstm_at = {0}, config.tied = true;
  const float numbers[3 * 8] = {};
  const dx::frozen_matrix ends{numbers, dx::dtype::f32, 3, 8};
  const dx::xlstm<float, dx::device::cpu> student(device, config, ends, ends, nullptr);

  dx::io::tokenizer_data letters;
  letters.tokens = {"a", "b", "ab"};
  letters.merges = {{"a", "b"}};
  const dx::io::tokenizer tokenizer(letters);
  return student.weights().size() > 0 && tokenizer.encode("ab").ids.size() == 1 ? 0 : 1;
}
