#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>

#include "models.hpp"
#include "options.hpp"

namespace program {

template <class T, class D>
int logits_request::run(D& device) const {
  const dx::io::safetensors_file ids_file(ids_path);
  const auto& given = ids_file.at("ids");
  dx::require(given.dtype == dx::dtype::i32 && given.shape.size() == 2 && given.size() > 0, ids_file.path(),
              ": ids must be I32 [B, S], not ", given.type, " ", dx::io::detail::shape_text(given.shape));
  const auto ids = given.template values<std::int32_t>();
  const auto model = dx::load_language_model<T>(device, model_path);
  const dx::sequence_view seq{given.shape[0], given.shape[1]};
  const dx::index rows = seq.rows(), d = model.width(), v = model.vocabulary();
  for (std::size_t i = 0; i < ids.size(); ++i)
    dx::require(ids[i] >= 0 && ids[i] < v, ids_file.path(), ": the id at position ", i, " is ", ids[i],
                ", the vocabulary has ", v);

  std::vector<dx::buffer<T, D>> hidden;
  for (dx::index i = 0; i <= model.depth(); ++i) hidden.emplace_back(device, rows * d);
  dx::buffer<T, D> last(device, rows * d);
  dx::reader read(device, model);
  read(seq.batch, seq.time, ids, {last.data(), rows, d}, [&](dx::index i, dx::matrix_view<const T> h) {
    device.copy(hidden[static_cast<std::size_t>(i)].data(), h.data,
                h.size() * static_cast<dx::index>(sizeof(T)));
  });

  const auto type = std::is_same_v<T, double> ? dx::dtype::f64 : dx::dtype::f32;
  dx::io::safetensors_writer file;
  for (dx::index i = 0; i <= model.depth(); ++i)
    file.declare("hidden." + std::to_string(i), type, {seq.batch, seq.time, d});
  file.declare("last_hidden", type, {seq.batch, seq.time, d});
  file.declare("logits", type, {seq.batch, seq.time, v});
  file.open(out);
  dx::host_copy<T, D> numbers;
  for (const auto& h : hidden) file.append(numbers.get(device, h.data(), rows * d), rows * d);
  file.append(numbers.get(device, last.data(), rows * d), rows * d);
  // The vocabulary's columns are many: a few rows at a time.
  const dx::index part = std::min<dx::index>(rows, 64);
  dx::buffer<T, D> logits(device, part * v);
  for (dx::index first = 0; first < rows; first += part) {
    const dx::index n = std::min(part, rows - first);
    dx::write_logits(device, dx::matrix_view<const T>(last.data() + first * d, n, d), model.head(),
                     dx::matrix_view<T>(logits.data(), n, v));
    file.append(numbers.get(device, logits.data(), n * v), n * v);
  }
  file.commit();
  return 0;
}

}  // namespace program
