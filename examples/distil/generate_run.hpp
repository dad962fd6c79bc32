#pragma once

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/stream_decoder.hpp>
#include <distil_xlstm/model/decoder.hpp>

#include "chat_template.hpp"
#include "models.hpp"
#include "options.hpp"

namespace program {

inline std::vector<std::int32_t> prompt_ids(const generate_request& r, const std::string& prompt,
                                            const std::string& name, const dx::io::tokenizer& t) {
  if (r.chat) {
    const chat_message asked[] = {{"user", prompt}};
    return encode_text(t, apply_chat_template(t.data(), asked, true), name, true);
  }
  std::vector<std::int32_t> ids;
  if (!prompt.empty()) ids = encode_text(t, prompt, name, true);
  if (t.data().add_bos && (ids.empty() || ids.front() != t.data().bos)) ids.insert(ids.begin(), t.data().bos);
  if (ids.empty() && t.document_start() >= 0) ids.push_back(t.document_start());
  dx::require(!ids.empty(), name, ": the text is empty, and the model has no token that begins one");
  return ids;
}

template <class T, class D>
int write_text(D& device, const generate_request& r) {
  const auto model = dx::load_language_model<T>(device, r.model);
  const auto tokenizer = tokenizer_for(model, r.model);
  const auto ids = prompt_ids(r, r.prompt, "--prompt", tokenizer);
  dx::io::stream_decoder decoder(tokenizer, true);
  try {
    dx::generate(device, model, ids, r.tokens, r.how, [&](std::int32_t id) {
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

/// One line of JSON a text, in the order of the prompts, each as soon as all before it are there.
class text_lines {
 public:
  explicit text_lines(std::size_t count) : texts_(count) {}
  void end(std::size_t i, dx::index tokens, std::string text) {
    texts_[i] = {tokens, std::move(text), true};
    for (; next_ < texts_.size() && texts_[next_].over; ++next_) {
      one& t = texts_[next_];
      const dx::io::json line = {{"line", next_ + 1}, {"tokens", t.tokens}, {"text", t.text}};
      std::cout << line.dump() << std::endl;
      t.text = {};
    }
  }

 private:
  struct one {
    dx::index tokens = 0;
    std::string text = {};
    bool over = false;
  };
  std::vector<one> texts_;
  std::size_t next_ = 0;
};

/// A text that is being written.
struct growing_text {
  std::size_t line;
  dx::io::stream_decoder decoder;
  dx::index tokens = 0;
  std::string text = {};
  /// Whether it goes on.
  bool put(std::int32_t id, dx::index most, const dx::io::tokenizer& t) {
    if (t.is_end_of_text(id)) return false;
    text += decoder.put(id);
    return ++tokens < most && std::cout.good();
  }
  void end(text_lines& out) { out.end(line, tokens, text + decoder.finish()); }
};

/// Beside one another: one joins as another leaves.
template <class D, class Model>
void write_texts(D& device, const generate_request& r, const Model& model, const dx::io::tokenizer& t,
                 const std::vector<std::vector<std::int32_t>>& prompts, text_lines& out) {
  std::size_t longest = 0;
  for (const auto& p : prompts) longest = std::max(longest, p.size());
  using batch_type = dx::decoder<Model>;
  batch_type batch(device, model,
                   {.capacity = std::min<dx::index>(r.batch, std::ssize(prompts)),
                    .context = static_cast<dx::index>(longest) + r.tokens});
  std::map<typename batch_type::handle, growing_text> texts;
  std::size_t next = 0;
  while (std::cout.good()) {
    for (; batch.free() > 0 && next < prompts.size(); ++next) {
      dx::sampling how = r.how;
      how.seed += next;
      texts.emplace(batch.join(prompts[next], how), growing_text{next, dx::io::stream_decoder(t, true)});
    }
    if (batch.texts() == 0) return;
    batch.step([&](auto name, std::int32_t id) {
      const auto at = texts.find(name);
      if (at->second.put(id, r.tokens, t)) return true;
      at->second.end(out);
      texts.erase(at);
      return false;
    });
  }
}

template <class T, class D>
int write_all_texts(D& device, const generate_request& r) {
  const auto model = dx::load_language_model<T>(device, r.model);
  const auto tokenizer = tokenizer_for(model, r.model);
  std::vector<std::vector<std::int32_t>> prompts;
  const std::string all = read_text(r.prompts);
  for (std::size_t begin = 0, end; begin < all.size(); begin = end + 1) {
    end = std::min(all.find('\n', begin), all.size());
    const std::string name = r.prompts.string() + ": line " + std::to_string(prompts.size() + 1);
    prompts.push_back(prompt_ids(r, all.substr(begin, end - begin), name, tokenizer));
  }
  dx::require(!prompts.empty(), r.prompts.string(), ": there is no prompt");
  text_lines out(prompts.size());
  if (r.tokens == 0) {
    for (std::size_t i = 0; i < prompts.size(); ++i) out.end(i, 0, {});
    return 0;
  }
  try {
    write_texts(device, r, model, tokenizer, prompts, out);
  } catch (const dx::numeric_error& e) {
    dx::fail(r.model.string(), ": ", e.what());
  }
  return 0;
}

template <class T, class D>
int generate_request::run(D& device) const {
  return prompts.empty() ? write_text<T>(device, *this) : write_all_texts<T>(device, *this);
}

}  // namespace program
