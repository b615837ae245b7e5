"""Constants beyond int32: a graph answers from the compile cache what it answered when it was compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest

from npu_persist import load
from npu_persist.bundle.graph_records import Port
from npu_persist.compilation.wide_integers import clamp_integers
from npu_persist.store import Store
from tests.support.graphs import constant, make_model, parameter, publish_graph

if TYPE_CHECKING:
    from pathlib import Path

LAST = np.iinfo(np.int64).max
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def end_of(x: Any, begin: int, end: int = LAST, step: int = 1) -> Any:
    return ops.slice(x, *(constant([number], "int64") for number in (begin, end, step, 1)))


@pytest.mark.parametrize(
    ("begin", "end", "step", "expected"),
    [(-2, LAST, 1, X[:, -2:]), (1, LAST, 1, X[:, 1:]), (-1, -LAST, -1, X[:, ::-1])],
)
def test_open_slices_are_the_same_from_the_cache(
    tmp_path: Path, begin: int, end: int, step: int, expected: np.ndarray[Any, Any]
) -> None:
    port, store = Port("x", "float32", (2, 3)), Store(tmp_path)
    x = parameter(port)
    total = ops.reduce_sum(end_of(x, begin, end, step), constant([1], "int64"), keep_dims=False)
    publish_graph(store, make_model([x], [("total", total)]), [port], [Port("total", "float32", (2,))], name="slice")
    for is_cached in (False, True):
        with load("slice", "CPU", store=store) as model:
            assert model.report.from_cache is is_cached
            assert model(X).tolist() == expected.sum(1).tolist()


def test_those_of_bodies_are_clamped_and_others_kept() -> None:
    x = ops.parameter([2, 3], np.float32)
    inner, other = (ops.parameter([2, 3], np.float32) for _ in range(2))
    body = ov.Model([ops.result(end_of(inner, 1))], [inner], "body")
    otherwise = ov.Model([ops.result(end_of(other, 2))], [other], "otherwise")
    choice = ops.if_op(ops.constant(True))  # noqa: FBT003
    choice.set_then_body(body)
    choice.set_else_body(otherwise)
    choice.set_input(x.output(0), inner, other)
    result = choice.set_output(body.results[0], otherwise.results[0])
    big = ops.constant(np.array([2**32 - 1], np.uint32))
    small = ops.constant(np.array([-5], np.int64))
    model = ov.Model([ops.result(result), ops.result(big), ops.result(small)], [x], "main")
    clamp_integers(model)
    assert [one.input_value(0).get_node().data.tolist() for one in model.results[1:]] == [[2**31 - 1], [-5]]
    ends = [one.input_value(2).get_node().data for one in body.get_ordered_ops() if one.get_type_name() == "Slice"]
    assert [end.tolist() for end in ends] == [[2**31 - 1]]
