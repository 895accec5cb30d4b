"""What one decoded token moves: the formulas, in one place, for the reference, the packed model and artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule


def kv_vector_bytes(head_dim: int, kv_bits: int) -> int:
    """Bytes of one cached key or value of one head; 8-bit codes have a float16 scale per 32 of them."""
    return head_dim + 2 * -(-head_dim // 32) if kv_bits == 8 else head_dim * kv_bits // 8


@dataclass(frozen=True)
class TokenBytes:
    """Bytes per decoded token of a model under a schedule; all counts leave padding out.

    Attributes:
        config, schedule: the model.
        block_bytes: weight bytes of one application, by block.
        head_bytes: of the head and the final norm.
        embedding_row_bytes: of one looked-up row.
        kv_bits: 8, 16 or 32, per KV element.
    """

    config: ModelConfig
    schedule: Schedule
    block_bytes: Sequence[int]
    head_bytes: int
    embedding_row_bytes: int
    kv_bits: int

    def unique(self) -> int:
        """Weight bytes read at least once per token: the scheduled blocks, the head and one embedding row."""
        blocks = {application.block for application in self.schedule.applications(1)}
        return sum(self.block_bytes[block] for block in blocks) + self._outer()

    def largest_block(self) -> int:
        """Weight bytes of one application of the largest scheduled block."""
        return max(self.block_bytes[application.block] for application in self.schedule.applications(1))

    def looped_stage(self) -> int | None:
        """Weight bytes that must fit a cache to be re-read from there: those of the largest looped stage's blocks.

        None where no stage is looped.
        """
        sizes: dict[int, int] = {}
        for application in self.schedule.applications(1):
            if self.schedule.stages[application.stage].looped:
                sizes[application.stage] = sizes.get(application.stage, 0) + self.block_bytes[application.block]
        return max(sizes.values(), default=None)

    def executed(self, loops: int | None = None) -> int:
        """Weight bytes touched per token, counted once per application."""
        applications = self.schedule.applications(loops)
        return sum(self.block_bytes[application.block] for application in applications) + self._outer()

    def kv(self, position: int, loops: int | None = None) -> int:
        """KV bytes read and written by the token at `position` (0-based): every application's own slot."""
        return self._applications(loops) * self._kv_per_slot_token() * (position + 1)

    def kv_capacity(self, context: int) -> int:
        """Bytes of the whole KV cache: all slots, `context` tokens."""
        return self.schedule.num_slots * self._kv_per_slot_token() * context

    def activations(self, loops: int | None = None) -> int:
        """Activation bytes written and read once per token, float32, as the engine keeps them (logits included)."""
        config = self.config
        per_application = 3 * config.hidden_size + 2 * config.query_size + 2 * config.kv_size
        per_application += 3 * config.intermediate_size
        return 2 * 4 * (self._applications(loops) * per_application + 2 * config.hidden_size + config.vocab_size)

    def _applications(self, loops: int | None) -> int:
        return sum(1 for _ in self.schedule.applications(loops))

    def _kv_per_slot_token(self) -> int:
        return 2 * self.config.num_kv_heads * kv_vector_bytes(self.config.head_dim, self.kv_bits)

    def _outer(self) -> int:
        return self.head_bytes + self.embedding_row_bytes
