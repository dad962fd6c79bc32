#include "gpu.hpp"

#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <distil_xlstm/comm/nccl.cuh>
#include <distil_xlstm/comm/tcp.hpp>
#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/testing/check_communicator.hpp>

#include "../comparison/ranks.hpp"

// All GPUs of this machine together, a thread each. One alone has nothing to exchange, and keeps the laws, too.
namespace distil_xlstm {
namespace {

const std::string golden = DISTIL_XLSTM_TEST_DATA "/golden";

int gpus() {
  int n = 0;
  cudaGetDeviceCount(&n);
  return n;
}
/// job(host, rank), each in a thread; what they throw.
template <class Job>
std::string on_gpus(const Job& job) {
  const auto [listening, port] = comm::tcp_session::listen_here();
  std::mutex mutex;
  std::string thrown;
  std::vector<std::thread> threads;
  for (int r = 0; r < gpus(); ++r)
    threads.emplace_back([&, r, listening = listening, port = port] {
      comm::tcp_place place{.rank = r, .size = gpus(), .port = port};
      if (r == 0) place.listening = listening;
      try {
        comm::tcp_session session(place);
        comm::tcp host(session);
        job(host, r);
      } catch (const error& e) {
        const std::scoped_lock lock(mutex);
        thrown += e.what();
      }
    });
  for (auto& t : threads) t.join();
  return thrown;
}

}  // namespace

/// By NCCL's all-reduce, and rank by rank in small buckets.
BOOST_AUTO_TEST_CASE(gpus_keep_the_laws) {
  BOOST_TEST_MESSAGE(gpus() << " GPUs, NCCL " << comm::nccl::version_text(comm::nccl::version()));
  for (const auto& [bucket, all_reduce] :
       {std::pair<index, index>{index{64} << 20, 2}, {index{64} << 20, 0}, {4096, 0}}) {
    std::mutex mutex;
    std::string broken;
    const std::string thrown = on_gpus([&, bucket = bucket, all_reduce = all_reduce](comm::tcp& host, int r) {
      device::cuda gpu(r);
      comm::nccl ranks(host, bucket, all_reduce);
      comm::any any(ranks);
      for (const auto& report :
           {testing::check_communicator(ranks, gpu, 400000), testing::check_communicator(any, gpu, 9000)}) {
        const std::scoped_lock lock(mutex);
        if (!report.ok()) broken = report.text;
      }
    });
    BOOST_TEST(broken == "");
    BOOST_TEST(thrown == "");
  }
}

/// Each GPU has its share of a batch; gradients are summed behind backward, or layer by layer beside it.
BOOST_AUTO_TEST_CASE(gpus_train_as_one) {
  if (6 % gpus() != 0) return;
  using gpu_device = device::basic_cuda<fp64>;
  for (const index accumulate : {1, 2}) {
    const auto distil = [&](gpu_device& gpu, comm::any ranks, index bytes) {
      testing::ranks_distil<gpu_device> train(gpu, golden, loss::alignment::average);
      train.options.accumulate = accumulate, train.options.sum_bytes = bytes;
      return train(ranks, 6);
    };
    gpu_device first(0);
    const auto one = distil(first, {}, 1);
    std::vector<testing::trained> behind(static_cast<std::size_t>(gpus())), beside = behind;
    const std::string thrown = on_gpus([&](comm::tcp& host, int r) {
      gpu_device gpu(r);
      comm::nccl ranks(host);
      const auto i = static_cast<std::size_t>(r);
      behind[i] = distil(gpu, ranks, index{1} << 30), beside[i] = distil(gpu, ranks, 1);
    });
    BOOST_TEST(thrown == "");
    for (std::size_t i = 0; i < beside.size(); ++i) {
      const testing::apart apart(beside[i], one);
      BOOST_TEST(apart.losses <= 1e-11);
      BOOST_TEST(apart.weights <= 1e-11);
      BOOST_TEST(same(beside[i], beside[0]));
      BOOST_TEST(same(behind[i], beside[i]));
    }
  }
}

}  // namespace distil_xlstm
