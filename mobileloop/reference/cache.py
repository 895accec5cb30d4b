"""The reference's KV cache: one slot per application."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


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
