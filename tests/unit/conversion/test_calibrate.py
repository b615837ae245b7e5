"""int4 weights that NNCF chooses by what flows through them."""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

import npu_persist
from npu_persist.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from npu_persist import Bundle

pytestmark = pytest.mark.filterwarnings("ignore")  # those of NNCF and of what it imports


class Block(nn.Module):
    """A layer of a transformer without attention, of which few channels carry most."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.norm = nn.LayerNorm(64)
        self.up = nn.Linear(64, 128)
        self.down = nn.Linear(128, 64)
        self.head = nn.Linear(64, 8)
        with torch.no_grad():
            self.norm.weight[:4] *= 30

    def forward(self, tokens: torch.Tensor) -> Any:
        return self.head(self.down(torch.relu(self.up(self.norm(self.embed(tokens))))))


def tokens() -> torch.Tensor:
    return torch.randint(0, 50, (4, 16))


def persist(module: nn.Module, name: str, **options: Any) -> Bundle:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return npu_persist.persist(module.eval(), name, (tokens(),), precision="int4", **options)


def loss(bundle: Bundle, module: nn.Module, given: torch.Tensor) -> float:
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    with npu_persist.load(bundle.path, device="CPU", config=exact) as model, torch.no_grad():
        return float(np.abs(model(given.numpy()) - module(given).numpy()).mean())


@pytest.mark.parametrize("group_size", [None, 32])
def test_calibrated_weights_are_closer_on_other_calls(group_size: int | None) -> None:
    module = Block()
    calls: list[Any] = [(tokens(),) for _ in range(12)] + [{"tokens": tokens()}]
    plain = persist(module, "plain", group_size=group_size)
    calibrated = persist(module, "calibrated", group_size=group_size, calibration=iter(calls))
    for bundle in (plain, calibrated):
        tensors = npu_persist.weights(bundle.path)
        stored = {name: tensors.precision(f"{name}.weight") for name in ("embed", "up", "down", "head")}
        assert stored == {"embed": "int8", "up": "int4", "down": "int4", "head": "int8"}
        assert tensors["up.weight"].shape == (128, 64)
    assert (
        plain.manifest.weights.data_size
        <= calibrated.manifest.weights.data_size
        < 1.1 * plain.manifest.weights.data_size
    )
    given = tokens()
    assert loss(calibrated, module, given) < 0.97 * loss(plain, module, given)


def test_layers_that_are_kept_are_not_calibrated() -> None:
    bundle = persist(Block(), "kept", keep={"up": "fp16", "down": "int8"}, calibration=[(tokens(),)])
    tensors = npu_persist.weights(bundle.path)
    assert (tensors.precision("up.weight"), tensors.precision("down.weight")) == ("F16", "int8")


def test_wrong_calibrations(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r'give precision="int4" too'):
        npu_persist.persist(Block().eval(), "wrong", (tokens(),), precision="int8", calibration=[(tokens(),)])
    with pytest.raises(UsageError, match="leave calibration out"):
        persist(Block(), "wrong", calibration=[(tokens(),)], by_layer=True)
    with pytest.raises(UsageError, match="calibration: call 1 has other arguments"):
        persist(Block(), "wrong", calibration=[(tokens(),), (tokens().float(),)])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name))
    with pytest.raises(MissingExtraError, match=r"npu_persist\[compress\]"):
        persist(Block(), "wrong", calibration=[(tokens(),)])


@pytest.mark.parametrize("mode", ["INT8_SYM", "INT8_ASYM"])
def test_a_module_that_nncf_has_compressed_is_persisted_as_it_is(mode: str) -> None:
    import nncf

    module, given = Block().eval(), tokens()
    compressed = nncf.compress_weights(
        module, mode=getattr(nncf.CompressWeightsMode, mode), dataset=nncf.Dataset([given])
    )
    bundle = npu_persist.persist(compressed, "nncf", (given,))
    elements = sum(tensor.numel() for tensor in compressed.parameters() if tensor.ndim > 1)
    assert bundle.graph().precision == "int8"
    assert elements < bundle.manifest.weights.data_size < 1.15 * elements
    other = tokens()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    with npu_persist.load(bundle.path, device="CPU", config=exact) as model, torch.no_grad():
        np.testing.assert_allclose(model(other.numpy()), compressed(other).numpy(), rtol=0, atol=0.02)


def test_a_module_that_nncf_has_quantized_is_persisted_as_it_is() -> None:
    import nncf

    module = Block().eval()
    with torch.no_grad():
        module.norm.weight[:4] /= 30
    quantized = nncf.quantize(module, nncf.Dataset([tokens() for _ in range(8)]))
    bundle, other = npu_persist.persist(quantized, "quantized", (tokens(),)), tokens()
    with npu_persist.load(bundle.path, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"}) as model:
        with torch.no_grad():
            expected = quantized(other).numpy()
        np.testing.assert_allclose(model(other.numpy()), expected, rtol=0, atol=0.1)
