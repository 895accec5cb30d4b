"""Whether runtimes that were measured together say the same: greedy continuations of one prompt."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, NonNegativeInt


class Continuation(BaseModel):
    """What one runtime said.

    Attributes:
        runtime: who.
        artifact: the file that ran.
        repetition: how often its blocks were applied, in words.
        tokens: that it added to the prompt.
        same: how many of them, from the start, are those of the reference that applied its blocks in the same way.
        error: why there are none.
    """

    model_config = ConfigDict(extra="allow")

    runtime: str
    artifact: str = ""
    repetition: str
    tokens: list[NonNegativeInt] = []
    same: NonNegativeInt = 0
    text: str = ""
    error: str | None = None


class Agreement(BaseModel):
    """All that were measured, beside a reference.

    Attributes:
        prompt: the text that all of them continue.
        reference: who made the tokens that the others are compared with.
    """

    model_config = ConfigDict(extra="allow")

    prompt: str
    reference: str
    continuations: list[Continuation] = []


def same_start(tokens: Sequence[int], reference: Sequence[int]) -> int:
    """How many tokens at the start are equal."""
    count = 0
    for one, other in zip(tokens, reference, strict=False):
        if one != other:
            break
        count += 1
    return count
