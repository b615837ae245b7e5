"""`refresh` of what holds its tensors folded or compressed, and of what torch.export captured: converted again."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import npu_persist
from npu_persist.bundle.graph_records import Dimension
from tests.support.refreshed import WIDE, M, Uses, Wide, train

if TYPE_CHECKING:
    from collections.abc import Callable


X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Tokens(torch.nn.Module):
    """A class token for each picture of a batch, and positions: what vision transformers begin with."""

    def __init__(self) -> None:
        super().__init__()
        self.token = torch.nn.Parameter(torch.randn(1, 1, 4))
        self.positions = torch.nn.Parameter(torch.randn(1, 6, 4))
        self.norm = torch.nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([self.token.expand(x.shape[0], -1, -1) + self.positions[:, :1], x], 1)
        answer: torch.Tensor = self.norm(whole + self.positions[:, : whole.shape[1]])
        return answer


class Assigns(torch.nn.Module):
    """Writes into a slice, for which the frontend makes names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(x).clone()
        y[:, 1:3] = x[:, :2] * 2
        return y


class Sized(torch.nn.Module):
    """Computes with a size, which a trace freezes and torch.export does not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layer(x) * torch.tensor([x.shape[1], 1]).sum()
        return answer


def rough(module: M) -> M:
    """Make weights of which one in a channel is far larger than the others, which integers of 4 bits are bad at."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter[:, 0] *= 40
    return module


def convolution(norm: type[torch.nn.Module]) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), norm(4), torch.nn.ReLU())


def old_weight_norm() -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(torch.nn.Linear(4, 2))


FOLDED_BY_NAME: list[tuple[str, Callable[[], torch.nn.Module], torch.Tensor]] = [
    ("batch norm", lambda: convolution(torch.nn.BatchNorm2d), torch.randn(1, 3, 8, 8)),
    ("a batch norm first", lambda: torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)), X),
    ("weight norm", lambda: weight_norm(torch.nn.Linear(4, 2)), X),
    ("spectral norm", lambda: spectral_norm(torch.nn.Linear(4, 2)), X),
    ("weight norm of old", old_weight_norm, X),
    ("a slice that is written to", Assigns, X),
    ("tokens", Tokens, torch.randn(2, 5, 4)),
    ("a recurrent network", lambda: torch.nn.LSTM(4, 3, batch_first=True), X[None]),
    ("gates", lambda: torch.nn.GRU(4, 3, batch_first=True, bidirectional=True), X[None]),
]
FOLDED = [(make, example) for _, make, example in FOLDED_BY_NAME]


def same_as_persisted(module: torch.nn.Module, *args: Any, seed: int = 2, **options: Any) -> npu_persist.Bundle:
    """Refresh a bundle after a training; require what `persist` makes of the same weights, and torch's answers."""
    npu_persist.persist(train(module), "m", args, **options)
    refreshed = npu_persist.refresh("m", train(module, seed), calibration=options.get("calibration", ()))
    assert refreshed.version == 2
    assert npu_persist.persist(module, "m", args, force=True, **options).manifest == refreshed.manifest
    return refreshed


