"""Somebody publishes a layer that takes more elements than its data has.

Before: OpenVINO infers the shape that is asked for, and the CPU reads or writes behind the data: a TopK of 20 out of 8,
updates that are longer than what they are scattered into, an RDFT of more elements than there are. Now the sizes that
OpenVINO infers are compared between reading and compiling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from openvino import opset13 as ops

from tests.support.hostile import attack

if TYPE_CHECKING:
    from pathlib import Path


def test_the_largest_are_among_the_elements(tmp_path: Path) -> None:
    x = ops.parameter([1, 8], np.float32, name="x")
    error = attack(tmp_path, [x], ops.topk(x, ops.constant(np.int64(20)), 1, "max", "value").outputs(), lambda _: None)
    assert error.startswith("GraphIntegrityError: "), error
    assert "at most 8 elements of axis 1" in error


def test_updates_lie_in_the_data(tmp_path: Path) -> None:
    x = ops.parameter([2, 4], np.float32, name="x")
    indices, updates = (ops.constant(np.zeros((400, 4), kind)) for kind in ("int64", "float32"))
    node = ops.scatter_elements_update(x, indices, updates, ops.constant(np.int64(1)))
    error = attack(tmp_path, [x], node, lambda _: None)
    assert error.startswith("GraphIntegrityError: "), error
    assert "indices inside of [2, 4]" in error


def test_a_transform_takes_what_there_is(tmp_path: Path) -> None:
    x = ops.parameter([2, 6], np.float32, name="x")
    node = ops.rdft(x, ops.constant(np.array([1])), ops.constant(np.array([100_000])))
    error = attack(tmp_path, [x], node, lambda _: None)
    assert error.startswith("GraphIntegrityError: "), error
    assert "at most 6 elements of axis 1" in error


def test_an_interpolation_has_axes_that_the_device_knows(tmp_path: Path) -> None:
    x = ops.parameter([1, 1, 1, 1, 1, 1], np.float32, name="x")
    sizes, axes = (ops.constant(np.array(value)) for value in ([1, 2, 1], [2, 3, 4]))
    error = attack(tmp_path, [x], ops.interpolate(x, sizes, "nearest", "sizes", axes=axes), lambda _: None)
    assert error.startswith("GraphIntegrityError: "), error
    assert "data of 1 to 5 axes" in error


def test_norms_are_along_constant_axes(tmp_path: Path) -> None:
    x = ops.parameter([1], np.int64, name="x")
    error = attack(tmp_path, [x], ops.normalize_l2(ops.constant(np.ones(1, "f4")), x, 1e-6, "add"), lambda _: None)
    assert error.startswith("GraphIntegrityError: "), error
    assert "constant axes" in error
