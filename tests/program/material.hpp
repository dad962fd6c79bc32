#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/io/tokenizer/byte_alphabet.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>

#include "../temporary_folder.hpp"
#include "distil/metrics_log.hpp"
#include "run.hpp"

namespace distil_xlstm::program {

inline fs::path golden(const std::string& name) { return fs::path(DISTIL_XLSTM_TEST_DATA) / "golden" / name; }

inline void write_file(const fs::path& path, std::string_view text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  BOOST_REQUIRE(out.good());
}
inline std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  BOOST_REQUIRE_MESSAGE(in.good(), path.string() << " cannot be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Letters, digits, some signs and a few merges: fewer tokens than the 96 rows of the golden teachers.
inline io::tokenizer_data tiny_tokenizer() {
  io::tokenizer_data d;
  d.tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (std::int32_t i = 0; i < 3; ++i) d.specials.push_back({i, d.tokens[static_cast<std::size_t>(i)]});
  for (const char c : std::string("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:'-!? \n"))
    d.tokens.push_back(io::detail::alphabet_character(static_cast<unsigned char>(c)));
  const std::string blank = io::detail::alphabet_character(' ');
  d.merges = {{"t", "h"}, {"th", "e"}, {"e", "r"}, {"i", "n"}, {blank, "the"}, {blank, "a"}, {"in", "g"}};
  for (const auto& [l, r] : d.merges) d.tokens.push_back(l + r);
  d.eos = 0;
  return d;
}

/// Sentences of a few words, the same for a seed.
inline std::string some_text(std::size_t words, std::uint64_t seed) {
  static const char* const known[] = {"the",   "river", "a",     "winter", "singing", "In",    "teacher",
                                      "other", "rain",  "small", "thinks", "under",   "light", "7"};
  rng random(seed);
  std::string out;
  for (std::size_t i = 0; i < words; ++i) {
    out += known[random.below(std::size(known))];
    out += i % 9 == 8 ? ".\n" : " ";
  }
  return out;
}

/// A golden teacher under another name, with a tokenizer.
inline void make_teacher(const std::string& name, const fs::path& to) {
  fs::create_directories(to);
  for (const auto& f : fs::directory_iterator(golden("teacher/" + name)))
    if (f.path().filename() != "expected.safetensors") fs::copy_file(f.path(), to / f.path().filename());
  io::write_tokenizer(to, tiny_tokenizer());
}

/// What most tests need, made once by the program itself.
struct material {
  temporary_folder folder;
  fs::path teacher = folder / "teacher", text = folder / "text.txt", other_text = folder / "other.txt",
           tokens = folder / "text.safetensors", held_out = folder / "held out.safetensors";
  material() {
    make_teacher("llama_rope_parameters", teacher);
    write_file(text, some_text(400, 1));
    write_file(other_text, some_text(90, 2));
    done(arguments("tokenize --tokenizer", teacher, "--text", text, other_text, "--out", tokens));
    done(arguments("tokenize --tokenizer", teacher, "--text", other_text, "--out", held_out));
  }
  /// The student of a short run.
  const fs::path& student() const {
    static const fs::path made = [this] {
      const fs::path out = folder / "run";
      done(arguments("train --blocks 2 --batch 4 --length 16 --steps 12 --lr 0.01 --teacher", teacher,
                     "--tokens", tokens, "--out", out));
      return out / "student";
    }();
    return made;
  }
  static const material& get() {
    static const material one;
    return one;
  }
};

/// A safetensors file as numbers that can be changed.
struct tensor {
  std::string name;
  std::vector<index> shape;
  std::vector<float> values;
};
inline std::vector<tensor> read_tensors(const fs::path& path) {
  const io::safetensors_file file(path);
  std::vector<tensor> out;
  for (const auto& t : file.tensors()) out.push_back({t.name, t.shape, t.values<float>()});
  return out;
}
inline void write_tensors(const fs::path& path, const std::vector<tensor>& tensors) {
  io::safetensors_writer file;
  for (const auto& t : tensors) file.add(t.name, dtype::f32, t.shape, t.values.data());
  file.write(path);
}
inline tensor& find(std::vector<tensor>& tensors, const std::string& name) {
  const auto at = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
  BOOST_REQUIRE_MESSAGE(at != tensors.end(), "no tensor " << name);
  return *at;
}

/// What `distil logits` writes, wide.
struct logits_of {
  index batch = 0, time = 0, vocabulary = 0;
  std::vector<double> numbers;
  std::map<std::string, std::vector<double>> hidden;  ///< last_hidden, hidden.0, hidden.1, ...

  logits_of(const fs::path& model, const std::vector<std::int32_t>& ids, index rows,
            const std::string& precision) {
    const temporary_folder folder;
    io::safetensors_writer in;
    in.add("ids", dtype::i32, {rows, std::ssize(ids) / rows}, ids.data());
    in.write(folder / "ids.safetensors");
    done(arguments("logits --model", model, "--ids", folder / "ids.safetensors", "--out",
                   folder / "out.safetensors", "--precision", precision));
    const io::safetensors_file file(folder / "out.safetensors");
    const auto& t = file.at("logits");
    batch = t.shape[0], time = t.shape[1], vocabulary = t.shape[2];
    numbers = t.values<double>();
    for (const auto& h : file.tensors())
      if (h.name != "logits") hidden[h.name] = h.values<double>();
  }
  const double* row(index b, index t) const { return numbers.data() + (b * time + t) * vocabulary; }
  /// log p of an id after position t of row b.
  double log_p(index b, index t, std::int32_t id) const {
    const double* x = row(b, t);
    const double highest = *std::max_element(x, x + vocabulary);
    double sum = 0;
    for (index i = 0; i < vocabulary; ++i) sum += std::exp(x[i] - highest);
    return x[id] - highest - std::log(sum);
  }
  std::int32_t likeliest(index b, index t) const {
    const double* x = row(b, t);
    return static_cast<std::int32_t>(std::max_element(x, x + vocabulary) - x);
  }
};

/// max |a - b| / max |b|
inline double apart(const std::vector<double>& a, const std::vector<double>& b) {
  BOOST_REQUIRE(a.size() == b.size());
  double difference = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    difference = std::max(difference, std::abs(a[i] - b[i])), largest = std::max(largest, std::abs(b[i]));
  }
  return difference / largest;
}

inline double number(const ::program::record& r, const char* key) { return r.at(key).get<double>(); }

/// The lines of a metrics.jsonl: those of steps, those of the held-out text.
struct metrics {
  std::vector<::program::record> steps, held_out;
  explicit metrics(const fs::path& run) {
    for (const auto& r : ::program::read_metrics(run / "metrics.jsonl"))
      (r.contains("held_out_ppl") ? held_out : steps).push_back(r);
    for (auto& r : steps) r.erase("tokens_per_second");
  }
};

/// The steps of a run's checkpoints, oldest first.
inline std::vector<int> checkpoints_of(const fs::path& run) {
  std::vector<int> out;
  std::error_code none;
  for (const auto& f : fs::directory_iterator(run / "checkpoints", none))
    if (const auto name = f.path().filename().string(); name.starts_with("step-"))
      out.push_back(std::stoi(name.substr(5)));
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace distil_xlstm::program
