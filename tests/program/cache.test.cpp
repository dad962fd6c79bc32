#include <boost/test/unit_test.hpp>

#include "material.hpp"
#include "scores.hpp"

// `distil cache` from outside.
namespace distil_xlstm::program {

BOOST_AUTO_TEST_CASE(a_cache_stands_for_its_teacher) {
  const auto& m = material::get();
  const temporary_folder folder;
  const auto other = folder / "other";
  make_teacher("qwen2_tied", other);
  const std::string options = "--blocks 2 --batch 3 --length 16 --steps 6 --beta 0.1 --lr 0.01";
  const auto train = [&](const std::vector<std::string>& from, const fs::path& out, const std::string& more) {
    return arguments("train", options, more, from, "--tokens", m.tokens, "--out", out);
  };
  const auto cached = [](const fs::path& cache) { return arguments("--cache", cache); };
  for (const std::string form : {"average", "block_wise"}) {
    const std::string more = "--alignment " + form;
    done(train(arguments("--teacher", m.teacher), folder / ("live " + form), more));
    const metrics live(folder / ("live " + form));
    BOOST_REQUIRE(live.steps.size() == 6);
    for (const auto& [store, limit] : {std::pair("fp32", 1e-6), std::pair("bf16", 1e-2)}) {
      const auto cache = folder / (form + store), out = folder / (form + store + " run");
      done(arguments("cache --length 16 --store", store, more, form == "average" ? "" : "--blocks 2",
                     "--teacher", m.teacher, "--tokens", m.tokens, "--out", cache));
      done(train(cached(cache), out, more));
      const metrics got(out);
      BOOST_REQUIRE(got.steps.size() == 6);
      for (std::size_t i = 0; i < 6; ++i)
        for (const char* key : {"ce", "kl", "alignment", "total"})
          BOOST_TEST_CONTEXT(form << " " << store << " step " << i + 1 << " " << key)
      BOOST_TEST(close(number(got.steps[i], key), number(live.steps[i], key), limit));
      BOOST_TEST(fs::exists(out / "student/tokenizer.json"));
    }
  }
  const auto cache = folder / "averagefp32", none = folder / "none";
  const std::string average = "--alignment average";
  refused(arguments(train(cached(cache), none, average), "--teacher", other), 1,
          {cache.string(), "teacher_sha256"});
  refused(arguments("train --blocks 2 --batch 3 --length 8 --steps 6 --cache", cache, "--tokens", m.tokens,
                    "--out", none),
          1, {cache.string(), "length", "16", "8"});
  refused(arguments("train", options, "--cache", cache, "--tokens", m.held_out, "--out", none), 1,
          {cache.string(), "tokens_sha256"});
  refused(train(cached(cache), none, "--alignment block_wise"), 1, {cache.string(), "alignment"});
  refused(train(cached(cache), none, "--architecture heuristic"), 1, {"heuristic", "--heads"});
  fs::remove(cache / "manifest.json");
  refused(train(cached(cache), none, average), 1, {cache.string(), "not a cache"});
}

}  // namespace distil_xlstm::program
