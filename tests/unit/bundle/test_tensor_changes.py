"""Tensors of two weights files, compared by name and in pieces."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from npu_persist.bundle import tensor_changes
from npu_persist.bundle.tensor_changes import TensorChange, compare_tensors
from npu_persist.bundle.tensors import Tensors
from npu_persist.bundle.weights import lay_out, read_header, write
from npu_persist.errors import GraphIntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KINDS = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "uint8": "U8",
    "int64": "I64",
    "bool": "BOOL",
}
RANDOM = np.random.default_rng(0)
A = RANDOM.standard_normal((7, 5)).astype(np.float32)
B = A + RANDOM.standard_normal((7, 5)).astype(np.float32) / 100


def save(path: Path, tensors: Mapping[str, Any], **tied: str) -> Path:
    """Write arrays, or pairs of a type's name and such as hold its bits, as a safetensors file."""
    typed = {
        name: value if isinstance(value, tuple) else (KINDS[value.dtype.name], value) for name, value in tensors.items()
    }
    header, starts = lay_out({name: (kind, array.shape, array.nbytes) for name, (kind, array) in typed.items()}, tied)
    write(path, header, [typed[name][1].tobytes() for name in sorted(starts, key=starts.__getitem__)], lambda _: None)
    return path


def compare(tmp_path: Path, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, TensorChange]:
    found, same = compare_tensors(save(tmp_path / "a", first), save(tmp_path / "b", second))
    assert same == len(first.keys() | second.keys()) - len(found)
    return {one.name: one for one in found}


def _other(folder: Path) -> Path:
    (folder / "other").mkdir()
    return folder / "other"


@pytest.mark.parametrize("piece", [1, 4, 1 << 20])
def test_the_change_is_that_of_the_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(tensor_changes, "_PIECE", piece)
    found = compare(tmp_path, {"w": A, "same": A}, {"w": B, "same": A})
    expected = np.linalg.norm((B - A).astype(np.float64)) / np.linalg.norm(A.astype(np.float64))
    assert list(found) == ["w"]
    assert found["w"].kind == "changed"
    assert (found["w"].before, found["w"].after) == ("F32[7, 5]", "F32[7, 5]")
    assert found["w"].change == pytest.approx(expected, rel=0.005)


def test_no_piece_is_larger_than_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    read = Tensors._read

    def watched(*arguments: Any) -> Any:
        data = read(*arguments)
        sizes.append(data.size)
        return data

    monkeypatch.setattr(tensor_changes, "_PIECE", 8)
    monkeypatch.setattr(Tensors, "_read", watched)
    compare(tmp_path, {"w": A}, {"w": B})
    assert max(sizes) == 8


def test_what_was_added_removed_reshaped_and_retyped(tmp_path: Path) -> None:
    before = {"gone": A, "shape": A, "half": A, "int": A, "scalar": np.array(2, np.float32)}
    after = {
        "new": A,
        "shape": A.T.copy(),
        "half": A.astype(np.float16),
        "int": A.astype(np.int8),
        "scalar": np.float32(3),
    }
    found = compare(tmp_path, before, after)
    assert {name: one.kind for name, one in found.items()} == {
        "gone": "removed", "new": "added", "shape": "reshaped", "half": "retyped", "int": "retyped", "scalar": "changed"
    }  # fmt: skip
    assert (found["gone"].after, found["new"].before, found["shape"].change) == (None, None, None)
    assert found["half"].after == "F16[7, 5]"
    assert 0 < (found["half"].change or 0) < 0.001
    assert (found["int"].change or 0) > 0.1
    assert found["scalar"].change == 0.5


def test_the_largest_comes_first_and_what_has_no_number_before_it(tmp_path: Path) -> None:
    before = {"constant.7": A, "a": A, "b": A, "c": A, "constant.8": A}
    found = compare(tmp_path, before, {"a": A * 1.1, "b": A * 2, "d": A, "constant.8": A * 3})
    assert list(found) == ["c", "d", "constant.8", "b", "a", "constant.7"]
    assert [found[name].change for name in "ba"] == [1.0, pytest.approx(0.1)]


def test_bfloat16_is_read_and_floats_of_8_bits_are_only_compared(tmp_path: Path) -> None:
    ones, twos = np.full((3,), 0x3F80, np.uint16), np.full((3,), 0x4000, np.uint16)
    bits, others = np.zeros((3,), np.uint8), np.ones((3,), np.uint8)
    before = {"b": ("BF16", ones), "f8": ("F8_E4M3", bits), "same": ("F8_E4M3", bits)}
    after = {"b": ("BF16", twos), "f8": ("F8_E4M3", others), "same": ("F8_E4M3", bits)}
    found = compare(tmp_path, before, after)
    assert {name: one.change for name, one in found.items()} == {"f8": None, "b": 1.0}
    retyped = compare(_other(tmp_path), {"b": ("BF16", ones)}, {"b": np.ones(3, np.float32)})
    assert (retyped["b"].kind, retyped["b"].change) == ("retyped", 0.0)


def test_infinities_and_nan(tmp_path: Path) -> None:
    odd = np.array([1, np.inf, -np.inf, np.nan], np.float32)
    same = compare(tmp_path, {"w": odd}, {"w": odd})
    assert same == {}
    moved = compare(_other(tmp_path), {"w": odd}, {"w": odd + np.array([1, 0, 0, 0], np.float32)})
    assert moved["w"].change == 1.0
    for value in (np.nan, np.inf, 1e38):
        target = tmp_path / str(value)
        target.mkdir()
        new = compare(target, {"w": np.zeros(4, np.float32)}, {"w": np.array([0, value, 0, 0], np.float32)})
        assert new["w"].change == math.inf


def test_tied_tensors_have_all_their_names(tmp_path: Path) -> None:
    a = save(tmp_path / "a", {"embed": A}, head="embed", format="pt")
    b = save(tmp_path / "b", {"embed": B}, head="embed", format="pt")
    reported: list[int] = []
    found, same = compare_tensors(a, b, reported.append)
    assert ([one.name for one in found], same) == (["embed", "head"], 0)
    assert reported == [A.nbytes]
    untied = save(tmp_path / "c", {"embed": A, "head": B})
    found, same = compare_tensors(a, untied)
    assert ([one.name for one in found], same) == (["head"], 1)


def test_a_file_that_is_cut_short_meanwhile_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = save(tmp_path / "a", {"w": A}), save(tmp_path / "b", {"w": A})

    def then_cut(path: Path) -> Any:
        header = read_header(path)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 4)
        return header

    monkeypatch.setattr("npu_persist.bundle.tensors.read_header", then_cut)
    with pytest.raises(GraphIntegrityError, match="truncated"):
        compare_tensors(a, b)


def test_empty_tensors(tmp_path: Path) -> None:
    nothing = np.zeros((0, 3), np.float32)
    found = compare(tmp_path, {"a": nothing, "b": nothing}, {"a": nothing, "b": nothing.astype(np.float16)})
    assert [(one.name, one.kind, one.change) for one in found.values()] == [("b", "retyped", 0.0)]