class TestConvertedAgain:
    @pytest.mark.parametrize(("make", "example"), FOLDED, ids=[name for name, _, _ in FOLDED_BY_NAME])
    def test_folded_tensors(self, make: Callable[[], torch.nn.Module], example: torch.Tensor) -> None:
        module = make().eval()
        same_as_persisted(module, example, precision="fp32")
        other = example.flip(-1) * 0.7
        with torch.no_grad(), npu_persist.load("m:2", device="CPU") as model:
            found, wanted = model(other.numpy()), module(other)
        if not isinstance(wanted, torch.Tensor):
            found, wanted = found[0], wanted[0]
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)

    def test_open_axes(self) -> None:
        module = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 3), torch.nn.BatchNorm1d(4)).eval()
        batch, length = torch.export.Dim("batch", max=4), torch.export.Dim("length", min=4)
        x = torch.randn(2, 3, 8)
        bundle = same_as_persisted(module, x, dynamic_shapes=({0: batch, 2: 2 * length},), precision="fp32")
        assert bundle.manifest.graphs[0].inputs[0].shape[0] == Dimension("batch", 0, 4)
        with torch.no_grad(), npu_persist.load("m:2", device="CPU") as model:
            x = torch.randn(4, 3, 10)
            np.testing.assert_allclose(model(x.numpy()), module(x).numpy(), rtol=1e-2, atol=1e-2)

    def test_buckets(self) -> None:
        module = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 1), torch.nn.BatchNorm1d(4)).eval()
        same_as_persisted(module, torch.randn(1, 3, 8), buckets=[{"input": (1, 3, 8)}, {"input": (1, 3, 16)}])

    def test_an_export(self) -> None:
        length = torch.export.Dim("length", min=2, max=40)
        bundle = same_as_persisted(Sized(), torch.randn(2, 6, 4), dynamic_shapes=({1: length},))
        assert bundle.manifest.graphs[0].conversion == "export"

    @pytest.mark.parametrize(
        "options",
        [
            {"precision": "int8"},
            {"precision": "int8", "keep": {"first": "fp16"}},
            {"precision": "int4"},
            {"precision": "int4", "group_size": 16},
            {"precision": "int4", "group_size": 32, "keep": {"first.*": "int8", "last": "fp32"}},
        ],
        ids=str,
    )
    def test_compressed_weights(self, options: Any) -> None:
        module = Wide()
        bundle = same_as_persisted(module, WIDE, **options, tolerance=2.0)
        assert bundle.manifest.graphs[0].precision == options["precision"]

    @pytest.mark.parametrize("options", [{"precision": "int4"}, {"precision": "int8", "activations": "int8"}], ids=str)
    def test_calibrated_weights(self, options: Any) -> None:
        pytest.importorskip("nncf", reason="the extra `compress` is not installed")
        calls = [(WIDE * scale,) for scale in (0.5, 1, 2)]
        bundle = same_as_persisted(Wide(), WIDE, calibration=calls, tolerance=2.0, **options)
        assert bundle.manifest.refresh is not None
        assert bundle.manifest.refresh.calibrated

    @pytest.mark.parametrize("precision", ["fp16", "fp32"])
    def test_bfloat16(self, precision: Any) -> None:
        module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)).bfloat16()
        same_as_persisted(module, X.bfloat16(), precision=precision)

    def test_a_buffer_that_is_state(self) -> None:
        class Counts(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.calls: torch.Tensor
                self.register_buffer("calls", torch.tensor([2.0, 3.0, 4.0, 5.0]))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.calls += 1
                return x * self.calls

        module = Counts()
        with pytest.warns(npu_persist.errors.StateWarning):
            npu_persist.persist(module, "m", (X,))
        with torch.no_grad():
            module.calls += 1
        npu_persist.refresh("m", module)
        with npu_persist.load("m:2", device="CPU") as model:
            np.testing.assert_allclose(model(X.numpy()), X.numpy() * [4, 5, 6, 7], rtol=1e-3)

    def test_a_tensor_that_is_no_parameter_or_buffer(self) -> None:
        module, shift = Uses(torch.add), torch.ones(4)
        module.function = lambda x, w: x * w + shift
        npu_persist.persist(module, "m", (X,))
        shift += 1
        npu_persist.refresh("m", module)
        with npu_persist.load("m:2", device="CPU") as model:
            np.testing.assert_allclose(model(X.numpy()), module(X).detach().numpy(), rtol=1e-2, atol=1e-3)

    def test_what_compression_costs_is_measured_again(self) -> None:
        module = Wide()
        npu_persist.persist(module, "m", (WIDE,), precision="int4", tolerance=2.0)
        with pytest.warns(npu_persist.errors.PrecisionWarning, match="int4 costs output"):
            bundle = npu_persist.refresh("m", rough(module))
        assert sum(" costs output " in note for note in bundle.manifest.warnings) == 1
