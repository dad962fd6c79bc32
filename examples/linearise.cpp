// A transformer linearised by the library's calls, stage by stage, as `distil linearise` does it. The teacher is tiny and
// random: its heads look at all of a text alike, and what a window does not see of it the memory has to learn.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>

#include <distil_xlstm/distil_xlstm.hpp>

namespace dx = distil_xlstm;
namespace fs = std::filesystem;
using cpu = dx::device::cpu;

constexpr dx::index vocabulary = 64, length = 64, align_steps = 60, distil_steps = 60;

// A folder as Hugging Face writes it, in place of a real model's.
void make_teacher(const fs::path& folder) {
  fs::create_directories(folder);
  dx::llama_config shape;
  shape.vocabulary = vocabulary, shape.width = 32, shape.layers = 3;
  shape.heads = 4, shape.kv_heads = 2, shape.head_dim = 8, shape.intermediate = 64;
  shape.context = length, shape.tied = true;
  dx::write_random_llama(folder, shape, dx::dtype::f32, 1);
}

dx::token_text random_text(dx::index tokens, std::uint64_t seed) {
  dx::token_text text;
  dx::rng random(seed);
  while (text.size() < tokens) text.ids.push_back(static_cast<std::int32_t>(random.below(vocabulary)));
  return text;
}

// KL(teacher || model) in nats a token.
template <class Teacher, class Model>
double distance(cpu& device, const Teacher& teacher, const Model& model, const dx::token_text& text) {
  return dx::score_divergence<float>(device, text, length, 8, teacher.head(), dx::reader(device, teacher),
                                     model.head(), dx::reader(device, model))
      .mean_kl();
}

int main() {
  cpu device;
  const fs::path folder = fs::temp_directory_path() / "distil_xlstm-linearise";
  make_teacher(folder / "teacher");
  const auto teacher = dx::load_llama<float>(device, folder / "teacher");
  const dx::token_text text = random_text(40000, 1), held_out = random_text(4000, 2);
  const dx::token_windows windows(text, length);

  // Which layer keeps its attention, found without training: that which helps most where all others have a window. Here
  // help is measured by the distance from the teacher; the program measures what the model recalls.
  dx::linearised_config mixers;
  mixers.window = 8, mixers.sinks = 2, mixers.features = 8;
  mixers.mixers.assign(3, dx::mixer_kind::window);
  const auto windowed = dx::load_windowed<float>(device, folder / "teacher", mixers);
  const auto kept = dx::choose_attention(3, 1, [&](const auto& choice) {
    auto config = windowed.config();
    config.mixers = choice;
    return distance(device, teacher, windowed.with(config), held_out);
  });

  // The student: that layer as it is, a memory and a window in the others.
  mixers.mixers.assign(3, dx::mixer_kind::hybrid);
  mixers.mixers[static_cast<std::size_t>(kept[0].layer)] = dx::mixer_kind::attention;
  auto student = dx::linearise<float>(device, folder / "teacher", mixers, 1);
  dx::calibrate_gates(device, teacher, student, windows);
  const double before = distance(device, teacher, student, held_out);

  // Each mixer learns what the attention in its place gives for what that reads.
  dx::mixer_trainer align(device, student, windows, teacher,
                          {.batch = 8,
                           .length = length,
                           .total_steps = align_steps,
                           .lr = {.peak = 5e-3},
                           .rate_of = dx::alignment_rates{&student.config()}});
  while (align.step_count() < align_steps) align.step();
  const double aligned = distance(device, teacher, student, held_out);

  // Then all weights learn from the teacher's logits, those that the teacher does not have faster.
  dx::live_teacher live(teacher);
  dx::trainer distil(device, student, windows, live, dx::loss::kl(1.0),
                     {.batch = 8,
                      .length = length,
                      .total_steps = distil_steps,
                      .lr = {.peak = 1e-3},
                      .rate_of = dx::distillation_rates{5}});
  while (distil.step_count() < distil_steps) distil.step();
  const double after = distance(device, teacher, student, held_out);

  // A folder like the teacher's own, and back.
  dx::save_linearised(device, student, folder / "student");
  const auto loaded = dx::load_linearised<float>(device, folder / "student");
  const bool same = distance(device, teacher, loaded, held_out) == after;
  fs::remove_all(folder);

  std::cout << "layer " << kept[0].layer << " keeps its attention; KL from the teacher " << before
            << ", aligned " << aligned << ", distilled " << after << '\n';
  return same && aligned < 0.7 * before && after < aligned ? 0 : 1;
}
