#define BOOST_TEST_MODULE steps
#include <boost/test/unit_test.hpp>

#include <filesystem>

#include <distil_xlstm/device/cpu_attention.hpp>
#include <distil_xlstm/device/cpu_mlstm.hpp>
#include <distil_xlstm/device/cpu_slstm.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/llama.hpp>
#include <distil_xlstm/model/xlstm.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

namespace distil_xlstm {

/// Eight steps of the reference in float64 (tests/golden/make_steps.py): losses, gradient norms, final weights.
BOOST_AUTO_TEST_CASE(training_steps_of_the_reference) {
  using cpu = device::cpu;
  using limits = testing::tolerance<double>;
  const auto folder = std::filesystem::path(DISTIL_XLSTM_TEST_DATA) / "golden/steps";
  const std::string name = (folder / "steps.json").string();
  const io::json file = io::read_json_file(name);
  const io::json& o = file.at("options");
  auto number = [&](const char* key) { return o.at(key).get<double>(); };

  cpu device(2);
  const auto teacher = llama<double, cpu>::load(device, folder / "teacher");
  auto initial = xlstm<double, cpu>::load(device, folder / "student");
  const io::token_file text(folder / "tokens.safetensors");
  training_options options;
  options.batch = o.at("batch").get<index>(), options.length = o.at("length").get<index>();
  options.total_steps = o.at("steps").get<index>();
  options.order = window_order::sequential;
  loss::distillation objective;
  objective.alpha = number("alpha"), objective.beta = number("beta");
  objective.temperature = number("temperature");
  options.lr = {number("lr")}, options.lr.after = schedule::annealing::constant;
  options.optimiser = {number("lr"), number("beta1"), number("beta2"), number("epsilon"),
                       number("weight_decay")};
  options.clip = number("clip");
  const windows cut(text, options.length);
  const auto plan =
      alignment_plan::make(loss::alignment::average, teacher.config().layers, initial.config().blocks);
  live_teacher source(teacher, plan);
  trainer run(device, initial, cut, source, plan, objective, options);

  for (const auto& e : initial.names()) {
    const auto& listed = file.at("decayed");
    BOOST_TEST_CONTEXT(e.name)
    BOOST_TEST(decays(e.name) == (std::find(listed.begin(), listed.end(), e.name) != listed.end()));
  }
  for (const auto& expected : file.at("steps")) {
    const auto m = run.step();
    BOOST_TEST_CONTEXT("step " << m.step) {
      auto near = [&](const char* key, double value) {
        const double want = expected.at(key).get<double>();
        BOOST_TEST_CONTEXT(key << ": " << value << ", the reference has " << want)
        BOOST_TEST(std::abs(value - want) <= limits::training_steps * std::abs(want));
      };
      near("ce", m["ce"]), near("kl", m["kl"]), near("alignment", m["alignment"]), near("total", m.total);
      near("grad_norm", m.grad_norm);
    }
  }
  const io::safetensors_file expected(folder / "expected.safetensors");
  for (const auto& e : initial.names()) {
    const io::tensor_info* t = expected.find("final." + e.name);
    if (!t) t = expected.find(e.name);
    BOOST_REQUIRE_MESSAGE(t, "no final weights of " << e.name);
    const auto want = t->values<double>();
    BOOST_TEST_CONTEXT(e.name)
    BOOST_TEST(testing::relative_error(initial.weights().data() + e.offset, want.data(), e.size) <= 1e-6);
  }
}

}  // namespace distil_xlstm
