"""How an export makes its weights: by default, as asked, and not at all."""

import json
from dataclasses import replace

import numpy as np
import pytest
from builders import TINY, add_tokenizer, packed_model, write_engine, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models
from typer.testing import CliRunner

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.cli import app
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.quant.feedback import with_feedback
from mobileloop.quant.fit import Text, Wanted, fit, weights_sha256
from mobileloop.quant.schemes import SCHEMES, QuantTensor
from mobileloop.runtimes import open_session
from mobileloop.spec.schedule import Schedule
from mobileloop.verify import (
    QUANTIZED_LIMITS,
    check_stored,
    compare,
    expected_weights,
    fit_again,
    stored_tensors,
    verification_tokens,
)
from mobileloop_export import weights
from mobileloop_export.weights import Ask, pack, parse_size, trained_loops

TEXT = "A text of one's own, for the calibration of a small model. " * 12


@pytest.fixture
def folder(tmp_path):
    model = random_model(TINY.model_copy(update={"vocab_size": 259}))
    return add_tokenizer(write_folder(tmp_path / "model", model))


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path):
    """run(words) -> the facts of an export."""

    def export(*words, output="a.safetensors"):
        done = CliRunner().invoke(app, ["export", *map(str, words), "-o", str(tmp_path / output), "--json"])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return export


def test_four_bits_are_fitted_and_eight_are_not(folder, run):
    facts = run(folder)
    assert facts["calibration"]["text"] == "packaged"
    assert any("were fitted to 8192 tokens of the packaged text" in note for note in facts["notes"])
    assert any("cost a mean KL of" in note for note in facts["notes"])
    for quantization in ("int8", "none"):
        assert run(folder, "--quantize", quantization)["calibration"] is None
    assert run(folder, "--quantize", "int8", "--calibrate", "packaged")["calibration"]["tokens"] == 8192


def test_without_calibration_the_weights_are_what_they_were(folder, tmp_path, run):
    """Rounded, byte for byte, and no word of a calibration or a price."""
    facts = run(folder, "--calibrate", "none", "--no-price")
    assert facts["calibration"] is None
    assert not any("fitted" in note or "KL" in note for note in facts["notes"])
    checkpoint = load_checkpoint(str(folder))
    write_engine(tmp_path / "b.safetensors", checkpoint, PackedModel.from_checkpoint(checkpoint), 512, 16)
    one, two = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_what_needs_no_fitting_is_not_fitted(tmp_path):
    kept = replace(random_model(TINY), tensors=packed_model(quantization="int4")[1].tensors)
    config = kept.config.model_copy(update={"random_weights": False})
    packed, notes = pack(replace(kept, config=config), kept.schedule, "engine", Ask("int4", 32))
    assert packed.calibration is None
    assert packed.notes == ("22 matrices kept bit for bit from the checkpoint",)
    assert notes == ()  # no price: nothing was lost
    _, notes = pack(replace(kept, config=config), kept.schedule, "engine", Ask("int4", 32, "packaged"))
    assert "there was nothing to calibrate" in notes[-1]
    assert pack(random_model(TINY), kept.schedule, "engine", Ask("int4", 32))[1] == ()


def test_large_models_are_rounded_and_say_so(folder, monkeypatch):
    monkeypatch.setattr(weights, "AUTO_PARAMETERS", 1000)
    checkpoint = load_checkpoint(str(folder))
    packed, notes = pack(checkpoint, checkpoint.schedule, "engine", Ask("int4", 32))
    assert packed.calibration is None
    assert "--calibrate packaged fits them to a text, which takes about 1 minutes" in notes[0]
    assert pack(checkpoint, checkpoint.schedule, "engine", Ask("int4", 32, "packaged"))[0].calibration is not None


