"""Our quantization beside llama.cpp's, at equal bytes, from the same float weights, by one evaluator.

    python -m mobileloop_bench.checks.quantization MODEL.gguf --llama FOLDER [--schedule range:12-17:2:0.5]
        [--text FILE] [--work FOLDER] [--json OUT] [--markdown OUT]

FOLDER holds llama-quantize and llama-imatrix. The float weights are made from MODEL.gguf: its values, each moved by a
random share of its rounding cell, so that they lie on nobody's grid (a file that was quantized once is given back
without loss by the scheme that it came from, which would say nothing). Every candidate is read by our loader and run in
float32 by the PyTorch reference under the schedule: the mean Kullback-Leibler divergence from the float weights in
nats, and the perplexity, over the packaged text and over one more. No candidate was fitted to a token of either;
ours and the importance matrix get the same calibration text.

What was made and found stays in the work folder, and a check that was stopped goes on there.

Bytes are those of the weights: codes, scales and minimums of every matrix, and float32 norms.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.errors import MobileloopError
from mobileloop.files import read_text, written_whole
from mobileloop.packed import PackedModel
from mobileloop.quant.fit import Text, Wanted, fit
from mobileloop.quant.price import divergence
from mobileloop.reference.model import ReferenceModel, float_tensors
from mobileloop.spec.schedule import Schedule
from mobileloop.tokenizer import Tokenizer
from mobileloop_bench.writing.markdown import markdown_table

TOKENS = 512  # of each text
WINDOW = 256
SEED = 7
TYPES = ("Q4_0", "Q4_K_M")


def write_float_source(source: Path, path: Path, seed: int = SEED) -> None:
    """The same GGUF with its matrices as float32, each weight moved within its rounding cell (see above)."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader, random = GGUFReader(str(source)), np.random.default_rng(seed)
    writer = GGUFWriter(str(path), reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        values = dequantize(np.asarray(tensor.data), tensor.tensor_type).astype(np.float32)
        cell = _cell(tensor.tensor_type, np.asarray(tensor.data), GGMLQuantizationType)
        if cell is not None:
            moved = random.random(values.shape, dtype=np.float32) - np.float32(0.5)
            values = values + moved * np.repeat(cell, values.shape[-1] // cell.shape[-1], axis=-1)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _cell(kind: Any, data: NDArray[Any], kinds: Any) -> NDArray[np.float32] | None:
    """How far apart two codes of a group are, [rows, groups]; None for floats."""
    sizes = {kinds.Q4_0: 18, kinds.Q4_1: 20, kinds.Q8_0: 34}
    if kind not in sizes:
        return None
    blocks = np.ascontiguousarray(data.reshape(data.shape[0], -1, sizes[kind])[:, :, :2])
    return np.abs(blocks.view(np.float16)[:, :, 0].astype(np.float32))


@dataclass(frozen=True)
class Score:
    """One candidate on the texts.

    Attributes:
        name: what made it.
        schedule: it ran under.
        weight_bytes: of all weights.
        minutes: that making it took here; None where nobody looked.
        mean_kl, perplexity: by text.
    """

    name: str
    schedule: str
    weight_bytes: int
    minutes: float | None
    mean_kl: dict[str, float]
    perplexity: dict[str, float]


class Evaluator:
    """The float model's answers to some texts, and how far others are from them."""

    def __init__(self, source: Checkpoint, schedule: Schedule, texts: dict[str, list[int]]) -> None:
        self.source, self.schedule, self.texts = source, schedule, texts
        self.truth = {name: self._answers(float_tensors(source), tokens) for name, tokens in texts.items()}

    def _answers(self, tensors: Mapping[str, NDArray[np.float32]], tokens: list[int]) -> torch.Tensor:
        model = ReferenceModel(self.source.config, self.schedule, tensors)
        pieces = [tokens[start : start + WINDOW] for start in range(0, len(tokens), WINDOW)]
        return torch.cat([model.forward(torch.tensor([piece]))[0].log_softmax(-1) for piece in pieces])

    def score(
        self, name: str, tensors: Mapping[str, NDArray[np.float32]], weight_bytes: int, minutes: float | None
    ) -> Score:
        """Run a candidate's weights."""
        kl, perplexity = {}, {}
        for text, tokens in self.texts.items():
            found = self._answers(tensors, tokens)
            kl[text] = divergence(self.truth[text], found)
            perplexity[text] = perplexity_of(found, tokens)
        score = Score(name, self.schedule.name, weight_bytes, minutes, kl, perplexity)
        print(json.dumps(asdict(score)), file=sys.stderr, flush=True)
        return score

    def floats(self) -> Score:
        """The float source itself."""
        tensors = float_tensors(self.source)
        perplexity = {text: perplexity_of(self.truth[text], tokens) for text, tokens in self.texts.items()}
        size = sum(4 * int(tensor.size) for tensor in tensors.values())
        return Score("float32", self.schedule.name, size, None, dict.fromkeys(self.texts, 0.0), perplexity)


def perplexity_of(answers: torch.Tensor, tokens: Sequence[int]) -> float:
    """exp of the mean loss of every token that follows another in its window."""
    rows = [row for row in range(len(tokens) - 1) if (row + 1) % WINDOW]
    targets = torch.tensor([tokens[row + 1] for row in rows])
    return float(np.exp(-float(answers[torch.tensor(rows), targets].double().mean())))


def run_tool(folder: Path, *words: str) -> None:
    """One of llama.cpp's programs; what it says goes nowhere unless it fails."""
    command = [str(folder / words[0]), *words[1:]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise MobileloopError(
            f"{command[0]} does not start ({error.strerror}); give its folder with --llama."
        ) from None
    if done.returncode != 0:
        told = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise MobileloopError(f"{words[0]} failed: {told.splitlines()[-1]}")


def llama_files(tools: Path, source: Path, work: Path, text: Path) -> Iterator[tuple[str, Path]]:
    """Every candidate of llama.cpp, made once: (name, file)."""
    matrix = work / "importance.gguf"
    if not matrix.is_file():
        size = str(WINDOW)
        options = ("-f", str(text), "-o", str(matrix), "-c", size, "-t", "1", "--no-ppl")
        run_tool(tools, "llama-imatrix", "-m", str(source), *options)
    for kind in TYPES:
        for importance in (False, True):
            path = work / f"{kind}{'-importance' if importance else ''}.gguf"
            if not path.is_file():
                words = ("--imatrix", str(matrix)) if importance else ()
                run_tool(tools, "llama-quantize", *words, str(source), str(path), kind, "1")
            yield f"llama.cpp {kind}{', importance matrix' if importance else ''}", path


def file_weight_bytes(path: Path) -> int:
    """Of all tensors of a GGUF."""
    from gguf import GGUFReader

    return sum(int(tensor.n_bytes) for tensor in GGUFReader(str(path)).tensors)


def ours(source: Checkpoint, schedule: Schedule, sizes: Sequence[int]) -> dict[str, Callable[[], PackedModel]]:
    """What we make of the float source, by name."""

    def rounded(quantization: str) -> PackedModel:
        return PackedModel.from_checkpoint(source, quantization, schedule)

    def fitted(wanted: Wanted) -> PackedModel:
        made = fit(source, schedule, wanted, Text.packaged())
        return PackedModel.from_checkpoint(source, wanted.quantization, schedule, group=wanted.group, fitted=made)

    return {
        **{f"{name}, rounded": partial(rounded, name) for name in ("int4-symmetric", "int4")},
        **{f"{name}, fitted": partial(fitted, Wanted(name)) for name in ("int4-symmetric", "int4")},
        **{f"--budget {size}": partial(fitted, Wanted(budget_bytes=size)) for size in sizes},
    }


class Kept:
    """The scores of a check so far: one that was stopped goes on where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scores: dict[str, Score] = {}
        if path.is_file():
            self.scores = {one["name"]: Score(**one) for one in json.loads(read_text(path))}

    def of(self, name: str) -> Score | None:
        """What is known of a candidate."""
        return self.scores.get(name)

    def add(self, score: Score) -> Score:
        """Write it down."""
        self.scores[score.name] = score
        with written_whole(self.path) as fresh:
            fresh.write_text(json.dumps([asdict(one) for one in self.scores.values()], indent=1), encoding="utf-8")
        return score


def check(source: Path, tools: Path, work: Path, schedule: str | None, text: Path) -> list[Score]:
    """Every candidate's score; made files stay in `work`."""
    floats = work / "float.gguf"
    if not floats.is_file():
        with written_whole(floats) as temporary:
            write_float_source(source, temporary)
    calibration = work / "calibration.txt"
    calibration.write_text(Text.packaged().text, encoding="utf-8")
    checkpoint = load_checkpoint(str(floats))
    assert checkpoint.tokenizer is not None
    tokenizer = Tokenizer(checkpoint.tokenizer)
    packaged = resources.files("mobileloop.data").joinpath("verify.txt").read_text(encoding="utf-8")
    texts = {"packaged": tokenizer.encode(packaged)[:TOKENS], text.name: tokenizer.encode(read_text(text))[:TOKENS]}
    chosen = Schedule.parse(schedule, checkpoint.config.num_blocks) if schedule else checkpoint.schedule
    evaluator = Evaluator(checkpoint, chosen, texts)
    kept = Kept(work / f"scores-{chosen.name.replace(':', '-')}.json")
    scores, sizes = [evaluator.floats()], set()
    for name, path in llama_files(tools, floats, work, calibration):
        size = file_weight_bytes(path)
        if "importance" not in name:
            sizes.add(size)
        found = kept.of(name) or evaluator.score(name, float_tensors(load_checkpoint(str(path))), size, None)
        scores.append(kept.add(found))
    for name, make in ours(checkpoint, chosen, sorted(sizes)).items():
        scores.append(kept.add(kept.of(name) or _made(evaluator, name, make)))
    return sorted(scores, key=lambda score: (score.weight_bytes, -score.mean_kl["packaged"]))


def _made(evaluator: Evaluator, name: str, make: Callable[[], PackedModel]) -> Score:
    """Make one of ours, timed, and judge it."""
    start = time.monotonic()
    packed = make()
    minutes = None if packed.calibration is None else (time.monotonic() - start) / 60
    return evaluator.score(name, packed.dequantized(), packed.weight_bytes(), minutes)


def table(scores: Sequence[Score]) -> list[str]:
    """The scores as lines of Markdown, smallest first."""
    texts = list(scores[0].mean_kl)
    headers = ["weights", "schedule", "MB", *(f"mean KL, {text}" for text in texts)]
    headers += [*(f"perplexity, {text}" for text in texts), "minutes"]
    rows = [
        [
            score.name,
            score.schedule,
            f"{score.weight_bytes / 1e6:.2f}",
            *(f"{score.mean_kl[text]:.4f}" for text in texts),
            *(f"{score.perplexity[text]:.2f}" for text in texts),
            "" if score.minutes is None else f"{score.minutes:.1f}",
        ]
        for score in scores
    ]
    return markdown_table(headers, rows, range(2, len(headers)))


def beaten(scores: Sequence[Score]) -> list[str]:
    """What of llama.cpp, without an importance matrix, none of ours of at most its size is as near the floats as."""
    mine = [score for score in scores if not score.name.startswith(("llama.cpp", "float32"))]
    return [
        score.name
        for score in scores
        if score.name.startswith("llama.cpp")
        and "importance" not in score.name
        and not any(
            one.weight_bytes <= score.weight_bytes
            and all(one.mean_kl[text] <= score.mean_kl[text] for text in score.mean_kl)
            for one in mine
        )
    ]


def main() -> int:
    """Entry point: 0 where ours is at least as near the floats as llama.cpp's own, without an importance matrix."""
    parser = argparse.ArgumentParser(prog="python -m mobileloop_bench.checks.quantization", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama", type=Path, required=True, help="folder of llama-quantize and llama-imatrix")
    parser.add_argument("--schedule", help="plain unless given")
    parser.add_argument("--text", type=Path, default=Path("docs/measuring.md"), help="a second text to judge by")
    parser.add_argument("--work", type=Path, help="where the files are kept; a temporary folder unless given")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = asked.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        scores = check(asked.model, asked.llama, work, asked.schedule, asked.text)
    lines = table(scores)
    print("\n".join(lines))
    for path, text in (
        (asked.json, json.dumps([asdict(s) for s in scores], indent=1)),
        (asked.markdown, "\n".join(lines)),
    ):
        if path:
            with written_whole(path) as fresh:
                fresh.write_text(text + "\n", encoding="utf-8")
    lost = beaten(scores)
    for name in lost:
        print(f"{name} is nearer to the floats than ours of its size", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
