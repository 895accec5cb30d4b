"""Every command with every kind of path: it works, or it is refused with a sentence before anything is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from builders import TINY, add_tokenizer, write_folder
from hypothesis import given
from hypothesis import strategies as st
from test_checkpoints import write_gguf

from mobileloop.checkpoints.random import random_model
from mobileloop.files import text_of

CONFIG = TINY.model_copy(update={"vocab_size": 259, "max_position": 64})
NAMES = {
    "space": b"my model (1)",
    "accents": "modèle-größe".encode(),
    "emoji": "phone \U0001f4f1".encode(),
    "latin-1": b"mod\xe8le",
    "newline": b"a\nb",
    "dash": b"-model",
    "colon": b"a:b%20c#1",
    "quotes": b'it\'s "so" $(x) `y`;*[1]',
    "escape": b"a\x1b[31mb\tc\r\x7f",
    "japanese": "日本語モデル".encode(),
    "cut": "é".encode()[:1] + "é".encode(),  # half a character
    "spaces": b" model ",
    "dots": b"..model..",
    "backslash": b"a\\xe8\\nb",
    "long": b"n" * 180,
}
# What standard output takes: UTF-8 or the bytes of a name, as shells have it; or nothing but what it can encode.
# What onnxruntime, ExecuTorch and DuckDB do not open: refused before anything is written there.
NOT_UTF8 = ("latin-1", "cut")
STREAMS = {
    "utf-8": {"LC_ALL": "C.UTF-8"},
    "C": {"LC_ALL": "C"},
    "strict": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"},
}
SMALL = ["--threads", "1", "--loops", "1", "--stream", "off", "--prompt-tokens", "4", "--decode-tokens", "2"]
SMALL += ["--repetitions", "1"]

# One process runs all commands, since starting one takes longer than most of them.
DRIVER = """
import os, sys
from mobileloop.cli import main
for number, words in enumerate(eval(os.environ["COMMANDS"])):
    sys.argv = ["mobileloop", *map(os.fsdecode, words)]
    saved = os.dup(1), os.dup(2)
    for stream, name in ((1, "out"), (2, "err")):
        getattr(sys, ("stdout", "stderr")[stream - 1]).flush()
        handle = os.open(f"{os.environ['SAID']}/{number}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream); os.close(handle)
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
        code = 99
    sys.stdout.flush(); sys.stderr.flush()
    os.dup2(saved[0], 1); os.dup2(saved[1], 2)
    with open(f"{os.environ['SAID']}/{number}.code", "w") as stream:
        stream.write(str(code))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder and a GGUF file."""
    folder = tmp_path_factory.mktemp("models")
    add_tokenizer(write_folder(folder / "source", random_model(CONFIG)))
    write_gguf(folder / "source.gguf", random_model(CONFIG), gguf.GGMLQuantizationType.Q8_0)
    return folder


def commands(name, utf8):
    """(words, exit code, whether standard output is JSON) of every command that takes a path."""
    if_utf8 = 0 if utf8 else 2
    a, folder = b"./" + name + b".safetensors", b"./" + name
    result, machine, store = b"./" + name + b".json", b"./" + name + b"-m.json", b"./" + name + b".duckdb"
    quantized = [b"--quantize", b"int8"]
    few = [*SMALL]
    sizes = ["--sizes", "16K,32K,64K,128K,256K,512K,1M,2M", "--no-cold", "--no-costs", "--time-budget", "1"]
    return [
        ([b"export", folder, *quantized, b"-o", a], 0, False),
        ([b"export", folder, *quantized, b"--json"], 0, True),
        ([b"export", folder + b".gguf", *quantized, b"--json"], 0, True),
        ([b"export", folder, *quantized, b"--to", b"onnx", b"-o", b"./" + name + b".onnx"], if_utf8, False),
        ([b"export", folder, *quantized, b"-o", b"./missing/" + name + b".safetensors"], 2, False),
        ([b"export", b"./missing/" + name], 2, False),
        ([b"export", folder, *quantized, b"-o", folder + b".txt"], 2, False),
        ([b"export", folder, b"--schedule", folder + b".schedule.json"], 2, False),
        ([b"info", a], 0, False),
        ([b"info", a, b"--json"], 0, True),
        ([b"info", b"./" + name + b".onnx"], if_utf8, False),
        ([b"info", folder + b".missing.safetensors"], 2, False),
        ([b"run", a, b"--no-chat", b"-p", b"x", b"-n", b"2"], 0, False),
        ([b"run", a, b"--no-chat", b"-p", b"x", b"-n", b"2", b"--json"], 0, True),
        ([b"run", b"./" + name + b".onnx", b"--no-chat", b"-p", b"x", b"-n", b"2", b"--json"], if_utf8, True),
        ([b"run", a, b"--no-chat", b"-p", name[:8], b"-n", b"2", b"--json"], None, True),
        ([b"verify", a, b"--against", folder, b"--tokens", b"8", b"--json"], 0, True),
        ([b"verify", a, b"--against", folder, b"--tokens", b"8"], 0, False),
        ([b"bandwidth", *sizes, b"--json", machine], 0, None),
        ([b"bench", a, *few, b"--json", result], 0, None),
        ([b"bench", a, b"./" + name + b".onnx", *few, b"--machine", machine, b"--json", result], if_utf8, None),
        ([b"machine", machine], 0, False),
        ([b"machine", b"--json", b"./" + name + b"-this.json"], 0, False),
        ([b"plan", a, b"--machine", machine, b"--budget", b"1s", b"--json"], 2, False),
        ([b"report", result, b"--html", b"./" + name + b".html", b"--markdown", b"./" + name + b".md"], 0, False),
        ([b"report", result, b"--charts", b"./" + name + b"-charts"], 0, False),
        ([b"compare", result, result, b"--json"], None, True),
        ([b"results", b"add", result, b"--store", store, b"--json"], if_utf8, True),
        ([b"results", b"list", b"--store", store], if_utf8, False),
        ([b"results", b"query", b"--store", store, b"--artifact", name + b"*", b"--json"], if_utf8, True),
        ([b"results", b"export", b"./" + name + b".csv", b"--store", store], if_utf8, False),
        ([b"results", b"export", b"./" + name + b".parquet", b"--store", store], if_utf8, False),
        ([b"results", b"export", b"./" + name + b"-t.md", b"--store", store], if_utf8, False),
        ([b"simulate", a, b"--machine", machine, b"--loops", b"9"], 2, False),
        ([b"device", b"setup", a], 2, False),
        ([b"device", b"bench", a, b"--json", result], 2, False),
        ([b"fetch", b"-o", b"./missing/" + name], 2, False),
    ]


def run(folder, listed, environment):
    said = folder.parent / "said"
    said.mkdir()
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONIOENCODING", "PYTHONUTF8")}
    words = [[os.fsencode(word) for word in one] for one, _, _ in listed]
    more = {
        "COMMANDS": repr(words),
        "SAID": str(said),
        "XDG_DATA_HOME": str(folder.parent / "data"),
        "PATH": "/nowhere",
    }
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=folder,
        env={**kept, **environment, **more},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for number in range(len(listed)):
        parts = [(said / f"{number}.{end}").read_bytes() for end in ("code", "out", "err")]
        yield int(parts[0]), parts[1], parts[2]


def strict_json(content):
    """JSON that every reader takes: UTF-8, and no half of a surrogate pair behind an escape."""
    held = json.loads(content.decode("utf-8"))
    json.dumps(held, ensure_ascii=False).encode("utf-8")
    return held


@pytest.mark.parametrize(
    ("kind", "stream"),
    [(kind, stream) for kind in NAMES for stream in STREAMS if stream == "utf-8" or kind in ("accents", "latin-1")],
)
def test_every_command_with_every_path(models, tmp_path, kind, stream):
    name, folder = NAMES[kind], tmp_path / "here"
    folder.mkdir()
    for source in ("source", "source.gguf"):
        os.symlink(models / source, os.fsencode(folder) + b"/" + name + source.removeprefix("source").encode())
    listed = commands(name, kind not in NOT_UTF8)
    wrong = []
    for (words, expected, as_json), (code, out, err) in zip(listed, run(folder, listed, STREAMS[stream]), strict=True):
        shown = f"{b' '.join(os.fsencode(word) for word in words[:3])!r}: exit {code}: {(err or out)[-300:]!r}"
        if code not in ((0, 1, 2) if expected is None else (expected,)) or b"Traceback" in err:
            wrong.append(shown)
        elif code == 2 and (err.count(b"\n") != 1 or out or not err.startswith(b"mobileloop: ") or len(err) > 700):
            wrong.append(f"no sentence: {shown}")
        elif b"\x1b[31m" in out + err:
            wrong.append(f"an escape: {shown}")
        elif as_json and code != 2:
            strict_json(out)
        elif as_json is None and code != 2:
            strict_json(out.strip().splitlines()[-1] if words[0] == b"bench" else b"{}")
    assert not wrong, "\n".join(wrong)
    left = sorted(os.listdir(os.fsencode(folder)))
    assert not [one for one in left if one.startswith(b".") and one.endswith(b".part")]
    for one in left:
        if one.endswith((b".json", b".md", b".html")):
            content = Path(os.fsdecode(os.fsencode(folder) + b"/" + one)).read_bytes()
            strict_json(content) if one.endswith(b".json") else content.decode("utf-8")


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name and b"/" not in name))
def test_a_path_as_text_can_be_written_anywhere(name):
    text = text_of(os.fsdecode(name))
    text.encode("utf-8")
    assert text == name.decode("utf-8", "backslashreplace")
