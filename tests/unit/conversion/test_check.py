"""The measures of difference, and what they let through."""

from __future__ import annotations

import numpy as np
import pytest

from npu_persist.bundle.manifest import Tolerance
from npu_persist.conversion.check import is_within, measure

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
