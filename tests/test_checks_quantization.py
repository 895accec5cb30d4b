"""The check beside llama.cpp, with stand-ins for its programs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import TINY
from gguf import GGMLQuantizationType as Q
from gguf import GGUFReader
from gguf.quants import dequantize
from test_checkpoints import byte_level_fields, write_gguf

from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.quant.schemes import QuantTensor
from mobileloop_bench.checks import quantization
from mobileloop_bench.checks.quantization import Score, beaten, main, perplexity_of, run_tool, table, write_float_source

# A quantizer that knows one type: Q4_1 for everything, and the type's name and the matrix are of no account.
QUANTIZER = """#!{python}
import sys
import numpy as np
from gguf import GGMLQuantizationType as Q, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import quantize
source, target = [word for word in sys.argv[1:] if word.endswith(".gguf")][-2:]
kind = Q.Q4_0 if sys.argv[-2] == "Q4_0" else Q.Q4_1
reader = GGUFReader(source)
writer = GGUFWriter(target, "llama")
for name, field in reader.fields.items():
    if not name.startswith("GGUF.") and name != "general.architecture":
        inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
for tensor in reader.tensors:
    data = np.asarray(tensor.data)
    if data.ndim == 1:
        writer.add_tensor(tensor.name, data)
    else:
        writer.add_tensor(tensor.name, quantize(data, kind), raw_dtype=kind)
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
"""
MATRIX = """#!{python}
import sys
open(sys.argv[sys.argv.index("-o") + 1], "w").write("importance")
"""


@pytest.fixture
def tools(tmp_path):
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, text in (("llama-quantize", QUANTIZER), ("llama-imatrix", MATRIX)):
        (folder / name).write_text(text.format(python=sys.executable))
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def model(tmp_path):
    original = random_model(TINY.model_copy(update={"vocab_size": 259}))
    return write_gguf(tmp_path / "m.gguf", original, Q.Q4_1, tokenizer=byte_level_fields)


def test_the_float_source_lies_within_the_cells_and_on_no_grid(tmp_path, model):
    path = tmp_path / "float.gguf"
    write_float_source(model, path)
    before, after = GGUFReader(str(model)), {tensor.name: tensor for tensor in GGUFReader(str(path)).tensors}
    for tensor in before.tensors:
        values, moved = dequantize(tensor.data, tensor.tensor_type), np.asarray(after[tensor.name].data)
        if tensor.tensor_type == Q.F32:
            assert np.array_equal(values, moved)
            continue
        blocks = np.asarray(tensor.data).reshape(values.shape[0], -1, 20)[:, :, :2]
        cell = np.abs(np.ascontiguousarray(blocks).view(np.float16)[:, :, 0].astype(np.float32)).repeat(32, 1)
        assert (np.abs(moved - values) <= 0.5001 * cell).all()
        assert np.abs(moved - values).mean() == pytest.approx(0.25 * cell.mean(), rel=0.05)
    checkpoint = load_checkpoint(str(path))
    assert checkpoint.config.vocab_size == 259
    assert checkpoint.tokenizer == load_checkpoint(str(model)).tokenizer
    assert not any(isinstance(tensor, QuantTensor) for tensor in checkpoint.tensors.values())


def test_perplexity_leaves_out_the_first_token_of_every_window(monkeypatch):
    monkeypatch.setattr(quantization, "WINDOW", 3)
    answers = torch.full((6, 10), -50.0)
    tokens = [1, 2, 3, 4, 5, 6]
    for row in (0, 1, 3, 4):
        answers[row, tokens[row + 1]] = -0.5
    assert perplexity_of(answers, tokens) == pytest.approx(np.exp(0.5))


def score(name, size, kl):
    return Score(name, "plain", size, None, {"a": kl, "b": kl}, {"a": 2.0, "b": 3.0})


def test_who_is_beaten():
    theirs = [score("llama.cpp Q4_0", 100, 0.3), score("llama.cpp Q4_0, importance matrix", 100, 0.1)]
    assert beaten([*theirs, score("ours", 100, 0.2)]) == []
    assert beaten([*theirs, score("ours", 101, 0.2)]) == ["llama.cpp Q4_0"]
    assert beaten([*theirs, score("ours", 90, 0.4), score("float32", 90, 0.0)]) == ["llama.cpp Q4_0"]


def test_a_program_that_fails_is_told(tmp_path):
    (tmp_path / "llama-quantize").write_text("#!/bin/sh\necho first >&2\necho 'no such type' >&2\nexit 3\n")
    (tmp_path / "llama-quantize").chmod(0o755)
    with pytest.raises(MobileloopError, match="llama-quantize failed: no such type"):
        run_tool(tmp_path, "llama-quantize", "x")
    with pytest.raises(MobileloopError, match="llama-imatrix does not start"):
        run_tool(tmp_path, "llama-imatrix")


def test_the_whole_check(tmp_path, tools, model, monkeypatch, capsys):
    monkeypatch.setattr(quantization, "TOKENS", 300)
    text = tmp_path / "second.txt"
    text.write_text("Another text, of the same bytes. " * 20)
    words = [str(model), "--llama", str(tools), "--schedule", "range:1-1:2:0.5", "--text", str(text)]
    words += ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    monkeypatch.setattr(sys, "argv", ["quantization", *words])
    words += ["--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["quantization", *words])
    assert main() == 0
    capsys.readouterr()
    monkeypatch.setattr(quantization, "fit", None)  # a second run finds everything done
    assert main() == 0
    scores = json.loads((tmp_path / "out.json").read_text())
    names = [one["name"] for one in scores]
    assert {"float32", "llama.cpp Q4_0", "llama.cpp Q4_K_M, importance matrix", "int4, fitted"} <= set(names)
    assert sum(name.startswith("--budget") for name in names) == 2
    assert [one["weight_bytes"] for one in scores] == sorted(one["weight_bytes"] for one in scores)
    by = {one["name"]: one for one in scores}
    assert by["float32"]["mean_kl"] == {"packaged": 0.0, "second.txt": 0.0}
    assert by["int4, fitted"]["mean_kl"]["packaged"] < by["int4, rounded"]["mean_kl"]["packaged"]
    assert by["llama.cpp Q4_0"]["mean_kl"] == by["llama.cpp Q4_0, importance matrix"]["mean_kl"]  # the stand-in's
    lines = (tmp_path / "out.md").read_text().splitlines()
    assert lines == capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(scores)
    assert Path(text).name in lines[0]
    assert table([score("x", 10**6, 0.5)])[2] == "| x | plain | 1.00 | 0.5000 | 0.5000 | 2.00 | 3.00 |  |"
