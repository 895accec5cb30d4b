# ruff: noqa: E501  (a template is clearer on its own lines than cut)
"""Forms that chat templates have, each written for this test: spellings, control flow, filters, tools, dates, refusals.

`FORMS` render, `HUGE` is bounded; `REFUSING` raise for some or all of `CONVERSATIONS`, here as in transformers.
"""

from __future__ import annotations

_ANSWER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

FORMS: dict[str, str] = {
    # -- ChatML in its spellings ------------------------------------------------------------------------
    "chatml, subscripts": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    + _ANSWER,
    "chatml, attributes": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + _ANSWER,
    "chatml, tildes": "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}{% endfor %}"
    + _ANSWER,
    "chatml, default system": """{% for m in messages %}
{% if loop.first and m['role'] != 'system' %}
<|im_start|>system
You answer briefly.<|im_end|>
{% endif %}
<|im_start|>{{ m['role'] }}
{{ m['content'] | trim }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
""",
    "chatml, trimmed blocks": """{%- for m in messages -%}
    {{- '<|im_start|>' + m.role + '\\n' -}}
    {{- m.content -}}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}""",
    "chatml, plus signs": "{%+ for m in messages +%}\n  {{ m.role }}{%+ if true %} x {% endif +%}\n{%+ endfor %}\n\n",
    "chatml, generation blocks": """{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant
{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}
{% else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}"""
    + _ANSWER,
    "chatml, generation blocks trimmed": "{%- for m in messages %}{%- generation -%}\n  {{ m.content }}\n{%- endgeneration -%} |{%- endfor %}",
    "generation block sees and hides variables": "{% set x = 1 %}{% generation %}{{ x }}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "generation block in a loop with loop variables": "{% for m in messages %}{% generation %}{{ loop.index }}{{ m.role }}{% endgeneration %}{% endfor %}",
    # -- shapes of families -----------------------------------------------------------------------------
    "llama 2 shape": """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set first = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}{% else %}{% set rest = messages %}{% set first = '' %}{% endif %}{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}{% set body = first + m['content'] if loop.index0 == 0 else m['content'] %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + body.strip() + ' [/INST]' }}{% else %}{{ ' ' + body.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "llama 3 shape": "{% set loop_messages = messages %}{% for m in loop_messages %}{% set text = '<|head|>' + m['role'] + '<|tail|>\\n\\n' + m['content'] | trim + '<|eot|>' %}{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|tail|>\\n\\n' }}{% endif %}",
    "llama 3.2 shape with a date": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "[system]\\n\\n" }}
{%- if tools is not none %}{{- "Environment: tools\\n" }}{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{{- system_message }}
{%- for m in messages %}
    {{- '[' + m.role + ']\\n\\n' + m.content | trim + '|' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant]\\n\\n' }}{%- endif %}
""",
    "gemma shape": "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m.role %}{% endif %}{{ '<turn>' + role + '\\n' + m.content | trim + '<end>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<turn>model\\n'}}{% endif %}",
    "gemma 3 shape, system in front of the first turn": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set prefix = "" -%}{%- set rest = messages -%}
{%- endif -%}
{%- for m in rest -%}
    {{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (prefix if loop.first else "") }}
    {%- if m['content'] is string -%}{{ m['content'] | trim }}
    {%- elif m['content'] is iterable -%}
        {%- for item in m['content'] -%}{%- if item['type'] == 'image' -%}{{ '<image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}
    {%- else -%}{{ raise_exception("unknown content") }}{%- endif -%}
    {{ '<end>\n' }}
{%- endfor -%}
""",
    "phi shape": "{% for m in messages %}{% if m['role'] == 'system' %}{{'<|system|>\\n' + m['content'] + '<|end|>\\n'}}{% elif m['role'] == 'user' %}{{'<|user|>\\n' + m['content'] + '<|end|>\\n'}}{% elif m['role'] == 'assistant' %}{{'<|assistant|>\\n' + m['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
    "phi 4 shape, marks made of roles": "{% for m in messages %}{% if m['role'] == 'system' and 'tools' in m and m['tools'] is not none %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|tool|>' + m['tools'] + '<|/tool|>' }}{% else %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}",
    "mistral shape": """{%- set system = messages[0]["content"] if messages[0]["role"] == "system" else none %}
{%- set turns = messages[1:] if system is not none else messages %}
{{- bos_token }}
{%- for m in turns %}
    {%- if m["role"] == "user" %}
        {%- if loop.last and system is not none %}
            {{- "[INST] " + system + "\\n\\n" + m["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + m["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif m["role"] == "assistant" %}
        {{- " " + m["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}""",
    "zephyr shape": "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\\n' + m['content'] + eos_token }}\n{% elif m['role'] == 'system' %}\n{{ '<|system|>\\n' + m['content'] + eos_token }}\n{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\\n' + m['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "deepseek shape with a namespace": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, system='', seen=0) %}{%- for m in messages %}{%- if m['role'] == 'system' %}{%- set ns.system = ns.system ~ m['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system}}{%- for m in messages %}{%- if m['role'] == 'user' %}{%- set ns.seen = ns.seen + 1 %}{{'<|User|>' + m['content']}}{%- endif %}{%- if m['role'] == 'assistant' and m['content'] is not none %}{% set content = m['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<|Assistant|>' + content + '<|end|>'}}{%- endif %}{%- endfor %}{{ ns.seen }}{% if add_generation_prompt %}{{'<|Assistant|><think>\\n'}}{% endif %}""",
    "qwen shape with tools": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- else %}{{- 'You help.' }}{%- endif %}
    {{- "\\n\\n# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '<tool_call>{"name": "' + call.name + '", "arguments": ' + (call.arguments | tojson) + '}</tool_call>' }}
        {%- endfor %}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
"""
    + _ANSWER,
    "qwen 3 shape, backwards search": """{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and m.role == "user" and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content %}
    {%- set thought = '' %}
    {%- if m.reasoning_content is defined and m.reasoning_content is not none %}
        {%- set thought = m.reasoning_content %}
    {%- elif '</think>' in m.content %}
        {%- set content = m.content.split('</think>')[-1].lstrip('\\n') %}
        {%- set thought = m.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- m.role ~ ':' ~ ('<think>' ~ thought.strip('\\n') ~ '</think>' if loop.index0 > ns.last and thought else '') ~ content.lstrip('\\n') ~ '|' }}
{%- endfor %}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>' }}{%- endif %}""",
    "granite shape": "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set system_message = 'Date: ' + strftime_now('%B %d, %Y') + '.' %}{%- if tools and documents %}{%- set system_message = system_message + ' Both.' %}{%- elif tools %}{%- set system_message = system_message + ' Tools.' %}{%- elif documents %}{%- set system_message = system_message + ' Documents.' %}{%- else %}{%- set system_message = system_message + ' Neither.' %}{%- endif %}{%- set loop_messages = messages %}{%- endif %}{{- '<|role|>system<|end|>' + system_message + '\\n' }}{%- if tools %}{{- tools | tojson(indent=4) }}{%- endif %}{%- if documents %}{%- for document in documents %}{{- 'Document ' + loop.index0 | string + '\\n' + document['text'] }}{%- if not loop.last %}{{- '\\n\\n' }}{%- endif %}{%- endfor %}{%- endif %}{%- for m in loop_messages %}{{- '<|role|>' + m['role'] + '<|end|>' + m['content'] + '\\n' }}{%- if loop.last and add_generation_prompt %}{{- '<|role|>assistant' }}{%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}{{- '<|end|>' }}{%- endif %}{%- endfor %}",
    "falcon shape": "{% for m in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}{% if m.role == 'user' %}{{ 'User: ' + m.content.replace('\\r\\n', '\\n').replace('\\n\\n', '\\n') }}{% elif m.role == 'assistant' %}{{ 'Falcon: ' + m.content }}{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '\\nFalcon:' }}{% endif %}",
    "alpaca shape": "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content|trim -}}\n\n\n{% elif m.role == 'assistant' %}### Response:\n{{ m.content|trim -}}{% if not loop.last %}\n\n\n{% endif %}{% else %}{{ m.content|trim }}\n\n{% endif %}{% endfor %}{% if add_generation_prompt and messages[-1].role != 'assistant' %}### Response:\n{% endif %}",
    "vicuna shape": "{% set sep = [' ', eos_token] %}{% set n = namespace(i=0) %}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}{% else %}{{ {'user': 'USER', 'assistant': 'ASSISTANT'}[m.role] + ': ' + m.content + sep[n.i % 2] }}{% set n.i = n.i + 1 %}{% endif %}{% endfor %}ASSISTANT:",
    "command shape, lists of lists": "{{ bos_token }}{% for pair in messages|batch(2) %}<{% for m in pair %}{{ m.role|upper }}:{{ m.content }}{{ ' / ' if not loop.last }}{% endfor %}>{% endfor %}",
    "smollm shape": "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nHelp.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    + _ANSWER,
    "harmony shape, a macro per part": """{%- macro part(role, text, channel=none) -%}
<|start|>{{ role }}{%- if channel is not none %}<|channel|>{{ channel }}{% endif %}<|message|>{{ text }}<|end|>
{%- endmacro -%}
{%- for m in messages -%}{{ part(m.role, m.content, 'final' if m.role == 'assistant' else none) }}{%- endfor -%}<|start|>assistant""",
    # -- control flow -----------------------------------------------------------------------------------
    "break and continue": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }};{% if m.role == 'assistant' %}{% break %}{% endif %}{% endfor %}",
    "loop filters and else": "{% for m in messages if m.role == 'tool' %}{{ m.content }}{% else %}no tool{% endfor %}{% for m in messages if m['role'] in ['user', 'assistant'] %}{{ loop.index }}/{{ loop.length }} {{ m.content }}{% endfor %}",
    "neighbours": "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '^' }}<{{ m.role }}>{{ loop.nextitem.role if loop.nextitem is defined else '$' }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{{ loop.depth }}{% endfor %}",
    "recursive loop": "{% for item in [1, [2, [3, 4]], 5] recursive %}{% if item is iterable %}({{ loop(item) }}){% else %}{{ item }}.{% endif %}{% endfor %}",
    "nested loops": "{% for m in messages %}{% set outer = loop %}{% for c in m.content[:3] %}{{ outer.index }}.{{ loop.index }}{{ c }} {% endfor %}{% endfor %}",
    "set blocks": "{% set head %}<{{ messages[0].role }}>{% endset %}{% set up | upper %}abc {{ head }}{% endset %}{{ head }}{{ up }}{{ head|length }}",
    "with blocks": "{% with a = 1, b = messages|length %}{{ a + b }}{% with %}{% set a = 7 %}{{ a }}{% endwith %}{{ a }}{% endwith %}",
    "macros with defaults, varargs and kwargs": "{% macro f(a, b='x') %}{{ a }}{{ b }}{{ varargs|join('-') }}{{ kwargs|dictsort }}{% endmacro %}{{ f(1) }}|{{ f(1, 2, 3, 4) }}|{{ f(a='q', c=3) }}|{{ f.name }}{{ f.arguments }}",
    "call blocks": "{% macro box(w) %}[{{ caller(w) }}]{% endmacro %}{% for m in messages %}{% call(w) box(3) %}{{ m.role }}{{ w }}{% endcall %}{% endfor %}",
    "filter blocks": "{% filter upper|trim %}  hello {{ messages[0].role }} {% endfilter %}!",
    "nested conditions": "{% for m in messages %}{% if m.role == 'user' %}{% if m.content %}{% if m.content|length > 5 %}long{% else %}short{% endif %}{% else %}empty{% endif %}{% elif m.role == 'system' %}s{% elif not m.role %}none{% else %}o{% endif %}{% endfor %}",
    "unless, inline": "{{ 'yes' if messages[0].role == 'system' }}{{ 'a' if false }}{{ ('b' if true else 'c') ~ ('d' if none else 'e') }}",
    "comments and raw": "{# system #}{% raw %}{{ not rendered }}{% endraw %}{#- x -#} {{ messages|length }}",
    "line ends and indentation": "  {% if true %}\n    a\n  {% endif %}\n\tb\n{% for m in messages %}\n  * {{ m.role }}\n{% endfor %}\nend\n\n",
    "blocks": "{% block body %}{{ messages[-1].content }}{% endblock %}{{ self.body()|length }}",
    "namespace of namespaces": "{% set a = namespace(n=0, inner=namespace(l=[])) %}{% for m in messages %}{% set a.n = a.n + loop.index %}{% set b = a.inner %}{% set b.l = b.l + [m.role] %}{% endfor %}{{ a.n }}{{ a.inner.l }}",
    "namespace from a dictionary": "{% set a = namespace({'x': 1}, y=2) %}{% set a.z = a.x + a.y %}{{ a.z }}{{ a['x'] }}{{ a.missing is defined }}",
    # -- values -----------------------------------------------------------------------------------------
    "dictionaries": "{% set d = dict(a=1, b=[2]) %}{{ d }}{{ d.a }}{{ d['b'][0] }}{{ d.get('c', 'none') }}{{ d.items()|list }}{{ d|items|list }}{% for k, v in d.items() %}{{ k }}={{ v }},{% endfor %}{{ d.keys()|list }}{{ 'a' in d }}{{ {'x': 1}.x }}{{ dict([('q', 1)]) }}{{ dict.fromkeys(['z'], 0) }}",
    "slices and indices": "{{ messages[-1].role }}{{ messages[0:1]|length }}{{ messages[::-1][0].role }}{{ messages[-1].content[-3:] }}{{ messages[-1].content[::2] }}{{ (1, 2, 3)[1:] }}{{ messages[-1]['content'][:-1] }}",
    "kinds of values": "{% for x in [1, 1.5, 'a', true, none, [1], (1, 2), {'a': 1}, undefined_name] %}{{ x is string }}{{ x is number }}{{ x is integer }}{{ x is float }}{{ x is boolean }}{{ x is mapping }}{{ x is sequence }}{{ x is iterable }}{{ x is defined }}{{ x is none }}{{ x is callable }} {% endfor %}",
    "tests of numbers and order": "{{ 4 is even }}{{ 3 is odd }}{{ 9 is divisibleby 3 }}{{ 1 is eq 1 }}{{ 1 is lt 2 }}{{ 'a' is in ['a'] }}{{ 'a' is lower }}{{ 'A' is upper }}{{ 2 is ge 3 }}{{ true is true }}{{ 1 is sameas 1 }}{{ 'upper' is filter }}{{ 'none' is test }}",
    "numbers": "{{ 7 // 2 }}{{ 7 % 3 }}{{ 7 / 2 }}{{ 2 ** 10 }}{{ -3 }}{{ 1e3 }}{{ 3.0 }}{{ 1_000 }}{{ 5 - 2 * 3 }}{{ +4 }}{{ (messages|length) * 2 }}{{ 10 % 4 == 2 and not false or false }}{{ 1 < 2 < 3 }}{{ 3.14159|round(2) }}{{ 42|float }}{{ '17'|int + 1 }}{{ 'x'|int(9) }}{{ [3, 1, 2]|sum }}{{ [3, 1]|max }}{{ -5|abs }}",
    "repeating": "{{ '-' * 10 }}{{ 3 * 'ab' }}{{ [0] * 3 }}{{ 'x' * 0 }}{{ 'y' * -1 }}{{ (1, 2) * 2 }}",
    "percent formatting": "{{ 'say: %s' % messages[-1].content }}{{ '%s and %r' % ('a', 'b') }}{{ '%5.2f|%-5d|%05d|%x|%%' % (3.14159, 42, 42, 255) }}{{ '%(a)s' % {'a': 1} }}{{ '%*d' % (6, 5) }}",
    "format methods": "{{ '{} {}'.format('a', 1) }}{{ '{0}{1}{0}'.format('x', 'y') }}{{ '{name:>8}|{v:.3f}|{v:08.2f}'.format(name='n', v=2.5) }}{{ '{m[role]} {m[content]!r}'.format(m=messages[0]) }}{{ '{:^{w}}'.format('mid', w=9) }}{{ '{a}'.format_map({'a': 3}) }}",
    "string methods": "{% set c = messages[-1].content %}{{ c.strip() }}{{ c.upper() }}{{ c.split(' ') }}{{ c.split() }}{{ c.replace('a', 'b') }}{{ c.startswith('h') }}{{ c.endswith(('?', '!')) }}{{ c.find('e') }}{{ c.title() }}{{ c.partition(' ') }}{{ c.splitlines() }}{{ c.rsplit(' ', 1)[0] }}{{ c.count('l') }}{{ c.isdigit() }}{{ c.center(60, '-') }}{{ c.ljust(50, '.') }}{{ c.rjust(50) }}{{ '7'.zfill(3) }}{{ c.removeprefix('h') }}{{ 'a\tb'.expandtabs(4) }}{{ ', '.join(['a', 'b']) }}{{ c.swapcase() }}{{ c.casefold() }}{{ c.encode() }}{{ 'aXb'.translate({88: 'yy'}) }}",
    "joins": "{{ messages|map(attribute='role')|join(', ') }}{{ [1, 2, 3]|join }}{{ messages|join('|', attribute='content') }}{{ ['a']|join('x') }}{{ ''|join(',') }}",
    "select and map": "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ messages|selectattr('role', 'ne', 'user')|map(attribute='content')|list }}{{ messages|rejectattr('role', 'in', ['system'])|map(attribute='role')|first }}{{ [0, 1, 2]|select|list }}{{ [1, 2, 3, 4]|select('odd')|list }}{{ [1, 2]|reject('eq', 1)|list }}{{ ['a', 'b']|map('upper')|join }}{{ messages|selectattr('missing')|list }}{{ messages|map(attribute='name', default='-')|list }}{{ ['x']|map('replace', 'x', 'y')|list }}",
    "sorting and grouping": "{% for role, group in messages|groupby('role') %}{{ role }}:{{ group|length }} {% endfor %}{{ messages|sort(attribute='role')|map(attribute='role')|list }}{{ ['b', 'A', 'c']|sort }}{{ ['b', 'A']|sort(case_sensitive=true, reverse=true) }}{{ [1, 1, 2]|unique|list }}{{ {'b': 1, 'a': 2}|dictsort }}{{ [1, 2, 3]|reverse|list }}{{ 'abc'|reverse }}{{ [1, 2, 3, 4, 5]|slice(2)|list }}{{ [1, 2, 3]|batch(2, 'x')|list }}{{ [[1], [2]]|sum(start=[]) }}",
    "defaults": "{{ missing|default('d') }}{{ missing|d }}{{ ''|default('e', true) }}{{ none|default('f') }}{{ none|default('g', boolean=true) }}{{ messages[0].name|default(messages[0].role) }}{{ 'u' if missing is undefined else missing.deep }}{{ tools is none }}{{ documents is none }}",
    "text filters": "{{ ' a '|trim }}{{ 'xxaxx'|trim('x') }}{{ 'hello world'|capitalize }}{{ 'hello world'|title }}{{ 'a b c'|wordcount }}{{ 'hello world foo'|truncate(9) }}{{ 'hello world'|truncate(8, true, '..') }}{{ 'abc'|first }}{{ 'abc'|last }}{{ 'abc'|list }}{{ 'abc'|length }}{{ 'a-b'|replace('-', '+') }}{{ 'aaa'|replace('a', 'b', 2) }}{{ 'abc'|center(11) }}|{{ 'the quick brown fox'|wordwrap(9) }}{{ 3|string }}{{ 'a b&c'|urlencode }}{{ 1234567|filesizeformat }}{{ 'say %s'|format('x') }}{{ '<b>x</b>'|striptags }}",
    "escaping": "{{ '<a & b>' }}{{ '<a & b>'|e }}{{ '<a>'|escape|length }}{{ '<a>'|safe }}{{ '<a>'|forceescape }}{% autoescape true %}{{ '<c>' }}{{ '<d>'|safe }}{{ '<x>' ~ '<y>' }}{% endautoescape %}{{ {'a': '<', 'b': none}|xmlattr }}",
    "indentation": "{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent(width=3, blank=true) }}|{{ 'a\nb'|indent('> ', first=true) }}|{{ messages[-1].content|indent(4) }}",
    "json": "{{ messages|tojson }}{{ messages[0]|tojson(indent=2) }}{{ {'b': '<é>', 'a': \"it's & more\"}|tojson(sort_keys=true) }}{{ 'é'|tojson(ensure_ascii=true) }}{{ [1, {'a': none, 'b': true}]|tojson(separators=(',', ':')) }}{{ tools|tojson }}{{ 'q'|tojson|length }}{{ {'a': [1, 2]}|tojson(indent='\t') }}{{ [1, 2]|tojson(true, 1) }}{{ 1.5|tojson }}{{ '日本'|tojson }}",
    "pretty printing": "{{ {'a': [1, 2, 3]}|pprint }}{{ messages|pprint }}",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ unk_token is defined }}{{ pad_token }}{{ sep_token is defined }}{{ sep_token }}{{ bos_token ~ '|' ~ eos_token }}",
    "cyclers and joiners": "{% set c = cycler('a', 'b') %}{% set j = joiner('; ') %}{% for m in messages %}{{ j() }}{{ c.next() }}{{ m.role }}{% endfor %}{{ c.current }}",
    "ranges": "{% for i in range(3) %}{{ i }}{% endfor %}{{ range(2, 8, 2)|list }}{{ range(messages|length)|last }}{% for i in range(messages|length - 1, -1, -1) %}{{ messages[i].role }} {% endfor %}",
    "assignments": "{% set a, b = 'x', 'y' %}{{ b }}{{ a }}{% set (c, (d, e)) = (1, (2, 3)) %}{{ c }}{{ d }}{{ e }}{% for x, (y, z) in [(1, (2, 3))] %}{{ z }}{{ x }}{{ y }}{% endfor %}",
    "tools with namespaces and json": "{% set ns = namespace(first=true) %}{% if tools %}{% for t in tools %}{% if not ns.first %}, {% endif %}{% set ns.first = false %}{{ t.function.name }}({% for p in t.function.parameters.properties %}{{ p }}: {{ t.function.parameters.properties[p].type }}{% if not loop.last %}, {% endif %}{% endfor %}) {{ t.function.parameters | tojson(indent=2) | indent(4) }}{% endfor %}{% endif %}",
    "missing attributes": "{% for m in messages %}{{ m.name }}{{ m['name'] }}{{ m.name or 'x' }}{% if m.tool_calls %}calls{% endif %}{{ (m.tool_calls or [])|length }}{% endfor %}",
    "odd texts": "{{ 'a\\tb\\u00e9\\x41' }}{{ \"it's\" }}{{ 'q\"q' }}▁ Ġ 日本 🙂 {{ '🙂'|length }}{{ '\\\\n' }}",
    "the system turn only": "{{ messages[0].content if messages[0].role == 'system' else 'none' }}",
    "no system turn": "{% for m in messages %}{% if m.role == 'user' %}[user]{{ m.content }}{% endif %}{% endfor %}[assistant]",
}

REFUSING: dict[str, str] = {
    "raises always": "{{ raise_exception('only for robots') }}",
    "raises for a system turn": "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ m.content }}{% endfor %}",
    "raises where turns do not alternate": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}",
    "an undefined name is asked for an attribute": "{{ missing.deeper.still }}",
    "an undefined name is called": "{{ missing() }}",
    "text and number are added": "{{ 'a' + 1 }}",
    "an undefined token is added": "{{ cls_token + 'x' }}",
    "division by zero": "{{ 1 / 0 }}",
    "unknown filter": "{{ 'a'|nonsense }}",
    "unknown test": "{{ 'a' is nonsense }}",
    "unknown tag": "{% nonsense %}",
    "unclosed block": "{% if true %}x",
    "unclosed generation": "{% generation %}x",
    "generation with an argument": "{% generation x %}x{% endgeneration %}",
    "changes the conversation": "{{ messages.append(1) }}",
    "changes a list of its own": "{% set l = [] %}{% do l.append(1) %}",
    "appends to a list of its own": "{% set l = [] %}{% set _ = l.append(1) %}{{ l }}",
    "reaches for a class": "{{ ''.__class__.__mro__ }}",
    "a name of a namespace with an underscore": "{% set ns = namespace(_a=1) %}{{ ns._a }}",
    "sets a name of a namespace with an underscore": "{% set ns = namespace() %}{% set ns._a = 1 %}x",
    "assigns to a dictionary": "{% set d = {} %}{% set d.a = 1 %}",
    "json of an undefined name": "{{ missing|tojson }}",
    "json of a function": "{{ range|tojson }}",
    "json with an unknown argument": "{{ 'a'|tojson(width=3) }}",
    "includes a file": "{% include 'other' %}",
    "imports a file": "{% import 'other' as o %}",
    "extends a file": "{% extends 'other' %}",
    "a huge range": "{{ range(10000000)|list }}",
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a date with a number": "{{ strftime_now(3) }}",
    "iterates over a number": "{% for x in 3 %}{% endfor %}",
}

# What makes something huge, or works for long.
HUGE: dict[str, str] = {
    "text times number": "{{ 'a' * 10**9 }}",
    "number times text": "{{ 10**9 * 'a' }}",
    "list times number": "{{ [1] * 10**9 }}",
    "power": "{{ 7 ** (7 ** 7) }}",
    "power of powers": "{% set ns = namespace(x=3) %}{% for i in range(100) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent precision": "{{ '%.1000000000f' % 1 }}",
    "percent star": "{{ '%*d' % (10**9, 1) }}",
    "percent mapping": "{{ ('%(a)s' * 60000) % {'a': 'x' * 60000} }}",
    "format width": "{{ '{:>1000000000}'.format(1) }}",
    "format precision": "{{ '{:.1000000000f}'.format(1.0) }}",
    "format inner width": "{{ '{:>{w}}'.format(1, w=10**9) }}",
    "format many": "{{ ('{0}' * 60000).format('x' * 60000) }}",
    "format map": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "center method": "{{ 'x'.center(10**9) }}",
    "center filter": "{{ 'x'|center(10**9) }}",
    "center in map": "{{ ['x']|map('center', 10**9)|list }}",
    "attribute filter": "{{ ('x'|attr('ljust'))(10**9) }}",
    "rjust": "{{ 'x'.rjust(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**9) }}",
    "expandtabs": "{{ 'a\tb'.expandtabs(10**9) }}",
    "replace method": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "replace filter": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "replace of nothing": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "join method": "{{ ('a' * 100000).join('b' * 100000) }}",
    "join filter": "{{ range(99999)|map('string')|join('b' * 100000) }}",
    "translate": "{{ ('a' * 100000).translate({97: 'b' * 100000}) }}",
    "bytes": "{{ 'a'.encode().ljust(10**9) }}",
    "bytes times": "{{ 'a'.encode() * 10**9 }}",
    "to_bytes": "{{ (1).to_bytes(10**9) }}",
    "indent": "{{ 'a\nb'|indent(10**9) }}",
    "indent by text": "{{ ('a\n' * 50000)|indent('x' * 50000) }}",
    "wordwrap": "{{ ('a' * 50000)|wordwrap(1, true, 'b' * 50000) }}",
    "batch": "{{ [1]|batch(10**9, 'x')|list }}",
    "slice": "{{ [1]|slice(10**9)|list }}",
    "json indent": "{{ {'a': 1}|tojson(indent=10**9) }}",
    "json indent by text": "{{ range(9999)|list|tojson(indent='x' * 50000) }}",
    "json separators": "{{ range(9999)|list|tojson(separators=('x' * 50000, 'y')) }}",
    "lipsum": "{{ lipsum(n=1000000) }}",
    "round": "{{ 1.5|round(10**9, 'ceil') }}",
    "a list in itself": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "a list in itself, as JSON": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson }}",
    "namespaces in each other": "{% set a = namespace() %}{% set b = namespace() %}{% set a.x = [b, b] %}{% set b.x = [a, a] %}{{ a.x }}",
    "tuples in themselves": "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}",
    "dictionaries in themselves": "{% set ns = namespace(x={}) %}{% for i in range(60) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x ~ '' }}",
    "a text doubled": "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "a text added": "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "a list added": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "escaping again and again": "{% set ns = namespace(x='&' * 1000) %}{% for i in range(60) %}{% set ns.x = ns.x|string|forceescape %}{% endfor %}{{ ns.x }}",
    "set blocks doubled": "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}{{ ns.x }}",
    "much output": "{% set x = 'a' * 100000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "nested loops that filter": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "loops in filters": "{% for i in range(99999) %}{% set x = range(99999)|map('string')|list %}{% endfor %}",
    "sums in a loop": "{% for i in range(99999) %}{% set x = range(99999)|list|sum %}{% endfor %}",
    "comparing in a loop": "{% set l = range(99999)|list %}{% set m = range(99999)|list %}{% for i in l %}{% if l == m %}{% endif %}{% endfor %}",
    "searching in a loop": "{% set t = 'a' * 1000000 %}{% for i in range(99999) %}{% if 'b' in t %}{% endif %}{% endfor %}",
    "slicing in a loop": "{% set t = 'a' * 1000000 %}{% for i in range(99999) %}{% set x = t[1:] %}{% endfor %}",
    "recursion in two": "{% macro m(n) %}{{ m(n - 1) if n }}{{ m(n - 1) if n }}{% endmacro %}{{ m(60) }}",
    "blocks in two": "{% block b %}{% for i in range(30) %}{{ self.b() }}{% endfor %}{% endblock %}",
    "a long date": "{{ strftime_now('%Y' * 100000) }}",
    "whole numbers from texts": "{% set x = ('f' * 100000)|int(0, 16) %}{{ x * x }}",
}

