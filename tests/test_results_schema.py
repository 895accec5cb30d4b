import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_writing_documents import BENCH, BOARD, EVERY

from mobileloop_bench.results.schema import DOCUMENTS, file_name, json_schema, schema_text, write_schemas
from mobileloop_bench.writing.documents import VersionedDocument

jsonschema = pytest.importorskip("jsonschema")
FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schema"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_published_schemas_are_current(name: str) -> None:
    published = FOLDER / file_name(DOCUMENTS[name])
    assert published.read_text(encoding="utf-8") == schema_text(DOCUMENTS[name]), (
        "the classes have changed: run python -m mobileloop_bench.results.schema docs/schema"
    )


def test_no_other_schema_of_this_version_is_published() -> None:
    assert {file_name(document) for document in DOCUMENTS.values()} <= {path.name for path in FOLDER.iterdir()}


@EVERY
def test_a_written_document_fulfils_its_schema(document: VersionedDocument) -> None:
    schema = json_schema(type(document))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(document.to_json()), schema)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda data: data.update(schema="mobileloop.bench/1"), ["schema"]),
        (lambda data: data.pop("machine"), []),
        (lambda data: data["results"][0].update(loops=0), ["results", 0, "loops"]),
        (lambda data: data["results"][0].update(phase="lunch"), ["results", 0, "phase"]),
        (lambda data: data["results"][0].update(unique_bytes=-1), ["results", 0, "unique_bytes"]),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(change, where) -> None:
    data = json.loads(BENCH.to_json())
    change(data)
    with pytest.raises(jsonschema.ValidationError) as caught:
        jsonschema.validate(data, json_schema(type(BENCH)))
    assert list(caught.value.absolute_path) == where


def test_unknown_keys_are_allowed_and_null_is_unknown() -> None:
    data = json.loads(BOARD.to_json())
    data["more"], data["machine"]["more"], data["machine"]["cpu"] = 1, 2, None
    jsonschema.validate(data, json_schema(type(BOARD)))


def test_the_command_writes_them_all(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "mobileloop_bench.results.schema", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(said.stdout.splitlines()) == len(DOCUMENTS)
    assert {path.name for path in tmp_path.iterdir()} == {file_name(document) for document in DOCUMENTS.values()}
    missing = [sys.executable, "-m", "mobileloop_bench.results.schema", str(tmp_path / "none")]
    refused = subprocess.run(missing, capture_output=True, text=True)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert write_schemas(tmp_path)
