#include <distil_xlstm/distil_xlstm.hpp>

#include <iostream>

namespace dx = distil_xlstm;
using namespace dx::loss;

int main(int argc, char** argv) {
  if (argc != 3) return std::cerr << "usage: readme <teacher: GGUF or folder> <text>\n", 2;
  dx::device::cpu device;
  const auto teacher = dx::load_llama<float>(device, argv[1]);
  const dx::io::tokenizer tokenizer(dx::io::read_tokenizer(argv[1]));
  const auto [ids, dropped_bytes] = tokenizer.encode(dx::io::read_text(argv[2]).text);
  if (dropped_bytes > 0) std::cerr << dropped_bytes << " bytes are in no token of this teacher's\n";
  const dx::token_text text{ids};

  // The student: twice an mLSTM and an sLSTM, between the teacher's own embedding and head.
  const dx::index d = teacher.width();
  auto layer = [d](auto cell) { return dx::residual{dx::sequential{dx::layer_norm<>{d}, cell}}; };
  const auto m = layer(dx::mlstm{.width = d, .heads = 4, .inner = 2 * d});
  const auto s = layer(dx::slstm{.width = d, .heads = 4});
  dx::model student(device, dx::stack{dx::repeated(2, dx::sequential{m, s})}, teacher);
  student.initialise(device, 1);

  // What it learns: to predict as the teacher does, more and more the text, and to think alike.
  const dx::schedule::linear alpha{0.9, 0.3}, T{4.0, 1.0};
  const auto objective = alpha * kl(T) + (1 - alpha) * cross_entropy() + 0.1 * frobenius(layers::average);
  const dx::token_windows windows(text, 32);
  dx::live_teacher live(teacher);
  dx::trainer trainer(device, student, windows, live, objective,
                      {.batch = 8, .length = 32, .total_steps = 40, .lr = {.peak = 3e-3}});
  for (int step = 0; step < 40; ++step) {
    const auto now = trainer.step();
    std::cout << now.step << ": kl " << now["kl"] << ", ce " << now["ce"] << '\n';
  }

  // The text goes on: a state of constant size, however long it becomes.
  const auto prompt = std::span(text.ids).first(8);
  dx::io::stream_decoder as_text(tokenizer);
  std::cout << tokenizer.decode(prompt);
  dx::generate(device, student, prompt, 60, {.temperature = 0.8, .seed = 1}, [&](auto id) {
    std::cout << as_text.put(id);
    return !tokenizer.is_end_of_text(id);
  });
  std::cout << '\n';
}
