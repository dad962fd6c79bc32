#pragma once

#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/distil/windows.hpp>
#include <distil_xlstm/model/llama.hpp>

#include "options.hpp"
#include "shared.hpp"

namespace program {

template <class T, class D>
int write_cache(D& device, const cache_request& r) {
  const dx::io::token_file tokens(r.tokens);
  const dx::windows text(tokens, r.length);
  const auto teacher = dx::llama<T, D>::load(device, r.teacher);
  dx::require(tokens.vocab_size() <= teacher.vocabulary(), r.tokens.string(), ": made with a vocabulary of ",
              tokens.vocab_size(), ", the teacher has ", teacher.vocabulary());
  const auto tokenizer = tokenizer_of(r.teacher);
  if (tokenizer && !tokens.tokenizer_sha256().empty())
    dx::require(tokens.tokenizer_sha256() == dx::io::tokenizer(*tokenizer).fingerprint(), r.tokens.string(),
                ": made with another tokenizer than the teacher's");

  const auto plan =
      dx::alignment_plan::make(dx::loss::alignment_named(r.alignment), teacher.config().layers, r.blocks);
  const auto targets = static_cast<dx::index>(plan.groups.size());
  dx::cache_writer cache(r.out,
                         {r.teacher.filename().string(), hash_of(r.teacher), tokens.data_sha256(), text.count(),
                          r.length, teacher.width(), teacher.config().layers, r.alignment, targets},
                         r.store == "bf16" ? dx::dtype::bf16 : dx::dtype::f32);
  dx::live_teacher source(teacher, plan);
  const dx::index rows = r.batch * r.length, d = teacher.width();
  const dx::buffer<T, D> memory(device, rows * d * (1 + targets));
  dx::token_batch batch;
  dx::device_batch<D> placed;
  for (dx::index first = 0; first < text.count(); first += r.batch) {
    std::vector<dx::index> which;
    for (dx::index w = first; w < std::min(text.count(), first + r.batch); ++w) which.push_back(w);
    text.read(which, batch);
    const dx::index n = batch.batch * r.length;
    dx::teacher_signals<T> signals;
    signals.last_hidden = {memory.data(), n, d};
    for (dx::index g = 0; g < targets; ++g)
      signals.targets.emplace_back(memory.data() + (g + 1) * rows * d, n, d);
    placed.put(device, batch);
    source.fill(device, which, placed, signals);
    cache.append(device, signals);
    if (::isatty(2)) std::cerr << "\r" << which.back() + 1 << "/" << text.count() << " windows" << std::flush;
  }
  if (::isatty(2)) std::cerr << "\n";
  if (tokenizer) dx::io::write_tokenizer(r.out, *tokenizer);
  cache.finish(device, teacher.embedding(), teacher.head());
  return 0;
}

template <class T, class D>
int cache_request::run(D& device) const {
  return write_cache<T>(device, *this);
}

}  // namespace program
