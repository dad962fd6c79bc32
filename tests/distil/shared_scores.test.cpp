#include <boost/test/unit_test.hpp>

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <tuple>
#include <vector>

#include <distil_xlstm/comm/any.hpp>
#include <distil_xlstm/distil/evaluate.hpp>
#include <distil_xlstm/distil/score.hpp>
#include <distil_xlstm/distil/score_divergence.hpp>
#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_llama.hpp>

#include "../comm/thread_ranks.hpp"
#include "../comparison/ranks.hpp"
#include "../device/fenced.hpp"
#include "../temporary_folder.hpp"

// Ranks score texts and continuations, and write a cache, as one process does: bit for bit.
namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;
using cpu = device::basic_cpu<fp64>;
using rank_type = testing::thread_ranks::rank_type;
const std::string golden = DISTIL_XLSTM_TEST_DATA "/golden";

std::string teacher_folder(const char* name) { return golden + "/teacher/" + name; }

/// What each of `size` ranks has, use(device, ranks) giving it.
template <class D, class F>
auto on_ranks(index size, const F& use) {
  using result = decltype(use(std::declval<D&>(), comm::any()));
  std::vector<result> out(static_cast<std::size_t>(size));
  testing::thread_ranks(size).run([&](rank_type& ranks) {
    D device(1);
    out[static_cast<std::size_t>(ranks.rank())] = use(device, comm::any(ranks));
  });
  return out;
}
/// What each of `size` ranks has thrown.
template <class F>
std::vector<std::string> thrown_on_ranks(index size, const F& use) {
  return on_ranks<cpu>(size, [&](cpu& device, comm::any ranks) -> std::string {
    try {
      use(device, ranks);
    } catch (const error& e) {
      return e.what();
    }
    return {};
  });
}

token_text some_text() {
  token_text text;
  rng random(8);
  for (const index n : {31, 1, 2, 40, 77}) {
    std::vector<std::int32_t> ids;
    for (index i = 0; i < n; ++i) ids.push_back(static_cast<std::int32_t>(random.below(96)));
    text.append(ids);
  }
  return text;
}

std::vector<continuation> some_continuations() {
  std::vector<continuation> out;
  rng random(9);
  for (const index n : {5, 9, 9, 2, 14, 3, 9}) {
    continuation& x = out.emplace_back();
    for (index i = 0; i < n; ++i) x.ids.push_back(static_cast<std::int32_t>(random.below(96)));
    x.context = 1 + n / 3;
  }
  return out;
}

/// All numbers that there are of a model and its teacher.
template <class D>
std::vector<double> scores(D& device, comm::any ranks) {
  using T = typename D::scalar;
  const auto model = load_llama<T>(device, teacher_folder("llama_rope_parameters")),
             teacher = load_llama<T>(device, teacher_folder("qwen2_tied"));
  const token_text text = some_text();
  reader read(device, model), read_teacher(device, teacher);
  std::vector<double> out;
  for (const auto& [window, batch] : {std::pair<index, index>{7, 2}, {16, 3}, {16, 100}, {1000, 1}}) {
    const text_score s = score(device, model, text, {.window = window, .batch = batch}, ranks);
    const divergence_score d = score_divergence<T>(device, text, window, batch, teacher.head(), read_teacher,
                                                   model.head(), read, ranks);
    out.insert(out.end(), {static_cast<double>(s.tokens), static_cast<double>(s.scored), s.nll, d.text.nll,
                           static_cast<double>(d.text.scored), d.kl});
  }
  const auto asked = some_continuations();
  for (const index batch : {1, 2, 50})
    for (const auto& c : score_continuations<T>(
             device, std::span<const continuation>(asked), model.head(), batch, read, [](index, index) {},
             ranks))
      out.insert(out.end(), {c.sum_logprob, static_cast<double>(c.scored), static_cast<double>(c.correct)});
  return out;
}

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  BOOST_REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Writes the cache of a teacher; which counts `on_windows` has heard, on this rank.
template <class D>
std::vector<index> write_cache(D& device, comm::any ranks, const fs::path& folder, index batch) {
  using T = typename D::scalar;
  const auto model = load_llama<T>(device, teacher_folder("llama_rope_parameters"));
  const token_text ids = some_text();
  const token_windows text(ids, 9);
  const auto targets = target_layers(loss::layers::ratio, model.config().layers, 2);
  cache_writer out;
  if (ranks.rank() == 0)
    out = cache_writer(folder,
                       {"teacher", "00", "11", text.count(), 9, model.width(), model.config().layers, "ratio",
                        std::ssize(targets)},
                       dtype::f32);
  const signal_memory<T, D> memory(device, batch * 9, model.width(), targets);
  live_teacher live(model);
  std::vector<index> heard;
  append_windows(
      device, out, live, text, memory, [&](index n) { heard.push_back(n); }, ranks);
  comm::on_root(ranks, [&] { out.finish(device, model.embedding(), model.head()); });
  return heard;
}

}  // namespace

