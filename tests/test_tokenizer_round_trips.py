"""Ids and texts equal transformers', through a whole checkpoint folder, for each class of tokenizer."""

import json
from functools import cache

import pytest
import sentencepiece
import sentencepiece_models
from builders import TINY, write_folder
from chat_forms import FORMS
from nasty_texts import nasty, random_texts
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mobileloop.checkpoints import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.tokenizer import TextStream
from mobileloop.tokenizer import Tokenizer as Ours

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>"]


@cache
def texts(seed=11, count=10_000):
    return [*nasty(), *random_texts(count, seed)]


def trained(model, trainer, normalizer=None, pre_tokenizer=None, decoder=None, around=False):
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(sentencepiece_models.corpus(), trainer)
    tokenizer.add_tokens([AddedToken("<|user|>", normalized=False), AddedToken(" maybe", normalized=True, lstrip=True)])
    if around:
        ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return tokenizer


def byte_level(split=None, prefix=False, normalizer=None):
    pieces = [pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=split is None)]
    if split is not None:
        pieces.insert(0, pre_tokenizers.Split(Regex(split), behavior="isolated"))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    sequence = pre_tokenizers.Sequence(pieces)
    return trained(models.BPE(), trainer, normalizer, sequence, decoders.ByteLevel(), around=prefix)


def spm_bpe(prepend):
    """Llama's shape: bytes for what has no piece."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=2400, special_tokens=[*SPECIAL, *bytes_], show_progress=False)
    front = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")] if prepend else [normalizers.Replace(" ", "▁")]
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prepend else steps)
    model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = trained(model, trainer, normalizers.Sequence(front), None, decoder, around=True)
    data = json.loads(tokenizer.to_str())  # the trainer leaves the bytes as special tokens, which no Llama has
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] not in bytes_]
    return Tokenizer.from_str(json.dumps(data))


def unigram(rules):
    trainer = trainers.UnigramTrainer(vocab_size=900, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    front = normalizers.Sequence(
        [*([normalizers.Nmt(), normalizers.NFKC()] if rules else []), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    space = pre_tokenizers.Metaspace(prepend_scheme="always" if rules else "first")
    return trained(models.Unigram(), trainer, front, space, decoders.Metaspace(), around=rules)


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLASSES = {
    "byte-level BPE": byte_level,
    "byte-level BPE, Llama 3's words": lambda: byte_level(LLAMA3),
    "byte-level BPE, a space in front, NFC": lambda: byte_level(prefix=True, normalizer=normalizers.NFC()),
    "SentencePiece BPE": lambda: spm_bpe(True),
    "SentencePiece BPE without a space in front": lambda: spm_bpe(False),
    "Unigram": lambda: unigram(True),
    "Unigram, first space only": lambda: unigram(False),
}


def both(folder, settings):
    """Our tokenizer of a folder, and transformers'."""
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[dev]'")
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return Ours(load_checkpoint(str(folder)).tokenizer), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def folder(tmp_path):
    config = TINY.model_copy(update={"vocab_size": 4000})
    return write_folder(tmp_path / "model", random_model(config))


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_ids_and_texts_equal_transformers(folder, name):
    tokenizer = CLASSES[name]()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9, pad_id=1, pad_token="<s>")
    tokenizer.save(str(folder / "tokenizer.json"))
    ours, theirs = both(folder, {"tokenizer_class": "PreTrainedTokenizerFast"})
    every = texts()
    right = theirs(every, truncation=False, padding=False).input_ids
    bare = theirs(every, truncation=False, padding=False, add_special_tokens=False).input_ids
    for text, ids, inner in zip(every, right, bare, strict=True):
        assert ours.encode(text) == ids, text
        assert ours.encode(text, special=False) == inner, text
        whole = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids) == whole, text


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_prompt_and_the_streamed_text_are_the_text_of_all_ids(folder, name):
    CLASSES[name]().save(str(folder / "tokenizer.json"))
    ours, theirs = both(folder, {"tokenizer_class": "PreTrainedTokenizerFast"})
    for number, text in enumerate(texts()[:2500]):
        ids = ours.encode(text, special=False)
        cut = number % (len(ids) + 1)
        stream = TextStream(ours, ids[:cut])
        answer = "".join([*map(stream.push, ids[cut:]), stream.flush()])
        whole = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert answer == whole[len(ours.decode(ids[:cut])) :], (text, cut)


