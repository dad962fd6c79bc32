#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/score.hpp>
#include <distil_xlstm/distil/token_text.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/model.hpp>
#include <distil_xlstm/model/reader.hpp>

#include "../refused.hpp"

namespace distil_xlstm {
namespace {

using cpu = device::cpu;
constexpr index vocabulary = 11, width = 8;

auto layers(index heads, index count = 2) {
  return stack{repeated(
      count, residual{sequential{layer_norm<>{width}, mlstm{.width = width, .heads = heads, .inner = 16}}})};
}
using student = model<decltype(layers(1)), float, cpu>;

struct world {
  cpu device{1};
  std::vector<float> ends = std::vector<float>(vocabulary * width, 0.25f);
  student make(index heads, index count = 2) {
    const frozen_matrix m{ends.data(), dtype::f32, vocabulary, width};
    student made(device, layers(heads, count), m, m, nullptr);
    made.initialise(device, 1);
    return made;
  }
};
const std::vector<std::int32_t> ids = {1, 4, 2, 10, 0, 7};
constexpr index count = 6;

}  // namespace

BOOST_AUTO_TEST_CASE(rows_too_few_or_too_narrow_are_named) {
  world w;
  const student s = w.make(2);
  std::vector<float> room(count * width);
  reader session(w.device, s);
  refused(
      [&] {
        session.read(ids, {room.data(), count - 1, width});
      },
      "reader: the hidden states are [5, 8], the call needs [6, 8]");
  refused([&] { session.read(ids, {room.data(), count, width - 3}); }, "are [6, 5], the call needs [6, 8]");
  refused([&] { session({1, count}, ids.data(), {room.data(), count - 1, width}); }, "the call needs [6, 8]");
  refused([&] { session(2, count, ids, {room.data(), count, width}); }, "6 ids for 2 texts of 6");
  const std::vector<std::int32_t> beyond = {1, vocabulary};
  refused([&] { session.read(beyond, {room.data(), 2, width}); }, "the id at position 1 is 11");
  session.read(ids, {room.data(), count, width});
}

BOOST_AUTO_TEST_CASE(a_student_that_nobody_initialised_is_named) {
  world w;
  const frozen_matrix m{w.ends.data(), dtype::f32, vocabulary, width};
  student bare(w.device, layers(2), m, m, nullptr);
  std::vector<float> room(count * width);
  const matrix_view<float> hidden(room.data(), count, width);
  reader session(w.device, bare);
  decoder texts(w.device, bare);
  const std::string said = ": every weight of the student is 0: initialise it, or load it, first";
  // As often as it is tried.
  for (int i = 0; i < 2; ++i) {
    refused([&] { session.read(ids, hidden); }, "reader" + said);
    refused([&] { session(1, count, ids, hidden); }, "reader" + said);
    refused([&] { texts.join(ids); }, "decoder" + said);
  }
  refused([&] { generate(w.device, bare, ids, 3, {}, [](std::int32_t) { return true; }); }, "decoder" + said);
  refused([&] { score(w.device, bare, token_text{ids}, {.window = 3}); }, "reader" + said);
  // They may be made before the weights are there.
  bare.initialise(w.device, 1);
  session.read(ids, hidden);
  texts.join(ids);
  score(w.device, bare, token_text{ids}, {.window = 3});
}

BOOST_AUTO_TEST_CASE(a_state_or_tape_that_is_not_the_models_is_named) {
  world w;
  const student s = w.make(2), more_heads = w.make(4), deeper = w.make(2, 3);
  std::vector<float> room(4 * 2 * count * width);
  const auto matrix = [&](index at) {
    return matrix_view<float>(room.data() + at * 2 * count * width, 2 * count, width);
  };
  std::vector<std::int32_t> two = ids;
  two.insert(two.end(), ids.begin(), ids.end());
  const sequence_view seq{2, count};
  auto few = s.make_state(w.device, 1);
  refused([&] { s.forward(w.device, seq, two.data(), few, matrix(0)); }, "model: a state of 1 sequences for 2");
  // Of other sizes, though of the same type; four heads have a smaller memory than two.
  for (const student* other : {&more_heads, &deeper}) {
    auto foreign = other->make_state(w.device, 2);
    refused([&] { s.forward(w.device, seq, two.data(), foreign, matrix(0)); },
            "model: the state was made for a stack of other sizes");
    refused([&] { foreign.copy(0, few, 0); }, "numbers where a sequence has");
  }
  const auto state = s.make_state(w.device, 2);
  const auto tape = s.make_tape(w.device, 2, count, false),
             shorter = s.make_tape(w.device, 2, count - 1, false),
             foreign = more_heads.make_tape(w.device, 2, count, false);
  const auto forward = [&](const auto& t, matrix_view<float> x, matrix_view<float> hidden) {
    s.forward(w.device, seq, two.data(), state, t, x, hidden);
  };
  refused([&] { forward(shorter, matrix(0), matrix(1)); }, "the tape was made for another shape than [2, 6]");
  refused([&] { forward(foreign, matrix(0), matrix(1)); }, "the tape was made for a stack of other sizes");
  refused([&] { forward(tape, matrix(0).slice(0, 3), matrix(1)); }, "the embeddings are [3, 8]");
  refused([&] { forward(tape, matrix(0), matrix(1).columns(0, 5)); }, "the hidden states are [12, 5]");
  forward(tape, matrix(0), matrix(1));
  weight_memory<student::stack_type, float, cpu> gradients(w.device, s.stack());
  const auto backward = [&](const auto& t, matrix_view<float> dx) {
    s.backward(w.device, seq, two.data(), gradients, t, matrix(0), matrix(1), dx);
  };
  refused([&] { backward(tape, matrix(2).slice(0, 5)); }, "the gradients of the embeddings are [5, 8]");
  refused([&] { backward(s.make_tape(w.device, 2, count), matrix(2)); },
          "the tape is transient, which no backward can follow");
  backward(tape, matrix(2));
}

BOOST_AUTO_TEST_CASE(what_another_model_or_capacity_saved_is_named) {
  world w;
  const student s = w.make(2), other = w.make(4);
  std::vector<float> room(count * width);
  reader one(w.device, s), two(w.device, other);
  one.read(ids, {room.data(), count, width});
  const auto saved = one.save();
  refused([&] { two.restore(saved); }, "it is another model's");
  decoder texts(w.device, s, {.capacity = 1});
  refused([&] { texts.join(std::span<const std::byte>(saved)); }, "has no token that comes next");
}

BOOST_AUTO_TEST_CASE(numbers_of_texts_and_tokens_that_make_no_sense_are_named) {
  world w;
  const student s = w.make(2);
  const auto nothing = [](std::int32_t) { return true; };
  refused([&] { generate(w.device, s, ids, -1, {}, nothing); }, "generate: -1 tokens");
  BOOST_TEST(generate(w.device, s, ids, 0, {}, nothing) == 0);
  refused([&] { generate(w.device, s, {}, 3, {}, nothing); }, "a text needs a token to begin with");
  refused([&] { generate(w.device, s, ids, 3, {.temperature = -1}, nothing); }, "a temperature of -1");
  refused([&] { decoder(w.device, s, {.capacity = 0}); }, "a capacity of 0");
  refused([&] { decoder(w.device, s, {.part = -2}); }, "in parts of -2 tokens");
  refused([&] { s.make_state(w.device, -1); }, "state: -1 sequences");
  refused([&] { reader(w.device, s, -5); }, "sequences of -5 tokens");
}

}  // namespace distil_xlstm
