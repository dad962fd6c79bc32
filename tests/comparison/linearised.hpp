#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/model/linearised.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/testing/on_host.hpp>

#include "tensor_error.hpp"

namespace distil_xlstm::testing {

/// The config.json of a folder of tests/golden/make_linearised.py.
inline linearised_config golden_linearised_config(const std::filesystem::path& folder) {
  const auto file = folder / "config.json";
  const io::json c = io::read_json_file(file), own = c.at("linearised");
  linearised_config x{read_llama_config(c, file.string())};
  for (const auto& name : own.at("mixers")) x.mixers.push_back(mixer_named(name.get<std::string>()));
  x.window = own.at("window").get<index>(), x.sinks = own.at("sinks").get<index>();
  x.features = own.at("features").get<index>(), x.both_signs = own.at("both_signs").get<bool>();
  return x;
}

/// A linearised transformer whose every tensor is trained, the embedding and the head among them.
template <class T, class D>
struct trained_linearised {
  D& device;
  linearised_config config;
  linearised_stack stack;
  manifest names;
  weight_memory<linearised_stack, T, D> weights, gradients;
  buffer<T, D> embedding, head, dembedding, dhead;  ///< no head where it is the embedding

  trained_linearised(D& d, const linearised_config& c)
      : device(d),
        config(c),
        stack(c.stack()),
        weights(d, stack),
        gradients(d, stack),
        embedding(d, c.vocabulary * c.width),
        head(d, c.tied ? 0 : embedding.size()),
        dembedding(d, embedding.size()),
        dhead(d, head.size()) {
    layout<T> l(nullptr, &names);
    l.scope(config.prefix, [&] { return stack.params(l); });
  }
  matrix_view<T> table(const buffer<T, D>& b) const { return {b.data(), config.vocabulary, config.width}; }

  void load(const std::filesystem::path& path) {
    const io::safetensors_file file(path);
    const auto read = [&](const std::string& name, T* to, index n) {
      const auto values = file.at(name).template values<T>();
      require(std::ssize(values) == n, name, " has ", values.size(), " numbers instead of ", n);
      to_device(device, to, values);
    };
    for (const auto& e : names) read(e.name, weights.data() + e.offset, e.size);
    read(std::string(config.embedding_name), embedding.data(), embedding.size());
    if (!config.tied) read(std::string(config.head_name), head.data(), head.size());
    require(file.tensors().size() == names.size() + (config.tied ? 1 : 2), path.string(), " has ",
            file.tensors().size(), " tensors");
  }
  /// The logits, and with `w` the gradients of sum(w * logits). `start` and `ids` are the host's.
  std::vector<T> run(sequence_view seq, const std::int32_t* ids, const std::vector<T>& w = {}) {
    const index rows = seq.rows(), n = config.width, v = config.vocabulary;
    device_copy<std::int32_t, D> placed_ids, placed_start;
    ids = placed_ids.put(device, ids, rows), seq.start = placed_start.put(device, seq.start, rows);
    state_memory<linearised_stack, T, D> state(device, stack, seq.batch);
    tape_memory<linearised_stack, T, D> tape(device, stack, seq.batch, seq.time, false);
    buffer<T, D> memory(device, 4 * rows * n + 2 * rows * v);
    const matrix_view<T> x(memory.data(), rows, n), hidden(x.data + x.size(), rows, n),
        dhidden(hidden.data + x.size(), rows, n), dx(dhidden.data + x.size(), rows, n),
        logits(dx.data + x.size(), rows, v), dlogits(logits.data + rows * v, rows, v);
    const matrix_view<T> out = table(config.tied ? embedding : head),
                         dout = table(config.tied ? dembedding : dhead);
    embed(device, table(embedding), ids, x);
    stack.forward(device, seq, weights.views(), state.views(), tape.views(), matrix_view<const T>(x), hidden);
    gemm(device, hidden, transposed(out), logits);
    if (!w.empty()) {
      to_device(device, dlogits.data, w);
      gemm(device, dlogits, out, dhidden);
      gemm(device, transposed(dlogits), hidden, dout, T(1));
      stack.backward(device, seq, weights.views(), gradients.views(), tape.views(), matrix_view<const T>(x),
                     matrix_view<const T>(dhidden), dx);
      embed_backward(device, ids, dx, table(dembedding));
    }
    return on_host(device, static_cast<const T*>(logits.data), logits.size());
  }
};

/// A folder of tests/golden/make_linearised.py in the scalar T against the reference in float64: `logits` and
/// `grad.NAME`. Throws `error` where the file has no gradient of a tensor, or of one too many.
template <class T, class D>
tensor_errors linearised_errors(D& device, const std::filesystem::path& folder) {
  const io::safetensors_file expected(folder / "expected.safetensors");
  trained_linearised<T, D> m(device, golden_linearised_config(folder));
  m.load(folder / "model.safetensors");
  const auto ids = expected.at("ids").template values<std::int32_t>(),
             start = expected.at("start").template values<std::int32_t>();
  const auto& shape = expected.at("ids").shape;
  tensor_errors out;
  const auto compare = [&](const std::string& name, const std::vector<T>& got) {
    out.push_back({name, relative_error(got, expected.at(name).template values<double>())});
  };
  compare("logits",
          m.run({shape[0], shape[1], start.data()}, ids.data(), expected.at("W").template values<T>()));
  for (const auto& e : m.names)
    compare("grad." + e.name, on_host(device, static_cast<const T*>(m.gradients.data() + e.offset), e.size));
  compare("grad." + std::string(m.config.embedding_name), on_host(device, m.dembedding));
  if (!m.config.tied) compare("grad." + std::string(m.config.head_name), on_host(device, m.dhead));
  require(out.size() + 3 == expected.tensors().size(), folder.string(), ": ", out.size(), " tensors of ",
          expected.tensors().size());
  return out;
}

}  // namespace distil_xlstm::testing
