#include "measure.cuh"
#include "parts.hpp"

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include <distil_xlstm/block/embedding.hpp>

namespace distil_xlstm::bench {
namespace {

/// q, k, v and the gradients dh, dq and dk stored as Operand.
template <class Operand, class D>
void mlstm_cell(D& d, index batch, index heads, index time, index query, index value, const char* peer,
                mlstm_normaliser normaliser = mlstm_normaliser::at_least_one, index value_group = 1) {
  const index rows = batch * time;
  mlstm_shape shape{heads, query, value};
  shape.normaliser = normaliser, shape.value_group = value_group;
  const double mean = normaliser == mlstm_normaliser::sum ? 5 : 0;  // of which q and k are positive
  const random_numbers<Operand> q(d, rows * heads * query, 1, mean), k(d, rows * heads * query, 1, mean),
      v(d, rows * shape.value_heads() * value), dh(d, rows * heads * value), dq(d, q.size()), dk(d, k.size());
  const random_buffer i(d, rows * heads), f(d, rows * heads, 1, 3), h(d, dh.size()), dv(d, v.size()),
      di(d, i.size()), df(d, f.size());
  const index kept = batch * heads * shape.kept_size(time, sizeof(Operand) < sizeof(float));
  const buffer<float, cuda_base> c(d, batch * heads * query * value), n(d, batch * heads * query),
      m(d, batch * heads), tape(d, kept);
  const mlstm_state<float> state{
      {c.data(), heads * query * value}, {n.data(), heads * query}, {m.data(), heads}};
  const mlstm_arguments<float, Operand> forward{{batch, time},  shape,          q.matrix(rows), k.matrix(rows),
                                                v.matrix(rows), i.matrix(rows), f.matrix(rows), h.matrix(rows),
                                                state,          tape.data()};
  mlstm_backward_arguments<float, Operand> backward{
      {batch, time},   shape,           q.matrix(rows),  k.matrix(rows),  v.matrix(rows),
      i.matrix(rows),  f.matrix(rows),  h.matrix(rows),  dh.matrix(rows), tape.data(),
      dq.matrix(rows), dk.matrix(rows), dv.matrix(rows), di.matrix(rows), df.matrix(rows)};
  const std::string shape_text = "mLSTM " + std::to_string(batch) + "," + std::to_string(heads) + "," +
                                 std::to_string(time) + "," + std::to_string(query) + "/" +
                                 std::to_string(value);
  // Each of q k v h once; C is not needed in memory. Operations of the chunkwise form, chunk 64.
  const double numbers = static_cast<double>(rows * heads);
  const double in = static_cast<double>(2 * query) +
                    static_cast<double>(value) / static_cast<double>(value_group),
               out = static_cast<double>(value), both = static_cast<double>(query + value),
               operand = sizeof(Operand);
  const double forward_bytes = numbers * (operand * in + 4 * out), of_queries = static_cast<double>(2 * query),
               backward_bytes = numbers * (operand * (in + of_queries + out) + 4 * (in - of_queries) + 4 * out),
               forward_operations = numbers * (64 * both + 4 * static_cast<double>(query * value));
  row(shape_text + " forward", milliseconds(d, [&] { mlstm_forward(d, forward); }), forward_bytes,
      forward_operations, "");
  row(shape_text + " forward + backward",
      milliseconds(d,
                   [&] {
                     mlstm_forward(d, forward);
                     mlstm_backward(d, backward);
                   }),
      forward_bytes + backward_bytes, 3 * forward_operations, peer);
}

template <class D>
void slstm_cell(D& d, index batch, index time, index heads, index head, const char* forward_peer,
                const char* peer) {
  const index rows = batch * time, width = heads * head;
  const random_buffer r(d, heads * 4 * head * head, 0.05), bias(d, 4 * width), input(d, rows * 4 * width),
      dh(d, rows * width);
  const buffer<float, cuda_base> raw(d, rows * 4 * width), states(d, rows * 4 * width),
      initial(d, batch * 4 * width), state(d, batch * 4 * width), carry(d, batch * 3 * width);
  const matrix_view<float> raw_view(raw.data(), rows, 4 * width), states_view(states.data(), rows, 4 * width);
  const slstm_arguments<float> forward{{batch, time}, heads,          head,
                                       r.data(),      bias.data(),    raw_view,
                                       states_view,   initial.data(), {state.data(), 4 * width}};
  const slstm_backward_arguments<float> backward{
      {batch, time},  heads,          head, r.data(), raw_view, matrix_view<const float>(states_view),
      initial.data(), dh.matrix(rows)};
  const std::string shape_text = "sLSTM " + std::to_string(batch) + "," + std::to_string(time) + "," +
                                 std::to_string(heads) + "," + std::to_string(head);
  const double numbers = static_cast<double>(rows * width);
  const double operations = 8 * numbers * static_cast<double>(head);
  d.copy(raw.data(), input.data(), raw.size() * 4);
  row(shape_text + " forward", milliseconds(d, [&] { slstm_forward(d, forward); }), 4 * numbers * 12,
      operations, forward_peer);
  row(shape_text + " forward + backward",
      milliseconds(d,
                   [&] {
                     slstm_forward(d, forward);
                     slstm_backward(d, backward, carry.data());
                   }),
      4 * numbers * 27, 2 * operations, peer);
}

/// Attention over a window and sinks, a key and value of each `heads / kv_heads` heads.
template <class D>
void windowed_attention(D& d, index batch, index time, const attention_shape& shape) {
  const index rows = batch * time, all = shape.heads * shape.width, kv = shape.kv_heads * shape.width;
  const random_buffer q(d, rows * all), k(d, rows * kv), v(d, rows * kv), dy(d, rows * all);
  const buffer<float, cuda_base> memory(d, rows * (2 * all + 2 * kv));
  const matrix_view<float> y(memory.data(), rows, all), dq(y.data + y.size(), rows, all),
      dk(dq.data + dq.size(), rows, kv), dv(dk.data + dk.size(), rows, kv);
  const attention_arguments<float> forward{
      {batch, time}, shape, q.matrix(rows), k.matrix(rows), v.matrix(rows), {}, y};
  const attention_backward_arguments<float> backward{forward, dy.matrix(rows), dq, dk, dv};
  const std::string what = "attention " + std::to_string(batch) + "," + std::to_string(time) + "," +
                           std::to_string(shape.heads) + "/" + std::to_string(shape.kv_heads) + "," +
                           std::to_string(shape.width) + ", window " + std::to_string(shape.window) + " + " +
                           std::to_string(shape.sinks);
  const double bytes = 4 * static_cast<double>(rows * 2 * (all + kv)),
               operations = 4 * static_cast<double>(rows * all * (shape.window + shape.sinks));
  row(what + " forward", milliseconds(d, [&] { attention_forward(d, forward); }), bytes, operations, "");
  row(what + " forward + backward",
      milliseconds(d,
                   [&] {
                     attention_forward(d, forward);
                     attention_backward(d, backward);
                   }),
      bytes + 4 * static_cast<double>(rows * (4 * all + 4 * kv)), 3.5 * operations, "");
}

/// Softmax features of both signs, stored as Operand.
template <class Operand, class D>
void features(D& d, index rows, const feature_map_shape& shape) {
  const index in = shape.inputs * shape.width, out = shape.heads * shape.size();
  const random_buffer w(d, shape.heads * shape.width * shape.features, 0.1), x(d, rows * in);
  const random_numbers<Operand> dphi(d, rows * out);
  const buffer<Operand, cuda_base> phi(d, rows * out);
  const buffer<float, cuda_base> dx(d, rows * in), dw(d, w.size());
  const feature_map_arguments<float, Operand> forward{shape, w.data(), x.matrix(rows),
                                                      matrix_view<Operand>(phi.data(), rows, out)};
  const feature_map_backward_arguments<float, Operand> backward{
      forward, dphi.matrix(rows), matrix_view<float>(dx.data(), rows, in), 1, dw.data()};
  const std::string what = "features " + std::to_string(rows) + "," + std::to_string(shape.heads) + "/" +
                           std::to_string(shape.inputs) + "," + std::to_string(shape.width) + "," +
                           std::to_string(shape.features);
  const double operand = sizeof(Operand), inputs = static_cast<double>(rows * in),
               outputs = static_cast<double>(rows * out);
  const double operations = 2 * static_cast<double>(rows * shape.heads * shape.width * shape.features);
  row(what + " forward", milliseconds(d, [&] { feature_map_forward(d, forward); }),
      4 * inputs + operand * outputs, operations, "");
  row(what + " backward", milliseconds(d, [&] { feature_map_backward(d, backward); }),
      12 * inputs + operand * outputs, 3 * operations, "");
}

/// The gradient of a table, of ids of which the small ones come often, as a text's do.
template <class D>
void embedding(D& d, index rows, index width, index vocabulary) {
  const random_buffer dx(d, rows * width), table(d, vocabulary * width);
  rng random(3);
  std::vector<std::int32_t> host;
  for (index r = 0; r < rows; ++r) {
    const double u = random.uniform();
    host.push_back(static_cast<std::int32_t>(u * u * u * static_cast<double>(vocabulary)));
  }
  const buffer<std::int32_t, cuda_base> ids(d, rows);
  d.upload(ids.data(), host.data(), rows * 4);
  const index different = static_cast<index>(std::set<std::int32_t>(host.begin(), host.end()).size());
  row("embedding " + std::to_string(rows) + "," + std::to_string(width) + "," + std::to_string(vocabulary) +
          " backward",
      milliseconds(d, [&] { embed_backward(d, ids.data(), dx.matrix(rows), table.matrix(vocabulary)); }),
      4 * static_cast<double>((rows + 2 * different) * width), 0, "");
}

}  // namespace

template <Precision P>
void mlstm_cells(device::basic_cuda<P>& d) {
  mlstm_cell<float>(d, 16, 4, 512, 288, 288, "peer 0.873");
  mlstm_cell<float>(d, 16, 4, 2048, 288, 288, "peer 3.26");
  mlstm_cell<float>(d, 8, 8, 8192, 256, 256, "peer 7.32");
  mlstm_cell<float>(d, 2, 8, 8192, 256, 512, "peer 3.43");
}
template <Precision P>
void slstm_cells(device::basic_cuda<P>& d) {
  slstm_cell(d, 16, 1024, 4, 144, "peer 2.99", "peer 9.04");
  slstm_cell(d, 64, 512, 4, 144, "peer 5.47", "peer 13.9");
  slstm_cell(d, 8, 512, 4, 384, "peer 1.55", "peer 4.55");
}
template <Precision P>
void linearised_parts(device::basic_cuda<P>& d) {
  windowed_attention(d, 32, 512, {9, 3, 64, 64, 4});
  using operand = operand_t<device::basic_cuda<P>, float>;
  mlstm_cell<operand>(d, 32, 9, 512, 128, 64, "", mlstm_normaliser::sum, 3);
  features<operand>(d, 32 * 512, {9, 9, 64, 64});
  features<operand>(d, 32 * 512, {9, 3, 64, 64});
  embedding(d, 32 * 512, 576, 49152);
}

template void mlstm_cells(device::basic_cuda<fp32>&);
template void mlstm_cells(device::basic_cuda<bf16_mixed>&);
template void slstm_cells(device::basic_cuda<fp32>&);
template void slstm_cells(device::basic_cuda<bf16_mixed>&);
template void linearised_parts(device::basic_cuda<fp32>&);
template void linearised_parts(device::basic_cuda<bf16_mixed>&);

}  // namespace distil_xlstm::bench
