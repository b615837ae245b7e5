from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npu_persist.benchmark.results import Case, Latency, Ratio, Round, compare
from npu_persist.compilation.process.memory import read_memory


def test_percentiles_interpolate_between_the_closest_ranks() -> None:
    latency = Latency.of([(index + 1) / 1000 for index in range(101)])
    assert (latency.median, latency.p90, latency.p99) == (51, 91, 100)
    assert (latency.mean, latency.lowest, latency.highest) == (51, 1, 101)
    assert Latency.of([0.001, 0.002]).p90 == pytest.approx(1.9)


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=50))
def test_latencies_are_in_order(seconds: list[float]) -> None:
    found = Latency.of(seconds)
    ordered = [found.lowest, found.median, found.p90, found.p99, found.highest]
    assert ordered == sorted(ordered)
    assert found.lowest - 1e-6 <= found.mean <= found.highest + 1e-6
    json.dumps(found.p99, allow_nan=False)


def test_a_ratio_is_taken_round_by_round() -> None:
    # The machine became three times slower: each round shows 2, the ratio of the medians would show 6 or 0.67.
    assert compare([60, 20, 20], [30, 10, 10]) == Ratio(2, 2, 2)
    assert compare([60, 20], [30, 10, 10]) == Ratio(2, 2, 2)
    assert compare([], [30]) is None


@pytest.mark.parametrize(("lowest", "highest", "is_clear"), [(1.01, 1.5, True), (0.5, 0.9, True), (0.9, 1.1, False)])
def test_a_ratio_is_clear_if_all_rounds_agree(lowest: float, highest: float, is_clear: bool) -> None:  # noqa: FBT001
    assert Ratio((lowest + highest) / 2, lowest, highest).is_clear is is_clear


def test_frames_are_inferences() -> None:
    assert Round(20, 4.0).fps == 5
    assert str(Case("unet:1", "CPU", None)) == "unet:1 CPU"
    assert str(Case("unet:1", "CPU", "LATENCY")) == "unet:1 CPU LATENCY"


def test_memory_grows_with_what_is_held() -> None:
    before = read_memory()
    if before.now is None or before.peak is None:
        pytest.skip("this system does not tell what a process holds")
    held = np.ones(8_000_000)
    after = read_memory()
    assert after.now is not None
    assert after.peak is not None
    assert after.now - before.now > 0.9 * held.nbytes
    assert after.peak > 0.99 * after.now
    del held
    # The kernel keeps these books per thread, and is a few pages off.
    assert (read_memory().peak or 0) > 0.99 * after.peak
