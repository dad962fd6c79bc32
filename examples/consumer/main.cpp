// A student in a program of one's own: made, saved, loaded, and read token by token with a memory that does not
// grow. In earnest the folder comes from a training run, or from Python; here it is made on the spot.

#include <filesystem>
#include <iostream>
#include <span>
#include <vector>

#include <distil_xlstm/distil_xlstm.hpp>

namespace dx = distil_xlstm;
using student = dx::xlstm<float, dx::device::cpu>;

int main() {
  dx::device::cpu device;
  const std::filesystem::path folder = "consumer.student";

  // Somebody trained it ...
  {
    dx::xlstm_config config;
    config.vocabulary = 50, config.width = 16, config.blocks = 2, config.slstm_at = {1}, config.tied = true;
    std::vector<float> embedding(50 * 16);
    dx::rng random(1);
    for (float& x : embedding) x = static_cast<float>(random.normal());
    const dx::frozen_matrix matrix{embedding.data(), dx::dtype::f32, 50, 16};
    student made(device, config, matrix, matrix, nullptr);
    made.initialise(device, 2);
    dx::save_xlstm(device, made, folder);
  }

  // ... and here it runs. Many decoders may share the model, each on a thread of its own.
  const student model = dx::load_xlstm<float>(device, folder);
  std::filesystem::remove_all(folder);
  dx::decoder texts(device, model, {.capacity = 1});
  const std::vector<std::int32_t> prompt = {3, 1, 4, 1, 5};
  const auto text = texts.join(prompt, {.temperature = 0.8, .seed = 7});
  std::size_t before = 0, after = 0;
  for (int drawn = 0; drawn < 200;)
    drawn += static_cast<int>(texts.step([&](auto, std::int32_t) {
      after = texts.save(text).size();
      if (before == 0) before = after;
      return true;
    }));
  std::cout << "200 tokens drawn; the text's memory has " << before << " bytes after the first and " << after
            << " after the last\n";
  return before > 0 && before == after ? 0 : 1;
}