def test_without_pytorch(folder, monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    checkpoint = load_checkpoint(str(folder))
    packed, notes = pack(checkpoint, checkpoint.schedule, "engine", Ask("int4", 32))
    assert packed.calibration is None
    assert "the weights were rounded, since fitting them to a text needs PyTorch" in notes[0]
    assert "cost is unknown: measuring it needs PyTorch" in notes[1]
    for ask in (Ask("int4", 32, "packaged"), Ask("int4", 32, budget_bytes=10**6)):
        with pytest.raises(MobileloopError, match="calibrating needs PyTorch"):
            pack(checkpoint, checkpoint.schedule, "engine", ask)


@pytest.mark.parametrize("calibrate", ["packaged", "auto"])
def test_a_wish_that_is_not_possible_is_refused(calibrate):
    ask = Ask("int4", 32, calibrate, 10**6 if calibrate == "auto" else None)
    with pytest.raises(MobileloopError, match="has random weights, which no text can calibrate"):
        pack(random_model(TINY), Schedule.plain(3), "engine", ask)
    bare = replace(random_model(TINY), config=TINY)
    with pytest.raises(MobileloopError, match="has no tokenizer, which a text needs"):
        pack(bare, Schedule.plain(3), "engine", ask)


def test_the_price_of_a_model_without_a_tokenizer_is_unknown():
    bare = replace(random_model(TINY), config=TINY)
    assert "unknown: the source has no tokenizer" in pack(bare, Schedule.plain(3), "engine", Ask("int4", 32))[1][-1]


def silent(checkpoint):
    """The same model with a tokenizer that makes no tokens of any text."""
    text = RustTokenizer(models.WordLevel({"<s>": 0}, unk_token="<none>")).to_str()
    tokenizer = checkpoint.tokenizer.model_copy(update={"json_text": text, "add_bos": False})
    return replace(checkpoint, tokenizer=tokenizer)


def test_what_cannot_be_fitted_is_rounded_by_default_and_refused_where_asked_for(folder):
    checkpoint = silent(load_checkpoint(str(folder)))
    packed, notes = pack(checkpoint, checkpoint.schedule, "engine", Ask("int4", 32))
    assert packed.calibration is None
    assert "the weights were rounded, since they could not be fitted to a text" in notes[0]
    assert "what packing the weights cost is unknown" in notes[1]
    with pytest.raises(MobileloopError):
        pack(checkpoint, checkpoint.schedule, "engine", Ask("int4", 32, "packaged"))
    with pytest.raises(MobileloopError):
        pack(checkpoint, checkpoint.schedule, "engine", Ask("int4", 32, budget_bytes=10**6))


def test_tokens_beyond_the_vocabulary_are_left_out(tmp_path):
    """A tokenizer of 259 tokens and a model of 200."""
    model = random_model(TINY.model_copy(update={"vocab_size": 200}))
    checkpoint = load_checkpoint(str(add_tokenizer(write_folder(tmp_path / "small", model))))
    packed, notes = pack(checkpoint, checkpoint.schedule, "engine", Ask("int4", 32))
    assert packed.calibration is not None
    assert "cost a mean KL of" in notes[-1]


def test_a_price_that_is_no_number_is_no_price(folder):
    checkpoint = load_checkpoint(str(folder))
    broken = {**checkpoint.tensors, "final_norm": np.full(64, np.nan, np.float32)}
    _, notes = pack(replace(checkpoint, tensors=broken), checkpoint.schedule, "engine", Ask("int8", 32))
    assert "unknown: the answers of the model are not finite numbers" in notes[-1]


def test_the_text_is_an_input_that_no_output_replaces(folder, tmp_path):
    text = tmp_path / "text.safetensors"
    text.write_text(TEXT)
    done = CliRunner().invoke(app, ["export", str(folder), "--calibrate", str(text), "-o", str(text)])
    assert done.exit_code == 2
    assert "is an input of this command" in " ".join(done.output.split())
    assert text.read_text() == TEXT


def test_loops_that_the_model_was_not_made_for_are_left_out():
    checkpoint = random_model(TINY)
    assert trained_loops(checkpoint, Schedule.plain(3)) is None
    assert trained_loops(checkpoint, Schedule.immediate(3, 4)) == 1
    assert trained_loops(checkpoint, Schedule.damped_range(3, 1, 1, 2, 0.5)) is None
    shared = random_model(TINY, Schedule.immediate(3, 2))
    assert trained_loops(shared, Schedule.immediate(3, 2)) is None
    assert trained_loops(shared, Schedule.immediate(3, 5)) == 2


# -- sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("70MB", 70_000_000), ("70 mb", 70_000_000), ("66.5MiB", 69_730_304), ("1GB", 10**9), ("123", 123), ("5kB", 5000)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "-3MB", "0", "0MB", "1e9", "70 M B", "70TB", "１２MB", "nan", "1.5.2MB", "9" * 30]
)
def test_no_sizes(text):
    with pytest.raises(MobileloopError, match=r"is no size; give a number of bytes, or one with a unit, such as 70MB"):
        parse_size(text)


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_sentence(text):
    try:
        size = parse_size(text)
    except MobileloopError:
        return
    assert size >= 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--budget", "70XB"], "is no size"),
        (["--budget", "1kB"], "take at least 0.0"),
        (["--budget", "1MB", "--group", "64"], "chooses bits and groups itself"),
        (["--budget", "1MB", "--quantize", "int8"], "chooses bits and groups itself"),
        (["--budget", "1MB", "--calibrate", "none"], "leave out --calibrate none"),
        (["--calibrate", "missing.txt"], "missing.txt cannot be read"),
    ],
)
def test_refusals_write_nothing(folder, tmp_path, words, told):
    done = CliRunner().invoke(app, ["export", str(folder), "-o", str(tmp_path / "x.safetensors"), *words])
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())
    assert not list(tmp_path.glob("*x.safetensors*"))


