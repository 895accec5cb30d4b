"""The comparison with peers: parsing, statistics, tables, resumption and absent peers. Nothing is built or fetched."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from builders import TINY
from typer.testing import CliRunner

from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.quant.schemes import SCHEMES
from mobileloop.reference.model import ReferenceModel
from mobileloop.runtimes import open_session
from mobileloop.spec.schedule import Schedule
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.interference import Watch
from mobileloop_bench.measure.process import Command, CommandFailed, run_command, series_of
from mobileloop_bench.measure.samples import Interference
from mobileloop_bench.peers import __main__ as command
from mobileloop_bench.peers import agreement, executorch, genai, llama, ours, weights
from mobileloop_bench.peers import builds as store
from mobileloop_bench.peers.contestant import Cell, Settings
from mobileloop_bench.peers.contestants import contestants
from mobileloop_bench.peers.document import Agreement, PeersDocument, Round, Sample, read_peers, resumed
from mobileloop_bench.peers.rounds import run_cell, run_rounds, shuffled
from mobileloop_bench.peers.scoreboard import rows
from mobileloop_bench.peers.table import markdown, print_table

LABELS = {
    "llama-avx2": "llama.cpp Q4_0, avx2",
    "genai": "onnxruntime-genai int4",
    "executorch": "ExecuTorch XNNPACK 8da4w",
    "ours": "mobileloop",
}


def sample(other_cores: float = 0.0, **series: list[float]) -> Sample:
    named = {name.replace("_", "-") if name.startswith(("loops", "threads")) else name: s for name, s in series.items()}
    return Sample(series=named, other_cores=other_cores, stolen_cores=0.0, wall_s=1.0)


def made_up(count: int = 5) -> PeersDocument:
    """Our decode is 2, 2.1, 2.2, ... times llama.cpp's; two loops cost 1.25."""
    document = PeersDocument(
        machine=Machine(cpu="Test", cores_usable=2),
        settings=Settings(),
        labels=LABELS,
        versions={"ours": {"kernels": "avx2"}, "llama-avx2": {"llama-cpp-python": "0.3.36"}},
        missing={"executorch": "not built; run with --build-executorch"},
        unavailable={"ours/stream-2": "not available: this engine has no streaming threads yet"},
        reference="PyTorch",
        agreement=[Agreement(contestant="ours", loops=1, tokens=[1, 2], same=2, text="Paris | yes")],
        rounds_wanted=count,
    )
    for number in range(count):
        rate = 100.0 * (2 + number / 10)
        samples = {
            "ours/decode-1": sample(loops_1=[rate], bytes_per_token=[80e6]),
            "ours/decode-2": sample(loops_1=[150.0], loops_2=[120.0], loops_4=[75.0], bytes_per_token=[80e6]),
            "ours/prefill-2": sample(tokens_per_s=[900.0]),
            "ours/bandwidth": sample(threads_1=[15.0, 20.0], threads_2=[24.0, 24.0]),
            "ours/memory-2": sample(mb=[12.0], kv_mb=[3.0]),
            "ours/load-2": sample(ms=[50.0, 40.0, 45.0]),
            "ours/busy-2": sample(loops_1=[60.0]),
            "llama-avx2/decode-1": sample(0.5 if number == 0 else 0.0, tokens_per_s=[90.0, 100.0, 110.0]),
            "llama-avx2/decode-2": sample(tokens_per_s=[100.0]),
            "llama-avx2/prefill-2": sample(tokens_per_s=[1000.0]),
            "llama-avx2/twice-2": sample(tokens_per_s=[40.0]),
            "genai/decode-2": Sample(error="signal 4: it crashed"),
        }
        document.rounds.append(Round(number=number, started="now", order=sorted(samples), samples=samples))
    return document


def by_label(document: PeersDocument) -> dict[tuple[str, str], object]:
    return {(row.figure.label, row.figure.peer_label): row for row in rows(document)}


