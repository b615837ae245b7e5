"""Somebody publishes a Reshape to another number of elements.

Attack: with special_zero and without a size of -1 OpenVINO compares nothing: [2, 4, 2, 8] becomes [2, 2, 1, 3], or
something larger than there is.

Before: the CPU copied as many elements as the new shape has: the heap was overwritten, and the process died later. Now
what OpenVINO infers is compared between reading and compiling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from openvino import opset13 as ops

from tests.support.hostile import attack

if TYPE_CHECKING:
    from pathlib import Path


def test_a_reshape_keeps_the_number_of_elements(tmp_path: Path) -> None:
    x = ops.parameter([1, 1, 3, 3], np.float32, name="x")
    wide = ops.reshape(ops.relu(x), ops.constant(np.array([0, 64, 64, 64])), special_zero=True)
    error = attack(tmp_path, [x], ops.relu(wide), lambda _: None)
    assert error.startswith("GraphIntegrityError: "), error
    assert "as many elements as [1,1,3,3] has" in error
