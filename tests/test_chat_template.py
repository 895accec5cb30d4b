"""Our renderer of chat templates against transformers' own, and what a hostile template may not do."""

import datetime as real
import time

import pytest
from chat_forms import CONVERSATIONS, FORMS, HUGE, REFUSING
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobileloop.chat import template as our_module
from mobileloop.chat.template import ChatTemplate
from mobileloop.errors import MobileloopError

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


class Noon(real.datetime):
    """The same moment in both renderers."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 9, 12, 34, 56)


@pytest.fixture
def theirs(monkeypatch):
    module = pytest.importorskip("transformers.utils.chat_template_utils", reason="pip install -e '.[dev]'")
    monkeypatch.setattr(module, "datetime", Noon)
    monkeypatch.setattr(our_module, "datetime", Noon)

    def render(template, messages, tools=None, documents=None, add_generation_prompt=True):
        texts, _ = module.render_jinja_template(
            [messages], tools, documents, template, add_generation_prompt=add_generation_prompt, **SPECIAL
        )
        return texts[0]

    return render


def ours(template, **conversation):
    return ChatTemplate(template, SPECIAL).render(**conversation)


def test_there_are_enough_forms():
    assert len(FORMS) >= 60
    assert len(REFUSING) >= 25


@pytest.mark.parametrize("conversation", sorted(CONVERSATIONS))
@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_form_renders_as_in_transformers(form, conversation, theirs):
    given_ = CONVERSATIONS[conversation]
    try:
        right = theirs(FORMS[form], **given_)
    except Exception:
        with pytest.raises(MobileloopError, match="chat template failed"):
            ours(FORMS[form], **given_)
    else:
        assert ours(FORMS[form], **given_) == right


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_renders_the_plain_conversation(form, theirs):
    assert isinstance(theirs(FORMS[form], **CONVERSATIONS["one turn"]), str)


@pytest.mark.parametrize("conversation", ["one turn", "system", "system and three turns"])
@pytest.mark.parametrize("form", sorted(REFUSING))
def test_what_transformers_refuses_is_a_sentence(form, conversation, theirs):
    given_ = CONVERSATIONS[conversation]
    try:
        right = theirs(REFUSING[form], **given_)
    except Exception:
        with pytest.raises(
            MobileloopError, match=r"^the artifact's chat template failed \(.+\); run it with --no-chat\.$"
        ):
            ours(REFUSING[form], **given_)
    else:
        assert ours(REFUSING[form], **given_) == right


@pytest.mark.parametrize("form", sorted(REFUSING))
def test_every_refusing_form_refuses_something(form):
    refused = 0
    for name in ("one turn", "system", "system and three turns"):
        try:
            ours(REFUSING[form], **CONVERSATIONS[name])
        except MobileloopError:
            refused += 1
    assert refused > 0


# -- bounds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(HUGE))
def test_a_template_can_make_nothing_huge_and_not_run_for_long(name):
    begin = time.process_time()
    with pytest.raises(MobileloopError, match="chat template failed"):
        ours(HUGE[name], messages=[{"role": "user", "content": "hello"}])
    assert time.process_time() - begin < 60  # endless is what this tells from bounded; no figure of speed


def test_a_template_that_is_a_book_is_refused():
    with pytest.raises(MobileloopError, match="characters, and 262144 are allowed"):
        ChatTemplate("x" * 300_000, SPECIAL)


def test_a_long_conversation_has_a_larger_allowance():
    long = "word " * 400_000
    text = ours(FORMS["chatml, tildes"], messages=[{"role": "user", "content": long}])
    assert long in text


# -- the system turn -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "takes"),
    [
        ("chatml, subscripts", True),
        ("chatml, attributes", True),
        ("llama 3 shape", True),
        ("gemma 3 shape, system in front of the first turn", True),
        ("mistral shape", True),
        ("the system turn only", True),
        ("no system turn", False),
        ("comments and raw", False),
    ],
)
def test_a_system_turn_is_found_by_rendering(form, takes):
    assert ChatTemplate(FORMS[form], SPECIAL).takes_system("hello") is takes


@pytest.mark.parametrize("change", ["upper", "title", "capitalize", "trim", "tojson", "urlencode", "e", "reverse"])
def test_a_system_turn_that_the_template_changes_is_found(change):
    template = "{% for m in messages %}{{ m.content|" + change + " }}{% endfor %}"
    assert ChatTemplate(template, SPECIAL).takes_system("hello")


def test_a_system_turn_whose_text_is_dropped_is_none():
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}[system]{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    assert not ChatTemplate(template, SPECIAL).takes_system("hello")


# -- fuzzing ---------------------------------------------------------------------------------------------

WORDS = (
    "{{ }} {% %} {# #} - for in if endif endfor messages x [0] .role | tojson join ( ) 'a' 3 * % ~ == set é : , "
    "generation endgeneration"
)
SYNTAX = st.sampled_from([*WORDS.split(), "\n", " "])


def shaken(source, draw):
    """A form with some characters removed, doubled or replaced."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(source) - 1, 0)))
        new = draw(st.one_of(SYNTAX, st.just(""), st.characters(codec="utf-8")))
        source = source[:at] + new + source[at + draw(st.integers(0, 6)) :]
    return source


def render_or_sentence(source):
    try:
        assert isinstance(ours(source, messages=CONVERSATIONS["system"]["messages"]), str)
    except MobileloopError as error:
        told = str(error)
    else:
        told = "the artifact's chat template failed ("
    assert told.startswith("the artifact's chat template failed (")
    assert "\n" not in told


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_template_renders_or_is_refused_with_a_sentence(data):
    source = data.draw(st.sampled_from(sorted(FORMS.values()) + sorted(REFUSING.values())))
    render_or_sentence(shaken(source, data.draw))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(SYNTAX, max_size=30).map("".join))
def test_any_syntax_renders_or_is_refused_with_a_sentence(source):
    render_or_sentence(source)