BOOST_AUTO_TEST_CASE(ranks_score_as_one_process) {
  cpu device(1);
  const auto one = scores(device, {});
  for (const index size : {2, 3, 5})
    for (const auto& of_rank : on_ranks<cpu>(size, [](cpu&d, comm::any ranks) { return scores(d, ranks); }))
      BOOST_TEST(of_rank == one, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_cache_of_ranks_is_that_of_one_process) {
  const temporary_folder folder;
  const auto compare = [&]<class D>(D* /* which */, index batch) {
    const auto name = [&](index size) { return folder.path / std::to_string(size); };
    D device(1);
    const auto heard = write_cache(device, {}, name(1), batch);
    for (const index size : {2, 3}) {
      for (const auto& of_rank :
           on_ranks<D>(size, [&](D&d, comm::any ranks) { return write_cache(d, ranks, name(size), batch); }))
        BOOST_TEST(of_rank == heard, boost::test_tools::per_element());
      std::size_t files = 0;
      for (const auto& f : fs::directory_iterator(name(1))) {
        BOOST_TEST_CONTEXT(f.path() << ", " << size << " ranks")
        BOOST_TEST((content(f.path()) == content(name(size) / f.path().filename())));
        ++files;
      }
      BOOST_TEST(files >= 5u);
    }
  };
  for (const index batch : {1, 2, 5, 100}) compare(static_cast<cpu*>(nullptr), batch);
  // What ranks exchange goes through the host's memory.
  compare(static_cast<testing::basic_fenced<fp64>*>(nullptr), 2);
}

BOOST_AUTO_TEST_CASE(what_one_rank_throws_all_do) {
  const auto all_say = [](const std::vector<std::string>& said, const std::string& part) {
    for (const auto& text : said) BOOST_TEST((text.find(part) != text.npos), text);
  };
  const auto text = some_text();
  const auto scored = [](cpu& device, const token_text& of, comm::any ranks, index broken) {
    const auto model = load_llama<double>(device, teacher_folder("llama_rope_parameters"));
    reader read(device, model);
    const auto forward = [&](auto... call) {
      if (ranks.rank() == broken) fail("it is broken");
      read(call...);
    };
    score_text<double>(device, of, 8, 2, model.head(), forward, window_state::empty, ranks);
  };
  all_say(thrown_on_ranks(3, [&](cpu& d, comm::any ranks) { scored(d, text, ranks, 1); }),
          "rank 1 of 3: it is broken");
  token_text wrong = text;
  wrong.append(std::vector<std::int32_t>{3, 96, 4});
  const auto wrong_id = thrown_on_ranks(3, [&](cpu& d, comm::any ranks) { scored(d, wrong, ranks, -1); });
  all_say(wrong_id, "96");
  for (const auto& said : wrong_id) BOOST_TEST((said.find("rank") == said.npos), said);
  all_say(thrown_on_ranks(2,
                          [&](cpu& device, comm::any ranks) {
                            const auto model =
                                load_llama<double>(device, teacher_folder("llama_rope_parameters"));
                            auto asked = some_continuations();
                            asked.back().ids.back() = 96;
                            score_continuations<double>(
                                device, std::span<const continuation>(asked), model.head(), 2,
                                reader(device, model), [](index, index) {}, ranks);
                          }),
          "96");
  all_say(thrown_on_ranks(2,
                          [&](cpu& device, comm::any ranks) {
                            const auto model =
                                load_llama<double>(device, teacher_folder("llama_rope_parameters"));
                            score_text<double>(device, text, 8, 2, model.head(), reader(device, model),
                                               window_state::carried, ranks);
                          }),
          "windows that carry a state are read one after another, not by 2 ranks");
  // Where rank 0 cannot write.
  const temporary_folder folder;
  all_say(
      thrown_on_ranks(2,
                      [&](cpu& device, comm::any ranks) {
                        const auto model = load_llama<double>(device, teacher_folder("llama_rope_parameters"));
                        const token_windows cut(text, 9);
                        cache_writer out;  // for fewer windows than there are
                        if (ranks.rank() == 0)
                          out = cache_writer(
                              folder.path / "cache",
                              {"teacher", "00", "11", 3, 9, model.width(), model.config().layers, "none", 0},
                              dtype::f32);
                        live_teacher live(model);
                        const signal_memory<double, cpu> memory(device, 2 * 9, model.width(), {});
                        append_windows(
                            device, out, live, cut, memory, [](index) {}, ranks);
                      }),
      "last_hidden.safetensors");
}

}  // namespace distil_xlstm
