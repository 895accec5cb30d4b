"""The PyTorch reference: slow, obvious, float32, and the truth for every runtime.

One KV slot per application (docs/loop-operator.md): applying a block twice makes two sets of keys
and values, and a cached decode must read back the set of its own application.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mobileloop.config import ModelConfig
from mobileloop.costs import TokenBytes
from mobileloop.model import Checkpoint
from mobileloop.quant.schemes import QuantTensor
from mobileloop.schedule import Application, Schedule


@dataclass
class KvCache:
    """Keys and values by slot, each [batch, kv_heads, tokens, head_dim] float32; grows by concatenation."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    position: int = 0

    def append(self, slot: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add new tokens to a slot and return all of its keys and values."""
        if slot in self.keys:
            key = torch.cat([self.keys[slot], key], dim=2)
            value = torch.cat([self.values[slot], value], dim=2)
        self.keys[slot], self.values[slot] = key, value
        return key, value


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * scale


def rotate(x: Tensor, cos: Tensor, sin: Tensor, pairing: str) -> Tensor:
    """Rotary embedding of x [batch, heads, tokens, head_dim] by cos and sin [tokens, head_dim / 2].

    `half` pairs dimension i with i + head_dim / 2 (Hugging Face Llama); `interleaved` pairs 2i with 2i + 1.
    """
    if pairing == "half":
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)


class ReferenceModel:
    """A decoder of Llama blocks under a schedule."""

    def __init__(self, config: ModelConfig, schedule: Schedule, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Hold float32 tensors named as in `ModelConfig.tensor_shapes`.

        Raises:
            MobileloopError: where the schedule cannot run yet, or names a block the model lacks.
        """
        schedule.check_runnable()
        schedule.check_blocks(config.num_blocks)
        self.config = config
        self.schedule = schedule
        self.tensors = {name: torch.from_numpy(np.array(t, dtype=np.float32)) for name, t in tensors.items()}

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, schedule: Schedule | None = None) -> ReferenceModel:
        """The reference of a checkpoint's own (dequantized) weights."""
        floats = {
            name: tensor.dequantize() if isinstance(tensor, QuantTensor) else tensor
            for name, tensor in checkpoint.tensors.items()
        }
        return cls(checkpoint.config, schedule or checkpoint.schedule, floats)

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
    ) -> Tensor:
        """Logits of every token.

        Args:
            tokens: [batch, tokens] int64.
            cache: continues from it, and updates it; None runs without a cache.
            loops: of the looped stages; None is the schedule's own count.
            trace: gets the hidden state [batch, tokens, hidden] after every application.

        Returns:
            [batch, tokens, vocab] float32.

        Raises:
            MobileloopError: where `loops` is out of bounds.
        """
        self.schedule.check_loops(loops)
        cache = cache if cache is not None else KvCache()
        cos, sin = self._rotary(cache.position, tokens.shape[1])
        hidden = F.embedding(tokens, self.tensors["embedding"])
        slots = iter(self.schedule.applications(loops))
        for stage in self.schedule.stages:
            for _ in range(stage.loops_for(loops)):
                entered = hidden
                for _ in stage.blocks:
                    hidden = self._apply(next(slots), hidden, cos, sin, cache, stage.causal)
                    if trace is not None:
                        trace.append(hidden)
                if stage.damping != 1.0:
                    hidden = entered + stage.damping * (hidden - entered)
                if stage.loop_end_norm:
                    hidden = rms_norm(hidden, self.tensors["final_norm"], self.config.rms_norm_eps)
        cache.position += tokens.shape[1]
        if not self.schedule.stages[-1].loop_end_norm:
            hidden = rms_norm(hidden, self.tensors["final_norm"], self.config.rms_norm_eps)
        head = self.tensors["embedding" if self.config.tie_embeddings else "head"]
        return F.linear(hidden, head)

    def _rotary(self, position: int, tokens: int) -> tuple[Tensor, Tensor]:
        half = torch.arange(0, self.config.head_dim, 2, dtype=torch.int64).float()
        inverse = 1.0 / (self.config.rope_theta ** (half / self.config.head_dim))
        angles = torch.arange(position, position + tokens).float()[:, None] * inverse[None, :]
        return angles.cos(), angles.sin()

    def _apply(
        self, application: Application, x: Tensor, cos: Tensor, sin: Tensor, cache: KvCache, causal: bool = True
    ) -> Tensor:
        """One application of one block: x [batch, tokens, hidden] -> the same shape."""
        config = self.config

        def weight(name: str) -> Tensor:
            return self.tensors[f"blocks.{application.block}.{name}"]

        batch, tokens, _ = x.shape
        normed = rms_norm(x, weight("input_layernorm"), config.rms_norm_eps)

        def heads(name: str, count: int) -> Tensor:
            return F.linear(normed, weight(name)).view(batch, tokens, count, config.head_dim).transpose(1, 2)

        query = rotate(heads("q_proj", config.num_heads), cos, sin, config.rope_pairing)
        key = rotate(heads("k_proj", config.num_kv_heads), cos, sin, config.rope_pairing)
        key, value = cache.append(application.slot, key, heads("v_proj", config.num_kv_heads))
        groups = config.num_heads // config.num_kv_heads
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = query @ key.transpose(2, 3) / float(np.sqrt(config.head_dim))
        if causal:
            past = key.shape[2] - tokens
            hidden_future = torch.ones(tokens, key.shape[2], dtype=torch.bool).triu(past + 1)
            scores = scores.masked_fill(hidden_future, float("-inf"))
        attended = scores.softmax(-1) @ value
        x = x + F.linear(attended.transpose(1, 2).reshape(batch, tokens, -1), weight("o_proj"))
        normed = rms_norm(x, weight("post_attention_layernorm"), config.rms_norm_eps)
        gated = F.silu(F.linear(normed, weight("gate_proj"))) * F.linear(normed, weight("up_proj"))
        return x + F.linear(gated, weight("down_proj"))
