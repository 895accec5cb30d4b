"""The pre-tokenizers that GGUF files name: how llama.cpp cuts a text into words before the merges of byte-level BPE.

Each is a list of regular expressions; every one cuts what the ones before it left, and what it does not match stays a
word of its own. The names and what each brings with it are those of llama.cpp's `llama-vocab.cpp` (July 2026).
"""

from __future__ import annotations

from tokenizers import Regex, pre_tokenizers

from mobileloop.errors import MobileloopError, printable

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_MARKS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_MARKS}|{_SPACES}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Words of capitals, then of small letters (GPT-4o, Mistral's Tekken).
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_CASED_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_CASED_MARKS}|{_SPACES}"
_GPT4O = rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_CASED_MARKS}|{_SPACES}"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
)

_LLAMA3_NAMES = "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"
_TABLE: dict[tuple[str, ...], str] = {
    (_LLAMA3,): _LLAMA3_NAMES + " dbrx smaug-bpe chatglm-bpe glm4",
    (_QWEN2,): "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
    (_TEKKEN,): "tekken",
    (_GPT4O,): "gpt-4o llama4 kanana2 talkie minimax-m2",
    _DEEPSEEK3: "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
}
# What the `tokenizers` library has a part of its own for.
_GPT2_NAMES = (
    "gpt-2 default phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert exaone4 mpt olmo "
    "jais trillion granite-docling"
)
_DIGIT_NAMES = "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2 default-digits"

_EXPRESSIONS = {name: expressions for expressions, names in _TABLE.items() for name in names.split()}
_GPT2_KINDS, _DIGIT_KINDS = frozenset(_GPT2_NAMES.split()), frozenset(_DIGIT_NAMES.split())
# A word that is a token as a whole is taken without merges.
_IGNORES_MERGES = _ADDS_BOS = frozenset((*_LLAMA3_NAMES.split(), "tekken"))


def supported_names() -> list[str]:
    """The names that `pre_tokenizer` knows."""
    return sorted({*_EXPRESSIONS, *_GPT2_KINDS, *_DIGIT_KINDS})


def pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of a name.

    Raises:
        MobileloopError: where the name is not known.
    """
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _GPT2_KINDS:
        return byte_level
    if name in _DIGIT_KINDS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if name not in _EXPRESSIONS:
        raise MobileloopError(
            f"the GGUF file's pre-tokenizer '{printable(name)}' is none of the {len(supported_names())} that are "
            "supported; take the model's Hugging Face folder."
        )
    splits = [pre_tokenizers.Split(Regex(expression), behavior="isolated") for expression in _EXPRESSIONS[name]]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def ignores_merges(name: str) -> bool:
    """Whether a word that is a token as a whole is that token, whatever the merges say."""
    return name in _IGNORES_MERGES


def pre_tokenizer_adds_bos(name: str) -> bool:
    """Whether a begin token is put where a file of this pre-tokenizer does not say: Llama 3's kinds, and Tekken."""
    return name in _ADDS_BOS
