"""Each known difference is one, and the documents list what the tests check.

The cases are in `tests/support/known_differences.py`, which says how to add one.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import npu_persist
from tests.support.known_differences import DOCUMENT, KNOWN_DIFFERENCES, README, KnownDifference, document, with_table
from tests.support.modules import Calls

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = [case for cases in KNOWN_DIFFERENCES.values() for case in cases]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_torch_and_the_loaded_model_give_what_the_table_says(case: KnownDifference) -> None:
    module = case.function if isinstance(case.function, torch.nn.Module) else Calls(case.function)
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", npu_persist.errors.PersistWarning)
        bundle = npu_persist.persist(module, "known", case.example or case.inputs, precision="fp32", check=False)
    with npu_persist.load(bundle.path, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"}) as model:
        for _ in range(2):
            _expect(case.model, lambda: model(*(tensor.numpy() for tensor in case.inputs)), "the loaded model")
    _expect(case.torch, lambda: module(*(tensor.clone() for tensor in case.inputs)), "torch")


def test_the_documents_are_what_the_list_gives() -> None:
    assert DOCUMENT.read_text() == document(), "run python -m tests.support.known_differences"
    assert README.read_text() == with_table(README.read_text()), "run python -m tests.support.known_differences"


def _expect(answer: Any, call: Callable[[], Any], who: str) -> None:
    if isinstance(answer, type):
        with pytest.raises(answer):
            call()
        return
    with torch.no_grad():
        found = pytree.tree_leaves(call())
    expected = answer if isinstance(answer, tuple) else (answer,)
    assert len(found) == len(expected), who
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-5, equal_nan=True, err_msg=f"{who} gives {got}")
