#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>
#include <distil_xlstm/io/utf8.hpp>

#include "common.hpp"
#include "jinja/interpreter.hpp"
#include "jinja/parser.hpp"

namespace program {

/// One message of a conversation; the template says which roles there are: mostly system, user, assistant.
struct chat_message {
  std::string role;
  std::string content;
};

/// The text of a conversation as a model's template writes it, to be encoded with special tokens parsed: what
/// transformers' apply_chat_template(messages, add_generation_prompt=...) gives, without tools and documents.
/// `bos` and `eos` are those tokens' texts, where the tokenizer has them. The template is run (jinja/): what it
/// uses beyond that interpreter, or raises itself, is an error that names the construct and the line.
inline std::string apply_chat_template(std::string_view chat_template, const std::optional<std::string>& bos,
                                       const std::optional<std::string>& eos,
                                       std::span<const chat_message> messages, bool add_generation_prompt) {
  using dx::require;
  require(!chat_template.empty(), "the tokenizer has no chat template");
  require(!messages.empty(), "a chat template needs at least one message");
  require(dx::io::is_valid_utf8(chat_template), "the chat template is not valid UTF-8");
  std::vector<jinja::value> all;
  for (const auto& m : messages) {
    require(dx::io::is_valid_utf8(m.role) && dx::io::is_valid_utf8(m.content), "message ", all.size() + 1,
            " is not valid UTF-8");
    all.push_back(jinja::make_mapping({{"role", m.role}, {"content", m.content}}));
  }
  jinja::environment e{.variables = {{"messages", jinja::make_list(std::move(all))},
                                     {"tools", jinja::none()},
                                     {"documents", jinja::none()},
                                     {"add_generation_prompt", add_generation_prompt}},
                       .unknown = {"unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
                                   "additional_special_tokens"}};
  if (bos) e.variables.emplace_back("bos_token", *bos);
  if (eos) e.variables.emplace_back("eos_token", *eos);
  try {
    return jinja::interpreter(e).run(jinja::parser(chat_template).run());
  } catch (const dx::error& problem) {
    dx::fail("the chat template, ", problem.what());
  }
}

/// The same with the template and the tokens of a tokenizer; errors begin with its name.
inline std::string apply_chat_template(const dx::io::tokenizer_data& d, std::span<const chat_message> messages,
                                       bool add_generation_prompt) {
  const auto text = [&](std::int32_t id) {
    return id < 0 ? std::optional<std::string>() : d.tokens.at(static_cast<std::size_t>(id));
  };
  try {
    return apply_chat_template(d.chat_template, text(d.bos), text(d.eos), messages, add_generation_prompt);
  } catch (const dx::error& problem) {
    dx::fail(d.name, ": ", problem.what());
  }
}

}  // namespace program
