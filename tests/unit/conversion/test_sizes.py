"""Sizes that reach Python: followed through the trace, and tried at sizes at which they would be another value."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.export import Dim

import npu_persist
from npu_persist.bundle.comparison import TOLERANCES
from npu_persist.conversion import size_probes
from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import trace
from npu_persist.conversion.convert import convert
from npu_persist.conversion.dynamic import Axes, read_dynamic_shapes
from npu_persist.conversion.probes import probe
from npu_persist.conversion.size_probes import SizeProbes
from npu_persist.errors import ConversionError, FrozenControlFlowWarning
from tests.support.as_torch import assert_as_torch

if TYPE_CHECKING:
    from collections.abc import Callable

X = torch.arange(24.0).reshape(3, 8) - 7
N = Dim("n", min=1, max=64)


class Body(torch.nn.Module):
    def __init__(self, body: Callable[..., Any]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(x)


def refuse_above_40(x: torch.Tensor) -> torch.Tensor:
    assert x.shape[1] <= 40
    return x * 2


def frozen_at(body: Callable[..., Any], size: int) -> list[str]:
    """Return what Python reads of sizes and would be another value at a size of the second axis."""
    call = bind_call(Body(body), (X,), {})
    capture = trace(call, fix_sizes=False)
    probes = SizeProbes(capture, read_dynamic_shapes(({1: Dim("n", min=size, max=max(size, 8))},), call))
    found = {one.tensors[0].shape[1]: one.frozen for one in probes}
    return [frozen.function for frozen in found.get(size, [])]


@pytest.mark.parametrize(
    ("body", "functions"),
    [
        (lambda x: x[:, : min(x.shape[1], 6)], ["__bool__"]),
        (lambda x: x * (2 if x.shape[1] > 5 else 1), ["__bool__"]),
        (lambda x: x * int(x.shape[1] / 2), ["__int__"]),
        (lambda x: x * math.ceil(x.shape[1] / 3), ["__float__"]),
        (lambda x: x * sum(range(x.shape[1])), ["__index__"]),
        (lambda x: x * len(f"{x.shape[1] * 3}"), ["__format__"]),
        (lambda x: x * len(x.t()), ["__index__"]),
        (lambda x: sum(x.unbind(1)), ["unbind"]),
        (lambda x: sum(part.sum() for part in x.split(2, 1)), ["split"]),
        (lambda x: x.as_strided((2, 2), (x.stride(0), 1)), ["stride"]),
        (lambda x: x * torch.tensor([x.shape[1], 1]).sum(), ["tensor"]),
        (lambda x: x * x.new_tensor([x.shape[1]]), ["new_tensor"]),
        (lambda x: x * (2 if x.shape == (3, 8) else 1), ["__bool__"]),
        (lambda x: x * (2 if x.numel() == 24 else 1), ["__bool__"]),
        (lambda x: x * (2 if torch.arange(x.shape[1]).sum() > 20 else 1), ["__bool__"]),
        (lambda x: torch.nn.functional.pad(x, (0, x.shape[1] % 4)) if x.shape[1] % 4 else x, ["__bool__"]),
        (lambda x: x * (2 if x.shape[0] > 2 else 1), []),  # a static axis
        (lambda x: x * (2 if (x @ x.t()).shape[1] > 2 else 1), []),
        (lambda x: x * (2 if x.shape[1] > 1 else 1), []),  # the same at both sizes
        (lambda x: x * torch.arange(x.shape[1]), []),
        (lambda x: x.view(x.shape[0], x.shape[1] // 1), []),
    ],
)
def test_what_python_reads_of_sizes(body: Callable[..., Any], functions: list[str]) -> None:
    assert frozen_at(body, 5) == functions


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x * 2 if x.shape[1] > 5 else x,
        lambda x: x * 2 if x.shape[1] == 3 else x,  # between all sizes that are tried without a reason
        lambda x: x * sum(range(x.shape[1])),
        lambda x: x.view(int(x.shape[1]), -1),
        lambda x: x * len(f"{x.shape[1]}"),
        lambda x: torch.nn.functional.pad(x, (0, 4 - x.shape[1] % 4)) if x.shape[1] % 4 else x,
    ],
)
def test_a_frozen_size_that_matters_is_refused_with_its_line(body: Callable[..., Any]) -> None:
    with pytest.raises(ConversionError, match=r"froze what differs there: the module itself: .* test_sizes\.py:\d+"):
        npu_persist.persist(Body(body), "frozen", (X,), dynamic_shapes=({1: N},))


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x[:, : min(x.shape[1], 4)],
        lambda x: x * (2 if x.shape[0] > 2 else 1),
        lambda x: x.view(3, -1, 4).sum(1),  # torch takes multiples only
        lambda x: x * torch.tensor(x.shape[1]),
        lambda x: torch.cat([part.flip(1) for part in x.chunk(2, 1)], 1),
        refuse_above_40,
    ],
)
def test_a_frozen_size_that_does_not_matter_is_silent(body: Callable[..., Any]) -> None:
    others = [(torch.ones(3, size),) for size in (4, 12, 40)]
    assert_as_torch(Body(body), (X,), *others, dynamic_shapes=({1: N},))


def test_where_the_trace_is_wrong_torch_export_is_tried() -> None:
    model = assert_as_torch(
        Body(lambda x: x * torch.tensor([x.shape[1], 1]).sum()), (X,), (X[:, :3],), dynamic_shapes=({1: N},)
    )
    assert model.bundle.manifest.graphs[0].conversion == "export"


def test_a_size_that_is_too_large_to_be_tried_warns() -> None:
    body = Body(lambda x: x * 2 if x.shape[1] > 5000 else x)
    with pytest.warns(FrozenControlFlowWarning, match=r"__bool__ reads a size.*it changes at n = 5001, which is too"):
        npu_persist.persist(body, "far", (X,), dynamic_shapes=({1: Dim("n", min=1)},))


def test_one_at_which_torch_refuses_the_call_does_not() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        npu_persist.persist(Body(refuse_above_40), "refuses", (X,), dynamic_shapes=({1: Dim("n", min=1)},))


def tried(call_shape: tuple[int, ...], axes: dict[int, Any], body: Callable[..., Any] = torch.neg) -> set[Any]:
    call = bind_call(Body(body), (torch.zeros(call_shape),), {})
    capture = trace(call, fix_sizes=False)
    return {tuple(one.tensors[0].shape) for one in SizeProbes(capture, read_dynamic_shapes((axes,), call))}


def test_each_axis_is_tried_at_its_bounds_and_in_between() -> None:
    shapes = tried((3, 8), {0: Dim("b", min=2, max=5), 1: N})
    assert {(2, 8), (5, 8), (3, 1), (3, 64)} <= shapes
    assert any(1 < size < 64 and size % 2 for rows, size in shapes if rows == 3)
    assert len(shapes) <= 8


def test_a_slow_module_is_tried_at_several_sizes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_probes, "_SLOW", -1.0)
    axes = {0: Dim("b", min=1, max=5), 1: Dim("n", min=1, max=60), 2: Dim("w", min=2, max=9), 3: Dim("m", min=1, max=9)}
    shapes = tried((1, 20, 4, 3), axes)
    assert shapes == {
        *((2, 21, 5, 4), (5, 1, 9, 1), (1, 60, 2, 9)),  # the next ones, the largest ones of half of the axes each
        *((2, 20, 4, 3), (1, 1, 4, 3), (1, 20, 2, 3), (1, 20, 4, 1)),  # one by one
    }


@pytest.mark.parametrize("size", [1, 5, 39])
def test_what_a_slow_module_freezes_is_found(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size of one axis, where only one call has both at their ends."""
    monkeypatch.setattr(size_probes, "_SLOW", -1.0)
    body = Body(lambda x: x * (2 if x.shape[1] > size else 1))
    shapes = ({0: Dim("b", min=1, max=9), 1: Dim("n", min=1, max=40)},)
    with pytest.raises(ConversionError, match="right for the example but not with inputs of shape"):
        probe_all(body, torch.ones(2, 20), shapes)


