"""What templates put around turns, found by rendering: right for any text, or not written at all."""

import pytest
from chat_forms import FORMS
from hypothesis import given
from hypothesis import strategies as st
from nasty_texts import nasty

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
        "{{ m.content }}{{ strftime_now('%Y') }}",
        "{{ m.content }}{{ [1, 2] | random }}",
        "{{ raise_exception('no') }}",
        "fixed",
        "{{ x.y.z }}",
    ],
)
def test_a_template_that_does_more_with_a_turn_is_left_out(content):
    assert turns_of(LOOP.replace("%s", content)) is None


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
