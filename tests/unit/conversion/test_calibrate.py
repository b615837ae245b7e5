"""What NNCF makes of weights and activations by what flows through them, and of modules before they are persisted."""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

import npu_persist
from npu_persist.bundle.manifest import Manifest
from npu_persist.errors import ConversionError, MissingExtraError, ParityError, UsageError

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


@pytest.mark.parametrize("calibrated", [False, True])
def test_embeddings_and_the_last_layer_may_be_int4_too(calibrated: bool) -> None:  # noqa: FBT001 - a parameter
    keep = {"emb*": "int4", "head": "int4"}
    calls = [(tokens(),) for _ in range(4)] if calibrated else []
    tensors = npu_persist.weights(persist(Block(), "all", keep=keep, calibration=calls).path)
    assert {tensors.precision(f"{name}.weight") for name in ("embed", "up", "down", "head")} == {"int4"}


class LeftOperand(nn.Module):
    """A weight that stands before what it is multiplied by, which NNCF's GPTQ refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(24, 48))
        self.right = nn.Linear(16, 16)
        self.last = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(torch.relu(self.right(self.left @ x)))


def test_what_one_way_of_calibrating_refuses_another_one_does() -> None:
    torch.manual_seed(0)
    calls = [(torch.randn(2, 48, 16),) for _ in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle = npu_persist.persist(LeftOperand().eval(), "left", calls[0], precision="int4", calibration=calls)
    tensors = npu_persist.weights(bundle.path)
    assert (tensors.precision("right.weight"), tensors.precision("last.weight")) == ("int4", "int8")


def test_an_error_of_nncf_is_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import nncf

    def refuse(*_: object, **__: object) -> None:
        raise nncf.UnsupportedModelError("no such layer")

    monkeypatch.setattr(nncf, "compress_weights", refuse)
    with pytest.raises(ConversionError, match=r"NNCF could not calibrate the graph: no such layer"):
        persist(Block(), "refused", calibration=[(tokens(),)])
    assert npu_persist.list() == []


def test_wrong_calibrations(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"calibration is for int4 weights, or for int8 activations"):
        npu_persist.persist(Block().eval(), "wrong", (tokens(),), precision="int8", calibration=[(tokens(),)])
    with pytest.raises(UsageError, match="leave calibration out"):
        persist(Block(), "wrong", calibration=[(tokens(),)], by_layer=True)
    with pytest.raises(UsageError, match="calibration: call 1 has different arguments"):
        persist(Block(), "wrong", calibration=[(tokens(),), (tokens().float(),)])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name))
    with pytest.raises(MissingExtraError, match=r"npu_persist\[compress\]"):
        persist(Block(), "wrong", calibration=[(tokens(),)])
    quantized: dict[str, Any] = {"precision": "int8", "activations": "int8"}
    with pytest.raises(MissingExtraError, match=r"npu_persist\[compress\]"):
        npu_persist.persist(Block().eval(), "wrong", (tokens(),), calibration=[(tokens(),)], **quantized)
    with pytest.raises(UsageError, match="pass calibration="):
        npu_persist.persist(Block().eval(), "wrong", (tokens(),), **quantized)
    for wrong in ({"precision": "int4"}, {"precision": "int8", "activations": "int4"}, {"precision": "fp16"}):
        with pytest.raises(UsageError, match="activations must be None, or 'int8' with precision"):
            npu_persist.persist(Block().eval(), "wrong", (tokens(),), **{**quantized, **wrong})


class Attention(nn.Module):
    """What NNCF takes for a transformer, with a convolution and a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(8, 32, 3, padding=1)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.twice = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> Any:
        hidden = self.layer(self.convolution(x).transpose(1, 2))
        return {"first": self.twice(hidden), "second": self.twice(torch.relu(hidden))}


