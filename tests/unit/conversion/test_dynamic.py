"""`dynamic_shapes` in every form that torch.export takes, and the second size a graph is checked at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.export import Dim

from npu_persist.bundle.graph_records import Dimension
from npu_persist.conversion.call import Call, bind_call
from npu_persist.conversion.dynamic import Axes, find_symbols, read_dynamic_shapes, resize_to
from npu_persist.conversion.sizes import Symbol
from npu_persist.errors import UsageError
from tests.support.modules import Affine, Pair

BATCH = Dim("batch", min=1, max=8)
X = torch.zeros(2, 4)


class Holder(torch.nn.Module):
    def forward(self, x: torch.Tensor, nested: Any) -> torch.Tensor:
        result: torch.Tensor = x + nested[0]["a"] + nested[1].first
        return result


def read(spec: Any, call: Call) -> list[tuple[int | Dimension, ...]]:
    axes = read_dynamic_shapes(spec, call)
    return [axes.shape(index, tensor) for index, tensor in enumerate(call.tensors)]


def affine() -> Call:
    return bind_call(Affine(), (X, X), {})


@pytest.mark.parametrize(
    "spec",
    [
        {"x": {0: BATCH}},
        {"x": {0: BATCH}, "y": None},
        ({0: BATCH},),
        ({0: BATCH}, None),
        {"x": (BATCH, None)},
        {"x": [BATCH, Dim.STATIC]},
        {"x": {0: BATCH, 1: 4}},
        {"x": {-2: BATCH}},
    ],
)
def test_forms_that_say_the_same(spec: Any) -> None:
    assert read(spec, affine()) == [(Dimension("batch", 1, 8), 4), (2, 4)]


def test_none_is_all_static() -> None:
    assert read(None, affine()) == [(2, 4), (2, 4)]


@pytest.mark.parametrize("hint", [Dim.AUTO, Dim.DYNAMIC])
def test_a_hint_is_an_unbounded_axis_without_a_name(hint: Any) -> None:
    assert read({"x": {0: hint}}, affine())[0] == (Dimension(None, 0, None), 4)


def test_an_axis_without_upper_bound() -> None:
    assert read({"x": {0: Dim("n", min=2)}}, affine())[0] == (Dimension("n", 2, None), 4)


def test_a_derived_axis_keeps_its_formula() -> None:
    call = bind_call(Affine(), (X, torch.zeros(5, 4)), {})
    shapes = read({"x": {0: BATCH}, "y": {0: 2 * BATCH + 1}}, call)
    assert shapes[1][0] == Dimension("2*batch+1", 3, 17)


def test_nested_structures() -> None:
    call = bind_call(Holder(), (X, [{"a": X}, Pair(X, X)]), {})
    shapes = read({"nested": [{"a": {0: BATCH}}, [{1: Dim("w", max=9)}, None]]}, call)
    assert shapes[1:] == [(Dimension("batch", 1, 8), 4), (2, Dimension("w", 0, 9)), (2, 4)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"z": {0: BATCH}}, "names 'z'; the example call has the arguments"),
        ({"x": {2: BATCH}}, r"of x: expected axes of a tensor with shape \[2, 4\]"),
        ({"x": 3}, "of x: expected axes"),
        ({"x": {0: "batch"}}, "of x, axis 0: expected a torch.export.Dim"),
        ({"x": {0: 3}}, "of x, axis 0 fixes 3; the example has 2"),
        ({"x": {0: Dim("n", min=3)}}, "the example has 2, outside of 3"),
        (3, "must be a dict or a tuple"),
        ((None, None, None), "must be a dict or a tuple"),
    ],
)
def test_what_does_not_fit_is_named(spec: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(spec, affine())


def symbols(call: Call, spec: Any) -> dict[str, Symbol]:
    return find_symbols(call, read_dynamic_shapes(spec, call))


def test_axes_of_one_name_are_one_symbol() -> None:
    assert symbols(affine(), {"x": {0: BATCH}, "y": {0: BATCH}}) == {"batch": Symbol(2, 1, 8)}
    assert symbols(affine(), {"x": None}) == {}


def test_a_derived_axis_has_the_symbol_of_its_root() -> None:
    call = bind_call(Affine(), (torch.zeros(5, 4), X), {})
    assert symbols(call, {"x": {0: 2 * BATCH + 1}}) == {"batch": Symbol(2, 1, 8)}


def test_axes_without_a_name_are_one_symbol_if_they_are_equal() -> None:
    unnamed = {0: Dim.AUTO, 1: Dim.AUTO}
    assert [*symbols(affine(), {"x": unnamed, "y": unnamed}).values()] == [Symbol(2, 1, None), Symbol(4, 1, None)]


def resized(call: Call, spec: Any, **sizes: int) -> list[tuple[int, ...]] | None:
    tensors = resize_to(call, read_dynamic_shapes(spec, call), sizes)
    return None if tensors is None else [tuple(tensor.shape) for tensor in tensors]


def test_another_size_within_bounds() -> None:
    assert resized(affine(), {"x": {0: BATCH}, "y": {0: BATCH}}, batch=3) == [(3, 4), (3, 4)]
    assert resized(affine(), {"x": {0: BATCH}}, batch=9) is None


def test_a_derived_axis_follows_its_root() -> None:
    call = bind_call(Affine(), (X, torch.zeros(4, 4)), {})
    assert resized(call, {"x": {0: BATCH}, "y": {0: 2 * BATCH}}, batch=3) == [(3, 4), (6, 4)]


def test_values_of_another_size_come_from_the_example() -> None:
    call = bind_call(Affine(), (torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]),), {})
    axes = read_dynamic_shapes({"x": {0: BATCH}}, call)
    (tensor,) = resize_to(call, axes, {"batch": 3}) or []
    assert tensor.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]]


def test_axes_are_false_when_nothing_is_dynamic() -> None:
    assert not Axes()
    assert not read_dynamic_shapes({"x": None}, affine())
