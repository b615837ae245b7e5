"""Which indices are known to be inside of a tensor, and that a graph gets only the guards that it lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from npu_persist.compilation.index_guards import guard_graph, is_inside

X = ops.parameter([3], np.int64, name="x")


def _c(*values: int, kind: str = "int64") -> Any:
    return ops.constant(np.array(values, kind))


def _clamped(value: Any, high: int) -> Any:
    return ops.maximum(ops.minimum(value, _c(high)), _c(0))


INSIDE = {
    "constant": _c(0, 4),
    "clamped": _clamped(X, 4),
    "clamp": ops.convert(ops.clamp(ops.convert(X, "i32"), 0.0, 4.0), "i64"),
    "an axis more": ops.unsqueeze(_clamped(X, 4), _c(0)),
    "joined": ops.concat([_clamped(X, 1), _clamped(X, 4)], 0),
    "one of several": ops.add(ops.multiply(_clamped(X, 1), _c(2)), _clamped(X, 2)),
    "positive part": ops.multiply(ops.minimum(X, _c(4)), ops.convert(ops.greater(ops.minimum(X, _c(4)), _c(0)), "i64")),
}
OUTSIDE = {
    "an input": X,
    "a constant": _c(0, 5),
    "a negative constant": _c(-1),
    "clamped to more": _clamped(X, 5),
    "clamped from one side": ops.minimum(X, _c(4)),
    "clamped, then more": ops.add(_clamped(X, 4), _c(1)),
    "a number": ops.convert(ops.clamp(ops.convert(X, "f32"), 0.0, 4.0), "i64"),  # NaN is none of these
    "beyond int32": ops.add(_c(2**32 + 1), _c(-(2**32))),
}


@pytest.mark.parametrize("name", [name for name in INSIDE if name != "positive part"])
def test_what_is_inside(name: str) -> None:
    assert is_inside(INSIDE[name].output(0), _c(5))


def test_a_positive_part() -> None:
    low = ops.minimum(X, _c(4))
    value = ops.multiply(ops.add(low, _c(0)), ops.convert(ops.greater(low, _c(0)), "i64"))
    assert is_inside(value.output(0), _c(5))
    assert not is_inside(INSIDE["positive part"].output(0), _c(5))  # of another node, which may be another value


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_may_be_outside(name: str) -> None:
    assert not is_inside(OUTSIDE[name].output(0), _c(5))


def test_each_of_several_sizes_counts() -> None:
    index = ops.concat([ops.constant([[1]]), ops.constant([[6]])], 1)
    assert is_inside(ops.constant(np.array([[1, 6], [0, 0]])).output(0), _c(2, 7))
    assert not is_inside(index.output(0), _c(2, 7))  # of what was joined only the widest range is known


def _sizes(model: ov.Model) -> tuple[int, int]:
    before = len(model.get_ops())
    guard_graph(model)
    return before, len(model.get_ops())


def test_a_guard_is_added_once() -> None:
    x = ops.parameter([3], np.int64, name="x")
    table = ops.constant(np.ones((5, 2), np.float32))
    model = ov.Model([ops.gather_nd(table, ops.unsqueeze(x, _c(1)))], [x], "lookup")
    before, after = _sizes(model)
    assert after > before
    assert _sizes(model) == (after, after)
    answer = ov.Core().compile_model(model, "CPU")(np.array([7, -1, 2]))[0]
    np.testing.assert_array_equal(answer, np.ones((3, 2)))


def test_bags_of_rows_are_put_in_order() -> None:
    rows, offsets = ops.parameter([4], np.int64), ops.parameter([2], np.int64)
    table = ops.constant(np.arange(10, dtype=np.float32).reshape(5, 2))
    bags = ops.embedding_bag_offsets_sum(table, rows, offsets)
    model = ov.Model([bags], [rows, offsets], "bags")
    guard_graph(model)
    after = len(model.get_ops())
    assert _sizes(model) == (after, after)
    run = ov.Core().compile_model(model, "CPU")
    right = run([np.array([0, 1, 2, 3]), np.array([0, 2])])[0].copy()
    np.testing.assert_array_equal(right, [[2, 4], [10, 12]])
    np.testing.assert_array_equal(run([np.array([0, 1, 2, 3]), np.array([2, 0])])[0], right)
    empty = run([np.array([0, 1, 2, 3]), np.array([0, 4])])[0]  # the last bag, at the end of the list
    np.testing.assert_array_equal(empty, [[12, 16], [0, 0]])


def test_the_body_of_a_branch_is_guarded() -> None:
    condition, x, inner, other = (
        ops.parameter([], bool, name="condition"),
        *(ops.parameter([3], np.int64, name=name) for name in ("x", "inner", "other")),
    )
    table = ops.constant(np.ones((5, 2), np.int64))
    then, otherwise = (ops.result(ops.gather_nd(table, ops.unsqueeze(one, _c(1)))) for one in (inner, other))
    node = ops.if_op(condition)
    node.set_then_body(ov.Model([then], [inner], "then"))
    node.set_else_body(ov.Model([otherwise], [other], "else"))
    node.set_input(x.output(0), inner, other)
    node.set_output(then, otherwise)
    model = ov.Model([ops.result(node.outputs()[0])], [condition, x], "branch")
    before = len(model.get_ops()), len(node.get_function(0).get_ops())
    guard_graph(model)
    assert len(model.get_ops()) == before[0]
    assert len(node.get_function(0).get_ops()) > before[1]
