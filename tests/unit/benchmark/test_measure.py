from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

import npu_persist
from npu_persist.benchmark.measure import Benchmark, FirstInferences, Setup, pack_arrays, profile
from npu_persist.benchmark.worker import Request, unpack_arrays
from npu_persist.store import Store
from tests.support.graphs import publish_affine, publish_dynamic, publish_nested
from tests.support.processes import ROOT, poison, run_python

if TYPE_CHECKING:
    from npu_persist.progress import Progress


def find_children() -> list[int]:
    return [int(pid) for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} is still there"
        time.sleep(0.02)


def test_both_hints_of_a_bundle_are_measured() -> None:
    publish_affine(Store())
    latency, throughput = npu_persist.bench("affine", "CPU", seconds=0.2, config={"INFERENCE_PRECISION_HINT": "f32"})
    assert [found.case.hint for found in (latency, throughput)] == ["LATENCY", "THROUGHPUT"]
    assert latency.requests == 1
    for found in (latency, throughput):
        assert found.case.reference == "affine:1"
        (only,) = found.rounds
        assert found.fps == only.fps > 0
        assert only.seconds >= 0.2
        assert 0 < found.latency.lowest <= found.latency.median <= found.latency.p99 <= found.latency.highest
        assert found.shapes == {"x": "float32[2, 3]"}
        assert found.input_source == "random"
        assert found.execution_devices == ("CPU",)
        assert found.execution_precisions == {"CPU": "f32"}
        assert found.full_names[0]
        assert found.openvino.startswith("20")
        assert found.first_inference > 0
        assert sum(seconds for name, seconds in found.phases.items() if name == "load") <= found.load
        assert found.ratio is None
        if sys.platform == "linux":
            assert found.load_memory is not None
            assert found.peak_memory is not None
            assert 0 < found.load_memory < found.peak_memory


def test_several_requests_are_submitted() -> None:
    publish_affine(Store())
    (found,) = npu_persist.bench("affine", "CPU", "LATENCY", seconds=0.1, requests=3)
    assert found.requests == 3
    assert found.rounds[0].inferences >= 3


