"""The PyTorch reference: slow, obvious, float32, and the truth for every runtime.

One KV slot per application (docs/loop-operator.md): applying a block twice makes two sets of keys
and values, and a cached decode must read back the set of its own application.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.quant.schemes import QuantTensor
from mobileloop.reference.cache import KvCache
from mobileloop.reference.layers import rms_norm, rotate
from mobileloop.spec.capabilities import check_built
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.costs import TokenBytes
from mobileloop.spec.halting import Halting
from mobileloop.spec.schedule import Schedule, Stage


def float_tensors(checkpoint: Checkpoint) -> dict[str, NDArray[np.float32]]:
    """A checkpoint's own (dequantized) weights."""
    return {
        name: tensor.dequantize() if isinstance(tensor, QuantTensor) else tensor
        for name, tensor in checkpoint.tensors.items()
    }


class ReferenceModel:
    """A decoder of Llama blocks under a schedule."""

    def __init__(self, config: ModelConfig, schedule: Schedule, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Hold float32 tensors named as in `ModelConfig.tensor_shapes`.

        Raises:
            MobileloopError: where the schedule cannot run yet, or names a block the model lacks.
        """
        check_built(schedule)
        schedule.check_blocks(config.num_blocks)
        schedule.check_halting(None, config.exit_gate)
        self.config = config
        self.schedule = schedule
        self.tensors = {name: torch.from_numpy(np.array(t, dtype=np.float32)) for name, t in tensors.items()}

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, schedule: Schedule | None = None) -> ReferenceModel:
        """The reference of a checkpoint's own (dequantized) weights."""
        return cls(checkpoint.config, schedule or checkpoint.schedule, float_tensors(checkpoint))

    @property
    def token_bytes(self) -> TokenBytes:
        """What a decoded token moves with these float32 weights; quantized models have their own figures."""
        config = self.config
        block = 4 * sum(int(np.prod(shape)) for shape in config.block_tensors().values())
        head = 4 * (config.vocab_size + 1) * config.hidden_size
        return TokenBytes(config, self.schedule, [block] * config.num_blocks, head, 4 * config.hidden_size, 32)

    @torch.no_grad()
    def forward(
        self,
        tokens: Tensor,
        cache: KvCache | None = None,
        loops: int | None = None,
        trace: list[Tensor] | None = None,
        halting: Halting | None = None,
        applied: list[Tensor] | None = None,
        logits: bool = True,
    ) -> Tensor:
        """Logits of every token, without a graph for gradients.

        Args:
            tokens: [batch, tokens] int64.
            cache: continues from it, and updates it; None runs without a cache.
            loops: of the looped stages in this call; None is the schedule's own count. A later call may ask for more.
            trace: gets the hidden state [batch, tokens, hidden] after every application.
            halting: of the looped stages; None is each stage's own rule.
            applied: gets the loops [batch, tokens] int64 that each token ran, stage by stage.
            logits: whether they are wanted; a head's product of many tokens is large.

        Returns:
            [batch, tokens, vocab] float32, or without logits the head's inputs [batch, tokens, hidden].

        Raises:
            MobileloopError: where `loops` or `halting` is out of bounds.
        """
        return self.run(tokens, cache, loops, trace, halting, applied, logits)

    def run(
        self,
        tokens: Tensor,
        cache: KvCache | None = None,
        loops: int | None = None,
        trace: list[Tensor] | None = None,
        halting: Halting | None = None,
        applied: list[Tensor] | None = None,
        logits: bool = True,
    ) -> Tensor:
        """`forward` for whoever wants gradients."""
        self.schedule.check_loops(loops)
        self.schedule.check_halting(halting, self.config.exit_gate)
        cache = cache if cache is not None else KvCache()
        trace = trace if trace is not None else []
        hidden = self._look_up(tokens)
        for stage, base in zip(self.schedule.stages, self.schedule.slot_bases(), strict=True):
            rule = Halting() if not stage.looped else stage.halting if halting is None else halting
            hidden, ran = self._run_stage(stage, base, stage.loops_for(loops), rule, hidden, cache, trace)
            if applied is not None:
                applied.append(ran)
        cache.position += tokens.shape[1]
        if not self.schedule.stages[-1].loop_end_norm:
            hidden = rms_norm(hidden, self.tensors["final_norm"], self.config.rms_norm_eps)
        head = "embedding" if self.config.tie_embeddings else "head"
        return self._product(head, hidden, logits)

    def _look_up(self, tokens: Tensor) -> Tensor:
        """[batch, tokens] -> [batch, tokens, hidden]."""
        return F.embedding(tokens, self.tensors["embedding"])

    def _product(self, name: str, inputs: Tensor, wanted: bool = True) -> Tensor:
        """A matrix [rows, cols] times inputs [batch, tokens, cols] -> [batch, tokens, rows]; the inputs where unwanted.

        Every product goes through here, so a subclass can look at the inputs of a matrix and replace it in time.
        """
        return F.linear(inputs, self.tensors[name]) if wanted else inputs

    def _run_stage(
        self, stage: Stage, base: int, loops: int, rule: Halting, hidden: Tensor, cache: KvCache, trace: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """One stage: hidden [batch, tokens, hidden] -> the same shape, and the loops each token ran [batch, tokens].

        Whatever a token ran, all slots of the stage then hold keys and values of it: those of the loops that it did not
        run hold the ones of its last loop.
        """
        going = torch.ones(hidden.shape[:2], dtype=torch.bool)
        applied = torch.zeros(hidden.shape[:2], dtype=torch.int64)
        survival = torch.ones(hidden.shape[:2], dtype=torch.float64)
        made: list[tuple[Tensor, Tensor]] = [(Tensor(), Tensor())] * len(stage.blocks)  # by place, of the last loop
        for loop in range(stage.max_loops):
            going = going & (loop < loops)
            slots = range(base + loop * len(stage.blocks), base + (loop + 1) * len(stage.blocks))
            if not going.any():
                for slot, (key, value) in zip(slots, made, strict=True):
                    cache.append(slot, key, value)
                continue
            after = hidden
            for place, (slot, block) in enumerate(zip(slots, stage.blocks, strict=True)):
                after, made[place] = self._apply(block, slot, after, cache, going, made[place], stage.causal)
                trace.append(after)
            if stage.damping != 1.0:
                after = hidden + stage.damping * (after - hidden)
            if stage.loop_end_norm:
                after = rms_norm(after, self.tensors["final_norm"], self.config.rms_norm_eps)
            halted = self._halted(rule, hidden, after, survival)
            hidden = torch.where(going[..., None], after, hidden)
            applied += going
            going = going & ~(halted & (applied >= rule.min_loops))
        return hidden, applied

    def _halted(self, rule: Halting, before: Tensor, after: Tensor, survival: Tensor) -> Tensor:
        """Whether each token halts behind a loop, [batch, tokens] bool; a comparison with NaN is false."""
        before, after = before.double(), after.double()
        halted = torch.zeros(after.shape[:2], dtype=torch.bool)
        if rule.rule == "latent_difference":
            halted = (after - before).norm(dim=-1) / after.norm(dim=-1) < rule.threshold
        elif rule.rule == "cosine":
            cosine = (after * before).sum(-1) / (after.norm(dim=-1) * before.norm(dim=-1))
            halted = 1 - cosine < rule.threshold
        elif rule.rule == "exit_gate":
            logit = after @ self.tensors["exit_gate.weight"].double() + self.tensors["exit_gate.bias"].double()
            survival *= 1 - logit.sigmoid()
            halted = 1 - survival >= rule.threshold
        return halted

    def _rotary(self, position: int, tokens: int) -> tuple[Tensor, Tensor]:
        half = torch.arange(0, self.config.head_dim, 2, dtype=torch.int64).float()
        inverse = 1.0 / (self.config.rope_theta ** (half / self.config.head_dim))
        angles = torch.arange(position, position + tokens).float()[:, None] * inverse[None, :]
        return angles.cos(), angles.sin()

    def _apply(
        self,
        block: int,
        slot: int,
        x: Tensor,
        cache: KvCache,
        going: Tensor,
        last: tuple[Tensor, Tensor],
        causal: bool = True,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One application of one block: x [batch, tokens, hidden] -> the same shape, and its new keys and values.

        Tokens that halted keep the keys and values `last` of their last loop; what x becomes there means nothing.
        """
        config = self.config

        def weight(name: str) -> Tensor:
            return self.tensors[f"blocks.{block}.{name}"]

        def product(name: str, inputs: Tensor) -> Tensor:
            return self._product(f"blocks.{block}.{name}", inputs)

        batch, tokens, _ = x.shape
        normed = rms_norm(x, weight("input_layernorm"), config.rms_norm_eps)
        cos, sin = self._rotary(cache.position, tokens)

        def heads(name: str, count: int) -> Tensor:
            return product(name, normed).view(batch, tokens, count, config.head_dim).transpose(1, 2)

        query = rotate(heads("q_proj", config.num_heads), cos, sin, config.rope_pairing)
        key = rotate(heads("k_proj", config.num_kv_heads), cos, sin, config.rope_pairing)
        value = heads("v_proj", config.num_kv_heads)
        if not going.all():
            row = going[:, None, :, None]
            key, value = torch.where(row, key, last[0]), torch.where(row, value, last[1])
        made = key, value
        key, value = cache.append(slot, key, value)
        groups = config.num_heads // config.num_kv_heads
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = query @ key.transpose(2, 3) / float(np.sqrt(config.head_dim))
        if causal:
            past = key.shape[2] - tokens
            hidden_future = torch.ones(tokens, key.shape[2], dtype=torch.bool).triu(past + 1)
            scores = scores.masked_fill(hidden_future, float("-inf"))
        attended = scores.softmax(-1) @ value
        x = x + product("o_proj", attended.transpose(1, 2).reshape(batch, tokens, -1))
        normed = rms_norm(x, weight("post_attention_layernorm"), config.rms_norm_eps)
        gated = F.silu(product("gate_proj", normed)) * product("up_proj", normed)
        return x + product("down_proj", gated), made
