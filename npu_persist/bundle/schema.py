"""The manifest's JSON Schema, generated from its records; `python -m npu_persist.bundle.schema` writes the file."""

from __future__ import annotations

import inspect
from pathlib import Path

import msgspec

from npu_persist.bundle.document import FORMAT_VERSION, dump
from npu_persist.bundle.manifest import Manifest

SCHEMA_FILE = Path(__file__).with_name("manifest.schema.json")
"""Where the package has the schema."""


def manifest_schema() -> bytes:
    """Return the schema. Rules that relate one value to another (unique names, tensor indices) are not in it."""
    schema = msgspec.json.schema(Manifest)
    # msgspec dedents docstrings since 0.23 and Python since 3.13: the file is the same with all of them.
    for record in schema["$defs"].values():
        if "description" in record:
            record["description"] = inspect.cleandoc(record["description"])
    schema = {
        **schema,
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:npu-persist:manifest:{FORMAT_VERSION}",
        "title": f"Manifest of an npu_persist bundle, format version {FORMAT_VERSION}",
    }
    return dump(schema)


if __name__ == "__main__":
    SCHEMA_FILE.write_bytes(manifest_schema())
