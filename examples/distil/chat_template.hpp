#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>

#include "common.hpp"

namespace program {

/// One message of a conversation: the role is "system", "user" or "assistant".
struct chat_message {
  std::string role;
  std::string content;
};

namespace detail {

/// What Python's str.strip (Jinja's trim) takes off.
inline std::string_view trimmed(std::string_view text) {
  static constexpr std::string_view blanks[] = {
      " ",      "\t",     "\n",     "\v",     "\f",     "\r",     "\x1c",   "\x1d",   "\x1e",   "\x1f",
      "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
      "\u2007", "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
  for (bool found = true; found;) {
    found = false;
    for (const auto blank : blanks) {
      if (text.starts_with(blank)) text.remove_prefix(blank.size()), found = true;
      if (text.ends_with(blank)) text.remove_suffix(blank.size()), found = true;
    }
  }
  return text;
}

/// What a ChatML template says for a conversation that has no system message: the literal between
/// `<|im_start|>system`, a newline (or its escape) and `<|im_end|>`; empty where there is none.
inline std::string default_system_prompt(std::string_view chat_template) {
  constexpr std::string_view start = "<|im_start|>system", end = "<|im_end|>";
  for (std::size_t at = chat_template.find(start); at != chat_template.npos;
       at = chat_template.find(start, at)) {
    at += start.size();
    std::string_view rest = chat_template.substr(at);
    if (rest.starts_with("\\n")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with("\n")) {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    const std::string_view text = rest.substr(0, rest.find(end));
    // A quote or a brace in between ends the literal: this is where a given system message goes.
    if (text.size() < rest.size() && !text.empty() && text.find_first_of("'\"{}") == text.npos)
      return std::string(text);
  }
  return {};
}

}  // namespace detail

/// The text of a conversation as the model's template writes it, to be encoded with special tokens parsed; it
/// holds `bos` where the template does. There is no Jinja here: a template is recognised by its marks as ChatML
/// (SmolLM2, Qwen2, Qwen2.5: with the default system prompt it spells out) or as Llama 3's headers (3.1
/// and 3.2: with their knowledge date and the date that the template falls back on, 26 Jul 2024); any other,
/// and one with reasoning, is refused. Tools are not supported. `bos` and `eos` are those tokens' texts.
inline std::string apply_chat_template(std::string_view chat_template, std::string_view bos,
                                       std::string_view eos, std::span<const chat_message> messages,
                                       bool add_generation_prompt) {
  const auto has = [&](std::string_view mark) { return chat_template.find(mark) != chat_template.npos; };
  dx::require(!chat_template.empty(), "the tokenizer has no chat template");
  dx::require(!messages.empty(), "a chat template needs at least one message");
  for (const auto& m : messages)
    dx::require(m.role == "system" || m.role == "user" || m.role == "assistant", "the role ",
                dx::io::detail::printable(m.role, 40), " of a message is none of system, user, assistant");
  const bool reasoning = has("reasoning") || has("<think>") || has("</think>");
  const bool chatml = has("<|im_start|>") && has("<|im_end|>") && !has("<|im_sep|>") && !has("<|im_middle|>") &&
                      !has("bos_token") && !reasoning;
  const bool llama3 = has("<|start_header_id|>") && has("<|end_header_id|>") && has("<|eot_id|>") &&
                      !reasoning && !(has("eos_token") && !add_generation_prompt && eos.empty());
  if (chatml == llama3)
    dx::fail("the chat template is neither ChatML nor Llama 3's: ",
             dx::io::detail::printable(chat_template, 80));

  const bool trim = has("| trim") || has("|trim");
  const auto content = [&](const chat_message& m) {
    return std::string(trim ? detail::trimmed(m.content) : std::string_view(m.content));
  };
  std::string out;
  if (chatml) {
    const auto add = [&](std::string_view role, std::string_view text) {
      ((((out += "<|im_start|>") += role) += "\n") += text) += "<|im_end|>\n";
    };
    if (messages[0].role != "system")
      if (const auto prompt = detail::default_system_prompt(chat_template); !prompt.empty())
        add("system", prompt);
    for (const auto& m : messages) add(m.role, content(m));
    if (add_generation_prompt) out += "<|im_start|>assistant\n";
    return out;
  }
  const auto add = [&](std::string_view role, std::string_view text) {
    ((((out += "<|start_header_id|>") += role) += "<|end_header_id|>\n\n") += text) += "<|eot_id|>";
  };
  if (has("bos_token")) {
    out += bos;
  } else if (has("<|begin_of_text|>")) {
    out += "<|begin_of_text|>";
  }
  if (has("Cutting Knowledge Date")) {
    std::string text = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
    const bool given = messages[0].role == "system";
    if (given) text += content(messages[0]);
    add("system", text);
    messages = messages.subspan(given ? 1 : 0);
  }
  for (const auto& m : messages) add(m.role, content(m));
  if (add_generation_prompt) {
    out += "<|start_header_id|>assistant<|end_header_id|>\n\n";
  } else if (has("eos_token")) {
    out += eos;
  }
  return out;
}

/// The same with the template and the tokens of a tokenizer; errors begin with its name.
inline std::string apply_chat_template(const dx::io::tokenizer_data& d, std::span<const chat_message> messages,
                                       bool add_generation_prompt) {
  const auto text = [&](std::int32_t id) {
    return id < 0 ? std::string_view() : std::string_view(d.tokens.at(static_cast<std::size_t>(id)));
  };
  try {
    return apply_chat_template(d.chat_template, text(d.bos), text(d.eos), messages, add_generation_prompt);
  } catch (const dx::error& e) {
    dx::fail(d.name, ": ", e.what());
  }
}

}  // namespace program