def probe_all(body: Body, x: torch.Tensor, shapes: Any) -> None:
    call = bind_call(body, (x,), {})
    capture, axes = trace(call, fix_sizes=False), read_dynamic_shapes(shapes, call)
    probe(capture, axes, convert(capture, axes), TOLERANCES["fp32"])


def test_the_largest_size_without_a_bound_is_a_reasonable_one() -> None:
    assert 16 <= max(size for _, size in tried((3, 8), {1: Dim("n")})) <= 512


def test_two_names_that_must_be_equal_are_tried_as_one() -> None:
    axes = {0: Dim("a", min=1, max=9), 1: Dim("b", min=1, max=9)}
    assert {(1, 1), (9, 9)} <= tried((4, 4), axes, lambda x: x @ x)


def test_nothing_is_tried_where_nothing_is_dynamic() -> None:
    call = bind_call(Body(torch.neg), (X,), {})
    assert [*SizeProbes(trace(call, fix_sizes=True), Axes())] == []


def test_every_bucket_is_right_or_refused() -> None:
    body = Body(lambda x: x * 2 if x.shape[1] == 16 else x)
    with pytest.raises(ConversionError, match=r"inputs of shape \[3, 16\].*test_sizes\.py"):
        npu_persist.persist(body, "buckets", (X,), buckets=[{"x": (3, 8)}, {"x": (3, 16)}, {"x": (3, 32)}])
