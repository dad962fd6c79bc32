// A server: many threads ask for texts, and one thread, which has the device, continues all of them at once. A text is
// what it would be alone, bit for bit.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <distil_xlstm/distil_xlstm.hpp>

namespace dx = distil_xlstm;
using ids = std::vector<std::int32_t>;
using cpu = dx::device::cpu;

constexpr dx::index vocabulary = 60, width = 576;
constexpr std::int32_t end_of_text = 0;

auto make_layers() {
  const dx::basic_mlstm<576, 4, 1152, 4> m;  // width, heads, inner width, window of the convolution
  const dx::basic_slstm<576, 4, 4> s;        // dx::mlstm and dx::slstm are told theirs when the program runs
  const auto layer = [](auto cell) { return dx::residual{dx::sequential{dx::layer_norm<width>{}, cell}}; };
  return dx::stack{dx::repeated(1, dx::sequential{layer(m), layer(s)})};
}
using student = dx::model<decltype(make_layers()), float, cpu>;

// In earnest `load_xlstm` or `language_model` reads one; here it is random, embedding and head, too.
student make_student(cpu& device) {
  const auto numbers = std::make_shared<std::vector<float>>(vocabulary * width);
  dx::rng random(1);
  for (float& x : *numbers) x = static_cast<float>(random.normal());
  const dx::frozen_matrix matrix{numbers->data(), dx::dtype::f32, vocabulary, width};
  student made(device, make_layers(), matrix, matrix, numbers);
  made.initialise(device, 2);
  return made;
}

class server {
 public:
  explicit server(const student& model) : model_(model), worker_([this] { work(); }) {}
  // Ends when all that was asked for is written.
  ~server() {
    {
      const std::scoped_lock lock(mutex_);
      over_ = true;
    }
    arrived_.notify_one();
    worker_.join();
  }
  // Any thread may ask.
  std::future<ids> ask(ids prompt, const dx::sampling& how, std::size_t most) {
    const std::scoped_lock lock(mutex_);
    waiting_.push_back({std::move(prompt), how, most, {}, {}});
    arrived_.notify_one();
    return waiting_.back().answer.get_future();
  }

 private:
  struct request {
    ids prompt;
    dx::sampling how;
    std::size_t most;
    ids written;
    std::promise<ids> answer;
  };

  void work() {
    cpu device(1);
    dx::decoder texts(device, model_, {.capacity = 4});
    std::map<decltype(texts)::handle, request> open;
    while (true) {
      {
        std::unique_lock lock(mutex_);
        if (open.empty()) arrived_.wait(lock, [&] { return over_ || !waiting_.empty(); });
        for (; !waiting_.empty() && texts.free() > 0; waiting_.pop_front()) {
          request& r = waiting_.front();
          try {
            open.emplace(texts.join(r.prompt, r.how), std::move(r));
          } catch (const dx::error&) {  // an empty prompt, say: that one's client is told
            r.answer.set_exception(std::current_exception());
          }
        }
      }
      if (open.empty()) return;
      texts.step([&](auto text, std::int32_t id) {
        request& r = open.at(text);
        r.written.push_back(id);
        if (id != end_of_text && r.written.size() < r.most) return true;
        r.answer.set_value(std::move(r.written));
        open.erase(text);
        return false;
      });
    }
  }

  const student& model_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<request> waiting_;
  bool over_ = false;
  std::thread worker_;
};

// Two texts by hand.
bool two_at_once(cpu& device, const student& model) {
  const ids prompt = {7, 8, 9};
  std::map<dx::decoder<student>::handle, ids> written;
  dx::decoder texts(device, model, {.capacity = 64});  // of a transformer also .context, tokens a text
  const auto first = texts.join(prompt, {.temperature = 0.8, .seed = 1});
  const auto second = texts.join(prompt, {.temperature = 0.8, .seed = 1});
  while (texts.texts() > 0)
    texts.step([&](auto text, std::int32_t id) {  // one more token of every text; others may join or leave
      written[text].push_back(id);
      return id != end_of_text && written[text].size() < 20;  // false: this one is over, and its place is free
    });
  return written[first] == written[second] && !written[first].empty();
}

int main() {
  cpu device;
  const student model = make_student(device);
  const auto prompt_of = [](int i) { return ids(static_cast<std::size_t>(1 + 3 * i), 1 + i); };
  const auto how_of = [](int i) {
    return dx::sampling{.temperature = 1.2, .seed = static_cast<std::uint64_t>(i)};
  };

  // Eight at once, of four threads ...
  std::vector<std::future<ids>> answers(8);
  {
    server s(model);
    std::vector<std::thread> clients;
    for (int c = 0; c < 4; ++c)
      clients.emplace_back([&, c] {
        for (int i = c; i < 8; i += 4)
          answers[static_cast<std::size_t>(i)] =
              s.ask(prompt_of(i), how_of(i), static_cast<std::size_t>(10 + i));
      });
    for (auto& c : clients) c.join();
  }
  // ... and each alone.
  bool same = two_at_once(device, model);
  std::size_t tokens = 0;
  server s(model);
  for (int i = 0; i < 8; ++i) {
    const ids together = answers[static_cast<std::size_t>(i)].get();
    same = same && together == s.ask(prompt_of(i), how_of(i), static_cast<std::size_t>(10 + i)).get();
    tokens += together.size();
  }
  std::cout << tokens << " tokens of 8 texts" << (same ? ", the same alone\n" : ", but not the same alone\n");
  return same ? 0 : 1;
}