# -- statistics ----------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    row = by_label(made_up())["decode, 1 thread", "llama.cpp Q4_0, avx2"]
    assert (row.ours, row.peer, row.ratio) == pytest.approx((220.0, 100.0, 2.2))
    assert (row.low, row.high) == pytest.approx((2.04, 2.36))
    assert (row.rounds, row.disturbed, row.met) == (5, 1, True)


def test_pairing_matters():
    document = made_up(3)
    for one, (mine, theirs) in zip(document.rounds, [(10.0, 10.0), (30.0, 20.0), (90.0, 30.0)], strict=True):
        one.samples["ours/decode-1"] = sample(loops_1=[mine], bytes_per_token=[1e6])
        one.samples["llama-avx2/decode-1"] = sample(tokens_per_s=[theirs])
    assert by_label(document)["decode, 1 thread", "llama.cpp Q4_0, avx2"].ratio == pytest.approx(1.5)


def test_taxes_shares_and_plain_figures():
    found = by_label(made_up())
    tax = found["loop tax of 2, all cores", "1 loop"]
    assert (tax.ratio, tax.ours) == pytest.approx((1.25, 1000 / 120))
    assert tax.met
    assert found["loop tax of 4, all cores", "1 loop"].met is False
    assert found["every block twice, 2 threads", "llama.cpp Q4_0, avx2, 60 blocks unrolled"].ratio == pytest.approx(3.0)
    read = found["GB/s read in decode, 1 thread", "read bandwidth"]
    assert (read.ours, read.peer, read.ratio) == pytest.approx((220 * 0.08, 20.0, 0.88))
    assert found["peak anonymous memory beyond the KV cache", ""].ratio == 12.0
    assert found["load to first token, warm file cache", ""].ratio == 45.0
    assert found["decode, 2 threads beside 2 busy processes", "quiet"].ratio == pytest.approx(0.4)
    prefill = found["prefill of 128 tokens, 2 threads", "llama.cpp Q4_0, avx2"]
    assert prefill.ratio == pytest.approx(0.9)
    assert prefill.met is False


def test_what_is_missing_says_why():
    found = by_label(made_up())
    assert found["decode, 2 threads", "ExecuTorch XNNPACK 8da4w"].reason == "not built; run with --build-executorch"
    assert found["decode, 2 threads", "onnxruntime-genai int4"].reason == "failed: signal 4: it crashed"
    stream = found["loop tax of 2, one thread computing and one streaming", "1 loop, 1 thread"]
    assert stream.reason.startswith("not available")
    assert stream.met is None
    empty = made_up(0)
    assert {row.reason for row in rows(empty) if row.reason} >= {"no round was finished"}
    assert all(row.ratio is None for row in rows(empty))


def test_a_round_without_a_figure_is_left_out():
    document = made_up()
    document.rounds[0].samples["llama-avx2/decode-1"] = Sample(error="killed")
    row = by_label(document)["decode, 1 thread", "llama.cpp Q4_0, avx2"]
    assert row.rounds == 4
    assert row.ratio == pytest.approx(2.25)


# -- tables --------------------------------------------------------------------------------------------


def test_the_table_in_markdown():
    text = markdown(made_up())
    lines = text.splitlines()
    row = next(line for line in lines if line.startswith("| decode, 1 thread | llama.cpp Q4_0, avx2 |"))
    assert row.endswith("| 220 tokens/s | 100 tokens/s | 2.20 | 2.04-2.36 | 5 (1 disturbed) | ≥ 1.40 | yes |")
    header = next(index for index, line in enumerate(lines) if line.startswith("| figure |"))
    widths = {line.count("|") for line in lines[header:] if line.startswith("|")}
    assert len(widths) == 1
    assert "Paris \\| yes" in text
    assert "Failed: genai/decode-2: signal 4: it crashed." in text
    assert "ExecuTorch XNNPACK 8da4w: not built; run with --build-executorch." in text


