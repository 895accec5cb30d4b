"""ExecuTorch: a .pte whose graph is embed, one `mobileloop::loop` per stage, head; nothing is unrolled.

Methods:
    forward(tokens [1, T] int64, position [1] int64) -> logits [1, T, vocab], at the artifact's own loop count
    step(tokens, position, loops [1] int64) -> logits [1, 1, vocab] of the last token; loops 0 is each stage's own
        count, more than a stage's bound is its bound
    mobileloop_metadata() -> the artifact's metadata as UTF-8 bytes, uint8 [n]

Packed blocks are constant tensors, stored once whatever the loop count; the KV caches are mutable buffers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobileloop.artifact import ArtifactInfo
from mobileloop.packed import PackedModel
from mobileloop.quiet import quiet_imports
from mobileloop.spec.costs import kv_vector_bytes
from mobileloop_export.contract import Progress, check_carried

with quiet_imports():
    import executorch.exir as exir
    from executorch.exir.passes import MemoryPlanningPass

MAX_TOKENS_PER_CALL = 128  # bounds the memory planned for activations and logits

_LIBRARY: Any = torch.library.Library("mobileloop", "FRAGMENT")  # type: ignore[no-untyped-call]
_SCHEMAS = {
    "embed": ("Tensor tokens, Tensor table, int hidden", "Tensor", "Tensor(a!) out", "Tensor(a!)"),
    "loop": (
        "Tensor hidden, Tensor[] blocks, Tensor(a!) keys, Tensor(b!) values, Tensor position, Tensor loops, "
        "Tensor? norm, float eps, float damping",
        "(Tensor, Tensor)",
        "Tensor(c!) out, Tensor(d!) applied",
        "(Tensor(c!), Tensor(d!))",
    ),
    "head": (
        "Tensor hidden, Tensor table, Tensor? norm, float eps, int vocab, bool last_only",
        "Tensor",
        "Tensor(a!) out",
        "Tensor(a!)",
    ),
}


def _define_operators() -> None:
    """The schemas of runtime_bench/engine/executorch/operators.cpp, and their shapes for torch.export."""
    for name, (arguments, result, outs, out_result) in _SCHEMAS.items():
        _LIBRARY.define(f"{name}({arguments}) -> {result}")
        _LIBRARY.define(f"{name}.out({arguments}, *, {outs}) -> {out_result}")
        _LIBRARY.impl(name, _SHAPES[name], "Meta")
        _LIBRARY.impl(f"{name}.out", _out_meta, "Meta")


def _embed_shape(tokens: Tensor, table: Tensor, hidden: int) -> Tensor:
    return torch.empty(1, tokens.shape[1], hidden, dtype=torch.float32, device="meta")


def _loop_shape(hidden: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(hidden), torch.empty(1, dtype=torch.int64, device="meta")


def _head_shape(hidden: Tensor, table: Tensor, norm: Tensor | None, eps: float, vocab: int, last_only: bool) -> Tensor:
    return torch.empty(1, 1 if last_only else hidden.shape[1], vocab, dtype=torch.float32, device="meta")


def _out_meta(*arguments: Any, **outs: Tensor) -> Tensor | tuple[Tensor, ...]:
    values = tuple(outs.values())
    return values[0] if len(values) == 1 else values


_SHAPES = {"embed": _embed_shape, "loop": _loop_shape, "head": _head_shape}
_define_operators()


class _Program(torch.nn.Module):
    """The graph of a packed model: one loop node per stage."""

    def __init__(self, packed: PackedModel, info: ArtifactInfo) -> None:
        super().__init__()
        self.config, self.schedule = packed.config, packed.schedule
        kv_type = {8: torch.uint8, 16: torch.float16, 32: torch.float32}[info.kv_bits]
        kv_row = kv_vector_bytes(self.config.head_dim, info.kv_bits) // kv_type.itemsize
        for block in range(packed.config.num_blocks):
            self.register_buffer(f"block_{block}", torch.from_numpy(packed.block_record(block)))
        self.register_buffer("embedding", torch.from_numpy(packed.matrix_record("embedding")))
        if not packed.config.tie_embeddings:
            self.register_buffer("head", torch.from_numpy(packed.matrix_record("head")))
        self.register_buffer("final_norm", torch.from_numpy(packed.vector("final_norm").copy()))
        for number, stage in enumerate(self.schedule.stages):
            shape = (stage.num_slots, self.config.num_kv_heads, info.context, kv_row)
            self.register_buffer(f"keys_{number}", torch.zeros(shape, dtype=kv_type))
            self.register_buffer(f"values_{number}", torch.zeros(shape, dtype=kv_type))
            self.register_buffer(f"loops_{number}", torch.tensor([stage.loops]))

    def run(self, tokens: Tensor, position: Tensor, loops: Tensor | None, last_only: bool) -> Tensor:
        """Shared by both methods; `loops` None takes each stage's own count."""
        operators = torch.ops.mobileloop
        counts: dict[tuple[int, int], Tensor] = {}
        config = self.config
        hidden = operators.embed(tokens, self.embedding, config.hidden_size)
        for number, stage in enumerate(self.schedule.stages):
            blocks = [getattr(self, f"block_{block}") for block in stage.blocks]
            count = getattr(self, f"loops_{number}")
            if loops is not None and stage.max_loops > 1:  # computed once for all stages that are alike
                key = (stage.loops, stage.max_loops)
                if key not in counts:
                    counts[key] = torch.where(loops == 0, count, torch.clamp(loops, max=stage.max_loops))
                count = counts[key]
            hidden, _ = operators.loop(
                hidden,
                blocks,
                getattr(self, f"keys_{number}"),
                getattr(self, f"values_{number}"),
                position,
                count,
                self.final_norm if stage.loop_end_norm else None,
                config.rms_norm_eps,
                stage.damping,
            )
        table = self.embedding if config.tie_embeddings else self.head
        norm = None if self.schedule.stages[-1].loop_end_norm else self.final_norm
        logits: Tensor = operators.head(hidden, table, norm, config.rms_norm_eps, config.vocab_size, last_only)
        return logits


