from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from npu_persist.device.core import get_core


@pytest.fixture
def core() -> ov.Core:
    return get_core()


@pytest.fixture(scope="module")
def model() -> ov.Model:
    x = ops.parameter([1, 4], np.float32, name="x")
    return ov.Model([ops.result(ops.relu(x))], [x], "relu")