def test_the_table_on_a_terminal():
    from rich.console import Console

    document = made_up(2)
    document.rounds_wanted = 5
    stream = Console(record=True, width=190, file=open(os.devnull, "w"))  # noqa: SIM115
    print_table(stream, document)
    text = stream.export_text()
    assert "2 of 2" in text
    assert "Ended after 2 of 5 rounds." in text
    assert "not available" in text


# -- the document --------------------------------------------------------------------------------------


def test_a_document_round_trips(tmp_path):
    document = made_up()
    document.write(tmp_path / "peers.json")
    assert read_peers(tmp_path / "peers.json") == document
    assert json.loads((tmp_path / "peers.json").read_text())["schema"] == "mobileloop.peers/1"


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "mobileloop.bench/1"}', '{"schema": "mobileloop.peers/1"}'])
def test_another_file_is_no_result(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(MobileloopError):
        read_peers(tmp_path / "x.json")


def test_an_unfinished_run_goes_on(tmp_path):
    path = tmp_path / "peers.json"
    old = made_up(2)
    old.write(path)
    fresh = made_up(0)
    again = resumed(fresh, path, 5)
    assert [one.number for one in again.rounds] == [0, 1]
    assert again.agreement == old.agreement


def test_a_finished_run_is_kept_beside(tmp_path):
    path = tmp_path / "peers.json"
    made_up(2).write(path)
    assert resumed(made_up(0), path, 2).rounds == []
    assert not path.exists()
    assert len(read_peers(tmp_path / "peers.previous.json").rounds) == 2


def test_a_run_of_other_versions_is_not_continued(tmp_path):
    path = tmp_path / "peers.json"
    made_up(2).write(path)
    fresh = made_up(0)
    fresh.versions["llama-avx2"] = {"llama-cpp-python": "0.4"}
    with pytest.raises(MobileloopError, match=r"other versions.*--fresh"):
        resumed(fresh, path, 5)


# -- rounds --------------------------------------------------------------------------------------------


def python(code: str) -> Command:
    return Command([sys.executable, "-c", code])


def test_orders_are_shuffled_and_repeatable():
    keys = [f"a/{number}" for number in range(8)]
    orders = [shuffled(keys, 0, number) for number in range(20)]
    assert orders == [shuffled(list(reversed(keys)), 0, number) for number in range(20)]
    assert all(sorted(order) == keys for order in orders)
    assert len({tuple(order) for order in orders}) > 15
    assert shuffled(keys, 1, 0) != orders[0]


def test_rounds_are_saved_one_by_one_and_go_on(tmp_path):
    cells = [Cell("ours", name, python("print('{\"tokens_per_s\": [1, 2]}')")) for name in ("a", "b")]
    document, path = made_up(0), tmp_path / "peers.json"
    document.rounds_wanted = 2
    seen = []
    run_rounds(document, cells, lambda d: (d.write(path), seen.append(len(d.rounds))), lambda *said: None)
    assert seen == [1, 2]
    assert document.rounds[0].samples["ours/a"].series == {"tokens_per_s": [1.0, 2.0]}
    again = resumed(made_up(0), path, 3)
    again.rounds_wanted = 3
    run_rounds(again, cells, lambda d: d.write(path))
    assert [one.number for one in read_peers(path).rounds] == [0, 1, 2]
    assert read_peers(path).rounds[1] == document.rounds[1]


def test_ctrl_c_keeps_the_finished_rounds(tmp_path):
    cells = [Cell("ours", "a", python("print('{\"x\": [1]}')")), Cell("ours", "b", python("print('{\"x\": [1]}')"))]
    document, path = made_up(0), tmp_path / "peers.json"
    document.rounds_wanted = 3

    def progress(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    run_rounds(document, cells, lambda d: d.write(path), progress)
    stored = read_peers(path)
    assert stored.interrupted
    assert len(stored.rounds) == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('no such file')", "exit code 1: no such file"),
        ("import os; os.kill(os.getpid(), 4)", "signal 4"),
        ("print('nothing')", "its output was not understood"),
        ("print('{\"x\": 1}')", "its output was not understood"),
    ],
)
def test_a_failing_contestant_is_a_sample_with_a_reason(code, said):
    failed = run_cell(Cell("ours", "a", python(code)))
    assert failed.error is not None
    assert failed.error.startswith(said)
    assert failed.series == {}


