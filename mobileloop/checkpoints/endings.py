"""Which tokens end a turn: one rule for every container (docs/checkpoints.md, "What ends a turn")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mobileloop.errors import MobileloopError, printable

# Texts that end a turn or a document in the vocabularies of published models. A GGUF file often names only one of them,
# so each that is a control token of the vocabulary counts.
KNOWN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|eot|>",
    "<|return|>",
    "<|call|>",
    "<|EOT|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<eos>",
    "</s>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
    "<|end_of_sentence|>",
    "<|endofturn|>",
    "<|END_OF_TURN_TOKEN|>",
)


def said_ids(value: object) -> tuple[int, ...]:
    """The ids that a field says: a number or a list of them; null, -1 and GGUF's highest number say nothing."""
    values = value if isinstance(value, (list, tuple)) else [value]
    whole = (int(one) for one in values if isinstance(one, int) and not isinstance(one, bool))
    return tuple(one for one in whole if one >= 0 and one != 0xFFFFFFFF)


def _check_said(where: str, value: object) -> None:
    """Raise MobileloopError where a field that names end tokens holds anything else: an answer would never stop."""
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if one is not None and (not isinstance(one, int) or one < -1):
            raise MobileloopError(
                f"{where} names the end token {printable(repr(one))} (eos_token_id), but a token's number was "
                "expected; correct the file."
            )


def end_ids(
    said: Mapping[str, object], texts: Mapping[str, int | None], size: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The union of the ids that end a turn, and notes.

    Args:
        said: where it stands -> an id, a list of ids, or what says nothing.
        texts: the text of a token -> its id in the vocabulary, None where it has none.
        size: tokens of the embedding; an id beyond it can never be generated.
    """
    for where, value in said.items():
        _check_said(where, value)
    ids = {one: where for where, value in said.items() for one in said_ids(value)}
    ids.update({one: text for text, one in texts.items() if one is not None})
    notes = [f"the end token {text!r} is not in the vocabulary" for text, one in texts.items() if one is None]
    notes += [f"{ids[one]} names the end token {one}, beyond the {size} of the model" for one in ids if one >= size]
    kept = tuple(sorted(one for one in ids if one < size))
    if not kept:
        notes.append("nothing says which token ends an answer: it runs to --max-tokens")
    return kept, tuple(notes)


def known_ends(tokens: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The control tokens (text, id) whose text is known to end a turn."""
    return {text: one for text, one in tokens if text in KNOWN_ENDS}
