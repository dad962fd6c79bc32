#!/usr/bin/env python3
"""Writes chat_templates.json: what Jinja2, set up as transformers' apply_chat_template sets it up, gives for each
template of tests/program/chat_templates under several conversations, and for many small constructs; null where it
raises an error. Run by hand:

    python3 -m venv venv && venv/bin/pip install jinja2==3.1.6
    venv/bin/python make_chat_templates.py

Made with Python 3.11.
"""
import copy
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox

HERE = pathlib.Path(__file__).resolve().parent
TEMPLATES = HERE.parent / "program" / "chat_templates"


class Generation(jinja2.ext.Extension):
    """transformers' tag around what the assistant says."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                           extensions=[Generation, jinja2.ext.loopcontrols])
ENVIRONMENT.filters["tojson"] = tojson
ENVIRONMENT.globals["raise_exception"] = raise_exception


def render(template, messages, prompt):
    try:
        return ENVIRONMENT.from_string(template).render(messages=copy.deepcopy(messages), tools=None, documents=None,
                                                        add_generation_prompt=prompt, bos_token="<s>",
                                                        eos_token="</s>")
    except Exception:
        return None


def talk(*parts):
    return [{"role": role, "content": content} for role, content in parts]


CONVERSATIONS = {
    "question": talk(("user", "What is rain?")),
    "blanks": talk(("user", "  Hello,\n\nyou  there \u00a0\n")),
    "talk": talk(("system", "Be brief. "), ("user", "Hi"), ("assistant", " Yes?"), ("user", "It's \"é\", 世界 {}")),
    "answered": talk(("user", "Hi"), ("assistant", "Hello.")),
    "thoughts": talk(("system", "Answer. /no_think"), ("user", "2+2?"),
                     ("assistant", "<think>\nfour\n</think>\n\n4"), ("user", "3+3?"),
                     ("assistant", "<think>\n\nsix</think>6")),
    "two_systems": talk(("system", "One."), ("system", "Two. /think"), ("user", "Go")),
    "tool": talk(("user", "Look"), ("assistant", "…"), ("tool", "42"), ("tool", "43"), ("user", "")),
    "long": talk(*[(("user", "assistant")[i % 2], f"line {i}\n{i * i}") for i in range(7)]),
}

# One template a line; \n in them is Jinja's escape.
CONSTRUCTS = r"""
{{ 1 + 2 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 / 2 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ 1.5 * 2 }}
{{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1.0 }} {{ 123456789.125 }} {{ 1e22 }} {{ 0.1 + 0.2 }} {{ 7.5 // 2 }} {{ -7.5 // 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 1e100 }}
{{ true }} {{ none }} {{ [1, 'a', none, true, 1.5] }} {{ {'a': 1, 'b': [1, (2, 3), (4,)]} }} {{ () }} {{ (1,) }} {{ 1, 2 }}
{{ 'a' ~ 1 ~ none ~ [1] ~ x }}
{{ x }}|{{ x.y }}
{{ x.y.z }}
{{ messages[0].foo }}|{{ messages[0].foo.bar }}
{{ messages[0].foo }}|{{ messages[10] }}|{{ messages[-1].content }}|{{ messages[-5] }}
{{ messages[1:] | length }} {{ messages[::-1] | map(attribute='role') | join(',') }} {{ 'hello'[1:3] }} {{ 'hello'[::-1] }} {{ 'hello'[-3:] }} {{ 'hello'[:100] }} {{ 'hello'[3:1] }} {{ 'hello'[-100:2] }}
{{ 'h世é'[1] }} {{ 'h世é' | length }} {{ 'h世é'[::-1] }} {{ 'abc' | reverse }} {{ [1,2,3] | reverse | list }} {{ [1,2] | first }} {{ [] | first }} {{ [1,2] | last }} {{ 'abc' | last }}
{{ "it's" }} {{ ['it\'s'] }} {{ ['a"b'] }} {{ ['a"b\'c'] }} {{ ['\n\t\\\x00\x7f\xa0é世\u200b\U0001f600'] }}
{{ 'abc'.upper() }} {{ 'ABC'.lower() }} {{ 'hello world'.title() }} {{ "they're bill's".title() }} {{ 'hELLO wORLD'.capitalize() }} {{ 'hello-world foo(bar'|title }} {{ 'hELLO'|capitalize }} {{ 'ÉÀ'.lower() }} {{ 'éà'|upper }}
{{ '  a b '.strip() }}| {{ 'xxaxx'.strip('x') }}| {{ 'xyaxy'.lstrip('xy') }}| {{ 'axy'.rstrip('yx') }}| {{ '  a '|trim }}| {{ 'xax'|trim('x') }}|{{ '\u3000a\u2003'|trim }}|
{{ 'a,b,c'.split(',') }} {{ ' a  b c '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b  c d'.split(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'abc'.split('x') }} {{ ''.split(',') }} {{ ''.split() }} {{ 'a<think>b</think>c'.split('</think>')[-1] }}
{{ 'a\nb\r\nc\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ 'abcabc'.replace('b', 'X') }} {{ 'abcabc'.replace('b', 'X', 1) }} {{ 'abcabc'|replace('b','X') }} {{ 'aaa'|replace('a','b',2) }} {{ 123|replace('2', 4) }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x','bc')) }} {{ 'abc'.find('c') }} {{ 'éabc'.find('c') }} {{ 'abc'.find('x') }} {{ 'aXbX'.rfind('X') }} {{ 'aaa'.count('a') }} {{ 'abc'.index('b') }}
{{ '-'.join(['a','b']) }} {{ ['a',1,none]|join('-') }} {{ messages|join(', ', attribute='role') }} {{ 'abc'|join('.') }}
{{ 'abc' in 'xabcx' }} {{ 1 in [1,2] }} {{ 'a' in {'a':1} }} {{ 'b' not in {'a':1} }} {{ 1 in (1,2) }} {{ 'x' in x }} {{ 3 in [1,2] }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1,2] < [1,3] }} {{ (1,2) == [1,2] }} {{ none == none }} {{ x == y }} {{ x == '' }} {{ 1 != 2 }} {{ 'a' == 1 }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ x < 1 }}
{{ x + 1 }}
{{ 'a' + 1 }}
{{ [1] + (2,) }}
{{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' * 3 }} {{ [0] * 2 }} {{ 3 * 'ab' }} {{ 'a' * -1 }} {{ true + true }}
{{ 1 if true }}|{{ 1 if false }}|{{ 1 if false else 2 }}|{{ 'a' if x else 'b' if y else 'c' }}
{{ x or 'd' }} {{ 1 and 2 }} {{ 0 or '' or none }} {{ not x }} {{ not 1 == 2 }} {{ [] or {} }}
{{ x is defined }} {{ messages is defined }} {{ tools is defined }} {{ tools is none }} {{ x is undefined }} {{ 1 is number }} {{ true is number }} {{ true is integer }} {{ 1 is integer }} {{ 1.0 is float }} {{ 'a' is string }} {{ {} is mapping }} {{ [] is sequence }} {{ 'a' is sequence }} {{ {} is sequence }} {{ x is sequence }} {{ x is iterable }} {{ 1 is iterable }} {{ none is iterable }} {{ true is boolean }} {{ 1 is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ x is not none }} {{ x is none }} {{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is equalto(2) }} {{ 'a' is in ['a'] }} {{ 2 is gt 1 }} {{ 2 is lessthan 1 }} {{ 'ab' is lower }} {{ 'AB' is upper }} {{ none is sameas none }} {{ range is callable }} {{ x is callable }} {{ true is sameas true }} {{ 'a' is callable }}
{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.cycle('a','b') }}{{ loop.previtem.role if loop.previtem is defined else '-' }}{{ loop.nextitem.role if not loop.last else '-' }};{% endfor %}
{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }} {{ m.content }}{% else %}none{% endfor %}|{% for m in [] %}x{% else %}empty{% endfor %}
{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% if loop.index > 3 %}{% break %}{% endif %}{{ m.role }}{% endfor %}
{% for i in range(3) %}{% if i == 0 %}{% break %}{% endif %}{{ i }}{% else %}E{% endfor %}|{% for i in range(3) %}{% continue %}{% else %}E{% endfor %}|{% for i in range(3) %}{% if i == 1 %}{% break %}{% endif %}{% else %}E{% endfor %}
{% set x = 1 %}{% for i in range(2) %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=1, y='a') %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z }}|{{ ns['x'] }}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns is mapping }}{{ ns is defined }}
{% macro f(a, b=2, c=a) %}[{{ a }},{{ b }},{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(b=5, a=4) }}{{ f(1, c=9) }}{{ f() }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro f() %}{{ x }}{% endmacro %}{% set x = 'late' %}{{ f() }}
{% macro f() %}{{ y }}{% endmacro %}{% for y in [1,2] %}{{ f() }}{% endfor %}|{{ f() }}
{% set y = 0 %}{% macro f() %}{{ y }}{% endmacro %}{% for y in [1,2] %}{{ f() }}{% endfor %}|{{ f() }}
{% macro f() %}{% set z = 5 %}{{ z }}{% endmacro %}{{ f() }}{{ z }}
{% set t %}hello {{ 1 + 1 }}{% endset %}{{ t | upper }}{% set t | upper | trim %}  abc {% endset %}[{{ t }}]
{% set t %}{% set inner = 3 %}{% endset %}[{{ inner }}]{% if true %}{% set u = 4 %}{% endif %}{{ u }}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}{% with %}{% set q = 1 %}{% endwith %}{{ q }}
{% filter upper %}abc{{ 1 }}def{% endfilter %}{% filter replace('a','b') | trim %}  aaa {% endfilter %}
{% raw %}{{ not }} {% tag %}{% endraw %}|  {%- raw -%}  x {%- endraw -%}  y
{# comment #}a{#- c -#}  b {#+ d #}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for k in {'a': 1} %}{{ k }}{% endfor %}{% for k, v in {'x': 1}|items %}{{ k }}{{ v }}{% endfor %}{{ {'b':1,'a':2}|dictsort }}{{ {'b':1,'a':2}.keys()|list }}{{ {'b':1,'A':2}|dictsort(by='value', reverse=true) }}
{{ {'a':1}.get('a') }}{{ {'a':1}.get('b') }}{{ {'a':1}.get('b', 5) }}{{ {'a':{'b':2}}['a']['b'] }}{{ {'a':{'b':2}}.a.b }}{{ {'items': 3}['items'] }}{{ {1:2}[1] }}{{ {1:2}[true] }}
{{ messages[0] | tojson }} {{ messages | tojson(indent=2) }} {{ [1, 2.5, true, none, 'é"\n\x01', {'a': []}, {}] | tojson }} {{ 'é😀\x7f' | tojson(ensure_ascii=true) }} {{ {'b':1,'a':2} | tojson(sort_keys=true) }} {{ {'a':[1,2]} | tojson(separators=(',', ':')) }} {{ (1,2) | tojson(indent=4) }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }} {{ [] | tojson(indent=2) }} {{ {'a':{}} | tojson(indent='--') }}
{{ x | tojson }}
{{ x | default('d') }}{{ '' | default('d') }}{{ '' | default('d', true) }}{{ none | default('d') }}{{ none|d('e', boolean=true) }}{{ x|default }}
{{ [3,1,2]|sort }}{{ ['b','A','c']|sort }}{{ ['b','A','c']|sort(case_sensitive=true) }}{{ [3,1,2]|sort(reverse=true) }}{{ messages|sort(attribute='role')|map(attribute='role')|list }}{{ [1,2,2,1,'a','A']|unique|list }}{{ [1,5,3]|max }}{{ [1,5,3]|min }}{{ [1,2,3]|sum }}{{ [{'n':1},{'n':2}]|sum(attribute='n') }}{{ [[1],[2]]|sum(start=[]) }}
{{ messages|selectattr('role','equalto','user')|list|length }}{{ messages|selectattr('role','==','user')|map(attribute='content')|list }}{{ messages|rejectattr('role','in',['user'])|list|length }}{{ [0,1,'',2]|select|list }}{{ [1,2,3,4]|select('odd')|list }}{{ [1,2,3]|reject('equalto',2)|list }}{{ ['a','b']|map('upper')|join }}{{ [' a']|map('trim')|list }}{{ messages|selectattr('nope')|list }}{{ messages|map(attribute='nope', default='z')|join(',') }}{{ ['1','2']|map('int')|sum }}
{{ messages|selectattr('role','equalto','tool') is defined }}{% if messages|selectattr('role','equalto','tool') %}T{% else %}F{% endif %}
{{ [1,2,3,4,5]|batch(2)|list }}{{ [1,2,3]|batch(2, 0)|list }}
{{ '5'|int + 1 }}{{ '5.7'|int }}{{ 'x'|int }}{{ 'x'|int(7) }}{{ ' 12 '|int }}{{ 3.9|int }}{{ -3.9|int }}{{ '1.5'|float }}{{ 'x'|float }}{{ 2|float }}{{ none|int }}{{ true|int }}{{ '+5'|int }}{{ '-5'|int }}{{ '1e3'|float }}{{ '.5'|float }}{{ '5.'|float }}
{{ 1|string + '2' }}{{ [1]|string }}{{ -5|abs }}{{ 5|string|length }}{{ none|string }}{{ true|lower }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2) }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent(2, blank=true) }}|{{ 'a\nb'|indent('>>') }}|{{ 'a\n'|indent(first=true) }}|{{ ''|indent }}
{{ '%s and %s' % ('a', 1) }}{{ '%d%%' % 5 }}{{ '%s' % 'x' }}{{ '%s' % [1] }}{{ '%r' % 'x' }}{{ '{} {}'.format(1, 'b') }}{{ '{0}{1}{0} {{x}} {n}'.format(1, 2, n=3) }}
{{ 'a' 'b' "c" }}{{ "a\x41\u00e9\U0001F600\
b\q" }}{{ '\'' }}
{{ messages|length }}{{ 'abc'|length }}{{ x|length }}{{ {'a':1}|length }}{{ {'a':1}|count }}
{{ range(3)|list }}{{ range(1, 10, 3)|list }}{{ range(5, 0, -2)|list }}{{ range(3)[1] }}{{ range(3)|length }}{{ dict(a=1, b=2) }}
{{ 'a'|safe }}{{ '<b>'|safe }}{{ '<' }}
{{ 5 is string }}{{ messages[0] is mapping }}{{ messages[0].content is string }}{{ messages[0].content is iterable and messages[0].content is not mapping }}
{{ raise_exception('oh no') }}
{{ undefined_function() }}
{{ messages.append(1) }}
{{ messages[0].update({}) }}
{{ 'a'.foo }}|{{ 'a'.foo() }}
{{ 'a'.foo }}|{{ 1 .foo }}|{{ none.foo }}|{{ [].foo }}|{{ 'a'['x'] }}|{{ 'a'[5] }}|{{ 1[0] }}|{{ none['a'] }}
{{ 1 is defined and x is not defined or y }}
{{ (1, 2)[0] }}{{ [1,2][-1] }}{{ [[1,2],[3]][0][1] }}{{ {'a': [1,2]}['a'][0] }}{{ messages[0]['role'][0] }}
{% if messages[0]['role'] == 'system' and messages|length > 1 %}A{% elif x %}B{% else %}C{% endif %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}{% for (a, (b, c)) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for a, in [(1,)] %}{{ a }}{% endfor %}
{% set a, b = 1, 2, 3 %}
{% for x in none %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for c in 'héy' %}[{{ c }}]{% endfor %}
{% generation %}{{ messages[0].content }}{% set zz = 1 %}{% endgeneration %}{{ zz }}
{%- if true -%}  a  {%- endif -%}  b
  {% if true %}  
 x
  {% endif %}
