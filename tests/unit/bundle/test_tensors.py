"""Tensors of a weights file, and files that are not as they must be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from npu_persist.bundle.tensors import Tensors
from npu_persist.bundle.weights import lay_out, write
from npu_persist.errors import GraphIntegrityError

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
SCALE = np.array([[0.5], [1], [-2], [4]], np.float16)
GROUPS = np.array([[[0.5], [1]], [[2], [-1]], [[1], [1]], [[0], [3]]], np.float16)
PACKED = ((VALUES.ravel()[0::2] & 15) | (VALUES.ravel()[1::2] << 4)).view(np.uint8)


def save(path: Path, records: Any, **tensors: np.ndarray[Any, Any]) -> Path:
    kinds = {"int8": "I8", "uint8": "U8", "float16": "F16", "float32": "F32"}
    entries = {name: (kinds[one.dtype.name], one.shape, one.nbytes) for name, one in tensors.items()}
    header, starts = lay_out(entries, {"format": "pt", "tied": "w", "@compressed": json.dumps(records)})
    order = sorted(tensors, key=starts.__getitem__)
    write(path, header, (tensors[name].tobytes() for name in order), lambda _: None)
    return path


def record(**changes: Any) -> dict[str, Any]:
    return {"w": {"precision": "int8", "shape": [4, 4], "values": "w", "scale": "s", "grouped": [4, 4], **changes}}


def test_integers_are_multiplied_by_their_scales(tmp_path: Path) -> None:
    tensors = Tensors(save(tmp_path / "w", record(), w=VALUES, s=SCALE, bias=np.ones(3, np.float32)))
    assert [*tensors] == ["bias", "tied", "w"]
    assert (len(tensors), "s" in tensors, tensors.place("tied")) == (3, False, "w")
    np.testing.assert_array_equal(tensors["w"], VALUES * SCALE.astype(np.float32))
    np.testing.assert_array_equal(tensors["tied"], tensors["w"])
    assert tensors.shares() == {"int8": 16, "F32": 3}
    with pytest.raises(KeyError):
        tensors["nothing"]
    with pytest.raises(ValueError, match="read-only"):
        tensors["w"][0] = 1


@pytest.mark.parametrize(("first", "count"), [(0, 16), (3, 5), (4, 4), (15, 9), (16, 3)])
def test_pieces_of_four_bits_in_groups(tmp_path: Path, first: int, count: int) -> None:
    grouped = record(precision="int4", grouped=[4, 2, 2])
    tensors = Tensors(save(tmp_path / "w", grouped, w=PACKED, s=GROUPS))
    expected = (VALUES.reshape(4, 2, 2) * GROUPS.astype(np.float32)).ravel()
    np.testing.assert_array_equal(tensors.read("w", first, count), expected[first : first + count])
    np.testing.assert_array_equal(tensors["w"], expected.reshape(4, 4))


def test_an_odd_count_of_four_bits(tmp_path: Path) -> None:
    odd = record(precision="int4", shape=[1, 3], grouped=[1, 3])
    tensors = Tensors(save(tmp_path / "w", odd, w=np.array([0xE1, 0x07], np.uint8), s=np.ones((1, 1), np.float16)))
    assert tensors["w"].tolist() == [[1, -2, 7]]


@pytest.mark.parametrize(
    "records",
    [
        [],
        {"w": 3},
        {"w": {}},
        record(precision="int2"),
        record(precision="int4"),
        record(values="nothing"),
        record(scale="nothing"),
        record(scale="w"),
        record(values=["w"]),
        record(shape=[4, 5]),
        record(shape=[-4, -4]),
        record(shape=[4.0, 4]),
        record(shape=4),
        record(grouped=[4, 2, 2]),
        record(grouped=[2, 8]),
        record(grouped=[1 << 62, 0]),
        record(grouped=[True, 16]),
    ],
    ids=str,
)
def test_hostile_records(tmp_path: Path, records: Any) -> None:
    path = save(tmp_path / "w", records, w=VALUES, s=SCALE)
    with pytest.raises(GraphIntegrityError, match="records of compressed tensors"):
        Tensors(path)