def test_a_comparison_alternates_and_takes_ratios_to_the_first() -> None:
    store = Store()
    publish_affine(store)
    publish_affine(store)
    benchmark = Benchmark(["affine:1", "affine:2"], ["CPU"], ["LATENCY"], seconds=0.5, compare=True)
    events: list[Progress] = []
    benchmark.run(events.append)
    reports = [event for event in events if event.detail]
    order = [event.detail.split()[0] for event in reports]
    turns = [name for index, name in enumerate(order) if index == 0 or order[index - 1] != name]
    assert turns == ["affine:1", "affine:2", "affine:1", "affine:2", "affine:1", "affine:2"]
    first, second = benchmark.results
    assert len(first.rounds) == len(second.rounds) == 5
    assert first.ratio is not None
    assert (first.ratio.lowest, first.ratio.highest) == (1, 1)
    ratios = [mine.fps / its.fps for mine, its in zip(second.rounds, first.rounds, strict=True)]
    assert second.ratio is not None
    assert second.ratio.median == sorted(ratios)[2]
    assert sum(one.inferences for one in second.rounds) > 0
    fractions = [event.fraction or 0 for event in reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_the_second_load_comes_from_the_cache() -> None:
    publish_affine(Store())
    found = [npu_persist.bench("affine", "CPU", "LATENCY", seconds=0.05)[0].from_cache for _ in range(2)]
    assert found == [False, True]


def test_the_call_has_the_modules_own_structure() -> None:
    publish_nested(Store())
    (found,) = npu_persist.bench("nested", "CPU", "LATENCY", seconds=0.05)
    assert list(found.shapes) == ["x", "pair.first", "pair.second.a", "more.0", "more.1", "output.last"]


def test_inputs_of_the_caller_are_used() -> None:
    publish_dynamic(Store())
    inputs = {"x": np.zeros((3, 4), "float32"), "y": np.zeros((3, 2), "float32"), "z": np.zeros(7, "float32")}
    (found,) = npu_persist.bench("dynamic", "CPU", "LATENCY", seconds=0.05, inputs=inputs)
    assert found.input_source == "given"
    assert found.shapes == {"x": "float32[3, 4]", "y": "float32[3, 2]", "z": "float32[7]"}
    with pytest.raises(npu_persist.errors.UsageError, match="expected arrays named x, y, z; got x"):
        npu_persist.bench("dynamic", "CPU", "LATENCY", seconds=0.05, inputs={"x": inputs["x"]})


def test_config_reaches_the_load() -> None:
    publish_affine(Store())
    with pytest.raises(npu_persist.errors.PropertyError, match="NUM_STREAMS"):
        npu_persist.bench("affine", "CPU", "LATENCY", seconds=0.05, config={"NUM_STREAM": 1})
    with pytest.raises(npu_persist.errors.UsageError, match="strings, numbers or booleans"):
        npu_persist.bench("affine", "CPU", "LATENCY", seconds=0.05, config={"NUM_STREAMS": object()})


def test_what_cannot_be_measured_is_told_before_anything_is() -> None:
    publish_affine(Store())
    with pytest.raises(npu_persist.errors.BundleNotFoundError):
        npu_persist.bench(["affine", "absent"], "CPU")
    with pytest.raises(npu_persist.errors.UsageError, match="seconds: expected a number above 0; got 0"):
        npu_persist.bench("affine", "CPU", seconds=0)
    with pytest.raises(npu_persist.errors.UsageError, match="requests: expected a number above 0; got -1"):
        npu_persist.bench("affine", "CPU", requests=-1)
    with pytest.raises(npu_persist.errors.UsageError, match="seconds"):
        npu_persist.bench("affine", "CPU", seconds=float("inf"))
    with pytest.raises(npu_persist.errors.UsageError, match="interval"):
        Benchmark(["affine"], interval=float("nan"))
    with pytest.raises(npu_persist.errors.UsageError, match="hint: expected one of LATENCY"):
        npu_persist.bench("affine", "CPU", "FAST")
    with pytest.raises(npu_persist.errors.UsageError, match="each only once"):
        npu_persist.bench(["affine", "affine:1"], "CPU")
    with pytest.raises(npu_persist.errors.UsageError, match="each only once"):
        npu_persist.bench("affine", [])
    with pytest.raises(npu_persist.errors.UsageError, match="two configurations"):
        npu_persist.bench("affine", "CPU", "LATENCY", compare=True)


def test_a_warning_of_load_is_given_here() -> None:
    publish_affine(Store())
    with pytest.warns(npu_persist.errors.DeviceWarning, match="AUTO:NPU,CPU"):
        npu_persist.bench("affine", "AUTO:NPU,CPU", "LATENCY", seconds=0.05)


def test_what_was_measured_before_an_error_is_kept() -> None:
    publish_affine(Store())
    benchmark = Benchmark(["affine"], ["CPU", "TPU"], ["LATENCY"], seconds=0.05)
    with pytest.raises(npu_persist.errors.DeviceNotFoundError, match="TPU"):
        benchmark.run()
    assert [found.case.device for found in benchmark.results] == ["CPU"]


def test_what_was_measured_before_an_interruption_is_kept() -> None:
    publish_affine(Store())
    benchmark = Benchmark(["affine"], ["CPU"], ["LATENCY"], seconds=60, interval=0.05)

    def interrupt(event: Progress) -> None:
        if event.done:
            raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(interrupt)
    assert time.monotonic() - begun < 50
    (found,) = benchmark.results
    assert found.rounds[0].inferences > 0
    assert found.peak_memory is None
    if sys.platform == "linux":
        assert find_children() == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the children of a process")
def test_a_process_that_is_gone_is_an_error_that_says_how() -> None:
    publish_affine(Store())
    benchmark = Benchmark(["affine"], ["CPU"], ["LATENCY"], seconds=60, interval=0.05)

    def kill(event: Progress) -> None:
        if event.done:
            for child in find_children():
                os.kill(child, signal.SIGKILL)

    with pytest.raises(npu_persist.errors.CompilationError, match="CPU LATENCY's process ended with signal 9"):
        benchmark.run(kill)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the children of a process")
def test_a_process_does_not_outlive_a_killed_benchmark() -> None:
    publish_affine(Store())
    code = (
        "import npu_persist\nfrom tests.unit.benchmark.test_measure import find_children\n"
        "def show(event):\n    if event.done: print(*find_children(), flush=True)\n"
        "npu_persist.bench('affine', 'CPU', 'LATENCY', seconds=60, progress=show)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.kill()
    wait_until_dead(pid)


def test_the_benchmark_itself_imports_no_openvino(tmp_path: Path) -> None:
    publish_affine(Store())
    code = (
        "import sys, npu_persist; npu_persist.bench('affine', 'CPU', 'LATENCY', seconds=0.05); "
        "assert 'openvino' not in sys.modules"
    )
    done = run_python("-c", code, path=poison(tmp_path / "poisoned", "torch", "matplotlib"))
    assert (done.returncode, done.stderr) == (0, "")


def test_first_inferences_are_timed_with_a_cold_and_then_a_warm_cache(
    store_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    publish_affine(Store())
    benchmark = FirstInferences(["affine"], ["AUTO", "CPU"], runs=2)
    seen: list[tuple[str, str, float | None]] = []

    def listen(event: Progress) -> None:
        if event.detail:
            _, device, cache, seconds, _ = event.detail.split()
            assert float(seconds) > 0
            # One temporary cache at a time.
            assert len(list(temporary.iterdir())) == 1
            seen.append((device, cache, event.fraction))

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


def test_first_inferences_that_were_timed_before_an_interruption_are_kept() -> None:
    publish_affine(Store())
    benchmark = FirstInferences(["affine"], ["CPU"])

    def interrupt(event: Progress) -> None:
        if event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark.run(interrupt)
    (found,) = benchmark.results
    assert (found.cache, len(found.from_start), found.ratio) == ("cold", 1, None)


def test_no_runs_and_no_bundle_are_refused() -> None:
    publish_affine(Store())
    with pytest.raises(npu_persist.errors.UsageError, match="runs: expected a number above 0; got 0"):
        FirstInferences(["affine"], ["CPU"], runs=0)
    with pytest.raises(npu_persist.errors.BundleNotFoundError):
        FirstInferences(["absent"], ["CPU"])


def test_a_profile_has_the_layers_that_ran_the_slowest_first() -> None:
    publish_affine(Store())
    (found,) = profile(["affine"], ["CPU"], setup=Setup(random=True), runs=3)
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


def test_arrays_arrive_as_they_were() -> None:
    arrays = {
        "file": np.arange(6, dtype="float16").reshape(2, 3).T,
        "mask": np.array([True]),
        "none": np.zeros((0, 4), np.int64),
    }
    request = Request(reference="x", device="CPU", hint=None, config={}, store="", inputs=pack_arrays(arrays))
    sent = json.loads(json.dumps(msgspec.to_builtins(request)))
    found = unpack_arrays(msgspec.convert(sent, Request).inputs or {})
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert np.array_equal(found[name], value)


def test_python_objects_are_no_arrays() -> None:
    with pytest.raises(npu_persist.errors.UsageError, match="inputs: x is not an array of numbers"):
        pack_arrays({"x": np.array([{}], dtype=object)})