_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a place, in °C & more",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["place"],
            },
        },
    },
    {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}},
]


def _turn(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


_HELLO = _turn("user", "hello there, it's 3 < 5 & né\n  two lines? ")
_BRIEF = _turn("system", " Be brief. ")
_CALLS = [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Köln"}}}]

CONVERSATIONS: dict[str, dict[str, object]] = {
    "one turn": {"messages": [_HELLO]},
    "system": {"messages": [_BRIEF, _HELLO]},
    "three turns": {
        "messages": [_HELLO, _turn("assistant", "<think>hm\n</think>\n\nGood *day*. "), _turn("user", "bye")]
    },
    "system and three turns": {"messages": [_BRIEF, _HELLO, _turn("assistant", ""), _turn("user", "日本 🙂")]},
    "ends with an answer": {"messages": [_HELLO, _turn("assistant", "yes")], "add_generation_prompt": False},
    "tools": {"messages": [_BRIEF, _HELLO], "tools": _TOOLS},
    "documents": {"messages": [_HELLO], "documents": [{"title": "A", "text": "one"}, {"title": "B", "text": "two"}]},
    "tool calls": {
        "messages": [
            _HELLO,
            {"role": "assistant", "content": "", "tool_calls": _CALLS},
            _turn("tool", '{"t": 3}'),
            _turn("tool", "warm"),
            _turn("assistant", "3 °C"),
        ],
        "tools": _TOOLS,
    },
}
