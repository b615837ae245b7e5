"""Persists a module and compares the loaded model with torch, on inputs that the example did not show."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

import npu_persist

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npu_persist import Model


def assert_as_torch(
    module: torch.nn.Module,
    example: Sequence[Any],
    *others: Sequence[Any],
    rtol: float = 1e-4,
    atol: float = 1e-5,
    warn: bool = False,
    **options: Any,
) -> Model:
    """Persist `module` with the call `example`, and compare it with torch on `example` and on each of `others`.

    Each call is made twice in turn, since a plugin may be right in its first inference only. Integers and booleans must
    be equal; NaN must be where torch's is. A `PersistWarning` fails unless `warn`.
    """
    module = module.eval()
    options = {"precision": "fp32", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if warn else "error", npu_persist.errors.PersistWarning)
        bundle = npu_persist.persist(module, f"as-torch-{type(module).__name__.lower()}", example, **options)
    exactly = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    model = npu_persist.load(bundle.path, device="CPU", config=exactly)
    for _ in range(2):
        for number, inputs in enumerate((example, *others)):
            with torch.no_grad():
                expected = pytree.tree_leaves(module(*pytree.tree_map_only(torch.Tensor, torch.clone, inputs)))
            got = pytree.tree_leaves(model(*pytree.tree_map_only(torch.Tensor, torch.Tensor.numpy, inputs)))
            assert len(expected) == len(got)
            for wanted, found in zip(expected, got, strict=True):
                _compare(wanted, found, f"call {number}", rtol, atol)
    return model


def _compare(wanted: Any, found: Any, what: str, rtol: float, atol: float) -> None:
    wanted = wanted.detach().numpy() if isinstance(wanted, torch.Tensor) else np.asarray(wanted)
    found = np.asarray(found)
    assert found.shape == wanted.shape, what
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, equal_nan=True, err_msg=what)
    else:
        np.testing.assert_array_equal(found, wanted, err_msg=what)