# -- artifacts of fitted weights, and what verifies them -----------------------------------------------


@pytest.mark.parametrize("words", [[], ["--budget", "90kB"], ["--group", "128"], ["--schedule", "range:1-1:3:0.5"]])
def test_engine_artifacts_verify_from_their_own_weights(folder, own, tmp_path, run, words):
    facts = run(folder, "--calibrate", own, *words)
    assert facts["calibration"]["text"] == "own.txt"
    session = open_session(tmp_path / "a.safetensors", threads=1)
    checkpoint = load_checkpoint(str(folder))
    result = compare(session, checkpoint, verification_tokens(session, 128))
    assert result.within(QUANTIZED_LIMITS)
    stored = expected_weights(session, checkpoint)
    again = fit_again("a.safetensors", session.info, checkpoint, Text("own.txt", TEXT))
    packed = PackedModel.from_checkpoint(checkpoint, fitted=again)
    for name, tensor in packed.dequantized().items():
        assert np.array_equal(stored[name], tensor), name
    if words[:1] == ["--budget"]:
        assert facts["weight_bytes"] <= 90_000
        assert len({tensor.scheme for tensor in packed.tensors.values() if hasattr(tensor, "scheme")}) > 1


def test_weights_of_another_source_are_found_out(folder, tmp_path, run):
    run(folder)
    session = open_session(tmp_path / "a.safetensors", threads=1)
    checkpoint = load_checkpoint(str(folder))
    stored = stored_tensors(tmp_path / "a.safetensors", session.info.config)
    said = session.info.calibration.weights_sha256
    assert weights_sha256(check_stored("a.safetensors", checkpoint, stored, said)) == said
    other = random_model(checkpoint.config, seed=5)
    norms = {name: tensor for name, tensor in checkpoint.tensors.items() if "norm" in name}
    other = replace(other, tensors={**other.tensors, **norms})
    with pytest.raises(MobileloopError, match=r"embedding of a\.safetensors is not the source's: row 0 differs"):
        check_stored("a.safetensors", other, stored, said)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """(checkpoint, packed): `int4` but for block 0, which the source holds as `int4` already and which is kept."""
    model = random_model(TINY.model_copy(update={"vocab_size": 259}))
    checkpoint = load_checkpoint(str(add_tokenizer(write_folder(tmp_path_factory.mktemp("m"), model))))
    held = {
        name: SCHEMES["int4"].quantize(tensor) if name.startswith("blocks.0.") and tensor.ndim == 2 else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    checkpoint = replace(checkpoint, tensors=held)
    made = fit(checkpoint, checkpoint.schedule, Wanted("int4"), Text("own.txt", TEXT))
    return checkpoint, PackedModel.from_checkpoint(checkpoint, fitted=made)


def one(values, change):
    """A copy with the first value changed."""
    copy = values.copy()
    copy[(0,) * copy.ndim] = change(copy[(0,) * copy.ndim])
    return copy


def negated(tensor):
    codes = (15 - tensor.codes).astype(np.uint8)  # w = d q + m, so -w = d (15 - q) - (15 d + m)
    minimum = (-15 * tensor.scale.astype(np.float32) - tensor.minimum).astype(np.float16)
    return replace(tensor, codes=codes, minimum=minimum)


DAMAGES = {
    "a norm": ("final_norm", lambda x: x * np.float32(1.45), "bit for bit"),
    "a value of a norm": ("blocks.1.input_layernorm", lambda x: one(x, lambda v: np.nextafter(v, 9)), "bit for bit"),
    "a norm that is no number": ("final_norm", lambda x: one(x, lambda v: np.nan), "bit for bit"),
    "a kept code": ("blocks.0.q_proj", lambda x: replace(x, codes=one(x.codes, lambda v: v ^ 1)), "bit for bit"),
    "a kept scale": ("blocks.0.up_proj", lambda x: replace(x, scale=x.scale * np.float16(1.01)), "bit for bit"),
    "a kept matrix negated": ("blocks.0.k_proj", negated, "bit for bit"),
    "a code": ("blocks.2.up_proj", lambda x: replace(x, codes=one(x.codes, lambda v: v ^ 1)), "are not those"),
    "a code of 8 bits": ("embedding", lambda x: replace(x, codes=one(x.codes, lambda v: v ^ 1)), "are not those"),
    "a scale": ("blocks.1.q_proj", lambda x: replace(x, scale=one(x.scale, lambda v: v * 2)), "not"),
    "a slight scale": ("embedding", lambda x: replace(x, scale=one(x.scale, lambda v: v * 1.01)), "are not those"),
    "a minimum": ("blocks.2.k_proj", lambda x: replace(x, minimum=one(x.minimum, lambda v: v * 1.01)), "are not those"),
    "a matrix negated": ("blocks.1.up_proj", negated, "is not the source's: row 0 differs"),
    "a matrix of zeros": ("embedding", lambda x: replace(x, codes=0 * x.codes), "is not the source's: row 0 differs"),
    "scales": ("embedding", lambda x: replace(x, scale=x.scale * np.float16(1.45)), "is not the source's: row 0"),
    "scales that are no numbers": (
        "embedding",
        lambda x: replace(x, scale=one(x.scale, lambda v: np.nan)),
        "is not the source's: row 0",
    ),
    "another scheme": ("blocks.1.v_proj", lambda x: SCHEMES["int4"].quantize(x.dequantize(), 64), "are not those"),
    "no scheme": ("blocks.1.v_proj", lambda x: SCHEMES["none"].quantize(x.dequantize()), "it is not quantized"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_an_artifact_of_fitted_weights_is_found(fitted, tmp_path, damage):
    """In the file, whose metadata stay: the artifact is no measure of itself."""
    checkpoint, packed = fitted
    name, change, told = DAMAGES[damage]
    session = open_session(write_engine(tmp_path / "good.safetensors", checkpoint, packed, 64, 16), threads=1)
    assert compare(session, checkpoint, verification_tokens(session, 64)).within(QUANTIZED_LIMITS)
    broken = replace(packed, tensors={**packed.tensors, name: change(packed.tensors[name])})
    session = open_session(write_engine(tmp_path / "a.safetensors", checkpoint, broken, 64, 16), threads=1)
    with pytest.raises(MobileloopError, match=told):
        compare(session, checkpoint, verification_tokens(session, 64))


@pytest.mark.parametrize("damage", ["a matrix negated", "a matrix of zeros", "scales", "scales that are no numbers"])
def test_a_hash_that_goes_with_the_damage_does_not_hide_it(fitted, damage):
    checkpoint, packed = fitted
    name, change, told = DAMAGES[damage]
    broken = {**packed.tensors, name: change(packed.tensors[name])}
    made = {n: t for n, t in broken.items() if isinstance(t, QuantTensor) and not n.startswith("blocks.0.")}
    with pytest.raises(MobileloopError, match=told):
        check_stored("a.safetensors", checkpoint, broken, weights_sha256(made))


@settings(deadline=None, max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_byte_of_the_tensors_is_held_against_something(fitted, tmp_path_factory, place, flip):
    """A changed byte is found, or it is none of the tensors': padding, or a record's own header."""
    checkpoint, packed = fitted
    path = write_engine(tmp_path_factory.mktemp("byte") / "a.safetensors", checkpoint, packed, 64, 16)
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + int(place * (len(data) - start))] ^= flip
    path.write_bytes(data)
    try:
        found = expected_weights(open_session(path, threads=1), checkpoint)
    except MobileloopError:
        return
    stored = stored_tensors(path, checkpoint.config)
    for name, tensor in packed.dequantized().items():
        held = stored[name].dequantize() if isinstance(stored[name], QuantTensor) else stored[name]
        assert held.tobytes() == tensor.tobytes() == found[name].tobytes(), name


@given(
    scheme=st.sampled_from(["int4", "int4-symmetric", "int8"]),
    group=st.sampled_from([32, 64, 128]),
    rank=st.sampled_from([0, 1, 8, 300]),
    spread=st.integers(0, 6),
    tails=st.integers(2, 30),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=60)
def test_what_was_fitted_to_any_inputs_is_near(scheme, group, rank, spread, tails, seed):
    """Inputs of few directions, of very different sizes and silent ones; weights with outliers."""
    rng = np.random.default_rng(seed)
    weights = (0.05 * rng.standard_t(tails, (16, 128))).astype(np.float32)
    inputs = (
        rng.standard_normal((300, rank))
        @ rng.standard_normal((rank, 128))
        * 2.0 ** rng.integers(-spread, spread + 1, 128)
    )
    moments = (inputs.T @ inputs / 300).astype(np.float32)
    tensor = with_feedback(weights, moments, scheme, group)
    source = replace(random_model(TINY), tensors={"a matrix": weights})
    made = {"a matrix": tensor}
    assert check_stored("a.safetensors", source, made, weights_sha256(made)) == made
    away = {"a matrix": replace(tensor, scale=(tensor.scale * np.float16(-2)))}
    with pytest.raises(MobileloopError, match="is not the source's"):
        check_stored("a.safetensors", source, away, weights_sha256(away))


def test_a_file_of_another_shape_is_a_sentence(fitted, tmp_path):
    checkpoint, packed = fitted
    path = write_engine(tmp_path / "a.safetensors", checkpoint, packed, 64, 16)
    for change in ({"num_blocks": 4}, {"intermediate_size": 128}, {"tie_embeddings": False}):
        with pytest.raises(MobileloopError, match=r"has no tensor \S+ of shape \[.*\]; export it again"):
            stored_tensors(path, checkpoint.config.model_copy(update=change))


def test_doing_it_again_needs_the_same_text_and_gives_the_same_weights(folder, own):
    checkpoint = load_checkpoint(str(folder))
    fitted = fit(checkpoint, checkpoint.schedule, Wanted("int4"), Text("own.txt", TEXT))
    packed = PackedModel.from_checkpoint(checkpoint, fitted=fitted)
    info = ArtifactInfo.describe(checkpoint, packed, 64, 16)
    assert fit_again("a.onnx", info, checkpoint, Text("other name", TEXT)).tensors.keys() == fitted.tensors.keys()
    with pytest.raises(MobileloopError, match=r"calibrated with the text own\.txt .* packaged is another one"):
        fit_again("a.onnx", info, checkpoint, Text.packaged())
    said = info.calibration.model_copy(update={"weights_sha256": "0" * 64})
    with pytest.raises(MobileloopError, match="again gives other weights than"):
        fit_again("a.onnx", info.model_copy(update={"calibration": said}), checkpoint, Text("own.txt", TEXT))


@pytest.mark.parametrize("output", ["a.onnx", "a.pte"])
def test_other_formats_verify_by_doing_it_again(folder, own, tmp_path, run, output):
    target = {"a.onnx": "onnx", "a.pte": "executorch"}[output]
    run(folder, "--to", target, "--calibrate", own, "--budget", "100kB", output=output)
    done = CliRunner().invoke(
        app, ["verify", str(tmp_path / output), "--against", str(folder), "--tokens", "64", "--calibrate", str(own)]
    )
    assert done.exit_code == 0, (done.output, done.exception)
