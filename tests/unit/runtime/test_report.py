from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from npu_persist.errors import InputError, UsageError
from tests.support.graphs import publish_affine, publish_dynamic, publish_power

if TYPE_CHECKING:
    from tests.support.loaded import Loader

COUNTED = {"PERF_COUNT": True}


@pytest.mark.parametrize("device", ["CPU", "AUTO", "HETERO:CPU"])
def test_each_layer_has_its_time(loaded: Loader, device: str) -> None:
    model = loaded(publish_power, 256, 4, device=device, config=COUNTED)
    layers = model.profile([np.zeros((256, 256), np.float32)], runs=3)
    products = [layer for layer in layers if layer.type == "MatMul"]
    assert len(products) == 4
    assert all(layer.status == "executed" and layer.real_us > 0 and layer.exec_type for layer in products)
    assert len({layer.name for layer in layers}) == len(layers)
    assert {layer.status for layer in layers} <= {"executed", "not_run", "optimized_out"}
    assert json.loads(json.dumps([msgspec.structs.asdict(layer) for layer in layers]))[0]["name"] == layers[0].name


def test_inputs_are_made_if_none_are_given(loaded: Loader) -> None:
    assert loaded(publish_affine, config=COUNTED).profile()
    assert loaded(publish_dynamic, config=COUNTED).profile(runs=1)


@pytest.mark.parametrize("device", ["CPU", "AUTO", "HETERO:CPU"])
def test_a_model_that_does_not_count_says_what_to_write(loaded: Loader, device: str) -> None:
    model = loaded(publish_power, 256, 4, device=device)
    with pytest.raises(UsageError, match=r"load\('power:\d', device, config=\{\"PERF_COUNT\": True\}\)"):
        model.profile()


def test_bad_requests(loaded: Loader) -> None:
    model = loaded(publish_affine, config=COUNTED)
    with pytest.raises(UsageError, match="runs: expected 1 or more; got 0"):
        model.profile(runs=0)
    with pytest.raises(InputError, match="argument x"):
        model.profile([1])
