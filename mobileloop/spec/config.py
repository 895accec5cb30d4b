"""The shape of a model: validated plain data that round-trips through JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelConfig(BaseModel):
    """Dimensions of a decoder of Llama blocks; names follow the Hugging Face configs.

    `num_blocks` counts physical blocks; how often each is applied is the schedule's business. `exit_gate` says that the
    model has the weights of an early-exit gate (Ouro, arXiv 2510.25741).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str = "llama"
    name: str = "unnamed"
    vocab_size: int = Field(gt=0, le=1 << 24)
    hidden_size: int = Field(gt=0, le=1 << 20)
    intermediate_size: int = Field(gt=0, le=1 << 22)
    num_blocks: int = Field(gt=0, le=4096)
    num_heads: int = Field(gt=0, le=4096)
    num_kv_heads: int = Field(gt=0, le=4096)
    head_dim: int = Field(gt=0, le=4096)
    rms_norm_eps: float = Field(default=1e-5, gt=0, lt=1)
    rope_theta: float = Field(default=10000.0, gt=0, allow_inf_nan=False)
    rope_pairing: Literal["half", "interleaved"] = "half"
    max_position: int = Field(default=2048, gt=0, le=1 << 31)
    tie_embeddings: bool = True
    exit_gate: bool = False
    random_weights: bool = False

    @model_validator(mode="after")
    def _dimensions_divide(self) -> ModelConfig:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}, "
                "so query heads cannot be grouped; correct the config"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, and rotary embedding pairs dimensions")
        return self

    @property
    def query_size(self) -> int:
        """Rows of the query projection: num_heads * head_dim."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Rows of the key (and of the value) projection: num_kv_heads * head_dim."""
        return self.num_kv_heads * self.head_dim

    def block_tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of one block, in reading order; names as in HF Llama."""
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "input_layernorm": (hidden,),
            "q_proj": (self.query_size, hidden),
            "k_proj": (self.kv_size, hidden),
            "v_proj": (self.kv_size, hidden),
            "o_proj": (hidden, self.query_size),
            "post_attention_layernorm": (hidden,),
            "gate_proj": (inner, hidden),
            "up_proj": (inner, hidden),
            "down_proj": (hidden, inner),
        }

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the model: `blocks.<i>.<name>`, `embedding`, `final_norm`, and where the
        model has them `head`, `exit_gate.weight` and `exit_gate.bias`.
        """
        shapes: dict[str, tuple[int, ...]] = {"embedding": (self.vocab_size, self.hidden_size)}
        for block in range(self.num_blocks):
            for name, shape in self.block_tensors().items():
                shapes[f"blocks.{block}.{name}"] = shape
        shapes["final_norm"] = (self.hidden_size,)
        if not self.tie_embeddings:
            shapes["head"] = (self.vocab_size, self.hidden_size)
        if self.exit_gate:
            shapes["exit_gate.weight"] = (self.hidden_size,)
            shapes["exit_gate.bias"] = (1,)
        return shapes

    def num_parameters(self) -> int:
        """Count of distinct weights (a tied head counts once)."""
        total = 0
        for shape in self.tensor_shapes().values():
            size = 1
            for extent in shape:
                size *= extent
            total += size
        return total