def test_a_missing_program_is_a_sentence():
    with pytest.raises(CommandFailed, match="does not start"):
        run_command(Command(["/no/such/program"]))


def test_busy_neighbours_end_with_the_cell():
    code = "import os, json; print(json.dumps({'x': [os.getppid()]}))"
    done = run_cell(Cell("ours", "a", python(code), busy=2))
    assert done.error is None
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if children.exists():
        for child in children.read_text().split():
            assert b"getppid" not in Path(f"/proc/{child}/cmdline").read_bytes()


def test_our_own_children_are_no_interference():
    interference = Interference()
    with Watch(interference, children=True):
        subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    assert interference.other_cores() is None or interference.other_s < 60


# -- the contestants -----------------------------------------------------------------------------------


def test_llama_bench_output_is_read():
    text = 'warning: something\n[{"n_gen": 64, "avg_ts": 2.0, "samples_ts": [1.5, 2.5]}]\n'
    assert llama.parse_bench(text) == {"tokens_per_s": [1.5, 2.5]}
    for wrong in ("", "[]", "[{}]", '[{"samples_ts": [1]}, {"samples_ts": [1]}]', "no json"):
        with pytest.raises(ValueError, match=r".+"):
            llama.parse_bench(wrong)
    assert llama.parse_times('[{"n_gen": 4, "samples_ns": [8000000]}]', 4) == [2.0]
    with pytest.raises(ValueError, match="no samples"):
        llama.parse_times(text, 4)


def test_executorchs_export_writes_into_its_folder_alone(tmp_path):
    command = executorch.export_command(tmp_path)
    options = dict(word.split("=", 1) for word in command if "=" in word)
    assert options["export.output_name"] == str(tmp_path / "model.pte")
    written = [options[name] for name in ("export.output_name", "hydra.run.dir", "base.checkpoint", "base.params")]
    assert all(Path(path).is_absolute() and Path(path).parent == tmp_path for path in written)


def test_executorchs_build_exports_there_and_keeps_the_program(tmp_path, monkeypatch):
    seen = []

    def export(arguments, log, failure, environment):
        options = dict(word.split("=", 1) for word in arguments if "=" in word)
        seen.append(Path(options["export.output_name"]))
        seen[0].write_bytes(b"program")

    monkeypatch.setattr(executorch, "run_logged", export)
    monkeypatch.setattr(executorch, "_write_checkpoint", lambda gguf, checkpoint, parameters: None)
    monkeypatch.chdir(tmp_path)
    cache = store.Store(tmp_path / "cache")
    executorch.Executorch().build(cache, lambda text: None)
    assert executorch.program(cache).read_bytes() == b"program"
    assert seen[0].parent.parent == cache.models
    assert [path.name for path in cache.models.iterdir()] == [executorch.program(cache).name]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_workers_last_line_counts():
    assert series_of('chatter\n\n{"tokens": [1, 2]}\n') == {"tokens": [1.0, 2.0]}
    with pytest.raises(ValueError, match="no result"):
        series_of("")


def test_nothing_is_built_and_everybody_says_so(tmp_path):
    empty = store.Store(tmp_path)
    everybody = {one.name: one for one in contestants()}
    assert everybody["executorch"].missing(empty).endswith(("--build-executorch", "pip install '.[executorch]'"))
    for name in ("llama-native", "genai", "ours"):
        assert everybody[name].missing(empty)
    assert {"genai", "executorch", "ours"} < set(everybody)


