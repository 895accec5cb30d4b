"""Instructions per weight of the matrix products, ours and those of llama.cpp and ONNX Runtime, counted the same way.

The same matrix for all, one token unless said otherwise, one thread. Ours multiplies every weight with activations of
15 bits in two planes, theirs with 8 bits in one (ONNX Runtime also with float32): the figures stand beside each other,
they are not the same arithmetic. An instruction count is not a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mobileloop_bench.simulate.qemu import Emulator
from mobileloop_bench.writing.markdown import markdown_table

ROWS, COLS = 1536, 576  # the gate projection of SmolLM2-135M
TWO_PLANES, ONE_PLANE = "15-bit, two planes", "8-bit, one plane"


def own_products(emulator: Emulator) -> Iterator[dict[str, Any]]:
    """Every kernel set and scheme, for one token (decoding) and for 16 (prefill, batches)."""
    for scheme, tile_bytes in (("int4-symmetric", 144), ("int4", 160), ("int8", 272)):
        for kernels in ("neon", "neon-dotprod", "neon-i8mm"):
            for tokens in (1, 16):
                counts = emulator.count("product", scheme, ROWS, COLS, tokens, kernels=kernels)
                yield _product(
                    "mobileloop", kernels, scheme, tokens, TWO_PLANES, tile_bytes / 256, sum(counts.instructions)
                )


def llama_products(emulator: Emulator, source: Path) -> Iterator[dict[str, Any]]:
    """llama.cpp's vector products of Q4_0: rows interleaved by four for both instruction sets, and plain rows."""
    program = emulator.build_ggml(source)
    for kernels in ("gemv-4x4", "gemv-4x8", "vec-dot"):
        counts = emulator.count(kernels, ROWS, COLS, program=program)
        yield _product("llama.cpp", kernels, "Q4_0", 1, ONE_PLANE, 18 / 32, sum(counts.instructions))


def onnxruntime_products(emulator: Emulator, library: Path, headers: Path) -> Iterator[dict[str, Any]]:
    """ONNX Runtime's MatMulNBits, groups of 32: level 4 has 8-bit activations, level 1 float32 ones.

    A session's own work per run cancels out in the difference of a matrix and one of four times the rows.
    """
    program, root = emulator.build_onnxruntime(library, headers), emulator.guest_root()
    for level, activations in ((4, ONE_PLANE), (1, "float32")):
        for processor in ("cortex-a76", "max"):
            instructions = []
            for rows in (ROWS, 5 * ROWS):
                model = emulator.folder / f"product-{level}-{rows}.onnx"
                _write_onnx(model, rows, level)
                counts = emulator.count(model, COLS, rows, program=program, processor=processor, root=root)
                instructions.append(sum(counts.instructions))
            per_matrix = (instructions[1] - instructions[0]) // 4
            kernels = f"MatMulNBits level {level}, {'i8mm' if processor == 'max' else 'dotprod'}"
            yield _product("onnxruntime", kernels, "int4-symmetric", 1, activations, 20 / 32, per_matrix)


def _write_onnx(path: Path, rows: int, level: int) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    codes = numpy_helper.from_array(random.integers(0, 256, (rows, COLS // 32, 16), dtype=np.uint8), "codes")
    scales = numpy_helper.from_array(random.random(rows * COLS // 32, dtype=np.float32), "scales")
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft")
    for name, value in (("K", COLS), ("N", rows), ("bits", 4), ("block_size", 32), ("accuracy_level", level)):
        node.attribute.append(helper.make_attribute(name, value))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, COLS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, rows])
    graph = helper.make_graph([node], "product", [x], [y], [codes, scales])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def _product(
    project: str, kernels: str, scheme: str, tokens: int, activations: str, weight_bytes: float, instructions: int
) -> dict[str, Any]:
    weights = ROWS * COLS
    return {
        "project": project,
        "kernels": kernels,
        "scheme": scheme,
        "tokens": tokens,
        "activations": activations,
        "bytes_per_weight": weight_bytes,
        "instructions_per_weight_and_token": instructions / weights / tokens,
        "weight_bytes_per_instruction": weights * weight_bytes / instructions,
        "instructions": instructions,
    }


def _product_cells(row: dict[str, Any]) -> list[str]:
    return [
        *(str(row[name]) for name in ("project", "kernels", "scheme", "tokens", "activations")),
        f"{row['bytes_per_weight']:.4f}",
        f"{row['instructions_per_weight_and_token']:.3f}",
        f"{row['weight_bytes_per_instruction']:.2f}",
    ]


def tables(document: dict[str, Any]) -> str:
    """The document as docs/arm.md shows it."""
    titles = ["project", "kernel", "weights", "tokens", "activations", "bytes per weight"]
    titles += ["instructions per weight and token", "weight bytes per instruction"]
    return "\n".join(markdown_table(titles, [_product_cells(row) for row in document["products"]])) + "\n"


def measure(
    emulator: Emulator, llama_cpp: Path | None, onnxruntime: Path | None, onnxruntime_headers: Path
) -> dict[str, Any]:
    """Count our products, and those of the peers that are given.

    Raises:
        MobileloopError: where a tool or a peer's file is missing, or a run fails.
    """
    products = list(own_products(emulator))
    if llama_cpp:
        products += llama_products(emulator, llama_cpp)
    if onnxruntime:
        products += onnxruntime_products(emulator, onnxruntime, onnxruntime_headers)
    return {**emulator.described(), "rows": ROWS, "cols": COLS, "products": products}
