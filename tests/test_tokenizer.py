import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, pre_tokenizers

from mobileloop.checkpoints.vocabulary import byte_level_tokenizer, scored_tokenizer
from mobileloop.errors import MobileloopError
from mobileloop.normal_form import OuterTokens
from mobileloop.spec.tokenizer import TokenizerSpec
from mobileloop.tokenizer import TextStream, Tokenizer

CHATML = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def byte_level_spec(**more):
    """All 256 bytes, two merges and two control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", *alphabet, "he", "llo", "ll"]
    merges = ["h e", "l l", "ll o"]
    types = [3, 3] + [1] * (len(tokens) - 2)
    text = byte_level_tokenizer(tokens, merges, types, "gpt-2")
    return TokenizerSpec(json_text=text, bos_id=0, eos_ids=(1,), bos_token="<s>", eos_token="</s>", **more)


@pytest.mark.parametrize("text", ["hello", "hello hello", "  two  spaces ", "línea\nñ", "日本語 🙂🙃", "", "a\tb"])
def test_round_trip(text):
    tokenizer = Tokenizer(byte_level_spec())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_apply():
    tokenizer = Tokenizer(byte_level_spec())
    ids = tokenizer.encode("hello")
    assert [tokenizer.raw.id_to_token(i) for i in ids] == ["he", "llo"]


def test_special_tokens():
    tokenizer = Tokenizer(byte_level_spec(add_bos=True))
    assert tokenizer.encode("a")[0] == 0
    assert tokenizer.encode("a", special=False)[0] != 0
    assert tokenizer.encode("<s>a")[:2] == [0, 0]  # as transformers and llama.cpp have it
    assert tokenizer.decode([0, *tokenizer.encode("a", special=False), 1]) == "a"
    assert tokenizer.is_end(1)
    assert not tokenizer.is_end(0)


@pytest.mark.parametrize("text", ["añ日🙂b", "🙂🙂", "plain"])
def test_streaming_holds_back_unfinished_characters(text):
    tokenizer = Tokenizer(byte_level_spec())
    stream = TextStream(tokenizer)
    ids = tokenizer.encode(text)
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)
    if text == "🙂🙂":
        assert len(ids) == 8
        assert pieces == ["", "", "", "🙂", "", "", "", "🙂"]


def test_chat_template():
    tokenizer = Tokenizer(byte_level_spec(chat_template=CHATML))
    ids = tokenizer.chat("hello")
    assert tokenizer.raw.decode(ids, skip_special_tokens=False) == "<s>user\nhello</s>\n<s>assistant\n"
    assert ids[0] == 0


def test_no_chat_template():
    with pytest.raises(MobileloopError, match="no chat template"):
        Tokenizer(byte_level_spec()).chat("hello")


HOSTILE = {
    "class walk": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "change messages": "{{ messages.append(1) }}",
    "huge range": "{% for i in range(10**9) %}x{% endfor %}",
    "division": "{{ 1 / 0 }}",
    "syntax": "{% for %}",
    "undefined call": "{{ nothing.at.all() }}",
    "type": "{{ messages + 1 }}",
    "include": "{% include '/etc/passwd' %}",
    "refusal": "{{ raise_exception('only for robots') }}",
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_templates_are_refused(name):
    tokenizer = Tokenizer(byte_level_spec(chat_template=HOSTILE[name]))
    with pytest.raises(MobileloopError, match="chat template failed"):
        tokenizer.chat("hello")


@pytest.mark.parametrize("template", ["{{ raise_exception.__globals__ }}", "{{ '{0.__class__}'.format(messages) }}"])
def test_private_attributes_print_as_nothing(template):
    assert Tokenizer(byte_level_spec(chat_template=template)).chat("hello") == []


def test_a_damaged_tokenizer():
    for text in ("", "{}", "[" * 50, json.dumps({"model": {"type": "Mystery"}})):
        with pytest.raises(MobileloopError, match="damaged"):
            Tokenizer(TokenizerSpec(json_text=text))


def sentencepiece_like(add_space=True):
    """<unk>, <s>, </s>, the 256 bytes, then pieces whose scores give the merge order."""
    pieces = ["▁", "a", "b", "c", "ab", "▁ab", "bc"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    scores = [0.0] * 259 + [-10.0, -10.0, -10.0, -10.0, -1.0, -2.0, -3.0]
    types = [2, 3, 3] + [6] * 256 + [1] * len(pieces)
    return tokens, scores, types, scored_tokenizer(tokens, scores, types, "<unk>", add_space)


def test_scores_give_the_merge_order():
    tokens, _, _, text = sentencepiece_like()
    tokenizer = Tokenizer(TokenizerSpec(json_text=text, bos_id=1, add_bos=True))
    assert [tokens[i] for i in tokenizer.encode("abc")] == ["<s>", "▁ab", "c"]  # ab before bc
    assert [tokens[i] for i in tokenizer.encode("ab ab", special=False)] == ["▁ab", "▁ab"]


@pytest.mark.parametrize("text", ["abc", "ab ab", "日a", "🙂", "a  b"])
@pytest.mark.parametrize("add_space", [True, False])
def test_scored_round_trip_with_byte_fallback(text, add_space):
    *_, json_text = sentencepiece_like(add_space)
    tokenizer = Tokenizer(TokenizerSpec(json_text=json_text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_pre_tokenizer():
    with pytest.raises(MobileloopError, match="pre-tokenizer 'mystery' is none of the"):
        byte_level_tokenizer(["a"], [], [1], "mystery")


OUTER = st.builds(
    AddedToken,
    st.text(" ab_<\u3000", min_size=1, max_size=3),
    single_word=st.booleans(),
    lstrip=st.booleans(),
    rstrip=st.booleans(),
)


@given(tokens=st.lists(OUTER, max_size=5, unique_by=lambda token: token.content), text=st.text(" ab_<\u3000\n"))
def test_outer_tokens_are_those_of_one_regular_expression(tokens, text):
    """Said plainly: an expression of all tokens, the longest first, which walks through the spaces from each place."""
    said = []
    for token in sorted(tokens, key=lambda token: len(token.content), reverse=True):
        word = ("(?<!\\w)", "(?!\\w)") if token.single_word else ("", "")
        left, right = ("\\s*" if strips else "" for strips in (token.lstrip, token.rstrip))
        said.append(f"{left}{word[0]}({re.escape(token.content)}){word[1]}{right}")
    slow = re.compile("|".join(said) or "(?!)")
    expected = [(match.start(), match.end(), match[match.lastindex]) for match in slow.finditer(text)]
    assert list(OuterTokens(tokens).found(text)) == expected
