"""Somebody sends two bundles to compare, of which one is made to crash, to fill the memory or to lie.

`diff` reads tensors itself, before OpenVINO or `load` has seen any of it: headers, shapes, types and metadata of the
weights are what the sender wrote, and the manifest's digests agree.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from npu_persist import diff
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.graph_records import Port
from npu_persist.bundle.manifest import FileEntry, Weights
from npu_persist.cli.main import main
from npu_persist.errors import FileIntegrityError, GraphIntegrityError, IntegrityError
from npu_persist.files.digest import digest_bytes
from npu_persist.store import Store
from tests.support.graphs import GRID, WEIGHTS, make_model, parameter, publish_affine, publish_graph

if TYPE_CHECKING:
    from pathlib import Path

W: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def pack(header: Any, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 4096)
    return struct.pack("<Q", len(text)) + text + data


def write(folder: Path, weights: bytes) -> Path:
    """Write a bundle with these bytes as its weights and a manifest that agrees."""
    source = publish_affine(Store())
    folder.mkdir()
    for path in source.manifest.files:
        (folder / path).write_bytes((source.path / path).read_bytes())
    (folder / WEIGHTS).write_bytes(weights)
    start = (len(weights) - 8) // 4096 * 4096
    manifest = replace(
        source.manifest,
        weights=Weights(WEIGHTS, start, len(weights) - start, 1),
        files={**source.manifest.files, WEIGHTS: FileEntry(len(weights), digest_bytes(weights))},
    )
    Bundle.write(folder, manifest)
    return folder


RECORD: dict[str, Any] = {"precision": "int8", "shape": [8], "values": "w", "scale": "s", "grouped": [8]}
V: dict[str, Any] = {"dtype": "I8", "shape": [8], "data_offsets": [0, 8]}
S: dict[str, Any] = {"dtype": "F16", "shape": [1], "data_offsets": [8, 10]}


def compressed(records: Any) -> bytes:
    text = records if isinstance(records, str) else json.dumps(records)
    return pack({"w": V, "s": S, "__metadata__": {"@compressed": text}}, bytes(10))


MALFORMED = {
    "a header beyond the file": struct.pack("<Q", 1 << 40).ljust(4104),
    "no JSON": pack(b"{" * 64),
    "nested without end": pack(b"[" * 100_000 + b"]" * 100_000),
    "beyond the file": pack({"w": {**W, "data_offsets": [0, 1 << 40]}}),
    "below zero": pack({"w": {**W, "data_offsets": [-8, 0]}}),
    "more elements than bytes": pack({"w": {**W, "shape": [1 << 60, 1 << 60]}}),
    "another type": pack({"w": {**W, "dtype": "F4"}}),
    "overlapping": pack({"w": W, "v": W}),
    "names twice": pack(b'{"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"w":1}'),
    "metadata that is no text": pack({"w": W, "__metadata__": {"v": 1}}),
    "records that are no JSON": compressed("{"),
    "records nested without end": compressed("[" * 100_000),
    "records that are no records": compressed([[1]]),
    "a record of a tensor that is not there": compressed({"w": {**RECORD, "values": "x"}}),
    "a record of itself": compressed({"w": {**RECORD, "scale": "w"}}),
    "a record with names that are lists": compressed({"w": {**RECORD, "values": ["w"]}}),
    "a record of more than there is": compressed({"w": {**RECORD, "shape": [1 << 40], "grouped": [1 << 40]}}),
    "a record of another size": compressed({"w": {**RECORD, "precision": "int4"}}),
    "a record of negative sizes": compressed({"w": {**RECORD, "shape": [-8], "grouped": [-8]}}),
    "a record of another precision": compressed({"w": {**RECORD, "precision": "int2"}}),
    "scales that do not fit": compressed({"w": {**RECORD, "grouped": [2, 4]}}),
}


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.parametrize("is_first", [True, False])
def test_weights_that_are_malformed_are_a_typed_error(kind: str, *, is_first: bool, tmp_path: Path) -> None:
    hostile, sound = write(tmp_path / "hostile", MALFORMED[kind]), publish_affine(Store(), name="sound").path
    pair = (hostile, sound) if is_first else (sound, hostile)
    with pytest.raises(GraphIntegrityError):
        diff(*pair, None)
    assert main(["diff", *map(str, pair), "--no-run"]) == IntegrityError.exit_code


def test_such_records_that_are_sound_are_read(tmp_path: Path) -> None:
    found = diff(write(tmp_path / "one", compressed({"w": RECORD})), write(tmp_path / "other", pack({"w": V})), None)
    assert [(one.name, one.kind, one.before) for one in found.tensors] == [("w", "retyped", "int8[8]")]


def test_a_file_that_lies_about_its_digest_is_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "hostile", pack({"w": W}))
    (folder / WEIGHTS).write_bytes(pack({"w": W}, b"\xff" * 8))
    with pytest.raises(FileIntegrityError):
        diff("affine", folder, None)


def test_a_link_out_of_the_bundle_is_not_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "hostile", pack({"w": W}))
    (tmp_path / "secret").write_bytes((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(tmp_path / "secret")
    with pytest.raises(FileIntegrityError):
        diff("affine", folder, None)


def test_names_do_not_steer_a_terminal_or_look_like_other_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "w\x1b[2J\nnothing differs"
    folder = write(tmp_path / "hostile", pack({name: W, "__metadata__": {"tied\x1b[2J": name}}))
    assert main(["diff", "affine", str(folder), "--no-run"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "w\\x1b[2J\\nnothing differs" in out


def test_metadata_that_names_tensors_in_a_circle_ends(tmp_path: Path) -> None:
    folder = write(tmp_path / "hostile", pack({"w": W, "__metadata__": {"a": "b", "b": "a", "w": "w", "c": "w"}}))
    found = diff("affine", folder, None)
    assert {one.name for one in found.tensors if one.kind == "added"} == {"w", "c"}


def test_empty_shapes_of_any_rank_and_size_cost_nothing(tmp_path: Path) -> None:
    empty = {**W, "shape": [1 << 50, 0, 1 << 50], "data_offsets": [0, 0]}
    folder = write(tmp_path / "hostile", pack({"e": empty, "w": W}))
    other = write(tmp_path / "other", pack({"e": {**empty, "dtype": "F64"}, "w": W}, b"\x01" * 8))
    found = diff(folder, other, None)
    assert [(one.name, one.kind) for one in found.tensors] == [("w", "changed"), ("e", "retyped")]


def test_a_graph_that_load_refuses_is_refused(tmp_path: Path) -> None:
    port = Port("x", "float32", (2, 3))
    x = parameter(port)
    sample = {"input.x": GRID, "output.y": GRID}
    publish_graph(
        Store(), make_model([x], [("y", x)]), [port], [Port("y", "float32", (2, 3))], name="sample", sample=sample
    )
    with pytest.raises(GraphIntegrityError):  # its constants lie outside of these weights
        diff("sample", write(tmp_path / "hostile", pack({"w": W})), "CPU")
