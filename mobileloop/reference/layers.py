"""The layers of a block in PyTorch, each as its formula says."""

from __future__ import annotations

import torch
from torch import Tensor


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
