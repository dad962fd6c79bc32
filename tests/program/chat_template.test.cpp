#define BOOST_TEST_MODULE chat_template
#include <boost/test/unit_test.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/io/tokenizer_data.hpp>

#include "distil/chat_template.hpp"

using namespace distil_xlstm;
using namespace program;

namespace {

/// ChatML with a default system prompt; `newline` is the character or its escape, both occur in files.
std::string chatml(const std::string& prompt, const std::string& newline) {
  std::string out = "{% for message in messages %}";
  if (!prompt.empty())
    out += "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system" + newline + prompt +
           "<|im_end|>" + newline + "' }}{% endif %}";
  return out + "{{'<|im_start|>' + message['role'] + '" + newline +
         "' + message['content'] + '<|im_end|>' + '" + newline +
         "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant" + newline + "' }}{% endif %}";
}

/// Qwen2.5's order: a branch for tools, then the given system message, then the default one.
const std::string with_tools =
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{{- messages[0]['content'] }}{{- '<|im_end|>\\n' }}"
    "{%- else %}{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{%- endif %}{%- endif %}";

const std::string llama3 =
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}";

const std::vector<chat_message> hello = {{"user", " Hello\n"}};
const std::vector<chat_message> talk = {
    {"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Yes?"}, {"user", "Bye"}};

std::string apply(const std::string& chat_template, const std::vector<chat_message>& messages, bool prompt) {
  return apply_chat_template(chat_template, "<bos>", "<eos>", messages, prompt);
}

}  // namespace

BOOST_AUTO_TEST_CASE(chatml_with_and_without_a_default_prompt) {
  for (const std::string newline : {"\n", "\\n"}) {
    BOOST_TEST(apply(chatml("You are kind.", newline), hello, true) ==
               "<|im_start|>system\nYou are kind.<|im_end|>\n<|im_start|>user\n "
               "Hello\n<|im_end|>\n<|im_start|>assistant\n");
    BOOST_TEST(apply(chatml("", newline), hello, false) == "<|im_start|>user\n Hello\n<|im_end|>\n");
    BOOST_TEST(
        apply(chatml("You are kind.", newline), talk, true) ==
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?"
        "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n");
  }
  BOOST_TEST(apply(with_tools, hello, false) ==
             "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n Hello\n<|im_end|>\n");
}

BOOST_AUTO_TEST_CASE(llama_headers) {
  BOOST_TEST(apply(llama3, hello, true) ==
             "<bos><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
             "<|start_header_id|>assistant<|end_header_id|>\n\n");
  BOOST_TEST(apply(llama3, {{"user", " \u00a0\u3000a b\u2003\n"}}, false) ==
             "<bos><|start_header_id|>user<|end_header_id|>\n\na b<|eot_id|>");
  const std::string dated = llama3 + "{{- \"Cutting Knowledge Date: December 2023\\n\" }}";
  const std::string date = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
  BOOST_TEST(apply(dated, hello, false) ==
             "<bos><|start_header_id|>system<|end_header_id|>\n\n" + date +
                 "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>");
  BOOST_TEST(apply(dated, talk, false)
                 .starts_with("<bos><|start_header_id|>system<|end_header_id|>\n\n" + date +
                              "Be brief.<|eot_id|><|start_header_id|>user"));
  BOOST_TEST(apply(llama3 + "{{ eos_token }}", hello, false).ends_with("Hello<|eot_id|><eos>"));
}

BOOST_AUTO_TEST_CASE(refusals) {
  const auto one_line = [](const char* part) {
    return [part](const error& e) {
      const std::string what = e.what();
      return what.find(part) != what.npos && what.find('\n') == what.npos;
    };
  };
  BOOST_CHECK_EXCEPTION(apply("", hello, true), error, one_line("no chat template"));
  BOOST_CHECK_EXCEPTION(apply("{{ '[INST] '\n + x }}", hello, true), error,
                        one_line("neither ChatML nor Llama 3"));
  BOOST_CHECK_EXCEPTION(apply(chatml("", "\n") + "{{ reasoning_content }}", hello, true), error,
                        one_line("neither"));
  BOOST_CHECK_EXCEPTION(apply(chatml("", "\n"), {}, true), error, one_line("at least one message"));
  BOOST_CHECK_EXCEPTION(apply(chatml("", "\n"), {{"tool", "x"}}, true), error, one_line("tool"));
  io::tokenizer_data d;
  d.name = "some/file.gguf";
  BOOST_CHECK_EXCEPTION(apply_chat_template(d, hello, true), error, one_line("some/file.gguf: "));
}
