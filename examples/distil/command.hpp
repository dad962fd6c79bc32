#pragma once

#include <cstdint>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include <boost/program_options.hpp>

#include <distil_xlstm/device/cpu.hpp>
#if defined(DISTIL_WITH_CUDA)
#include <distil_xlstm/device/cuda.hpp>
#endif

#include "machine.hpp"
#include "shared.hpp"

namespace boost {
/// A path is the argument as it is; the stream that Boost would read it from stops at a blank.
inline void validate(any& value, const std::vector<std::string>& given, std::filesystem::path*, int) {
  program_options::validators::check_first_occurrence(value);
  value = std::filesystem::path(program_options::validators::get_single_string(given, true));
}
}  // namespace boost

namespace program {

namespace po = boost::program_options;

using arguments = std::vector<std::string>;

/// The subcommands. Each takes what follows its name and returns the exit status.
int tokenize(const arguments&);
int cache(const arguments&);
int train(const arguments&);
int generate(const arguments&);
int evaluate(const arguments&);
int logits(const arguments&);
int inspect(const arguments&);

/// What most subcommands understand.
struct common_options : machine {
  po::options_description description() {
    po::options_description d("Machine");
    d.add_options()                                                                                //
        ("device", po::value(&device)->default_value(device), "where it runs: cpu, cuda (a GPU)")  //
        ("precision", po::value(&precision)->default_value(precision),
         "fp32, bf16 (products of bf16, sums of fp32), fp64")  //
        ("threads", po::value(&threads)->default_value(0, ""),
         "worker threads of the CPU; default: as many as there are cores");
    return d;
  }
  void check() const {
#if !defined(DISTIL_WITH_CUDA)
    if (device == "cuda")
      throw usage_error(
          "--device cuda: this distil was built without CUDA: configure with -DDISTIL_XLSTM_CUDA=ON");
#endif
    if (device != "cpu" && device != "cuda")
      throw usage_error("--device: '" + device + "' is not known (cpu, cuda are)");
    if (precision != "fp32" && precision != "bf16" && precision != "fp64")
      throw usage_error("--precision: '" + precision + "' is not known (fp32, bf16, fp64 are)");
    if (threads < 0 || threads > 4096)
      throw usage_error("--threads: " + std::to_string(threads) + " is not possible");
  }
};

/// request.run<T>(device), on the device and with the numbers that were asked for.
template <class Request>
int run_on(const machine& where, const Request& request) {
#if defined(DISTIL_WITH_CUDA)
  if (where.device == "cuda") return run_with<dx::device::basic_cuda>(where, request);
#endif
  return run_with<dx::device::basic_cpu>(where, request, where.threads);
}

/// Parses and stores; false when --help was asked for and printed. Throws `usage_error`.
inline bool parse(const arguments& given, const char* usage, const po::options_description& options,
                  po::variables_map& values, const char* positional = nullptr) {
  po::options_description all;
  all.add(options);
  all.add_options()("help", "this text");
  po::positional_options_description places;
  if (positional) places.add(positional, -1);
  using style = po::command_line_style::style_t;
  try {
    po::store(po::command_line_parser(given)
                  .options(all)
                  .positional(places)
                  .style(style::unix_style & ~style::allow_guessing & ~style::allow_short)
                  .run(),
              values);
    if (values.count("help")) {
      std::cout << usage << "\n" << all << std::flush;
      return false;
    }
    po::notify(values);
  } catch (const po::error& e) {
    throw usage_error(e.what());
  }
  return true;
}

/// Throws `usage_error` unless the value is there.
inline void need(const fs::path& value, const char* option) {
  if (value.empty()) throw usage_error(std::string("--") + option + " is missing");
}

}  // namespace program
