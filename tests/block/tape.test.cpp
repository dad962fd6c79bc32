#include <boost/test/unit_test.hpp>

#include <distil_xlstm/block/hybrid_attention.hpp>
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/swiglu.hpp>
#include <distil_xlstm/core/layout.hpp>

// How much memory tapes take where a device stores operands of products in half that of numbers.
namespace distil_xlstm {
namespace {

template <class B>
index tape_size(const B& block, sequence_view seq, bool half, bool transient = false) {
  layout<float> l;
  l.half_operands(half), l.transient(transient);
  block.tape(l, seq);
  return l.size();
}

}  // namespace

BOOST_AUTO_TEST_CASE(operands_take_half) {
  constexpr sequence_view seq{4, 512};
  constexpr index rows = 2048, width = 64, inner = 192;
  const auto saved = [&](const auto& block) {
    return tape_size(block, seq, false) - tape_size(block, seq, true);
  };
  const auto feed = sequential{rms_norm<>{.width = width}, swiglu{width, inner}};
  BOOST_TEST(saved(feed) == rows * (width + inner) / 2);
  const mlstm cell{.width = width, .heads = 2, .inner = inner};
  BOOST_TEST(saved(cell) >= rows * 4 * inner / 2 + 8 * (cell.shape().chunks(512) / 2) * 96 * 96 / 2);
  mlstm biased = cell;
  biased.bias = true;
  BOOST_TEST(saved(biased) == rows * inner / 2);
  // What the memory gives, and its states; but features and values are not made again.
  hybrid_attention hybrid;
  hybrid.base.width = width, hybrid.base.heads = 4, hybrid.base.kv_heads = 2, hybrid.base.head_dim = 64;
  hybrid.base.window = 16;
  const index phi = 4 * 2 * hybrid.features, values = 2 * 64, given = 4 * 64,
              states = hybrid.cell().kept_size(512) - hybrid.cell().kept_size(512, true);
  BOOST_TEST(saved(hybrid) == rows * given / 2 + 4 * 4 * states - rows * (2 * phi + values) / 2);
  // Where no backward follows, nothing is rounded.
  BOOST_TEST(tape_size(cell, seq, true, true) == tape_size(cell, seq, false, true));
  BOOST_TEST(tape_size(feed, seq, true, true) == tape_size(feed, seq, false, true));
  BOOST_TEST(tape_size(hybrid, seq, true, true) == tape_size(hybrid, seq, false, true));
}

BOOST_AUTO_TEST_CASE(what_an_mlstm_keeps) {
  for (const index query : {1, 48, 64, 96, 130, 288})
    for (const index value : {1, 64, 200, 288, 512})
      for (const index time : {1, 64, 65, 512, 2048}) {
        const mlstm_shape shape{2, query, value};
        const index whole = shape.chunks(time) * (query * value + query + 2),
                    half = shape.kept_size(time, true);
        const index states = (time + 127) / 128 * (query * value / 2 + query),
                    scores = (time + 127) / 128 * 128 * 65;
        BOOST_TEST(shape.kept_size(time) == whole);
        BOOST_TEST((half == whole || (half < whole && half > states + scores)));
      }
}

}  // namespace distil_xlstm
