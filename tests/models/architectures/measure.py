"""Persists an architecture, loads the bundle and compares it with torch, into one row of the table.

The loaded model is called with the example inputs and with others, so that a value which tracing froze shows as well.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import npu_persist
from npu_persist.errors import NpuPersistError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npu_persist.store import Store
    from tests.models.architectures.architecture import Architecture


FULL_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
"""A CPU with bfloat16 units would use them, and be compared with float32."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What came of one architecture."""

    name: str
    kind: str
    seconds: float
    """Of the persist call, check included."""
    way: str = ""
    """`trace` or `export`; empty when it was not converted."""
    cosine: float = float("nan")
    """The lowest of all outputs."""
    max_relative: float = float("nan")
    """The largest difference of all outputs, relative to the output's scale."""
    error: str = ""
    """Name of the error's class, when it was not converted."""
    reason: str = ""

    @property
    def is_converted(self) -> bool:
        """Whether there is a bundle that answers as torch does."""
        return not self.error


def measure(architecture: Architecture, store: Store) -> Row:
    """Persist with the check, load on the CPU, call twice and compare.

    Only this package's own errors count as "not converted"; any other exception is a bug and is passed on.
    """
    module, args, kwargs = architecture.build()
    started = time.perf_counter()
    try:
        bundle = npu_persist.persist(module, architecture.name, args, kwargs, precision="fp16", store=store)
        seconds = time.perf_counter() - started
        model = npu_persist.load(bundle.reference, device="CPU", config=FULL_PRECISION, store=store)
    except NpuPersistError as error:
        seconds = time.perf_counter() - started
        return Row(architecture.name, architecture.kind, seconds, error=type(error).__name__, reason=str(error))
    differences = []
    for some_args, some_kwargs in ((args, kwargs), (vary(args), vary(kwargs))):
        with torch.no_grad():
            expected = dict(arrays(module(*some_args, **some_kwargs)))
        got = dict(arrays(model(*as_numpy(some_args), **as_numpy(some_kwargs))))
        if expected.keys() != got.keys():
            reason = f"torch gave the outputs {sorted(expected)}, the bundle {sorted(got)}"
            return Row(architecture.name, architecture.kind, seconds, error="structure", reason=reason)
        differences += [compare(expected[path], got[path]) for path in expected]
    return Row(
        architecture.name,
        architecture.kind,
        seconds,
        way=bundle.manifest.graphs[0].conversion,
        cosine=min(cosine for cosine, _ in differences),
        max_relative=max(relative for _, relative in differences),
    )


def compare(expected: np.ndarray[Any, Any], got: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the cosine and the largest difference relative to the scale; (-1, inf) where they are of another kind."""
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return -1.0, float("inf")
    left, right = expected.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    is_finite = np.isfinite(left)
    if not np.array_equal(is_finite, np.isfinite(right)):
        return -1.0, float("inf")
    left, right = left[is_finite], right[is_finite]
    if not left.any():
        return (1.0, 0.0) if not right.any() else (-1.0, float("inf"))
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms else -1.0, float(np.abs(left - right).max() / np.abs(left).max())


def arrays(value: Any, path: str = "") -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield every tensor or array of a nested result with the path that leads to it."""
    if isinstance(value, torch.Tensor):
        yield path, value.detach().numpy()
    elif isinstance(value, np.ndarray):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from arrays(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from arrays(item, f"{path}[{index}]")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from arrays(getattr(value, field.name), f"{path}.{field.name}")


def as_numpy(value: Any) -> Any:
    """Turn the tensors of nested arguments into arrays, as a caller without torch has them."""
    return _convert(value, lambda tensor, _: tensor.numpy())


def vary(value: Any) -> Any:
    """Change the tensors of nested arguments to others that the module takes as well; masks stay."""

    def other(tensor: torch.Tensor, name: str) -> torch.Tensor:
        if "mask" in name:
            return tensor
        if tensor.numel() == 1:
            return tensor + 1
        # Along the sequence or the channels: a permutation keeps boxes boxes, and the count of image tokens.
        return tensor.roll(1, dims=min(1, tensor.dim() - 1))

    return _convert(value, other)


def _convert(value: Any, convert: Any, name: str = "") -> Any:
    if isinstance(value, torch.Tensor):
        return convert(value, name)
    if isinstance(value, dict):
        return {key: _convert(item, convert, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_convert(item, convert, name) for item in value)
    return value
