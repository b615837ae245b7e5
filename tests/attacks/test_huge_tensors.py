"""Somebody publishes a few bytes that ask for a tensor of hundreds of gigabytes.

Before: OpenVINO tried to allocate it when it compiled or folded the graph. Now a tensor of fixed size has at most
16 GiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from openvino import opset13 as ops

from tests.support.hostile import attack

if TYPE_CHECKING:
    from pathlib import Path


def test_one_tensor_is_bounded(tmp_path: Path) -> None:
    x = ops.parameter([1], np.float32, name="x")
    wide = ops.broadcast(x, ops.constant(np.array([1_000_000, 1_000_000])))
    node = ops.reduce_sum(wide, ops.constant(np.array([0, 1])), keep_dims=False)
    error = attack(tmp_path, [x], node, lambda _: None)
    assert error.startswith("GraphIntegrityError: "), error
    assert "at most 17179869184 bytes a tensor" in error
