"""The measures of difference, and what they let through."""

from __future__ import annotations

import numpy as np
import pytest

from npu_persist.bundle.comparison import describe, find_failures, is_within, measure
from npu_persist.bundle.golden_records import Tolerance

INF = float("inf")
WIDE = Tolerance(max_relative=1e9, cosine=-0.5)


def test_equal_is_zero_and_one() -> None:
    difference = measure("y", np.array([1.0, -2.0]), np.array([1.0, -2.0]))
    assert (difference.max_abs, difference.max_relative, difference.cosine) == (0.0, 0.0, 1.0)


def test_relative_is_to_the_scale_of_the_output_and_not_to_each_element() -> None:
    difference = measure("y", np.array([100.0, 0.001]), np.array([100.0, 1.001]))
    assert (difference.max_abs, difference.max_relative) == (1.0, 0.01)


def test_opposite_directions_have_cosine_minus_one() -> None:
    assert measure("y", np.array([1.0, 2.0]), np.array([-1.0, -2.0])).cosine == -1.0


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ([1.0, 2.0], [1.0, float("nan")]),
        ([1.0, INF], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, -INF]),
        ([1.0, INF], [1.0, -INF]),
        ([1.0, 2.0], [1.0, 2.0, 3.0]),
        ([0.0, 0.0], [0.0, 1e-9]),
    ],
)
def test_what_no_tolerance_lets_through(expected: list[float], got: list[float]) -> None:
    assert not is_within(measure("y", np.array(expected), np.array(got)), WIDE)


def test_infinities_at_the_same_places_are_equal() -> None:
    difference = measure("y", np.array([1.0, -INF, 3.0]), np.array([1.0, -INF, 3.3]))
    assert difference.max_abs == pytest.approx(0.3)


def test_zeros_and_empty_outputs_can_be_right() -> None:
    strict = Tolerance(max_relative=1e-9, cosine=1.0)
    assert is_within(measure("y", np.zeros(3), np.zeros(3)), strict)
    assert is_within(measure("y", np.zeros((0, 3)), np.zeros((0, 3))), strict)
    assert is_within(measure("y", np.array([True, False]), np.array([True, False])), strict)


def test_a_wrong_flag_is_seen() -> None:
    flags = np.zeros(10, bool)
    flags[0] = True
    wrong = flags.copy()
    wrong[1] = True
    assert not is_within(measure("y", flags, wrong), Tolerance(max_relative=0.1, cosine=0.999))


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (np.array([2**31, 7]), np.array([2**31 - 1, 7])),
        (np.array([2**62, 0]), np.array([2**62 + 1, 0])),  # equal as float64
        (np.array([200, 7], np.uint8), np.array([199, 7], np.uint8)),
        (np.array([True, True]), np.array([True, False])),
    ],
)
def test_integers_and_flags_are_compared_exactly(expected: np.ndarray, got: np.ndarray) -> None:
    difference = measure("y", expected, got)
    assert difference.mismatched == 0.5
    assert not is_within(difference, WIDE)
    assert is_within(difference, Tolerance(1e-9, 1.0, mismatched=0.5))
    assert "0.5 of the output's elements" in describe(difference)
    assert measure("y", expected, expected).mismatched == 0


def test_of_an_output_without_floats_nothing_may_differ() -> None:
    indices, counts = (measure(name, np.arange(100), np.array([9, *range(1, 100)])) for name in ("indices", "counts"))
    tolerance = Tolerance(0.1, 0.999, mismatched=0.01)
    assert find_failures([indices, counts], tolerance) == []
    assert find_failures([indices, counts], tolerance, exact={"counts"}) == [counts]


def test_measures_of_integers_are_finite() -> None:
    difference = measure("y", np.zeros(4, np.int64), np.array([0, 0, 0, 5]))
    assert (difference.max_abs, difference.max_relative, difference.cosine) == (5.0, 5.0, 0.0)
