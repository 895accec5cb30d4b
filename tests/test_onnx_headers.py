"""The script that fetches the headers of ONNX Runtime, without a network."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "runtime_bench" / "engine" / "onnxruntime" / "fetch_headers.py"
_spec = importlib.util.spec_from_file_location("fetch_headers", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
fetch = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fetch)


def package(headers=None, with_archive=True) -> bytes:
    """A package as the registry gives it."""
    held = headers if headers is not None else {fetch.MAIN_HEADER: b"// header", "other.h": b"// other"}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as inner:
        inner.writestr("headers/", "")
        inner.writestr("jni/libonnxruntime.so", b"not wanted")
        for name, text in held.items():
            inner.writestr(f"headers/{name}", text)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for name, content in {fetch.ARCHIVE: archive.getvalue(), fetch.LICENSE: b"MIT"}.items():
            if name == fetch.ARCHIVE and not with_archive:
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return whole.getvalue()


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def serve(content: bytes, tmp_path, monkeypatch, sha256=None):
    """A registry of one file, by file URLs."""
    folder = tmp_path / "registry" / fetch.PACKAGE / "-"
    folder.mkdir(parents=True)
    (folder / f"{fetch.PACKAGE}-{fetch.PACKAGE_VERSION}.tgz").write_bytes(content)
    checksum = sha256 or hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(fetch, "registry", lambda: (tmp_path / "registry").as_uri())
    real = fetch.download
    monkeypatch.setattr(fetch, "download", lambda url, to: real(url, to, len(content), checksum))


def test_headers_and_license_are_kept_and_nothing_else(tmp_path, monkeypatch, capsys):
    serve(package(), tmp_path, monkeypatch)
    assert fetch.main() == 0
    folder = tmp_path / "cache" / "mobileloop" / fetch.FOLDER
    assert {path.name for path in folder.iterdir()} == {fetch.MAIN_HEADER, "other.h", "LICENSE"}
    assert [path.name for path in folder.parent.iterdir()] == [fetch.FOLDER]
    monkeypatch.setattr(fetch, "download", None)  # the second time nothing is fetched
    capsys.readouterr()
    assert fetch.main() == 0
    assert str(folder) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "sha256", "words"),
    [
        (package(), "0" * 64, "not the file of the known checksum"),
        (b"no archive", None, "cannot be unpacked"),
        (package(with_archive=False), None, "cannot be unpacked"),
        (package({"other.h": b""}), None, "holds other headers than expected"),
        (package({fetch.MAIN_HEADER: b"", "../evil.h": b""}), None, "holds other headers than expected"),
    ],
)
def test_another_file_is_refused_in_one_sentence(content, sha256, words, tmp_path, monkeypatch, capsys):
    serve(content, tmp_path, monkeypatch, sha256)
    assert fetch.main() == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert ".onnx files run on onnxruntime alone" in said
    assert not list((tmp_path / "cache" / "mobileloop").iterdir())


def test_too_long_a_file_is_not_read_to_its_end(tmp_path):
    (tmp_path / "long").write_bytes(bytes(1 << 22))
    to = io.BytesIO()
    with pytest.raises(fetch.FetchError, match="not the file"):
        fetch.download((tmp_path / "long").as_uri(), to, 10)
    assert len(to.getvalue()) == 0


def test_no_registry_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "registry", lambda: (tmp_path / "nothing").as_uri())
    assert fetch.main() == 1
    assert "cannot be downloaded" in capsys.readouterr().err


def test_the_registry_is_the_configured_one(monkeypatch):
    monkeypatch.setenv("npm_config_registry", "https://packages.example/npm/")
    assert fetch.registry() == "https://packages.example/npm"
    monkeypatch.setenv("npm_config_registry", "file:///etc")
    assert fetch.registry() == fetch.DEFAULT_REGISTRY


def test_cmake_looks_where_the_script_puts_them():
    text = (ROOT / "runtime_bench" / "engine" / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f"/mobileloop/{fetch.FOLDER}" in text
