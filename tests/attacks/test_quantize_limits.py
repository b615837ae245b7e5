"""Somebody publishes a FakeQuantize whose limits are larger than its data.

Before: OpenVINO took for granted that they are not: SIGSEGV. Now the sizes that OpenVINO infers are compared between
reading and compiling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from openvino import opset13 as ops

from tests.support.hostile import attack

if TYPE_CHECKING:
    from pathlib import Path


def test_limits_are_broadcast_to_the_data(tmp_path: Path) -> None:
    x = ops.parameter([1, 2, 6, 6], np.float32, name="x")
    low, high = (ops.constant(np.float32(value)) for value in (0, 2))
    error = attack(tmp_path, [x], ops.fake_quantize(high, low, x, low, high, 256), lambda _: None)
    assert error.startswith("GraphIntegrityError: "), error
    assert "limits that are broadcast to []" in error
