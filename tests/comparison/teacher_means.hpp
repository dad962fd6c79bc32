#pragma once

#include <cstdint>
#include <vector>

#include <distil_xlstm/distil/teacher_source.hpp>
#include <distil_xlstm/model/llama.hpp>
#include <distil_xlstm/testing/on_host.hpp>

namespace distil_xlstm::testing {

/// A teacher that keeps no layer's output but the one that it shows.
template <class T, class D>
struct forgetful_llama : llama<T, D> {
  static constexpr index kept_outputs = 1;
};

/// The means of each of `ranges` that `teacher` gives for texts of `time` tokens, one behind another.
template <class Teacher>
std::vector<typename Teacher::scalar> teacher_means(typename Teacher::device_type& device,
                                                    const Teacher& teacher, index texts, index time,
                                                    const std::vector<layer_range>& ranges) {
  using T = typename Teacher::scalar;
  using D = typename Teacher::device_type;
  token_text text;
  for (index i = 0; i <= texts * time; ++i)
    text.ids.push_back(static_cast<std::int32_t>(i * i % teacher.vocabulary()));
  const token_windows windows(text, time);
  std::vector<index> which;
  for (index i = 0; i < texts; ++i) which.push_back(i);
  token_batch batch;
  windows.read(which, batch);
  device_batch<D> tokens;
  tokens.put(device, batch);
  const signal_memory<T, D> memory(device, texts * time, teacher.width(), ranges);
  const teacher_signals<T> signals = memory.first(texts * time);
  live_teacher<Teacher>(teacher).fill(device, which, tokens, signals);
  std::vector<T> out;
  for (const auto& t : signals.targets) {
    const auto mean = on_host(device, static_cast<const T*>(t.mean.data), t.mean.size());
    out.insert(out.end(), mean.begin(), mean.end());
  }
  return out;
}

}  // namespace distil_xlstm::testing