class _Forward(torch.nn.Module):
    def __init__(self, program: _Program) -> None:
        super().__init__()
        self.program = program

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        return self.program.run(tokens, position, None, last_only=False)


class _Step(_Forward):
    def forward(self, tokens: Tensor, position: Tensor, loops: Tensor) -> Tensor:  # type: ignore[override]
        return self.program.run(tokens, position, loops, last_only=True)


class _Metadata(torch.nn.Module):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.register_buffer("text", torch.frombuffer(bytearray(text.encode("utf-8")), dtype=torch.uint8))

    def forward(self) -> Tensor:
        text: Tensor = self.get_buffer("text")
        return text.clone()


def write(packed: PackedModel, info: ArtifactInfo, path: Path, progress: Progress) -> None:
    """Export the three methods and write the program.

    Raises:
        MobileloopError: where the model asks for what the program's operators do not do.
    """
    check_carried(packed, info, "executorch")
    progress("packing blocks", 0.0)
    program = _Program(packed, info).eval()
    with quiet_imports():
        exported = _exported(program, info, progress)
        progress("lowering", 0.5)
        edge = exir.to_edge(exported, compile_config=exir.EdgeCompileConfig(_check_ir_validity=False))
        progress("planning memory", 0.7)
        config = exir.ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False))
        lowered = edge.to_executorch(config)
    progress("writing", 0.9)
    with path.open("wb") as stream:
        lowered.write_to_file(stream)
        stream.flush()


def _exported(program: _Program, info: ArtifactInfo, progress: Progress) -> dict[str, torch.export.ExportedProgram]:
    """The methods as torch.export sees them; the number of tokens is dynamic."""
    most = min(MAX_TOKENS_PER_CALL, info.context)
    tokens, position = torch.zeros(1, min(2, most), dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    loops = torch.ones(1, dtype=torch.int64)
    length = {1: torch.export.Dim("tokens", min=1, max=most)} if most > 1 else None

    def trace(module: torch.nn.Module, *arguments: Tensor) -> torch.export.ExportedProgram:
        shapes = (length, *(None for _ in arguments[1:])) if arguments else None
        return torch.export.export(module, arguments, dynamic_shapes=shapes, strict=False)

    progress("tracing forward", 0.2)
    forward = trace(_Forward(program), tokens, position)
    progress("tracing step", 0.35)
    step = trace(_Step(program), tokens, position, loops)
    return {"forward": forward, "step": step, "mobileloop_metadata": trace(_Metadata(info.model_dump_json()))}
