"""The engine's rooms: includes point one way, and no circle of headers remains. Read from the sources."""

import re
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[1] / "runtime_bench" / "engine"
BASE = {"error.h", "bounds.h", "mobileloop.h"}
# Lowest first; a room includes itself, the base and what is named here.
ROOMS = {
    "src/format": set(),
    "src/threads": set(),
    "src/kernels": {"src/format"},
    "src/loop": {"src/format", "src/threads", "src/kernels"},
    "src/session": {"src/format", "src/threads", "src/kernels", "src/loop"},
    "src/measure": {"src/format", "src/threads", "src/kernels", "src/loop"},
    "tokenizer": {"src/format"},
}
SOURCES = sorted(path for path in ENGINE.rglob("*") if path.suffix in (".h", ".cpp"))
INCLUDE = re.compile(r'^#include "([^"]+)"', re.M)


def included(path):
    """Files of the engine that a file includes, as paths from the engine's folder."""
    for name in INCLUDE.findall(path.read_text(encoding="utf-8")):
        places = (path.parent, ENGINE / "src", ENGINE / "include", ENGINE)
        found = [place / name for place in places if (place / name).is_file()]
        if found:
            yield found[0].relative_to(ENGINE)


def room(path):
    return path.parent.as_posix()


def test_every_folder_of_the_sources_is_a_room():
    folders = {path.parent.relative_to(ENGINE).as_posix() for path in SOURCES}
    assert {folder for folder in folders if folder.startswith("src/")} == {name for name in ROOMS if "/" in name}


@pytest.mark.parametrize("name", list(ROOMS))
def test_includes_point_one_way(name):
    files = [path for path in SOURCES if room(path.relative_to(ENGINE)) == name]
    assert files
    for path in files:
        for other in included(path):
            assert other.name in BASE or room(other) in ROOMS[name] | {name}, f"{path.name} includes {other}"


def test_no_circle_of_headers():
    edges = {path.relative_to(ENGINE): list(included(path)) for path in SOURCES if path.suffix == ".h"}
    done = set()

    def walk(path, trail):
        assert path not in trail, " -> ".join(map(str, [*trail, path]))
        if path in done:
            return
        for other in edges.get(path, ()):
            walk(other, [*trail, path])
        done.add(path)

    for path in edges:
        walk(path, [])
    assert len(edges) > 20
