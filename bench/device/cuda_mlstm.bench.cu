#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cuda.cuh>

// Milliseconds of the mLSTM cell on the GPU: forward, and forward with backward.
namespace distil_xlstm {
namespace {

using memory = buffer<float, device::cuda>;

memory noise(device::cuda& device, index n, double scale, double mean) {
  static rng random(1);
  std::vector<float> piece(std::size_t(1) << 16);
  memory out(device, n);
  for (auto& x : piece) x = static_cast<float>(mean + scale * random.normal());
  for (index at = 0; at < n; at += 65521) {  // so that no two rows are alike
    const index count = std::min<index>(65521, n - at);
    device.upload(out.data() + at, piece.data(), count * 4);
  }
  return out;
}

template <class F>
double milliseconds(device::cuda& device, const F& f, int repeat = 25) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin), cudaEventCreate(&end);
  for (int i = 0; i < 3; ++i) f();
  std::vector<float> times;
  for (int i = 0; i < repeat; ++i) {
    float ms = 0;
    cudaEventRecord(begin, device.stream());
    f();
    cudaEventRecord(end, device.stream());
    cudaEventSynchronize(end);
    cudaEventElapsedTime(&ms, begin, end);
    times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void cell(device::cuda& device, index batch, index heads, index time, index query, index value) {
  const index rows = batch * time, wq = heads * query, wv = heads * value;
  const mlstm_shape shape{heads, query, value};
  const memory q = noise(device, rows * wq, 1, 0), k = noise(device, rows * wq, 1, 0),
               v = noise(device, rows * wv, 1, 0), dh = noise(device, rows * wv, 1, 0),
               i = noise(device, rows * heads, 1, 0), f = noise(device, rows * heads, 1, 3);
  const memory h(device, rows * wv), dq(device, rows * wq), dk(device, rows * wq), dv(device, rows * wv),
      di(device, rows * heads), df(device, rows * heads),
      kept(device, batch * heads * shape.chunks(time) * shape.kept()), c(device, batch * wq * value),
      n(device, batch * wq), m(device, batch * heads);
  const auto rows_of = [&](const memory& x) { return matrix_view<float>(x.data(), rows, x.size() / rows); };
  const sequence_view seq{batch, time};
  const mlstm_state<float> state{{c.data(), wq * value}, {n.data(), wq}, {m.data(), heads}};
  const auto forward = [&] {
    mlstm_forward(device, mlstm_arguments<float>{seq, shape, rows_of(q), rows_of(k), rows_of(v), rows_of(i),
                                                 rows_of(f), rows_of(h), state, kept.data()});
  };
  const auto both = [&] {
    forward();
    mlstm_backward(
        device, mlstm_backward_arguments<float>{seq, shape, rows_of(q), rows_of(k), rows_of(v), rows_of(i),
                                                rows_of(f), rows_of(h), rows_of(dh), kept.data(), rows_of(dq),
                                                rows_of(dk), rows_of(dv), rows_of(di), rows_of(df)});
  };
  std::printf("%2td x %td heads x %5td, %td / %td, %s: ", batch, heads, time, query, value,
              device.bf16_products ? "bf16 " : "float");
  const double fw = milliseconds(device, forward);
  std::printf("%7.3f ms forward, %7.3f with backward\n", fw, milliseconds(device, both));
  std::fflush(stdout);
}

void step(device::cuda& device, index batch, index heads, index head) {
  const index w = heads * head;
  const mlstm_shape shape{heads, head, head};
  const memory x = noise(device, batch * w, 1, 0), gate = noise(device, batch * heads, 1, 0),
               h(device, batch * w), c(device, batch * w * head), n(device, batch * w),
               m(device, batch * heads);
  const matrix_view<const float> rows(x.data(), batch, w), gates(gate.data(), batch, heads);
  const mlstm_state<float> state{{c.data(), w * head}, {n.data(), w}, {m.data(), heads}};
  const auto steps = [&] {
    for (int i = 0; i < 100; ++i)
      mlstm_forward(
          device, mlstm_arguments<float>{
                      {batch, 1}, shape, rows, rows, rows, gates, gates, {h.data(), batch, w}, state, nullptr});
  };
  std::printf("%2td x %td heads of %td: %6.2f us a step\n", batch, heads, head,
              10 * milliseconds(device, steps));
}

}  // namespace
}  // namespace distil_xlstm

int main() {
  using namespace distil_xlstm;
  device::cuda device;
  std::printf("%s\n", device.name().c_str());
  for (const bool bf16 : {true, false}) {
    device.bf16_products = bf16;
    cell(device, 16, 4, 512, 288, 288);
    cell(device, 16, 4, 2048, 288, 288);
    cell(device, 8, 8, 8192, 256, 256);
    cell(device, 2, 8, 8192, 256, 512);
  }
  for (const int batch : {1, 64}) step(device, batch, 4, 288);
}