def test_cells_have_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(executorch, "_vocab_size", lambda where: 10)
    cells = [cell for one in contestants() for cell in one.cells(store.Store(tmp_path), Settings())]
    assert len({cell.key for cell in cells}) == len(cells)
    wanted = {series.cell for row in rows(made_up()) for series in (row.figure.ours, row.figure.peer) if series}
    known = {cell.key for cell in cells} | {f"ours/{name}" for name in ours.Ours().unavailable()}
    assert "ours/stream-2" in known
    assert {cell for cell in wanted if not cell.startswith("llama-avx2")} <= known


def test_the_same_start():
    assert agreement.same_start([1, 2, 3], [1, 2, 4]) == 2
    assert agreement.same_start([1], []) == 0


# -- weights -------------------------------------------------------------------------------------------


@pytest.fixture
def q4_0(tmp_path):
    """A tiny pure Q4_0 GGUF file and the tensors it was made from."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    checkpoint = random_model(TINY, None, 3)
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(TINY.num_blocks)
    writer.add_context_length(TINY.max_position)
    writer.add_embedding_length(TINY.hidden_size)
    writer.add_feed_forward_length(TINY.intermediate_size)
    writer.add_head_count(TINY.num_heads)
    writer.add_head_count_kv(TINY.num_kv_heads)
    writer.add_key_length(TINY.head_dim)
    writer.add_layer_norm_rms_eps(TINY.rms_norm_eps)
    writer.add_rope_freq_base(TINY.rope_theta)
    names = {"post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm", "o_proj": "attn_output"}
    names |= {f"{short}_proj": f"attn_{short}" for short in "qkv"}
    names |= {f"{short}_proj": f"ffn_{short}" for short in ("gate", "up", "down")}
    for name, tensor in checkpoint.tensors.items():
        parts = name.split(".")
        stored = f"blk.{parts[1]}.{names[parts[2]]}.weight" if len(parts) == 3 else None
        stored = stored or {"embedding": "token_embd.weight", "final_norm": "output_norm.weight"}[name]
        values = np.asarray(tensor, dtype=np.float32)
        if values.ndim == 1:
            writer.add_tensor(stored, values)
        else:
            kind = GGMLQuantizationType.Q4_0
            writer.add_tensor(stored, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_engine_gets_every_matrix_bit_for_bit(q4_0, tmp_path):
    source = load_checkpoint(str(q4_0))
    assert {t.scheme for t in source.tensors.values() if hasattr(t, "scheme")} == {"int4-symmetric"}
    weights.write_engine(q4_0, tmp_path / "tiny.safetensors")
    reference = ReferenceModel.from_checkpoint(source, Schedule.parse("immediate:2", TINY.num_blocks))
    session = open_session(tmp_path / "tiny.safetensors", threads=1, loops=2)
    import torch

    tokens = [1, 2, 3, 4]
    expected = reference.forward(torch.tensor([tokens]))[0].numpy()
    got = session.logits(tokens)
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max()
    head = sum(t.stored_bytes() for name, t in source.tensors.items() if name == "embedding")
    assert session.info.costs.head_bytes == head + 4 * TINY.hidden_size
    session.close()


def test_other_types_are_refused(q4_0, tmp_path, monkeypatch):
    checkpoint = load_checkpoint(str(q4_0))
    tensors = dict(checkpoint.tensors)
    tensors["embedding"] = SCHEMES["int8"].quantize(tensors["embedding"].dequantize())
    import dataclasses

    changed = dataclasses.replace(checkpoint, tensors=tensors)
    monkeypatch.setattr(weights, "load_checkpoint", lambda path: changed)
    with pytest.raises(MobileloopError, match="embedding in another type"):
        weights.write_engine(q4_0, tmp_path / "x.safetensors")


def test_unrolling_repeats_each_block_in_place(q4_0, tmp_path):
    weights.write_unrolled(q4_0, tmp_path / "twice.gguf", 2)
    once, twice = load_checkpoint(str(q4_0)), load_checkpoint(str(tmp_path / "twice.gguf"))
    assert twice.config.num_blocks == 2 * once.config.num_blocks
    for block in range(once.config.num_blocks):
        for copy in (2 * block, 2 * block + 1):
            for name in once.config.block_tensors():
                mine, theirs = once.tensors[f"blocks.{block}.{name}"], twice.tensors[f"blocks.{copy}.{name}"]
                if hasattr(mine, "codes"):
                    assert np.array_equal(mine.codes, theirs.codes)
                    assert np.array_equal(mine.scale, theirs.scale)
                else:
                    assert np.array_equal(mine, theirs)


def test_llamas_own_loop_has_the_same_tensors_once(q4_0, tmp_path):
    from gguf import GGUFReader

    weights.write_looped(q4_0, tmp_path / "looped.gguf", 2, loop_end_norm=False)
    weights.write_looped(q4_0, tmp_path / "normed.gguf", 3, loop_end_norm=True)
    plain, looped, normed = (
        GGUFReader(str(path)) for path in (q4_0, tmp_path / "looped.gguf", tmp_path / "normed.gguf")
    )
    assert [(t.name, t.tensor_type, t.data.tobytes()) for t in looped.tensors] == [
        (t.name, t.tensor_type, t.data.tobytes()) for t in plain.tensors
    ]
    read = {name: field.contents() for name, field in looped.fields.items()}
    assert read["general.architecture"] == "nanbeige"
    assert (read["nanbeige.num_loops"], read["nanbeige.skip_loop_final_norm"]) == (2, True)
    assert normed.fields["nanbeige.num_loops"].contents() == 3
    assert normed.fields["nanbeige.skip_loop_final_norm"].contents() is False
    same = {name.replace("llama.", "nanbeige."): field.contents() for name, field in plain.fields.items()}
    own = ("GGUF.", "general.architecture", "nanbeige.num_loops", "nanbeige.skip_loop_final_norm")
    assert {name: value for name, value in read.items() if not name.startswith(own)} == {
        name: value for name, value in same.items() if not name.startswith(own)
    }
    with pytest.raises(MobileloopError, match="of the architecture 'nanbeige'"):
        weights.write_looped(tmp_path / "looped.gguf", tmp_path / "again.gguf", 2, loop_end_norm=False)


def test_the_folder_holds_the_same_numbers(q4_0, tmp_path):
    folder = tmp_path / "floats"
    folder.mkdir()
    weights.write_folder(q4_0, folder)
    gguf, read = load_checkpoint(str(q4_0)), load_checkpoint(str(folder))
    assert read.config.rope_theta == gguf.config.rope_theta
    for name, tensor in read.tensors.items():
        source = gguf.tensors[name]
        assert np.array_equal(tensor, source.dequantize() if hasattr(source, "dequantize") else source)


def test_metas_rows_are_those_of_the_gguf(q4_0):
    """llama.cpp's llama files keep the rows as Meta's checkpoints do, so undoing our permutation gives them back."""
    from gguf import GGUFReader, quants

    stored = {t.name: t for t in GGUFReader(str(q4_0)).tensors}
    tensors, params = weights.meta_weights(q4_0)
    assert params["n_layers"] == TINY.num_blocks
    for ours_name, theirs in (("wq", "attn_q"), ("wk", "attn_k"), ("wv", "attn_v")):
        tensor = stored[f"blk.0.{theirs}.weight"]
        expected = quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(tensors[f"layers.0.attention.{ours_name}.weight"], expected)
    assert np.array_equal(tensors["output.weight"], tensors["tok_embeddings.weight"])


# -- the store and the command -------------------------------------------------------------------------


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("MOBILELOOP_PEERS_CACHE", str(tmp_path))
    assert store.default_folder() == tmp_path
    monkeypatch.delenv("MOBILELOOP_PEERS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.default_folder() == tmp_path / "mobileloop" / "peers"


def test_every_pin_has_a_checksum():
    for pin in store.PINS.values():
        assert pin.sha256
        assert all(len(one) == 64 and int(one, 16) >= 0 for one in pin.sha256)
    assert str(store.PINS[genai.PACKAGE]).startswith("onnxruntime-genai-")


def test_a_download_with_another_checksum_is_refused(tmp_path, monkeypatch):
    pin = store.Pin("some-peer", "1.0", ("0" * 64,), source=True)
    monkeypatch.setattr(store, "run_logged", lambda *args: (tmp_path / "some_peer-1.0.tar.gz").write_bytes(b"x"))
    with pytest.raises(MobileloopError, match="another checksum"):
        store.download(pin, tmp_path)


def test_an_archive_cannot_leave_its_folder(tmp_path):
    archive = tmp_path / "peer.tar.gz"
    with tarfile.open(archive, "w:gz") as written:
        for name in ("peer-1/good.txt", "peer-1/../../bad.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            written.addfile(entry, BytesIO(b"x"))
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(tarfile.FilterError):
        store.unpack(archive, into)
    assert (into / "good.txt").exists()
    assert not (tmp_path / "bad.txt").exists()


def test_a_build_cut_short_leaves_nothing(tmp_path):
    def build():
        with store.made_whole(tmp_path / "peer") as folder:
            (folder / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build()
    assert list(tmp_path.iterdir()) == []


def test_a_failing_build_step_names_its_log(tmp_path):
    code = "print('first'); raise SystemExit('the compiler is missing')"
    with pytest.raises(MobileloopError, match=r"could not be built \(the compiler is missing\).*build\.log"):
        store.run_logged([sys.executable, "-c", code], tmp_path / "build.log", "it could not be built", low=False)


def test_the_command_without_anything_built(tmp_path):
    done = CliRunner().invoke(command.app, ["--no-build", "--cache", str(tmp_path), "--json", str(tmp_path / "p.json")])
    assert done.exit_code == 2
    assert "there is nothing to measure" in done.output
    assert not (tmp_path / "p.json").exists()


def test_a_wrong_name_is_a_sentence(tmp_path):
    done = CliRunner().invoke(command.app, ["--no-build", "--cache", str(tmp_path), "--only", "nobody"])
    assert done.exit_code == 2
    assert "--only names nobody" in done.output
    assert "executorch" in done.output


def test_ours_alone_from_end_to_end(q4_0, tmp_path, monkeypatch):
    """The whole command on a tiny model, with stand-ins for what takes long."""
    cache = store.Store(tmp_path / "cache")
    llama.gguf(cache).write_bytes(q4_0.read_bytes())
    tiny = Settings(context_tokens=2, decode_tokens=2, prefill_tokens=4, load_tokens=2, greedy_tokens=2, repeats=1)
    monkeypatch.setattr(command, "Settings", lambda **more: tiny)
    monkeypatch.setattr(agreement, "check", lambda *args: ("nobody", []))
    monkeypatch.setattr(weights, "CONTEXT", 32)
    kept = {"ours/decode-1", "ours/decode-2", "ours/prefill-2", "ours/load-2", "ours/memory-2"}
    everything = ours.Ours.cells
    monkeypatch.setattr(
        ours.Ours, "cells", lambda self, *args: [cell for cell in everything(self, *args) if cell.key in kept]
    )
    output = tmp_path / "peers.json"
    options = ["--no-build", "--cache", str(cache.folder), "--json", str(output), "--markdown", str(tmp_path / "p.md")]
    done = CliRunner().invoke(command.app, [*options, "--rounds", "1"])
    assert done.exit_code == 0, done.output
    document = read_peers(output)
    assert {key: one.error for key, one in document.rounds[0].samples.items()} == dict.fromkeys(kept)
    rate = document.rounds[0].samples["ours/decode-2"].series["loops-2"]
    assert len(rate) == 1
    assert math.isfinite(rate[0])
    assert "run with --build-executorch" in (tmp_path / "p.md").read_text() or document.missing
    assert len(document.rounds) == 1
