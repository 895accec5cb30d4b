"""A tokenizer's JSON that would end the whole process is a sentence."""

import json

import pytest
from vocabularies import all_kinds

from mobileloop.errors import MobileloopError
from mobileloop.json_tokenizer import open_tokenizer
from mobileloop.spec.tokenizer import TokenizerSpec
from mobileloop.tokenizer import Tokenizer


def merging(prefix, merges, tokens=("a", "b", "ab", "##b", "éb", "日本")):
    data = json.loads(all_kinds()["no decoder"].to_str())
    data["model"] |= {
        "vocab": {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *tokens])},
        "merges": merges,
        "continuing_subword_prefix": prefix,
    }
    data["added_tokens"] = []
    return data


@pytest.mark.parametrize("prefix", ["é", "日", "🙂", "##"])
@pytest.mark.parametrize("merges", [[["a", "b"]], ["a b"], [["a", "日本"]], [["a"]], [[1, 2]], ["a"]])
def test_merges_without_their_prefix_are_refused(prefix, merges):
    with pytest.raises(MobileloopError, match="tokenizer in the artifact is damaged") as refusal:
        Tokenizer(TokenizerSpec(json_text=json.dumps(merging(prefix, merges), ensure_ascii=False)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("hidden", ["continuing\\u005fsubword_prefix", "\\u0063ontinuing_subword_prefix"])
def test_no_spelling_of_the_key_gets_past(hidden):
    text = json.dumps(merging("é", [["a", "b"]])).replace("continuing_subword_prefix", hidden)
    with pytest.raises(MobileloopError, match="lacks the prefix"):
        Tokenizer(TokenizerSpec(json_text=text))


@pytest.mark.parametrize(
    ("prefix", "merges"), [("##", [["a", "##b"]]), ("é", [["a", "éb"]]), ("", [["a", "b"]]), (None, [])]
)
def test_prefixes_that_fit_are_read(prefix, merges):
    raw = open_tokenizer(json.dumps(merging(prefix, merges)))
    assert raw.token_to_id("ab") == 5


def test_a_lone_surrogate_is_a_sentence():
    with pytest.raises(MobileloopError, match="damaged"):
        Tokenizer(TokenizerSpec.model_construct(json_text="{\ud800}", sentencepiece=None))
