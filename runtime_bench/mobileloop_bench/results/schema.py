"""The JSON Schemas of the files that mobileloop writes, made from the classes that read them.

`python -m mobileloop_bench.results.schema docs/schema` writes one file per document; a test says when one is out of
date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mobileloop.errors import MobileloopError
from mobileloop.files import written_whole
from mobileloop_bench.machine.file import MachineFile
from mobileloop_bench.results.document import Document
from mobileloop_bench.writing.documents import VersionedDocument

DOCUMENTS: dict[str, type[VersionedDocument]] = {"bench": Document, "machine": MachineFile}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(document: type[VersionedDocument]) -> dict[str, Any]:
    """What a file of the current version must hold; more keys are allowed everywhere."""
    schema = document.model_json_schema(by_alias=True)
    name = f"{document.NAME}/{document.VERSION}"
    schema["properties"]["schema"] = {"const": name}
    schema["required"] = ["schema", *schema.get("required", [])]
    return {"$schema": DIALECT, "$id": f"urn:{document.NAME}:{document.VERSION}", **schema, "title": name}


def file_name(document: type[VersionedDocument]) -> str:
    """`mobileloop.bench-2.json`."""
    return f"{document.NAME}-{document.VERSION}.json"


def schema_text(document: type[VersionedDocument]) -> str:
    """The file's content."""
    return json.dumps(json_schema(document), indent=1, ensure_ascii=False) + "\n"


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema into a folder."""
    paths = []
    for document in DOCUMENTS.values():
        with written_whole(folder / file_name(document)) as temporary:
            temporary.write_text(schema_text(document), encoding="utf-8")
        paths.append(folder / file_name(document))
    return paths


def main(arguments: list[str]) -> int:
    """Entry point."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m mobileloop_bench.results.schema FOLDER")
        return 2
    try:
        for path in write_schemas(Path(arguments[0])):
            print(f"Wrote {path}")
    except MobileloopError as error:
        print(f"mobileloop: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
