#pragma once

#include <cstdint>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include <boost/program_options.hpp>

#include <distil_xlstm/device/cpu.hpp>

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
namespace fs = std::filesystem;

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
struct common_options {
  std::string device = "cpu", precision = "fp32";
  int threads = 0;

  po::options_description description(const char* precisions) {
    po::options_description d("Machine");
    d.add_options()                                                                  //
        ("device", po::value(&device)->default_value(device), "where it runs: cpu")  //
        ("precision", po::value(&precision)->default_value(precision), precisions)   //
        ("threads", po::value(&threads)->default_value(0, ""),
         "worker threads; default: as many as there are cores");
    return d;
  }
  void check() const {
    if (device == "cuda") throw usage_error("--device cuda: this program was built for the CPU alone");
    if (device != "cpu") throw usage_error("--device: '" + device + "' is not known (cpu is)");
    if (precision != "fp32" && precision != "bf16" && precision != "fp64")
      throw usage_error("--precision: '" + precision + "' is not known (fp32, bf16, fp64 are)");
    if (threads < 0 || threads > 4096)
      throw usage_error("--threads: " + std::to_string(threads) + " is not possible");
  }
  void apply(dx::device::cpu& d) const { d.bf16_products = precision == "bf16"; }
  /// use(T{}) with the type that --precision asks for.
  template <class F>
  int with_scalar(const F& use) const {
    return precision == "fp64" ? use(double{}) : use(float{});
  }
};

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

/// The tokenizer of a model, or an error that names the model.
inline dx::io::tokenizer need_tokenizer(const fs::path& model) {
  dx::require(fs::exists(model), model.string(), ": no such file or folder");
  auto data = tokenizer_of(model);
  dx::require(data.has_value(), model.string(), ": there is no tokenizer.json");
  return dx::io::tokenizer(std::move(*data));
}

/// The content of a text file; "-" is stdin.
std::string read_text(const fs::path& path);

/// The ids of a text. Throws an error that begins with `name` where the text is empty or not UTF-8; bytes for
/// which the vocabulary has no token are dropped, with one warning on stderr that counts them.
std::vector<std::int32_t> encode_text(const dx::io::tokenizer& tokenizer, const std::string& text,
                                      const std::string& name, bool parse_special);

}  // namespace program