y
  {%+ if true %}a{% endif +%}
b
{{- 'a' -}}   b   {{- 'c' }}
a {#- x -#} b
  {{ 'a' }}
  {# c #}
b
{% set x = {'a': 1,} %}{{ x }}{% set y = [1,] %}{{ y }}{{ (1,) }}
{{ 1 if 2 > 1 else 3 }}{{ (1 if false) is defined }}{{ -1 ** 2 }}{{ 2 ** 3 ** 2 }}{{ -2|abs }}{{ 1 - 2 - 3 }}{{ 1 ~ 2 + 3 }}{{ 2 * 3 ~ 4 }}{{ not true or true }}{{ 1 + 2 * 3 }}{{ (1 + 2) * 3 }}{{ 10 % 4 * 2 }}
{{ messages | map(attribute='role') | unique | sort | join(' ') }}
{{ messages[0].items() | list }}{{ messages[0] | items | list }}
{{ 'Ab'|lower == 'ab' }}{{ 'a b'|upper|lower }}{{ 'x'|first }}{{ ''|first is defined }}
{{ messages.0.role }}{{ messages[0]['content'].split(' ')[0] }}
{{ {'a': none}.a is none }}{{ {'a': none}.b is none }}{{ {'a': none}.b is defined }}{{ {'a': none}['b'] is undefined }}
{{ loop }}
{% for i in [1, 2] %}{% for j in [3] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{{ none | trim }}|{{ 1 | trim }}|{{ x | trim }}|{{ x | upper }}|{{ x | join }}|{{ x | list }}|{{ x | first }}|{{ x|string }}|{{ x|replace('a','b') }}|{{ x|reverse|list }}|{{ x|items|list }}|{{ x|int(3) if false }}
{{ x | int }}
{{ none | length }}
{{ none | join }}
{{ 5 | list }}
{{ none | first }}
{{ 'a' | nosuchfilter }}
{{ 'a' is nosuchtest }}
{% nosuchtag %}
{{ 'a
{% if true %}
{{ a b }}
{% break %}
{{ 1 +}}
{{ [1, 2 }}
{{ a.b.c( }}
{% for %}
{% set = 1 %}
{% endfor %}
{{ 'x' if }}
{{ 'a' ~ messages[0].content|trim ~ 'b' }}{{ 'a' + messages[0].content | trim + 'b' }}
{{ messages[1].content.strip().split('\n') | map('trim') | list }}
{% if x is defined and x %}1{% endif %}{% if not x is defined %}2{% endif %}{% if x is not defined %}3{% endif %}{% if tools is not none and tools %}4{% endif %}
{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}
{% for m in messages %}{% set role = 'U' if m.role == 'user' else m.role %}{{ role }}{% endfor %}[{{ role }}]
{% set bos_token = 'X' %}{% for m in messages %}{{ bos_token }}{% endfor %}
{{ bos_token }}{% for m in messages %}{{ bos_token }}{% endfor %}{% set bos_token = 'X' %}{{ bos_token }}
{% for m in messages %}{% if loop.first %}{% set tools = 1 %}{% endif %}{{ tools }}{% endfor %}
{% set g = [1,2,3]|map('string') %}{{ g|first }}{{ g|list }}{{ g|list }}
{% set g = messages|map(attribute='role') %}{{ 'user' in g }}{{ g|list }}
{{ [1,2]|map('string') == [1,2]|map('string') }}{{ ([1]|map('string'))[0] }}
{{ [1]|map('string')|length }}
{{ {'a': 1, 'a': 2, 'b': 3} }}{{ {'a':1}=={'a':1.0} }}{{ {'a':1,'b':2}=={'b':2,'a':1} }}
{{ {[1]: 2} }}
{{ {'a':1}[[1]] }}|{{ [1]['a'] }}
{{ [1,2,3][1:][0] }}{{ [1,2,3][:-1] }}{{ [1,2,3,4][::2] }}{{ [1,2,3,4][3:0:-1] }}{{ (1,2,3)[1:] }}{{ 'abc'[none:2] }}
{{ x[1:] }}
{{ messages[0][1:] }}
{{ [1,2][::0] }}
{{ 1/0 }}
{{ 1//0 }}
{{ 9223372036854775807 }}
{{ -9223372036854775807 - 1 }}
{{ 'ß'.lower() }}{{ 'Ünïcödé'|lower }}{{ 'ñandú'|capitalize }}
{{ ['a','b'].index('b') }}{{ ['a','b','a'].count('a') }}{{ (1,2).index(2) }}
{{ 'a-b_c'.partition('-') }}{{ 'a-b-c'.rpartition('-') }}{{ 'prefix_x'.removeprefix('prefix_') }}{{ 'x.txt'.removesuffix('.txt') }}{{ '123'.isdigit() }}{{ 'a1'.isdigit() }}{{ ''.isdigit() }}
{% set x = 5 %}{% if x > 3 %}{% set x = x * 2 %}{% endif %}{{ x }}
{% set messages = messages[1:] %}{{ messages|length }}
{% if messages[0].role == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0].content %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for m in loop_messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + m.content %}{% else %}{% set content = m.content %}{% endif %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}
"""
# These hold line breaks of their own.
LAYOUTS = [
    "{% if true %}\n  a\n{% endif %}\nb\n",
    "  {% if true %}  \n x\n  {% endif %}\ny\n",
    "a\n  {%+ if true %}a{% endif +%}\nb",
    "{%- if true -%}  a  {%- endif -%}  b\n\n",
    "x\r\n{% if true %}\r\ny\r{% endif %}\r\n",
    "  {{ 'a' }}\n  {# c #}\n  b\n",
    "a {#- x -#} b",
    "{# a\n#}\nb",
    "a\n\t{% raw %}\n {{ x }}\n\t{% endraw %}\nb",
    "a\n  {%- raw -%}\n {{ x }}\n  {%- endraw -%}\nb\n",
    "{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\n",
    "\n\n{% set a = 1 %}\n\n{{ a }}\n\n",
    "{{ 'a' }}\n{{ 'b' }}\n",
    "a\u00a0{%- if true %}x{% endif %}",
    "a\n\u00a0{% if true %}x{% endif %}",
    "{{ 1 }}{# x #}\n{{ 2 }}{# y +#}\n{{ 3 }}",
    "{%if true%}a{%endif%}",
    "{{\n 1 +\n 2 }}",
    "{{- 1 -}}\n {{- 2 -}} ",
    "{%- for m in messages -%}\n  {{- m.role -}}\n{%- endfor -%}\n",
    "\n",
    "\n\n",
    "{{ '{{' }}{{ '%}' }}{{ {'a': {'b': 1}}['a'] }}",
    "{ % { {",
    "{% if x %}a{% endif -%}\n\n b",
    "{{+ 1 }}",
    "{{ 1 +}}",
    "{%+ set a = 1 +%}\n{{a}}",
    "{% raw -%}  a {%+ endraw +%}\nb",
    "{% raw %}a\n{% endraw %}\nb",
    "{#{##}",
    "{# {{ #}x",
    "{{ 'a\nb' }}",
    "{{ 'a\r\nb' }}",
]

out = {"conversations": CONVERSATIONS, "templates": {}, "constructs": []}
for file in sorted(TEMPLATES.glob("*.jinja")):
    text = file.read_bytes().decode()
    out["templates"][file.stem] = {
        name: [render(text, messages, prompt) for prompt in (False, True)] for name, messages in CONVERSATIONS.items()
    }
for construct in CONSTRUCTS.strip("\n").split("\n") + LAYOUTS:
    out["constructs"].append([construct, render(construct, CONVERSATIONS["talk"], True)])
(HERE / "chat_templates.json").write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")
