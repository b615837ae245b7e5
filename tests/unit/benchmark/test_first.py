from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import npu_persist
from npu_persist.benchmark.first import FirstInferences
from npu_persist.benchmark.layers import profile
from npu_persist.store import Store
from tests.support.graphs import publish_affine

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.benchmark.results import Case


def test_first_inferences_are_timed_with_a_cold_and_then_a_warm_cache(
    store_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    publish_affine(Store())
    benchmark = FirstInferences(["affine"], ["AUTO", "CPU"], runs=2)
    seen: list[tuple[str, str, float]] = []

    def listen(case: Case, cache: str, seconds: float, fraction: float) -> None:
        assert seconds > 0
        # One temporary cache at a time.
        assert len(list(temporary.iterdir())) == 1
        seen.append((case.device, cache, fraction))

    benchmark.run(listen)
    turns = [("AUTO", "cold"), ("AUTO", "warm"), ("CPU", "cold"), ("CPU", "warm")]
    assert [turn[:2] for turn in seen] == turns * 2
    assert [turn[2] for turn in seen] == [number / 8 for number in range(1, 9)]
    found = benchmark.results
    assert [(one.cache, one.case.device) for one in found] == [
        ("cold", "AUTO"),
        ("cold", "CPU"),
        ("warm", "AUTO"),
        ("warm", "CPU"),
    ]
    assert [one.from_cache for one in found] == [False, False, True, True]
    for one in found:
        assert one.case.reference == "affine:1"
        assert len(one.from_start) == len(one.from_load) == 2
        assert all(start > load > 0 for start, load in zip(one.from_start, one.from_load, strict=True))
        assert one.execution_devices == ("CPU",)
        assert one.phases["first_inference"] > 0
        assert one.ratio is not None
    # Neither the user's cache nor the temporary ones are touched or left.
    assert {path.name for path in store_home.iterdir()} <= {"bundles", "staging"}
    assert list(temporary.iterdir()) == []


def test_what_was_timed_before_an_interruption_is_kept() -> None:
    publish_affine(Store())
    benchmark = FirstInferences(["affine"], ["CPU"])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark.run(interrupt)
    (found,) = benchmark.results
    assert (found.cache, len(found.from_start), found.ratio) == ("cold", 1, None)


def test_no_runs_and_no_bundle_are_refused() -> None:
    publish_affine(Store())
    with pytest.raises(npu_persist.UsageError, match="runs: expected a number above 0; got 0"):
        FirstInferences(["affine"], ["CPU"], runs=0)
    with pytest.raises(npu_persist.BundleNotFoundError):
        FirstInferences(["absent"], ["CPU"])


def test_a_profile_has_the_layers_that_ran_the_slowest_first() -> None:
    publish_affine(Store())
    (found,) = profile(["affine"], ["CPU"], runs=3, random=True)
    assert str(found.case) == "affine:1 CPU"
    assert found.layers
    times = [layer.milliseconds for layer in found.layers]
    assert times == sorted(times, reverse=True)
    assert sum(times) == pytest.approx(found.total)
    assert sum(kind.layers for kind in found.types) == len(found.layers)
    assert sum(kind.milliseconds for kind in found.types) == pytest.approx(found.total)
    if found.total:  # a graph this small may take less than the microsecond that the counters know
        assert sum(layer.share for layer in found.layers) == pytest.approx(1)
        assert sum(kind.share for kind in found.types) == pytest.approx(1)
    assert found.inference > 0
    assert found.execution_devices == ("CPU",)
