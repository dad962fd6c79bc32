#pragma once

#include <filesystem>

#include <distil_xlstm/io/safetensors.hpp>

#include "cells.hpp"

namespace distil_xlstm::testing {

namespace detail {
/// [batch, heads, time, width] to rows of [heads, width].
template <class T>
std::vector<T> to_rows(const std::vector<double>& x, index batch, index heads, index time) {
  std::vector<T> out(x.size());
  const index width = static_cast<index>(x.size()) / (batch * heads * time);
  for (index b = 0; b < batch; ++b)
    for (index e = 0; e < heads; ++e)
      for (index t = 0; t < time; ++t)
        for (index j = 0; j < width; ++j)
          out[static_cast<std::size_t>(((b * time + t) * heads + e) * width + j)] =
              static_cast<T>(x[static_cast<std::size_t>(((b * heads + e) * time + t) * width + j)]);
  return out;
}
template <class T>
std::vector<T> narrowed(const std::vector<double>& x) {
  return {x.begin(), x.end()};
}
/// Two tensors' sequences side by side: [batch, a] and [batch, b] to [batch, a + b].
inline std::vector<double> beside(const std::vector<double>& a, const std::vector<double>& b, index batch) {
  std::vector<double> out;
  const index na = static_cast<index>(a.size()) / batch, nb = static_cast<index>(b.size()) / batch;
  for (index i = 0; i < batch; ++i) {
    out.insert(out.end(), a.begin() + i * na, a.begin() + (i + 1) * na);
    out.insert(out.end(), b.begin() + i * nb, b.begin() + (i + 1) * nb);
  }
  return out;
}
/// [states, batch, width] to [batch, states * width], of the first `states`.
inline std::vector<double> by_sequence(const std::vector<double>& x, index states, index batch, index width) {
  std::vector<double> out;
  for (index b = 0; b < batch; ++b)
    for (index s = 0; s < states; ++s)
      out.insert(out.end(), x.begin() + (s * batch + b) * width, x.begin() + (s * batch + b + 1) * width);
  return out;
}
}  // namespace detail

/// Every case of tests/golden/cells (make_cells.py) in the scalar T, forward and gradients: `CASE NAME`.
template <class T, class D>
tensor_errors cell_errors(D& device, const std::filesystem::path& file, kernels which, index chunk = 4) {
  using detail::narrowed;
  const io::safetensors_file golden(file);
  tensor_errors out;
  for (const std::string name : {"small", "neg", "big", "state", "extreme", "extreme_state", "long"}) {
    const auto values = [&](const std::string& x) {
      return golden.at("mlstm." + name + "." + x).template values<double>();
    };
    const auto &q = golden.at("mlstm." + name + ".q").shape, &v = golden.at("mlstm." + name + ".v").shape;
    const index batch = q[0], heads = q[1], time = q[2];
    mlstm_run<T> r;
    r.batch = batch, r.time = time, r.shape = {heads, q[3], v[3], chunk};
    r.start.assign(static_cast<std::size_t>(r.rows()), -1);
    const auto rows = [&](const std::string& x) { return detail::to_rows<T>(values(x), batch, heads, time); };
    r.q = rows("q"), r.k = rows("k"), r.v = rows("v"), r.i = rows("i"), r.f = rows("f"), r.dh = rows("dH");
    r.c = narrowed<T>(values("C0")), r.n = narrowed<T>(values("n0")), r.m = narrowed<T>(values("m0"));
    r.dstate = narrowed<T>(detail::beside(values("dC_last"), values("dn_last"), batch * heads));
    r.forward(device, which), r.backward(device, which);
    const auto compare = [&](const std::string& x, const std::vector<T>& got, const std::vector<double>& want) {
      out.push_back({"mlstm." + name + " " + x, relative_error(got, want)});
    };
    const auto want_rows = [&](const std::string& x) {
      return detail::to_rows<double>(values(x), batch, heads, time);
    };
    compare("h", r.h, want_rows("h_chunk"));
    compare("C", r.c, values("C_last")), compare("n", r.n, values("n_last")),
        compare("m", r.m, values("m_last"));
    for (const auto& [x, got] :
         {std::pair{"dq", &r.dq}, {"dk", &r.dk}, {"dv", &r.dv}, {"di", &r.di}, {"df", &r.df}})
      compare(x, *got, want_rows(std::string("autograd.") + x));
    compare("dC0 dn0", r.dstate, detail::beside(values("autograd.dC0"), values("autograd.dn0"), batch * heads));
  }
  for (const std::string name : {"small", "state", "extreme", "extreme_state"}) {
    const auto values = [&](const std::string& x) {
      return golden.at("slstm." + name + "." + x).template values<double>();
    };
    const auto& shape = golden.at("slstm." + name + ".h_BNSH").shape;
    slstm_run<T> r;
    r.batch = shape[0], r.heads = shape[1], r.time = shape[2], r.head = shape[3];
    r.start.assign(static_cast<std::size_t>(r.rows()), -1);
    r.r = narrowed<T>(values("R_vanilla")), r.bias = narrowed<T>(values("b_GNH"));
    r.x = narrowed<T>(values("Wx_BSGNH"));
    r.dh = detail::to_rows<T>(values("dh_BNSH"), r.batch, r.heads, r.time);
    r.state = narrowed<T>(detail::by_sequence(values("state0_hcnm"), 4, r.batch, r.width()));
    detail::sized(r.dstate, r.batch * 3 * r.width());
    r.forward(device, which), r.backward(device, which);
    const auto compare = [&](const std::string& x, const std::vector<T>& got, const std::vector<double>& want) {
      out.push_back({"slstm." + name + " " + x, relative_error(got, want)});
    };
    compare("h", r.h, detail::to_rows<double>(values("h_BNSH"), r.batch, r.heads, r.time));
    compare("state", r.state, detail::by_sequence(values("state_last_hcnm"), 4, r.batch, r.width()));
    compare("dWx", r.dx, values("dWx")), compare("dR", r.dr, values("dR_vanilla"));
    compare("db", r.dbias, values("db_GNH"));
    compare("dstate0", r.dstate, detail::by_sequence(values("dstate0"), 3, r.batch, r.width()));
  }
  return out;
}

}  // namespace distil_xlstm::testing
