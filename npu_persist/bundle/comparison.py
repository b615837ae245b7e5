"""The difference of an output from torch's, and whether it is within the tolerance.

For each output, with the torch result t and the OpenVINO result o, both as float64:

    max_abs       max |o - t|
    max_relative  max |o - t| / max |t|      relative to the output's scale, not element by element
    cosine        (o . t) / (|o| |t|)
    mismatched    the share of elements of an integer or boolean output with o != t

Floats are within tolerance by max_relative and cosine. Infinities must be at the same places and have the same sign;
they are left out of the measures. NaN is never right. Integers and booleans are compared exactly, by `mismatched`
alone: a nearly right index is wrong.
"""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from npu_persist.bundle.golden_records import Difference, Tolerance
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from npu_persist.bundle.graph_records import Graph, Precision
    from npu_persist.bundle.manifest import Manifest

    Array = np.ndarray[Any, Any]

TOLERANCES: dict[Precision, Tolerance] = {
    "fp16": Tolerance(max_relative=0.1, cosine=0.999, mismatched=0.01),
    "fp32": Tolerance(max_relative=0.001, cosine=0.99999),
    "int8": Tolerance(max_relative=1.0, cosine=0.98, mismatched=0.1),
    "int4": Tolerance(max_relative=1.0, cosine=0.7, mismatched=0.5),
}
"""What rounding alone may cost an output, by the precision of the weights.

For integers the cosine decides: a sentence encoder in int8 moves its outputs for padding by 0.7 of the scale.
"""

_DIGITS = 3
"""Significant digits that are kept of a difference."""


def measure(name: str, expected: Array, got: Array) -> Difference:
    """Return the differences of one output; infinite ones, with a cosine of -1, where shape or infinities differ."""
    if expected.dtype.kind in "biu" and expected.shape == got.shape:
        return _measure_integers(name, expected, got)
    mismatched = None if expected.dtype.kind == "f" else 1.0
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    worst = Difference(name, float("inf"), float("inf"), -1.0, mismatched)
    if expected.shape != got.shape or bool(np.isnan(got).any()):
        return worst
    infinite = np.isinf(expected) | np.isinf(got)
    if infinite.any():
        if not np.array_equal(expected[infinite], got[infinite]):
            return worst
        expected, got = expected[~infinite], got[~infinite]
    if expected.size == 0:
        return Difference(name, 0.0, 0.0, 1.0)
    max_abs, scale = float(np.abs(got - expected).max()), float(np.abs(expected).max())
    relative = _round(max_abs / scale) if scale else (0.0 if max_abs == 0 else float("inf"))
    return Difference(name, _round(max_abs), relative, _cosine(expected, got))


def _measure_integers(name: str, expected: Array, got: Array) -> Difference:
    count = int(np.count_nonzero(expected != got))
    if count == 0:
        return Difference(name, 0.0, 0.0, 1.0, 0.0)
    share = count / expected.size
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    max_abs, scale = float(np.abs(got - expected).max()), float(np.abs(expected).max())
    return Difference(name, _round(max_abs), _round(max_abs / max(scale, 1.0)), _cosine(expected, got), _round(share))


def merge(one: Difference, other: Difference) -> Difference:
    """Return the worse of each measure of two differences of one output."""
    mismatched = None if one.mismatched is None else max(one.mismatched, other.mismatched or 0.0)
    return Difference(
        one.output,
        max(one.max_abs, other.max_abs),
        max(one.max_relative, other.max_relative),
        min(one.cosine, other.cosine),
        mismatched,
    )


def is_within(difference: Difference, tolerance: Tolerance) -> bool:
    """Return whether one output is within tolerance."""
    if difference.mismatched is not None:
        return difference.mismatched <= tolerance.mismatched
    return difference.max_relative <= tolerance.max_relative and difference.cosine >= tolerance.cosine


def find_failures(
    differences: Iterable[Difference], tolerance: Tolerance, exact: Container[str] = ()
) -> list[Difference]:
    """Return the differences that are not allowed, the worst first.

    Args:
        differences: Of all outputs.
        tolerance: What rounding may cost.
        exact: Names of the outputs that no rounding can reach, of which no element may differ.
    """
    strict = replace(tolerance, mismatched=0.0)
    failed = [found for found in differences if not is_within(found, strict if found.output in exact else tolerance)]
    return sorted(failed, key=lambda found: found.cosine)


def describe(difference: Difference) -> str:
    """Say how an output differs from torch's, after "OpenVINO differs from torch "."""
    if difference.mismatched is None and isinf(difference.max_abs):
        return "in its shape, or in the positions of NaN and infinities"
    if difference.mismatched is None and isinf(difference.max_relative):
        return f"by up to {difference.max_abs:g} where torch gives only zeros"
    if difference.mismatched is None:
        return f"by up to {difference.max_relative:g} of the largest value, cosine {difference.cosine:.6f}"
    return f"in {difference.mismatched:.3g} of the output's elements, by up to {difference.max_abs:g}"


def describe_tolerance(difference: Difference, tolerance: Tolerance) -> str:
    """Say what is allowed of an output that differs."""
    if difference.mismatched is None:
        return f"{tolerance.max_relative:g}, and a cosine of at least {tolerance.cosine:g}"
    return f"{tolerance.mismatched:g} of the elements" if tolerance.mismatched else "none of them"


def _cosine(expected: Array, got: Array) -> float:
    norms = float(np.linalg.norm(expected) * np.linalg.norm(got))
    cosine = float(np.dot(expected.ravel(), got.ravel())) / norms if norms else float(np.array_equal(expected, got))
    return round(min(cosine, 1.0), 7)


def read_tolerance(given: object, default: Tolerance) -> Tolerance:
    """Return the tolerance that a caller means: one, a number, or None for the default."""
    if isinstance(given, Tolerance):
        return given
    if given is None:
        return default
    if not isinstance(given, (int, float)) or not given > 0:
        raise UsageError(f"tolerance must be a positive number or a Tolerance; got {given!r}.")
    # An error of r relative to the largest element moves the direction by an angle of that order, so cos >= 1 - r.
    # The number is also the share of argmax's and other discrete results that may differ.
    return Tolerance(float(given), min(default.cosine, max(-1.0, 1.0 - float(given))), min(float(given), 1.0))


def needs_f32(manifest: Manifest, graph: Graph) -> bool:
    """Tell whether a graph is to be computed in float32: by its precision, or by a tolerance below that of fp16."""
    if graph.precision == "fp32":
        return True
    golden, half = manifest.golden_of(graph), TOLERANCES["fp16"]
    asked = None if golden is None else golden.tolerance
    if asked is None:
        return False
    has_integers = any(not port.dtype.startswith("float") for port in graph.outputs)
    return (
        asked.max_relative < half.max_relative
        or asked.cosine > half.cosine
        or (has_integers and asked.mismatched < half.mismatched)
    )


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
