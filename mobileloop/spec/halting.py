"""Rules by which a token stops looping."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mobileloop.errors import MobileloopError, validated

MAX_LOOPS = 1024


RUNNABLE_RULES = ("none", "latent_difference", "cosine", "exit_gate")


class Halting(BaseModel):
    """When a token stops before its loop count, decided on its state s_t behind loop t (s_0 entered the stage).

    Attributes:
        rule: `none` runs every loop; `latent_difference` stops where |s_t - s_(t-1)| / |s_t| < threshold, and `cosine`
            where 1 - cos(s_t, s_(t-1)) < threshold (the two of Huginn, arXiv 2502.05171, that need no head; its
            defaults are 0.03 and 0.001); `exit_gate` stops where 1 - prod(1 - sigmoid(w . s_i + b), i <= t) reaches
            the threshold (Ouro, arXiv 2510.25741), s being normed at every loop end. `halt_logit` and `router` run
            nowhere yet.
        threshold: what the rule compares with. What is not a number, as the cosine with a zero state, stops nothing.
        min_loops: no token stops before these.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["none", "latent_difference", "cosine", "exit_gate", "halt_logit", "router"] = "none"
    threshold: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    min_loops: int = Field(default=1, ge=1, le=MAX_LOOPS)

    @model_validator(mode="after")
    def _threshold_fits(self) -> Halting:
        if self.rule == "exit_gate" and not 0 < self.threshold <= 1:
            raise ValueError(f"the exit gate's threshold {self.threshold:g} is outside (0, 1]")
        return self

    @classmethod
    def parse(cls, text: str) -> Halting:
        """Read `none`, `RULE:THRESHOLD` or `RULE:THRESHOLD:MIN_LOOPS`.

        Raises:
            MobileloopError: where `text` is none of these, or names a rule that does not run yet.
        """
        if text == "none":
            return cls()
        rule, *numbers = text.split(":")
        forms = {name: f"{name}:THRESHOLD[:MIN_LOOPS]" for name in RUNNABLE_RULES if name != "none"}
        if rule not in forms:
            raise MobileloopError(f"the halting rule '{text}' is not known; write none, {', '.join(forms.values())}.")
        if not 1 <= len(numbers) <= 2:
            found = "too many parts" if numbers else "no threshold"
            raise MobileloopError(f"the halting rule '{text}' has {found}; write {forms[rule]}.")
        fields: dict[str, object] = {"rule": rule}
        fields.update(zip(("threshold", "min_loops"), numbers, strict=False))
        return validated(cls, fields, f"the halting rule '{text}'")
