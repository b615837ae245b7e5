"""Random modules: persist refuses with an error of ours, or the loaded model answers as torch, to another call, too.

`NPU_PERSIST_FUZZ=2000 pytest -n 2 tests/unit/conversion/test_fuzz.py` tries more of them, each run others.
"""

from __future__ import annotations

import copy
import os
import warnings
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

import npu_persist
from npu_persist.errors import NpuPersistError, PersistWarning
from tests.support.random_modules import RandomCall, draw_call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MORE = int(os.environ.get("NPU_PERSIST_FUZZ", "0"))
CLOSE = 2e-3
"""Of the largest value; for modules whose own results are exact to a tenth of it."""


@settings(
    max_examples=MORE or 12,
    deadline=None,
    derandomize=not MORE,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(st.integers(0, 2**32 - 1))
def test_a_random_module(seed: int) -> None:
    call = draw_call(Random(seed))  # noqa: S311 - a test that can be repeated
    note(f"{call.module!r} of {[(tensor.dtype, [*tensor.shape]) for tensor in call.example]}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            bundle = npu_persist.persist(call.module, "random", call.example, precision="fp32")
        except NpuPersistError as error:
            note(f"refused: {error}")
            return
    may_differ = any(issubclass(warning.category, PersistWarning) for warning in caught)
    with npu_persist.load(bundle.path, device="CPU") as model:
        for inputs in (call.example, call.other, call.example):
            try:
                found = pytree.tree_leaves(model(*(tensor.numpy() for tensor in inputs)))
            except NpuPersistError as error:
                note(f"the call is refused: {error}")
                return
            try:
                expected = _run(call, inputs)
            except (RuntimeError, ValueError, ArithmeticError) as error:
                note(f"torch refuses: {error}")
                return
            if may_differ or not _is_exact(call, inputs, expected):
                return
            assert len(found) == len(expected)
            for wanted, got in zip(expected, found, strict=True):
                _assert_close(np.asarray(wanted), np.asarray(got))


def _run(call: RandomCall, inputs: Sequence[Tensor]) -> list[Any]:
    with torch.no_grad():
        return pytree.tree_leaves(call.module(*(tensor.clone() for tensor in inputs)))


def _is_exact(call: RandomCall, inputs: Sequence[Tensor], expected: list[Any]) -> bool:
    """Return whether torch gives the same in float64: rounding may decide on the result otherwise."""
    doubled = [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs]
    try:
        exact = _run(call._replace(module=copy.deepcopy(call.module).double()), doubled)
    except (RuntimeError, ValueError):  # the module converts to float32 on its way
        return False
    pairs = [
        (np.asarray(one, np.float64), np.asarray(two, np.float64))
        for one, two in zip(expected, exact, strict=True)
        if isinstance(one, torch.Tensor)
    ]
    return all(
        one.shape == two.shape and np.allclose(one, two, rtol=0, atol=CLOSE / 10 * _scale(two), equal_nan=True)
        for one, two in pairs
    )


def _assert_close(wanted: np.ndarray[Any, Any], got: np.ndarray[Any, Any]) -> None:
    assert got.shape == wanted.shape
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(got, wanted, rtol=CLOSE, atol=CLOSE * _scale(wanted), equal_nan=True)
    elif wanted.dtype.kind in "biu":
        np.testing.assert_array_equal(got, wanted)


def _scale(values: np.ndarray[Any, Any]) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 1.0
