from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npu_persist.bundle import document as strict
from npu_persist.bundle import manifest as room
from npu_persist.bundle.manifest import Manifest
from npu_persist.bundle.schema import SCHEMA_FILE, manifest_schema
from tests.support.bundles import tiny_manifest
from tests.support.manifests import BUCKETS, spoil

TINY = tiny_manifest()


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_the_schema_says_what_the_reader_says(data: st.DataObject) -> None:
    document = json.loads(TINY.to_json())
    if data.draw(st.booleans()):
        document["graphs"][0]["buckets"] = deepcopy(BUCKETS)
    for _ in range(data.draw(st.integers(1, 2))):
        document = spoil(document, data)
    assert _reads(document) == _schema().is_valid(document), document


def _reads(document: Any) -> bool:
    problems = strict.Problems()
    try:
        room._check_names(strict.convert(document, Manifest), problems)
        problems.raise_if_any()
    except strict.DocumentError:
        return False
    return True


def test_the_schema_in_the_package_is_what_the_records_give() -> None:
    assert SCHEMA_FILE.read_bytes() == manifest_schema(), "run python -m npu_persist.bundle.schema"


@cache
def _schema() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA_FILE.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    # JSON Schema takes 1.0 for an integer; the reader is stricter.
    checker = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=checker)(schema)


def test_the_schema_knows_a_valid_manifest_and_names_as_the_reader_does() -> None:
    schema = _schema()
    assert schema.is_valid(json.loads(TINY.to_json()))
    for name in ("CON", "aux.x", "com1", "console", "a.", "-a", "a/b", "x" * 101, "", "nul.", "COM10"):
        document = json.loads(TINY.to_json())
        document["name"] = name
        assert schema.is_valid(document) == _reads(document), name
