#pragma once

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include <distil_xlstm/io/chat_template.hpp>
#include <distil_xlstm/model/generate.hpp>

#include "models.hpp"

namespace program {

/// What `distil generate` is asked for.
struct generate_request {
  fs::path model;
  std::string prompt;
  dx::index tokens = 100;
  dx::sampling how;
  bool chat = false;

  template <class T, class D>
  int run(D& device) const;
};

inline std::vector<std::int32_t> prompt_ids(const generate_request& r, const dx::io::tokenizer& t) {
  if (r.chat) {
    const dx::io::chat_message asked[] = {{"user", r.prompt}};
    return encode_text(t, dx::io::apply_chat_template(t.data(), asked, true), "--prompt", true);
  }
  std::vector<std::int32_t> ids;
  if (!r.prompt.empty()) ids = encode_text(t, r.prompt, "--prompt", true);
  if (t.data().add_bos && (ids.empty() || ids.front() != t.data().bos)) ids.insert(ids.begin(), t.data().bos);
  if (ids.empty() && t.document_start() >= 0) ids.push_back(t.document_start());
  dx::require(!ids.empty(), "--prompt: the text is empty, and the model has no token that begins one");
  return ids;
}

template <class T, class D>
int write_text(D& device, const generate_request& r) {
  const auto model = dx::language_model<T, D>::load(device, r.model);
  const auto tokenizer = need_tokenizer(r.model);
  require_same_vocabulary(tokenizer, model.vocabulary(), r.model);
  const auto ids = prompt_ids(r, tokenizer);
  typename dx::language_model<T, D>::session session(device, model, std::ssize(ids) + r.tokens);
  dx::sampler choose(r.how);
  dx::io::stream_decoder decoder(tokenizer, true);
  try {
    dx::generate(device, session, ids, r.tokens, choose, [&](std::int32_t id) {
      if (tokenizer.is_end_of_text(id)) return false;
      std::cout << decoder.put(id) << std::flush;
      return std::cout.good();
    });
  } catch (const dx::numeric_error& e) {
    dx::fail(r.model.string(), ": ", e.what());
  }
  std::cout << decoder.finish() << "\n";
  return 0;
}

template <class T, class D>
int generate_request::run(D& device) const {
  return write_text<T>(device, *this);
}

}  // namespace program
