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
    const dx::frozen_matrix ends{embedding.data(), dx::dtype::f32, 50, 16};
    student made(device, config, ends, ends, nullptr);
    made.initialise(device, 2);
    made.save(device, folder);
  }

  // ... and here it runs. A session is one text; many may share the model, each on a thread of its own.
  const student model = student::load(device, folder);
  std::filesystem::remove_all(folder);
  dx::xlstm_session<float, dx::device::cpu> session(device, model);
  const std::vector<std::int32_t> prompt = {3, 1, 4, 1, 5};
  const std::size_t before = session.save().size();
  dx::sampler choose({.temperature = 0.8, .seed = 7});
  const dx::index drawn =
      dx::generate(device, session, std::span(prompt), 200, choose, [](std::int32_t) { return true; });
  const std::size_t after = session.save().size();
  std::cout << drawn << " tokens drawn; the state has " << before << " numbers before and " << after
            << " after\n";
  return drawn == 200 && before == after ? 0 : 1;
}