@pytest.mark.parametrize("legacy", [None, False, True])
def test_a_folder_with_tokenizer_model_alone_equals_transformers(folder, legacy):
    """Where a text or a part behind a token begins with a space transformers leaves out SentencePiece's own one."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_models.trained("Llama"))
    size = 2000
    entries = {0: "<unk>", 1: "<s>", 2: "</s>", size: "<|im_start|>", size + 1: "<|im_end|>"}
    flags = {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    settings["added_tokens_decoder"] = {str(n): {"content": text, **flags} for n, text in entries.items()}
    ours, theirs = both(folder, settings if legacy is None else {**settings, "legacy": legacy})
    compared = 0
    for text in texts(12, 10_000):
        chat = f"<|im_start|>{text}<|im_end|>x"
        if not text.startswith((" ", "▁")) and not any(f"{t}{s}" in text for t in entries.values() for s in " ▁"):
            assert ours.encode(text) == theirs(text).input_ids, text
            right = theirs(chat, add_special_tokens=False).input_ids
            assert ours.encode(chat, special=False) == right, chat
            compared += 1
    assert compared > 9000


def test_a_folder_may_ask_for_no_space_before_texts(folder):
    (folder / "tokenizer.model").write_bytes(sentencepiece_models.trained("Llama"))
    ours, theirs = both(folder, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_prefix_space": False})
    assert ours.encode("a") != both(folder, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True})[0].encode("a")
    for text in texts(13, 1000):
        if not text.startswith((" ", "▁")) and not any(
            f"{t}{s}" in text for t in ("<unk>", "<s>", "</s>") for s in " ▁"
        ):
            assert ours.encode(text) == theirs(text).input_ids, text


def test_chats_are_the_ids_of_apply_chat_template(folder):
    byte_level().save(str(folder / "tokenizer.json"))
    named = {"pad_token": "</s>", "sep_token": "<|im_start|>", "image_token": "<|user|>"}
    ours, theirs = both(folder, {"tokenizer_class": "PreTrainedTokenizerFast", **named})
    show = "{{ pad_token }}{{ sep_token }}{{ image_token }}{{ cls_token is defined }}{{ mask_token }}{{ unk_token }}"
    for form in [*(form for form in FORMS.values() if "strftime_now" not in form), show]:
        ours.spec = ours.spec.model_copy(update={"chat_template": form})
        for system in (None, "Be brief."):
            turns = [{"role": "system", "content": system}] if system else []
            turns.append({"role": "user", "content": "It's 3 < 5 & né <|im_start|> "})
            right = theirs.apply_chat_template(turns, chat_template=form, add_generation_prompt=True).input_ids
            if system and not takes_system(theirs, form, turns[-1]):
                with pytest.raises(MobileloopError, match="run it without --system"):
                    ours.chat(turns[-1]["content"], system)
            else:
                assert ours.chat(turns[-1]["content"], system) == right, form


def takes_system(theirs, form, user):
    """Whether transformers' text depends on what the system turn says."""

    def text(content):
        turns = [{"role": "system", "content": content}, user]
        return theirs.apply_chat_template(turns, chat_template=form, tokenize=False, add_generation_prompt=True)

    return text("Be brief.") != text("No haste.")


@pytest.mark.parametrize("kind", ["Llama", "defaults", "user-defined and rules", "unigram"])
@pytest.mark.parametrize("add_eos", [False, True])
def test_a_folder_puts_begin_and_end_around_sentencepiece(folder, kind, add_eos):
    data = sentencepiece_models.trained(kind)
    (folder / "tokenizer.model").write_bytes(data)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_eos_token": add_eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, theirs = Ours(load_checkpoint(str(folder)).tokenizer), sentencepiece.SentencePieceProcessor(model_proto=data)
    for text in ("the cat", " a  b ", "日本 🙂", ""):
        inner = theirs.encode(text)
        assert ours.encode(text, special=False) == inner
        assert ours.encode(text) == [theirs.bos_id(), *inner, *([theirs.eos_id()] if add_eos else [])]
        assert ours.decode(inner) == theirs.decode(inner)
