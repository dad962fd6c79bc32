#include <boost/test/unit_test.hpp>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "material.hpp"

namespace distil_xlstm::program {

/// `train --method code` against ten steps of PyTorch (tests/golden/make_steps.py). What the command line does
/// not say, the method means.
BOOST_AUTO_TEST_CASE(ten_steps_of_the_authors_code) {
  const auto file = io::read_json_file(golden("steps/code.json").string());
  const auto option = [&](const char* key) { return file.at("options").at(key).dump(); };
  const temporary_folder folder;
  const fs::path out = folder / "run";
  done(arguments("train --method code --order sequential --precision fp64 --batch", option("batch"), "--length",
                 option("length"), "--accumulate", option("accumulate"), "--steps", option("steps"), "--lr",
                 option("lr"), "--weight-decay", option("weight_decay"), "--clip", option("clip"), "--teacher",
                 golden("steps/teacher"), "--init", golden("steps/student"), "--tokens",
                 golden("steps/tokens.safetensors"), "--out", out));
  const metrics m(out);
  BOOST_REQUIRE(m.steps.size() == file.at("steps").size());
  for (std::size_t i = 0; i < m.steps.size(); ++i)
    for (const auto& [key, value] : file.at("steps")[i].items()) {
      const double got = number(m.steps[i], key.c_str()), want = value.get<double>();
      BOOST_TEST_CONTEXT("step " << i + 1 << " " << key << ": " << got << ", expected " << want)
      BOOST_TEST(std::abs(got - want) <= testing::tolerance<double>::training_steps * std::abs(want));
    }
}

}  // namespace distil_xlstm::program