def test_activations_are_quantized_with_the_weights() -> None:
    torch.manual_seed(0)
    module = Attention().eval()
    calls = [(torch.randn(2, 8, 12),) for _ in range(12)]
    options: dict[str, Any] = {"precision": "int8", "activations": "int8", "calibration": calls}
    bundle = npu_persist.persist(module, "quantized", calls[0], **options)
    graph = bundle.graph()
    assert (graph.precision, graph.activations, graph.stored_as) == ("int8", "int8", "int8, activations int8")
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest
    assert [entry.precision for entry in npu_persist.history("quantized")] == ["int8, activations int8"]
    tensors = npu_persist.weights(bundle.path)
    stored = {name: tensors.precision(name) for name, parameter in module.named_parameters() if parameter.ndim > 1}
    assert set(stored.values()) == {"int8"}
    assert tensors["convolution.weight"].shape == (32, 8, 3)
    again = npu_persist.persist(module, "quantized", calls[0], **options)
    assert again.reference == bundle.reference
    with npu_persist.load(bundle.path, device="CPU") as model, torch.no_grad():
        for other in (torch.randn(2, 8, 12), torch.randn(2, 8, 12) * 0.5):
            got, expected = model(other.numpy()), module(other)
            for name in ("first", "second"):
                scale = float(expected[name].abs().max())
                assert 1e-4 * scale < np.abs(got[name] - expected[name].numpy()).max() < 0.1 * scale


def test_layers_that_are_kept_are_not_quantized() -> None:
    bundle = npu_persist.persist(
        Block().eval(), "kept", (tokens(),), precision="int8", activations="int8", keep={"up": "fp16"},
        calibration=[(tokens(),) for _ in range(4)],
    )  # fmt: skip
    tensors = npu_persist.weights(bundle.path)
    assert (tensors.precision("up.weight"), tensors.precision("down.weight")) == ("F16", "int8")


@pytest.mark.parametrize(
    ("mode", "group_size"),
    [("INT8_SYM", None), ("INT8_ASYM", None), ("INT4_SYM", -1), ("INT4_SYM", 32), ("INT4_ASYM", -1), ("INT4_ASYM", 32)],
)
def test_a_module_that_nncf_has_compressed_is_persisted_as_it_is(mode: str, group_size: int | None) -> None:
    import nncf

    module, given = Block().eval(), tokens()
    how: dict[str, Any] = {} if group_size is None else {"group_size": group_size, "ratio": 1.0, "all_layers": True}
    compressed = nncf.compress_weights(
        module, mode=getattr(nncf.CompressWeightsMode, mode), dataset=nncf.Dataset([given]), **how
    )
    bundle = npu_persist.persist(compressed, "nncf", (given,))
    size = sum(tensor.numel() for tensor in compressed.parameters() if tensor.ndim > 1)
    assert bundle.graph().precision == mode[:4].lower()
    assert size < bundle.manifest.weights.data_size < 1.35 * size
    other = tokens()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    with npu_persist.load(bundle.path, device="CPU", config=exact) as model, torch.no_grad():
        np.testing.assert_allclose(model(other.numpy()), compressed(other).numpy(), rtol=0, atol=0.02)


@pytest.mark.parametrize("fix", ["ENABLE", "DISABLE"])
def test_a_module_that_nncf_has_quantized_is_persisted_as_it_is(fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import nncf

    def no_compiler(*_: Any, **__: Any) -> None:
        raise RuntimeError("no compiler")

    # Else NNCF compiles an extension of torch first, for minutes; without one it computes in torch.
    monkeypatch.setattr("torch.utils.cpp_extension.load", no_compiler)
    torch.manual_seed(0)
    module = Block().eval()
    with torch.no_grad():
        module.norm.weight[:4] /= 30
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix[fix])
    dataset = nncf.Dataset([tokens() for _ in range(8)])
    quantized = nncf.quantize(module, dataset, advanced_parameters=advanced)
    try:
        bundle, other = npu_persist.persist(quantized, "quantized", (tokens(),)), tokens()
    except ParityError as error:  # a CPU without VNNI
        assert fix == "DISABLE"
        assert "products of 8 bits overflow on this CPU" in str(error)  # noqa: PT017 - only some CPUs raise
        return
    assert bundle.graph().activations == "int8"
    with npu_persist.load(bundle.path, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"}) as model:
        with torch.no_grad():
            expected = quantized(other).numpy()
        np.testing.assert_allclose(model(other.numpy()), expected, rtol=0, atol=0.1)
