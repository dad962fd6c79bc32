#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/io/json.hpp>

#include "distil/chat_template.hpp"

using namespace distil_xlstm;
using namespace program;

namespace {

const std::filesystem::path tests = DISTIL_XLSTM_TEST_DATA;

std::string content(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

const io::json& golden() {
  static const io::json all = io::read_json_file(tests / "golden/chat_templates.json");
  return all;
}

std::vector<chat_message> conversation(const std::string& name) {
  std::vector<chat_message> out;
  for (const auto& m : golden()["conversations"][name]) out.push_back({m["role"], m["content"]});
  return out;
}

std::string apply(const std::string& chat_template, const std::vector<chat_message>& messages, bool prompt) {
  return apply_chat_template(chat_template, "<s>", "</s>", messages, prompt);
}
std::string apply(const std::string& chat_template) { return apply(chat_template, conversation("talk"), true); }

/// Jinja's text, or an error where Jinja has one.
void check(const std::string& chat_template, const std::vector<chat_message>& messages, bool prompt,
           const io::json& expected) {
  try {
    const std::string text = apply(chat_template, messages, prompt);
    if (expected.is_null()) {
      BOOST_ERROR("an error is expected, not " << text);
    } else {
      BOOST_TEST(text == expected.get<std::string>());
    }
  } catch (const error& e) {
    BOOST_TEST(expected.is_null(), e.what());
    BOOST_TEST(std::string(e.what()).find('\n') == std::string::npos);
  }
}

std::function<bool(const error&)> one_line(const std::string& part) {
  return [part](const error& e) {
    const std::string what = e.what();
    BOOST_TEST_INFO(what << " has " << part);
    return what.find(part) != what.npos && what.find('\n') == what.npos;
  };
}

}  // namespace

BOOST_AUTO_TEST_CASE(templates_of_many_families) {
  BOOST_TEST(golden()["templates"].size() >= 20u);
  for (const auto& [name, conversations] : golden()["templates"].items())
    for (const auto& [about, texts] : conversations.items())
      for (const bool prompt : {false, true})
        BOOST_TEST_CONTEXT(name << ", " << about << (prompt ? ", with a prompt" : ""))
  check(content(tests / "program/chat_templates" / (name + ".jinja")), conversation(about), prompt,
        texts[prompt ? 1 : 0]);
}

BOOST_AUTO_TEST_CASE(constructs) {
  for (const auto& pair : golden()["constructs"])
    BOOST_TEST_CONTEXT(pair[0]) check(pair[0], conversation("talk"), true, pair[1]);
}

BOOST_AUTO_TEST_CASE(what_is_not_known_is_refused_by_name_and_line) {
  const std::pair<const char*, const char*> all[] = {
      {"a\n{% block x %}{% endblock %}", "line 2: the tag block"},
      {"{% include 'x' %}", "the tag include"},
      {"{% call f() %}{% endcall %}", "the tag call"},
      {"{% autoescape true %}{% endautoescape %}", "the tag autoescape"},
      {"{% do x %}", "the tag do"},
      {"{% for x in messages recursive %}{% endfor %}", "recursive loops"},
      {"\n\n{{ messages | groupby('role') }}", "line 3: the filter groupby"},
      {"{{ 'x' | urlize }}", "the filter urlize"},
      {"{{ 'x' | escape }}", "the filter escape"},
      {"{{ 1.25 | round(1) }}", "the filter round"},
      {"{{ 'x' is filter }}", "the test filter"},
      {"{% if false %}{{ 'x' is escaped }}{% endif %}", "the test escaped"},
      {"{{ range(*messages) }}", "arguments by * and **"},
      {"{{ cycler('a') }}", "the function cycler"},
      {"{% macro f() %}{{ varargs }}{% endmacro %}", "varargs of a macro"},
      {"{{ pad_token }}", "the variable pad_token"},
      {"{{ 'x'.zfill(3) }}", "the attribute zfill"},
      {"{{ messages.append(1) }}", "the attribute append"},
      {"{{ 'x'.__class__ }}", "the attribute __class__"},
      {"{% for m in messages %}{{ loop.changed(m) }}{% endfor %}", "loop.changed"},
      {"{{ messages[0].items }}", "printing a value of type function"},
      {"{{ messages[0].items() }}", "printing a value of type dict view"},
      {"{{ messages | map(attribute='role') }}", "printing a value of type generator"},
      {"{{ namespace(a=1) }}", "printing a value of type namespace"},
      {"{{ ('<' | safe) + 'a' }}", "what the filter safe gives"},
      {"{{ ('<' | safe) ~ 'a' }}", "what the filter safe gives"},
      {"{{ 'straße' | upper }}", "upper case of a character that becomes several"},
      {"{{ 'ΟΣ' | lower }}", "lower case of U+0130 and U+03A3"},
      {"{{ 'é'.title() }}", "title case of characters beyond ASCII"},
      {"{{ 9223372036854775807 + 1 }}", "an integer beyond 64 bits"},
      {"{{ '%5s' % 'x' }}", "% with other than"},
      {"{{ '{:>4}'.format(1) }}", "format: fields other than"},
      {"{{ 'x'|replace('', '-') }}", "replacing an empty text"},
      {"{% set ns = namespace() %}{% set ns.a = ns %}", "namespace in a namespace"},
      {"{% set ns = namespace(f=1) %}{% for m in messages if ns.f %}{% endfor %}",
       "a namespace in the condition"},
      {"{% for m in messages %}{{ bos_token }}{% endfor %}{% set bos_token = 1 %}",
       "an assignment to bos_token"},
      {"{{ '\\101' }}", "the escape \\1"},
      {"{{ 0x10 }}", "decimal numbers"},
      {"{{ a.b }}", "a is undefined"},
      {"{{ messages[0].name.first }}", "a value of type dict has no name"},
      {"{{ f(1) }}", "f is undefined"},
      {"{{ 1 + 'a' }}", "types int and str"},
      {"{{ (1, 2 }}", "unexpected }"},
      {"x{% if true %}", "the template ends before {% endif %}"},
  };
  for (const auto& [chat_template, part] : all)
    BOOST_TEST_CONTEXT(chat_template) BOOST_CHECK_EXCEPTION(apply(chat_template), error, one_line(part));
}

BOOST_AUTO_TEST_CASE(what_a_template_raises_is_the_error) {
  BOOST_CHECK_EXCEPTION(
      apply("{% if messages %}\n{{ raise_exception('Roles must\nalternate ' ~ 1) }}{% endif %}"), error,
      one_line("the chat template, line 2: Roles must?alternate 1"));
}

BOOST_AUTO_TEST_CASE(tokens_that_are_not_there_are_undefined) {
  const auto talk = conversation("talk");
  const auto with = [&](const char* chat_template) {
    return apply_chat_template(chat_template, {}, "</s>", talk, false);
  };
  BOOST_TEST(with("[{{ bos_token }}{{ eos_token }}{{ bos_token is defined }}]") == "[</s>False]");
  BOOST_CHECK_THROW(with("{{ bos_token + 'x' }}"), error);
}

BOOST_AUTO_TEST_CASE(messages_and_template_must_be_there_and_text) {
  BOOST_CHECK_EXCEPTION(apply(""), error, one_line("no chat template"));
  BOOST_CHECK_EXCEPTION(apply("x", {}, true), error, one_line("at least one message"));
  BOOST_CHECK_EXCEPTION(apply("x\xff"), error, one_line("the chat template is not valid UTF-8"));
  BOOST_CHECK_EXCEPTION(apply("x", {{"user", "a"}, {"user", "\xc3"}}, true), error, one_line("message 2"));
  io::tokenizer_data d;
  d.name = "some/file.gguf";
  BOOST_CHECK_EXCEPTION(apply_chat_template(d, conversation("talk"), true), error,
                        one_line("some/file.gguf: "));
}

BOOST_AUTO_TEST_CASE(the_date_is_that_of_the_clock) {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  const auto render = [](const std::string& source) {
    const jinja::environment e{.now = 1'722'000'000};
    return jinja::interpreter(e).run(jinja::parser(source).run());
  };
  BOOST_TEST(render("{{ strftime_now('%d %b %Y') }}") == "26 Jul 2024");
  BOOST_TEST(render("{{ strftime_now('%A, %B %-d, %Y %H:%M:%S %%') }}") == "Friday, July 26, 2024 13:20:00 %");
  BOOST_TEST(render("{{ strftime_now('') }}{% if strftime_now is defined %}yes{% endif %}") == "yes");
  BOOST_CHECK_EXCEPTION(render("{{ strftime_now('%f') }}"), error, one_line("a format of strftime_now"));
}

BOOST_AUTO_TEST_CASE(work_is_bounded) {
  const std::string deep(5000, '(');
  std::string chain = "{{ 1";
  for (int i = 0; i < 5000; ++i) chain += " + 1";
  std::string ifs;
  for (int i = 0; i < 5000; ++i) ifs += "{% if true %}";
  for (const std::string& hostile :
       {"{{ " + deep + " }}", chain + " }}", ifs, std::string("{{ 'a' * 99999999 }}"),
        std::string("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        std::string("{{ range(100001) }}"), std::string("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        std::string("{% set n = namespace(x=[]) %}{% for i in range(999) %}{% set n.x = [n.x] %}{% endfor %}"),
        std::string(
            "{% set n = namespace(x=['a']) %}{% for i in range(90) %}{% set n.x = [n.x, n.x] %}{% endfor %}"),
        std::string(
            "{% set n = namespace(x='aaaa') %}{% for i in range(99) %}{% set n.x = n.x|replace('a', n.x) %}"
            "{% endfor %}"),
        std::string("{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}"),
        std::string(
            "{{ range(0, 9223372036854775807, 4611686018427387904)|list|length * 9223372036854775807 }}")})
    BOOST_TEST_CONTEXT(hostile.substr(0, 80)) BOOST_CHECK_THROW(apply(hostile), error);
  // A round of a loop is a step, whatever is in it.
  const jinja::environment e{.steps = 1000};
  const auto render = [&](const char* source) {
    return jinja::interpreter(e).run(jinja::parser(source).run());
  };
  BOOST_TEST(render("{% for i in range(600) %}{% endfor %}") == "");
  BOOST_CHECK_EXCEPTION(render("{% for i in range(1500) %}{% endfor %}"), error,
                        one_line("the template does too much work"));
}
