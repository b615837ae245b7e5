"""Weights of 8 and 4 bits: which, with which integers, and what a loaded model makes of them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest
import torch
from torch import nn

import npu_persist
from npu_persist.bundle.tensors import unpack
from npu_persist.conversion.compress import pack, quantize
from npu_persist.errors import ParityError, PrecisionWarning, UsageError

if TYPE_CHECKING:
    from npu_persist import Bundle

TOKENS = torch.arange(32).reshape(2, 16) * 3


class Tagger(nn.Module):
    """An embedding, linear layers, a convolution, and a head that is tied to the embedding or not."""

    def __init__(self, *, is_tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.up = nn.Linear(64, 256)
        self.conv = nn.Conv1d(256, 64, 3, padding=1)
        self.norm = nn.LayerNorm(64)
        self.mix = nn.Linear(64, 64)
        self.head = nn.Linear(64, 100, bias=False)
        if is_tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> Any:
        hidden = self.norm(self.embed(tokens))
        hidden = hidden + self.conv(torch.relu(self.up(hidden)).transpose(1, 2)).transpose(1, 2)
        return self.head(torch.tanh(self.mix(hidden)))


def persist(module: nn.Module, *args: torch.Tensor, **options: Any) -> Bundle:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        return npu_persist.persist(module.eval(), "compressed", args or (TOKENS,), **options)


def stored(bundle: Bundle) -> dict[str, str]:
    tensors = npu_persist.weights(bundle.path)
    return {name: tensors.precision(name) for name in tensors if name.endswith("weight") and tensors[name].ndim > 1}


ALL = ("conv.weight", "embed.weight", "head.weight", "mix.weight", "up.weight")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"precision": "int8"}, ("int8",) * 5),
        ({"precision": "int4"}, ("int8", "int8", "int8", "int4", "int4")),
        ({"precision": "int4", "group_size": 32}, ("int8", "int8", "int8", "int4", "int4")),
        ({"precision": "int8", "keep": {"up": "fp16", "conv*": "fp32"}}, ("F32", "int8", "int8", "int8", "F16")),
        ({"precision": "int4", "keep": {"*": "fp16", "mix.weight": "int8", "head": "int4"}},
         ("F16", "F16", "int4", "int8", "F16")),
    ],
)  # fmt: skip
def test_what_is_stored_as_what(options: dict[str, Any], expected: tuple[str, ...]) -> None:
    bundle = persist(Tagger(), **options)
    assert stored(bundle) == dict(zip(ALL, expected, strict=True))
    assert bundle.graph().precision == options["precision"]


def test_a_head_that_is_tied_to_the_embedding_is_stored_once() -> None:
    module = Tagger(is_tied=True)
    bundle = persist(module, precision="int4")
    tensors = npu_persist.weights(bundle.path)
    assert stored(bundle) == dict(zip(ALL, ("int8", "int8", "int8", "int4", "int4"), strict=True))
    np.testing.assert_array_equal(tensors["head.weight"], tensors["embed.weight"])
    untied = persist(Tagger(), precision="int4")
    assert untied.manifest.weights.data_size - bundle.manifest.weights.data_size == 100 * 64 + 100 * 2


@pytest.mark.parametrize(("precision", "group_size"), [("int8", None), ("int4", None), ("int4", 16)])
def test_the_loaded_model_computes_with_what_weights_gives_back(precision: str, group_size: int | None) -> None:
    module = Tagger()
    bundle = persist(module, precision=precision, group_size=group_size)
    tensors = npu_persist.weights(bundle.path)
    state = {name: torch.from_numpy(tensors[name].copy()) for name in tensors}
    other = torch.randint(0, 100, (2, 16))
    module.load_state_dict(module.state_dict() | state)
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    with npu_persist.load(bundle.path, device="CPU", config=exact) as model, torch.no_grad():
        np.testing.assert_allclose(model(other.numpy()), module(other).numpy(), rtol=0, atol=0.01)


def test_each_channel_is_off_by_half_a_step_at_most() -> None:
    module = Tagger()
    original = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = npu_persist.weights(persist(module, precision="int8").path)
    for name in ALL:
        weight, found = original[name].numpy(), tensors[name]
        axes = tuple(range(1, weight.ndim))
        step = np.abs(weight).max(axis=axes, keepdims=True) / 128
        # The value of the largest magnitude may be a step from the end, and scales are rounded to half precision.
        assert (np.abs(found - weight) <= 1.07 * step).all()
        assert np.median(np.abs(found - weight) / step) <= 0.5


def test_integers_and_scales_by_hand() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.25, 0.0], [-1.0, 0.5, 0.25, 0.999], [0.0, 0.0, 0.0, 0.0]])
    values, scale = quantize(weight, 4, (1,))
    assert values.tolist() == [[-8, 4, -2, 0], [-8, 4, 2, 7], [0, 0, 0, 0]]
    assert scale.ravel().tolist() == [-0.125, 0.125, pytest.approx(1.19e-7, rel=0.01)]
    packed = pack(torch.tensor([[1, -2, 7], [-8, 0, 3]], dtype=torch.int8))
    assert packed.tolist() == [0xE1, 0x87, 0x30]
    assert unpack(packed.numpy()).tolist() == [1, -2, 7, -8, 0, 3]
    assert unpack(pack(torch.tensor([-3, 5, -1], dtype=torch.int8)).numpy()).tolist() == [-3, 5, -1, 0]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(8, 16, 3)
        self.grouped = nn.Conv2d(16, 16, 3, groups=4)
        self.back = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.back_grouped = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.back_grouped(self.back(self.grouped(self.plain(x))))


def test_convolutions_have_a_scale_for_each_output_channel() -> None:
    module = Convolutions()
    with torch.no_grad():  # one channel is far larger than the others: shared scales would erase these
        module.plain.weight[0] *= 1000
        module.grouped.weight[5] *= 1000
        module.back.weight[:, 3] *= 1000
        module.back_grouped.weight[4:, 2] *= 1000
    tensors = npu_persist.weights(persist(module, torch.randn(1, 8, 12, 12), precision="int8").path)
    for name, axes in {"plain": (1, 2, 3), "grouped": (1, 2, 3), "back": (0, 2, 3)}.items():
        weight = module.get_parameter(f"{name}.weight").detach().numpy()
        assert tensors.precision(f"{name}.weight") == "int8"
        moved = np.abs(tensors[f"{name}.weight"] - weight).max(axis=axes) / np.abs(weight).max(axis=axes)
        assert moved.max() < 0.01, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_modules_of_half_precision(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).to(dtype)
    bundle = persist(module, torch.randn(4, 64, dtype=dtype), precision="int8")
    assert stored(bundle) == {"0.weight": "int8", "2.weight": "int8"}


def test_dynamic_shapes_and_large_values() -> None:
    large, small = nn.Linear(8, 8), nn.Linear(8, 8)
    with torch.no_grad():
        large.weight *= 1e8  # its scales are beyond half precision
        small.weight[3] *= 1e-9  # which is zero in half precision
    module = nn.Sequential(large, small, nn.Linear(8, 8))
    bundle = persist(module, torch.randn(4, 8), precision="int8", dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    assert stored(bundle) == {"0.weight": "F32", "1.weight": "int8", "2.weight": "int8"}


def test_stock_tools_open_the_folder() -> None:
    bundle = persist(Tagger(), precision="int4", group_size=32)
    model = ov.Core().read_model(bundle.path / "model.xml")
    kinds = {op.get_element_type().get_type_name() for op in model.get_ops() if op.get_type_name() == "Constant"}
    assert {"i4", "i8", "f16"} <= kinds
    compiled = ov.Core().compile_model(model, "CPU")
    with npu_persist.load(bundle.path, device="CPU") as loaded:
        np.testing.assert_array_equal(compiled([TOKENS.numpy()])[0], loaded(TOKENS.numpy()))


def test_equal_integers_with_other_scales_stay_apart() -> None:
    one, four = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
    with torch.no_grad():
        four.weight.copy_(one.weight * 4)
    tensors = npu_persist.weights(
        persist(nn.Sequential(one, nn.Tanh(), four), torch.randn(2, 16), precision="int8").path
    )
    np.testing.assert_array_equal(tensors["2.weight"], tensors["0.weight"] * 4)


def test_what_cannot_be_compressed_is_a_warning() -> None:
    lstm = nn.LSTM(32, 32)
    with pytest.warns(PrecisionWarning, match=r"100% of the parameters stay in half precision.*weight_hh_l0"):
        npu_persist.persist(lstm.eval(), "lstm", (torch.randn(4, 1, 32),), precision="int8")


def test_a_loss_that_matters_is_a_warning_with_advice() -> None:
    first = nn.Linear(64, 64)
    with torch.no_grad():
        first.weight[:, 0] = 0.75  # which leaves three steps to the others
    module, x = nn.Sequential(first, nn.Linear(64, 8)), torch.randn(4, 64)
    x[:, 0] = 0
    with pytest.warns(PrecisionWarning, match=r"int4 costs output .*group_size=64 or 128"):
        npu_persist.persist(module.eval(), "lossy", (x,), precision="int4")
    with pytest.raises(ParityError, match=r"keep=\{\"name\": \"int8\"\}, or precision=\"int8\""):
        persist(module, x, precision="int4", tolerance=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 64}, "group_size and keep are for compressed weights"),
        ({"keep": {"up": "fp16"}}, "group_size and keep are for compressed weights"),
        ({"precision": "int8", "group_size": 64}, 'for precision="int4" only; got 64'),
        ({"precision": "int4", "group_size": 0}, "must be a positive number"),
        ({"precision": "int8", "keep": {"down": "fp16"}}, "'down' matches no parameter of Tagger.*embed.weight"),
        ({"precision": "int8", "keep": {"up": "int4"}}, "'up' must be kept as 'fp32', 'fp16' or 'int8'; got 'int4'"),
        ({"precision": "int4", "keep": {"up": "nf4"}}, "got 'nf4'"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        npu_persist.persist(Tagger(), "compressed", (TOKENS,), **options)
