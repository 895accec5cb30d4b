"""What templates put around turns, found out by watching and rendering: right for any text, or not written at all."""

import pytest
from chat_forms import FORMS
from hypothesis import given
from hypothesis import strategies as st
from nasty_texts import nasty

from mobileloop.chat.allowance import MAX_STEPS, Allowance
from mobileloop.chat.template import ChatTemplate
from mobileloop.chat.turns import chat_turns
from mobileloop.spec.tokenizer import TokenizerSpec

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
LOOP = "{% for m in messages %}[{{ m.role }}]%s{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"


def turns_of(template, **more):
    return chat_turns(TokenizerSpec(json_text="", chat_template=template, **NAMED, **more))


FOUND = {form: turns for form in sorted(FORMS) if (turns := turns_of(FORMS[form]))}


def trimmed(text, trims):
    return text.strip() if trims else text


def check(form, user, system):
    """The fixed texts with the turns between them are what the template renders."""
    turns, template = FOUND[form], ChatTemplate(FORMS[form], NAMED)
    expected = turns.before + trimmed(user, turns.trims) + turns.after
    assert template.render([{"role": "user", "content": user}]) == expected
    if turns.system:
        around = turns.system
        expected = around.before + trimmed(system, around.trims_system) + around.between
        expected += trimmed(user, around.trims_user) + around.after
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        assert template.render(messages) == expected


def test_most_forms_of_chats_are_found():
    assert len(FOUND) >= 25
    shapes = ("llama 3 shape", "gemma shape", "phi shape", "mistral shape", "smollm shape", "qwen shape with tools")
    assert set(shapes) <= set(FOUND)
    assert FOUND["llama 3 shape"].trims
    assert not FOUND["phi shape"].trims
    assert sum(turns.system is not None for turns in FOUND.values()) >= 20


@pytest.mark.parametrize("form", list(FOUND))
def test_what_was_found_is_right_for_nasty_texts(form):
    texts = [text for text in nasty() if text.strip()]
    for at, text in enumerate(texts):
        check(form, text, texts[at - 1])


@given(form=st.sampled_from(list(FOUND)), user=st.text(), system=st.text())
def test_what_was_found_is_right_for_any_text(form, user, system):
    if user.strip() and system.strip():
        check(form, user, system)


@pytest.mark.parametrize(
    "content",
    [
        "{{ m.content }}{{ m.content }}",
        "{{ m.content | upper }}",
        "{{ m.content | replace('a', 'b') }}",
        "{{ m.content | tojson }}",
        "{{ m.content[:50] }}",
        "{{ m.content.split('</think>')[-1] }}",
        "{% if '/no_think' in m.content %}quietly {% endif %}{{ m.content }}",
        "{% if m.content == 'magic' %}!{% endif %}{{ m.content }}",
        "{% if m.content.startswith('<tool>') %}tool{% else %}{{ m.content }}{% endif %}",
        "{% if m.content | length > 5000 %}long {% endif %}{{ m.content }}",
        "{{ m.content.lstrip() }}",
        "{% if m.content | length > 20000 %}long {% endif %}{{ m.content }}",
        "{% if (m.content ~ '!') | length > 20000 %}long {% endif %}{{ m.content }}",
        "{% if m.content | int(m.content) == 31 %}number {% endif %}{{ m.content }}",
        "{{ m.content.replace('foo' ~ 'bar', 'X') }}",
        "{{ m.content | replace('foo' ~ 'bar', 'X') }}",
        "{{ m.content | trim('#') }}",
        "{{ m.content.strip('#') }}",
        "{% set c = m.content | trim %}{% if c == 'a' ~ 'b' %}!{% endif %}{{ c }}",
        "{% if m.content in 'a long text of many words' %}!{% endif %}{{ m.content }}",
        "{% if m.content in {'ab' ~ 'cd': 1} %}!{% endif %}{{ m.content }}",
        "{% if m.content in ['ab' ~ 'cd'] %}!{% endif %}{{ m.content }}",
        "{% if m.content is in(['ab' ~ 'cd']) %}!{% endif %}{{ m.content }}",
        "{% if m.content is upper %}!{% endif %}{{ m.content }}",
        "{% if 'z' < m.content %}!{% endif %}{{ m.content }}",
        "{% for c in m.content %}{{ c }}{% endfor %}",
        "{{ m.content }}{{ {'ab' ~ 'cd': '!'}[m.content] }}",
        "{{ m.content }}{{ messages | selectattr('content', 'equalto', 'ab' ~ 'cd') | list | length }}",
        "{{ m.content }}{{ (messages | tojson | length) > 20000 }}",
        "{{ m.content }}{{ (messages | map(attribute='content') | join | length) > 20000 }}",
        "{{ m.content }}{{ ('%s' % m.content) | length > 20000 }}",
        "{{ m.content }}{{ '{}'.format(m.content) | length > 20000 }}",
        "{{ m.content }}{{ ''.join([m.content]) | length > 20000 }}",
        "{{ m.content }}{{ 'ab'.startswith(m.content) }}",
        "{% macro part(c) %}{{ c }}{% endmacro %}{% if part(m.content) | length > 20000 %}!{% endif %}{{ m.content }}",
        "{% set part %}{{ m.content }}{% endset %}{% if part == 'a' ~ 'b' %}!{% endif %}{{ m.content }}",
        "{% filter replace('foo' ~ 'bar', 'X') %}{{ m.content }}{% endfilter %}",
        "{% set ns = namespace(c=m.content) %}{% if ns.c == 'a' ~ 'b' %}!{% endif %}{{ m.content }}",
        "{% if loop.changed(m.content) %}!{% endif %}{{ m.content }}",
        "{% autoescape true %}{{ m.content }}{% endautoescape %}",
        "{{ (m.content, 1) }}",
        "{{ m.content.upper }}{{ m.content }}",
        "{{ m.content }}{{ strftime_now('%Y') }}",
        "{{ m.content }}{{ [1, 2] | random }}",
        "{{ raise_exception('no') }}",
        "fixed",
        "{{ x.y.z }}",
    ],
)
def test_a_template_that_does_more_with_a_turn_is_left_out(content):
    assert turns_of(LOOP.replace("%s", content)) is None


