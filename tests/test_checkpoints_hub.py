"""Names on the hub as sources, from the command line, against a stand-in for the hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from builders import TINY, add_tokenizer, write_folder
from fake_hub import COMMIT, TOKEN, Repository, served

from mobileloop.checkpoints.hub import HubName, hub_name
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError

NAME = "acme/Tiny-Llama"
CONFIG = TINY.model_copy(update={"vocab_size": 259})
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Files of a model with a tokenizer."""
    return files_of(add_tokenizer(write_folder(tmp_path_factory.mktemp("model"), random_model(CONFIG))))


@pytest.fixture
def hub():
    with served() as hub:
        yield hub


@pytest.fixture
def cli(hub, tmp_path):
    """cli(*words, **environment): a command in an empty folder with a cache of its own."""
    (tmp_path / "work").mkdir()

    def run(*words, entry=("-m", "mobileloop.cli"), **more):
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "TRANSFORM"))
        }
        environment = {**kept, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.endpoint, "NO_PROXY": "*"}
        return subprocess.run(
            [sys.executable, *entry, *map(str, words)],
            cwd=tmp_path / "work",
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    run.folder = tmp_path / "work"
    run.cache = tmp_path / "hf" / "hub"
    return run


def export(cli, source=NAME, *words, **more):
    result = cli("export", source, "--quantize", "int8", "--json", *words, **more)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def refused(cli, *parts, source=NAME, words=(), **more):
    result = cli("export", source, *words, **more)
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert len(result.stderr) < 400, result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr
    assert list(cli.folder.iterdir()) == []
    return result.stderr


# -- what works ------------------------------------------------------------------------------------


def test_a_model_of_the_hub(cli, hub, model):
    more = {
        "README.md": b"#",
        "optimizer.pt": b"x",
        "consolidated.00.pth": b"x",
        "model.onnx": b"x",
        "tf_model.h5": b"x",
    }
    more |= {
        "pytorch_model.bin": b"x",
        "onnx/model.onnx": b"x",
        "training_args.bin": b"x",
        "consolidated.safetensors": b"x",
    }
    hub.repositories[NAME] = Repository({**model, **more, "chat_template.jinja": b"hello"})
    told = export(cli)
    assert told["artifact"] == "Tiny-Llama-plain-int8.safetensors"
    assert sorted(hub.fetched()) == ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    info = json.loads(cli("info", told["artifact"], "--json").stdout)
    assert info["source"] == f"{NAME}@{COMMIT}"
    assert info["config"]["name"] == "Tiny-Llama"
    shown = cli("info", told["artifact"]).stdout
    assert f"{NAME}@{COMMIT}" in shown


def test_what_was_fetched_is_not_fetched_again(cli, hub, model):
    hub.repositories[NAME] = Repository(model)
    export(cli)
    hub.requests.clear()
    export(cli)
    assert hub.fetched() == []


def test_the_artifact_names_a_source_that_is_the_same(cli, hub, model):
    hub.repositories[NAME] = Repository(model)
    artifact = export(cli)["artifact"]
    source = json.loads(cli("info", artifact, "--json").stdout)["source"]
    hub.repositories[NAME] = Repository({}, commit=OTHER, revisions={COMMIT: COMMIT})
    hub.repositories[NAME].files = model
    before = (cli.folder / artifact).read_bytes()
    export(cli, source)
    assert (cli.folder / artifact).read_bytes() == before


def test_verify_takes_one_too(cli, hub, model):
    hub.repositories[NAME] = Repository(model)
    artifact = export(cli)["artifact"]
    result = cli("verify", artifact, "--against", NAME, "--tokens", 16)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("revision", ["v1", "refs/pr/3", OTHER])
def test_a_revision(cli, hub, model, revision):
    hub.repositories[NAME] = Repository(model, revisions={revision: OTHER})
    artifact = export(cli, f"{NAME}@{revision}")["artifact"]
    assert json.loads(cli("info", artifact, "--json").stdout)["source"] == f"{NAME}@{OTHER}"


def test_a_folder_of_that_name_comes_first(cli, hub, model):
    folder = cli.folder / NAME
    write_folder(folder, random_model(CONFIG))
    export(cli)
    assert hub.requests == []


def test_shards_and_only_those_of_the_index(cli, hub, tmp_path):
    held = files_of(write_folder(tmp_path / "shards", random_model(CONFIG), shards=3))
    hub.repositories[NAME] = Repository({**held, "consolidated.safetensors": b"x", "extra.safetensors": b"x"})
    export(cli)
    assert {one for one in hub.fetched() if one.endswith(".safetensors")} == {
        f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    }


def test_a_connection_that_is_cut_goes_on(cli, hub, model):
    hub.repositories[NAME] = Repository(model, cut=2)
    # The library keeps what it got in parts of 10 MB, of which these files have none.
    parts = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 20_000"
    export(cli, entry=("-c", f"{parts}; from mobileloop.cli import main; main()"))
    ranges = [
        asked for method, path, asked, _ in hub.requests if method == "GET" and path.endswith("model.safetensors")
    ]
    assert len(ranges) == 3
    assert ranges[0] is None
    begins = [int(one.removeprefix("bytes=").partition("-")[0]) for one in ranges[1:]]
    assert 0 < begins[0] < begins[1]


def test_what_is_whole_stays_when_the_rest_fails(cli, hub, model):
    hub.repositories[NAME] = Repository(model, listed=["generation_config.json"])
    refused(cli, "lacks a file")
    hub.repositories[NAME].listed = []
    hub.requests.clear()
    export(cli)
    assert "config.json" not in hub.fetched()


def test_without_a_network_the_cache_serves(cli, hub, model):
    hub.repositories[NAME] = Repository(model, revisions={"v1": COMMIT})
    export(cli)
    export(cli, f"{NAME}@v1")
    hub.requests.clear()
    for more in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:1"}):
        for source in (NAME, f"{NAME}@v1", f"{NAME}@{COMMIT}"):
            notes = export(cli, source, **more)["notes"]
            assert any("cache" in note and COMMIT[:12] in note for note in notes)
    assert hub.requests == []


def test_a_cache_without_the_tokenizer_is_noted(cli, hub, model):
    bare = {name: held for name, held in model.items() if not name.startswith("tokenizer")}
    hub.repositories[NAME] = Repository(bare)
    export(cli)
    assert any("no tokenizer" in note for note in export(cli, HF_HUB_OFFLINE="1")["notes"])


def test_the_token_is_sent(cli, hub, model):
    hub.repositories[NAME] = Repository(model, private=True)
    refused(cli, "no model of that name", "HF_TOKEN")
    export(cli, HF_TOKEN=TOKEN)
    assert {token for *_, token in hub.requests} == {None, TOKEN}


def test_pickled_weights_are_named_and_read_on_request(cli, hub, tmp_path):
    import torch
    from safetensors.torch import load_file

    folder = write_folder(tmp_path / "pickled", random_model(CONFIG))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    hub.repositories[NAME] = Repository(files_of(folder))
    refused(cli, "pytorch_model.bin", "--weights-only-bin")
    assert "pytorch_model.bin" not in hub.fetched()
    told = export(cli, NAME, "--weights-only-bin")
    info = json.loads(cli("info", told["artifact"], "--json").stdout)
    assert (info["source"], info["config"]["name"]) == (f"{NAME}@{COMMIT}", "Tiny-Llama")


# -- GGUF ------------------------------------------------------------------------------------------


def test_a_repository_of_gguf_files_lists_them(cli, hub):
    hub.repositories[NAME] = Repository({"a-Q4_0.gguf": b"GGUF", "b-Q8_0.gguf": b"GGUF", "README.md": b"#"})
    refused(cli, "a-Q4_0.gguf, b-Q8_0.gguf", f"{NAME}:a-Q4_0.gguf")
    assert hub.fetched() == []


def test_one_gguf_file_is_chosen(cli, hub, tmp_path):
    from test_checkpoints import write_gguf

    path = tmp_path / "a-Q4_0.gguf"
    write_gguf(path, random_model(CONFIG))
    hub.repositories[NAME] = Repository({"a-Q4_0.gguf": path.read_bytes(), "b.gguf": b"GGUF"})
    told = export(cli, f"{NAME}:a-Q4_0.gguf")
    assert told["artifact"] == "a-Q4_0-plain-int8.safetensors"
    assert hub.fetched() == ["a-Q4_0.gguf"]
    source = json.loads(cli("info", told["artifact"], "--json").stdout)["source"]
    assert source == f"{NAME}@{COMMIT}:a-Q4_0.gguf"
    (cli.folder / told["artifact"]).unlink()
    refused(cli, "has no c.gguf", "a-Q4_0.gguf", source=f"{NAME}:c.gguf")


# -- one sentence ----------------------------------------------------------------------------------


def test_a_missing_model(cli, hub):
    refused(cli, "no folder acme/Nothing here", "no model of that name", source="acme/Nothing")
    refused(cli, "no model of that name", source="acme/Nothing", HF_TOKEN=TOKEN)


def test_a_gated_model(cli, hub, model):
    hub.repositories[NAME] = Repository(model, gated=True)
    refused(cli, "is gated", "HF_TOKEN", hub.endpoint)
    refused(cli, "is gated", "accept its terms", HF_TOKEN=TOKEN)
    hub.repositories[NAME].accepted = True
    export(cli, HF_TOKEN=TOKEN)


def test_a_wrong_token(cli, hub, model):
    hub.repositories[NAME] = Repository(model)
    refused(cli, "does not accept the token", "HF_TOKEN", HF_TOKEN="hf_wrong")


def test_a_revision_that_is_none(cli, hub, model):
    hub.repositories[NAME] = Repository(model)
    refused(cli, "no revision 'v9'", source=f"{NAME}@v9")
    refused(cli, "is no revision", source=f"{NAME}@../../x")
    refused(cli, "is no revision", source=f"{NAME}@-x y")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_in_trouble(cli, hub, model, status):
    hub.repositories[NAME] = Repository(model, status=status)
    refused(cli, str(status), "try again")


def test_no_network(cli):
    refused(cli, "cannot be reached", "check the network", HF_ENDPOINT="http://127.0.0.1:1")
    refused(cli, "HF_HUB_OFFLINE", HF_HUB_OFFLINE="1")
    refused(cli, "cannot be reached", HF_ENDPOINT="http://no-such-host.invalid")


def test_an_endpoint_that_is_no_hub(cli):
    for endpoint in ("nonsense", "http://", "ftp://x"):
        refused(cli, "acme/Tiny-Llama", HF_ENDPOINT=endpoint)


def test_names_that_lead_out_of_the_repository_are_not_followed(cli, hub, model):
    hub.repositories[NAME] = Repository(model, listed=["../../evil", "/etc/passwd", "a\\b", "..", ".", "x\ny", ""])
    export(cli)
    asked = {path for _, path, _, _ in hub.requests}
    assert not [path for path in asked if "evil" in path or "passwd" in path]
    index = json.dumps({"weight_map": {"model.embed_tokens.weight": "../../../evil.safetensors"}}).encode()
    rest = {name: held for name, held in model.items() if name != "model.safetensors"}
    other = "acme/Evil"
    hub.repositories[other] = Repository(
        {**rest, "model.safetensors.index.json": index}, listed=["../../../evil.safetensors"]
    )
    (cli.folder / "Tiny-Llama-plain-int8.safetensors").unlink()
    refused(cli, "evil.safetensors", source=other)


@pytest.mark.parametrize("commit", ["../../x", "", "main", "0" * 39])
def test_a_commit_that_is_none(cli, hub, model, commit):
    hub.repositories[NAME] = Repository(model, commit=commit)
    refused(cli, "no commit")
    assert not cli.cache.exists()


def test_a_full_disk(cli, hub, model):
    hub.repositories[NAME] = Repository(model)
    full = (
        "import errno, huggingface_hub\n"
        "def download(*_, **__): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "huggingface_hub.hf_hub_download = download\n"
        "from mobileloop.cli import main; main()"
    )
    refused(cli, "does not fit the disk", "HF_HOME", entry=("-c", full))


def test_a_model_too_large_for_the_disk_is_refused_before_the_download(cli, hub, model, monkeypatch):
    from mobileloop.checkpoints import hub as module

    fetch = module._Fetch(HubName(NAME), lambda step, share: None)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(module._Fetch, "_home", lambda self: cli.folder)
    with pytest.raises(MobileloopError, match="are free"):
        fetch._check_space([600, 600])
    fetch._check_space([600])


def test_a_cache_that_cannot_be_written(cli, hub, model):
    hub.repositories[NAME] = Repository(model)
    cli.cache.parent.mkdir()
    cli.cache.write_text("a file where the folder belongs")
    refused(cli, NAME)
    refused(cli, NAME, HF_HOME="/dev/full")


def test_what_is_no_model(cli, hub, model):
    cases = {
        "no config.json": {"README.md": b"#"},
        "which is not supported": {**model, "config.json": b'{"model_type": "bert"}'},
        "is not JSON": {**model, "config.json": b"{"},
        "tf_model.h5": {"config.json": model["config.json"], "tf_model.h5": b"x"},
        "a.safetensors, b.safetensors": {
            "config.json": model["config.json"],
            "a.safetensors": b"",
            "b.safetensors": b"",
        },
        "has no weight_map": {"config.json": model["config.json"], "model.safetensors.index.json": b"{}"},
    }
    for number, (reason, held) in enumerate(cases.items()):
        name = f"acme/case-{number}"
        hub.repositories[name] = Repository(held)
        said = refused(cli, reason, name, source=name)
        assert "snapshots" not in said
    assert not [one for one in hub.fetched() if one == "model.safetensors"]


def test_a_damaged_file_is_named_by_the_model(cli, hub, model):
    hub.repositories[NAME] = Repository({**model, "model.safetensors": b"nonsense"})
    assert "snapshots" not in refused(cli, f"{NAME}/model.safetensors")


def test_an_interrupted_download_leaves_nothing_half(cli, hub, model):
    hub.repositories[NAME] = Repository(model, cut=100)
    at_once = "import time; time.sleep = lambda seconds: None; from mobileloop.cli import main; main()"
    refused(cli, "cannot be reached", entry=("-c", at_once))
    assert not [path for path in cli.cache.rglob("*") if path.name == "model.safetensors"]
    hub.repositories[NAME].cut = 0
    export(cli)


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("facebook/MobileLLM-125M-layer-share", HubName("facebook/MobileLLM-125M-layer-share")),
        ("hf://a/b", HubName("a/b")),
        ("a/b@main", HubName("a/b", "main")),
        ("a/b@refs/pr/12", HubName("a/b", "refs/pr/12")),
        ("a/b:c.Q4_0.gguf", HubName("a/b", None, "c.Q4_0.gguf")),
        ("a/b@v1:c.gguf", HubName("a/b", "v1", "c.gguf")),
        ("a/b.gguf", None),
        ("a/model.safetensors", None),
        ("./a/b", None),
        ("../a", None),
        ("a", None),
        ("a/b/c", None),
        ("/a/b", None),
        ("a/..", None),
        ("../b", None),
        ("a/b:../c.gguf", None),
        ("a/b:c/d.gguf", None),
        ("a//b", None),
        ("ä/b", None),
        ("a /b", None),
        ("a/b\n", None),
        ("", None),
    ],
)
def test_what_is_a_name(source, name):
    assert hub_name(source) == name
