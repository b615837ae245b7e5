"""Somebody publishes a bundle whose graph looks up what is not there: indices, places of bags, elements to take.

Before: only `persist` clamped indices, so that a graph that somebody else wrote had none of its guards, and the CPU
read outside of the table, in the process that called the model. Now `load` adds the guards that are missing: an index
is one of an element, whatever the graph computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from openvino import opset13 as ops
from openvino import opset15
from openvino import opset16 as ops16

from tests.support.hostile import attack
from tests.support.processes import run_python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FAR = 100_000_000
TABLE = ops.constant(np.ones((20, 4), np.float32))


def _ids(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))


def _number(value: int) -> Any:
    return ops.constant(np.int64(value))


def _bags(indices: Any, offsets: Any, *more: Any) -> Any:
    return opset15.embedding_bag_offsets(TABLE, indices, offsets, *more, reduction="sum")


_ZERO = _number(0)
LOOKUPS: dict[str, Callable[[Any], Any]] = {
    "rows": lambda x: _bags(ops.add(x, _number(FAR)), _ids(0, 3)),
    "constant rows": lambda _: _bags(_ids(1, 2, FAR), _ids(0, 1)),
    "negative rows": lambda _: _bags(_ids(1, 2, -FAR), _ids(0, 1)),
    "offsets": lambda x: _bags(x, _ids(0, FAR)),
    "offsets that go back": lambda x: _bags(x, _ids(5, 1)),
    "computed offsets that go back": lambda x: _bags(
        x, ops.subtract(_ids(5, 1), ops.reduce_sum(x, _number(0), keep_dims=False))
    ),
    "the row for empty bags": lambda x: _bags(x, _ids(0, 0), _number(FAR)),
    "packed": lambda x: opset15.embedding_bag_packed(
        TABLE, ops.reshape(ops.add(x, _number(FAR)), _ids(2, 3), special_zero=False)
    ),
    "gather_nd": lambda x: ops.gather_nd(TABLE, ops.unsqueeze(ops.add(x, _number(FAR)), _number(1))),
    "a range without a step": lambda x: ops.shape_of(
        ops.range(_ZERO, _number(5), ops.reduce_sum(x, _ZERO, keep_dims=False), "i64")
    ),
    "segments": lambda _: ops16.segment_max(
        ops.constant(np.ones((1, 3), np.float32)), _ids(-1), _number(2), fill_mode="ZERO"
    ),
    "computed segments": lambda x: ops16.segment_max(
        ops.convert(x, "f32"), ops.subtract(x, _number(FAR)), _number(2), fill_mode="ZERO"
    ),
    "integers": lambda x: ops.gather(_ids(1, 2, 3), ops.add(x, _number(FAR)), _number(0)),
    "scatter": lambda x: ops.scatter_update(
        TABLE, ops.add(x, _number(FAR)), ops.constant(np.ones((6, 4), np.float32)), _number(0)
    ),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_nothing_outside_is_looked_up(tmp_path: Path, name: str) -> None:
    x = ops.parameter([6], np.int64, name="x")
    x.output(0).get_tensor().set_names({"x"})
    kept = ops.convert(x, "f32")  # an input that nothing takes would be left out
    assert attack(tmp_path, [x], [LOOKUPS[name](x), kept], lambda _: None) == "loaded"


_MORE_THAN_THERE_IS = """
import numpy as np
import openvino as ov
from openvino import opset13 as ops
from npu_persist.compilation.graph_shapes import check_shapes
from npu_persist.compilation.index_guards import guard_graph
x = ops.parameter(ov.PartialShape("?,?"), np.float32)
top = ops.topk(x, ops.constant(np.int64(100_000)), -1, "max", "value")
model = ov.Model([top.output(0)], [x], "top")
check_shapes("top", model)
guard_graph(model)
request = ov.Core().compile_model(model, "CPU").create_infer_request()
for _ in range(20):
    assert request.infer([np.ones((2, 3), np.float32)])[0].shape == (2, 3)
"""


def test_no_more_is_taken_than_an_open_axis_has() -> None:
    done = run_python("-c", _MORE_THAN_THERE_IS)
    assert done.returncode == 0, done.stderr[-1000:]
