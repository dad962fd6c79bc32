#include "command.hpp"

#include <iostream>

namespace program {

po::options_description machine_options(machine& where) {
  po::options_description d("Machine");
  d.add_options()  //
      ("device", po::value(&where.device)->default_value(where.device),
       "where it runs: cpu, cuda (a GPU)")  //
      ("precision", po::value(&where.precision)->default_value(where.precision),
       "fp32, bf16 (products of bf16, sums of fp32), fp64")  //
      ("threads", po::value(&where.threads)->default_value(0, ""),
       "worker threads of the CPU; default: as many as there are cores");
  return d;
}

void check(const machine& where) {
#if !defined(DISTIL_WITH_CUDA)
  if (where.device == "cuda")
    throw usage_error(
        "--device cuda: this distil was built without CUDA: configure with -DDISTIL_XLSTM_CUDA=ON");
#endif
  if (where.device != "cpu" && where.device != "cuda")
    throw usage_error("--device: '" + where.device + "' is not known (cpu, cuda are)");
  if (where.precision != "fp32" && where.precision != "bf16" && where.precision != "fp64")
    throw usage_error("--precision: '" + where.precision + "' is not known (fp32, bf16, fp64 are)");
  if (where.threads < 0 || where.threads > 4096)
    throw usage_error("--threads: " + std::to_string(where.threads) + " is not possible");
}

bool parse(const arguments& given, const char* usage, const po::options_description& options,
           po::variables_map& values, const char* positional) {
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

}  // namespace program