@pytest.mark.parametrize(
    ("content", "trims"),
    [
        ("{{ m.content.strip() }}", True),
        ("{{ (m.content | trim) ~ '' }}", True),
        ("{{ m['content'] + '' }}", False),
        ("{{ m.get('content', '') }}", False),
        ("{% if m.content is string %}{{ m.content }}{% else %}{{ m.content | length }}{% endif %}", False),
        ("{% if m.content is not none and m.content is defined %}{{ m.content }}{% endif %}", False),
        ("{% if m.content %}{{ m.content | default('') | string }}{% endif %}", False),
        ("{% macro part(c) %}{{ c }}{% endmacro %}{{ part(m.content) | trim }}", True),
        ("{% set part %}{{ m.content }}{% endset %}{{ part.strip() }}", True),
        ("{% set ns = namespace(c='') %}{% set ns.c = ns.c ~ m.content %}{{ ns.c }}", False),
        ("{{ ([m] | map(attribute='content') | map('trim') | list)[0] }}", True),
        ("{% if m.role == 'assistant' %}{{ m.content.split('x')[0] }}{% else %}{{ m.content }}{% endif %}", False),
    ],
)
def test_a_template_that_only_puts_turns_together_is_found(content, trims):
    turns = turns_of(LOOP.replace("%s", content))
    assert (turns.before, turns.after, turns.trims) == ("[user]", "[assistant]", trims)
    assert turns.system is not None


def test_all_renderings_together_have_one_allowance(monkeypatch):
    taken = []
    spend = Allowance.spend
    monkeypatch.setattr(Allowance, "spend", lambda self, steps: (taken.append(steps), spend(self, steps))[1])
    names = "".join("{% if messages == 'name " + str(n) + "' %}{% endif %}" for n in range(140))
    assert turns_of(names + "{% for i in range(99999) %}{% endfor %}" + LOOP.replace("%s", "{{ m.content }}")) is None
    assert sum(taken) < 5 * MAX_STEPS
    taken.clear()
    long = "{{ 'fixed text of some length' }}" * 8000
    assert turns_of(long + LOOP.replace("%s", "{{ m.content }}")) is None
    assert sum(taken) < 5 * MAX_STEPS


def test_most_forms_take_a_small_part_of_the_allowance(monkeypatch):
    taken = []
    spend = Allowance.spend
    monkeypatch.setattr(Allowance, "spend", lambda self, steps: (taken.append(steps), spend(self, steps))[1])
    for form in FOUND:
        taken.clear()
        assert turns_of(FORMS[form]) == FOUND[form]
        assert sum(taken) < MAX_STEPS


def test_only_the_system_turn_is_left_out_where_only_it_is_special():
    template = LOOP.replace(
        "%s", "{% if m.role == 'system' %}{{ m.content | upper }}{% else %}{{ m.content }}{% endif %}"
    )
    turns = turns_of(template)
    assert (turns.before, turns.after, turns.system) == ("[user]", "[assistant]", None)
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + LOOP
    assert turns_of(refusing.replace("%s", "{{ m.content }}")).system is None
    dropping = "{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}"
    assert turns_of(dropping).system is None


def test_special_texts_are_named_as_when_a_chat_runs():
    template = "{{ bos_token }}{{ pad_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert turns_of(template, special_texts={"pad_token": "<pad>"}).before == "<s><pad>"


def test_without_a_template_there_is_nothing():
    assert chat_turns(TokenizerSpec(json_text="")) is None
    assert turns_of("{% for %}") is None
