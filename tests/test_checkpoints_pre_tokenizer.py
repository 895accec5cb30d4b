"""The pre-tokenizers that GGUF files name, by examples of what tells them apart."""

import pytest

from mobileloop.checkpoints.pre_tokenizer import ignores_merges, pre_tokenizer, pre_tokenizer_adds_bos, supported_names
from mobileloop.errors import MobileloopError


def words(name, text):
    return [text[begin:end] for _, (begin, end) in pre_tokenizer(name).pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("gpt-2", "it's 1234 a\n\n b", ["it", "'s", " 1234", " a", "\n\n", " b"]),
        ("gpt-2", "IT'S", ["IT", "'", "S"]),
        ("smollm", "a 12b", ["a", " ", "1", "2", "b"]),
        ("starcoder", "x=10", ["x", "=", "1", "0"]),
        ("llama-bpe", "IT'S 12345!\n", ["IT", "'S", " ", "123", "45", "!\n"]),
        ("llama-bpe", "x=(y)", ["x", "=(", "y", ")"]),
        ("llama3", "a  b", ["a", " ", " b"]),
        ("dbrx", "2024", ["202", "4"]),
        ("qwen2", "2024 été", ["2", "0", "2", "4", " été"]),
        ("deepseek-r1-qwen", "a1", ["a", "1"]),
        ("tekken", "helloWorld 42", ["hello", "World", " ", "4", "2"]),
        ("gpt-4o", "helloWORLD'll 1234", ["hello", "WORLD'll", " ", "123", "4"]),
        ("deepseek-v3", "日本 12345 x", ["日本", " ", "123", "45", " x"]),
    ],
)
def test_words(name, text, expected):
    assert words(name, text) == expected


@pytest.mark.parametrize("name", supported_names())
def test_every_name_keeps_the_whole_text(name):
    text = "It's 3.14 o'clock,  naïve\n\n日本 🙂\t'LL x=10;\r\n  end "
    assert "".join(words(name, text)) == text


def test_the_llama_3_kinds_put_a_begin_token_and_take_whole_words():
    for name in ("llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2", "tekken"):
        assert pre_tokenizer_adds_bos(name)
        assert ignores_merges(name)
    for name in ("gpt-2", "smollm", "qwen2", "dbrx", "gpt-4o", "default", "unheard of"):
        assert not pre_tokenizer_adds_bos(name)
        assert not ignores_merges(name)


@pytest.mark.parametrize("name", ["mystery", "", "LLAMA3", "kimi-k2", "a\nb"])
def test_an_unknown_name_is_refused_with_the_list(name):
    with pytest.raises(
        MobileloopError, match=r"is not supported; supported are .*gpt-2, .*llama-bpe, .*qwen2"
    ) as refusal:
        pre_tokenizer(name)
    assert "\n" not in str(refusal.value)
