#pragma once

#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>
#include <distil_xlstm/loss/alignment_term.hpp>
#include <distil_xlstm/model/load_llama.hpp>

#include "options.hpp"
#include "shared.hpp"

namespace program {

template <class T, class D>
int write_cache(D& device, const cache_request& r) {
  const dx::io::token_file tokens(r.tokens);
  const dx::token_windows text(tokens, r.length);
  const auto teacher = dx::load_llama<T>(device, r.teacher);
  dx::require(tokens.vocab_size() <= teacher.vocabulary(), r.tokens.string(), ": made with a vocabulary of ",
              tokens.vocab_size(), ", the teacher has ", teacher.vocabulary());
  const auto tokenizer = tokenizer_of(r.teacher);
  if (tokenizer && !tokens.tokenizer_sha256().empty())
    dx::require(tokens.tokenizer_sha256() == dx::io::tokenizer(*tokenizer).fingerprint(), r.tokens.string(),
                ": made with another tokenizer than the teacher's");

  const auto form = dx::loss::alignment_named(r.alignment);
  const auto targets = dx::target_layers(dx::loss::layers_of(form), teacher.config().layers, r.blocks);
  dx::cache_writer cache(r.out,
                         {r.teacher.filename().string(), hash_of(r.teacher), tokens.data_sha256(), text.count(),
                          r.length, teacher.width(), teacher.config().layers, r.alignment, std::ssize(targets)},
                         r.store == "bf16" ? dx::dtype::bf16 : dx::dtype::f32);
  dx::live_teacher source(teacher);
  const dx::signal_memory<T, D> memory(device, r.batch * r.length, teacher.width(), targets);
  append_windows(device, cache, source, text, memory, [&](dx::index done) {
    if (::isatty(2)) std::cerr << "\r" << done << "/" << text.count() << " windows" << std::flush;
  });
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
