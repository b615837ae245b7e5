from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import npu_persist
from npu_persist.benchmark.measure import Benchmark, Interval
from npu_persist.benchmark.results import Case
from npu_persist.benchmark.subject import Subject, make_spec, started
from npu_persist.store import Store
from tests.support.graphs import publish_affine, publish_dynamic, publish_nested
from tests.support.processes import ROOT, poison, run_python

if TYPE_CHECKING:
    from pathlib import Path

CASE = Case("affine:1", "CPU", "LATENCY")


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
    latency, throughput = npu_persist.bench("affine", "CPU", seconds=0.2)
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
    intervals: list[Interval] = []
    benchmark.run(intervals.append)
    order = [interval.case.reference for interval in intervals]
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
    fractions = [interval.fraction for interval in intervals]
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
    with pytest.raises(npu_persist.UsageError, match="expected arrays named x, y, z; got x"):
        npu_persist.bench("dynamic", "CPU", "LATENCY", seconds=0.05, inputs={"x": inputs["x"]})


def test_config_reaches_the_load() -> None:
    publish_affine(Store())
    with pytest.raises(npu_persist.PropertyError, match="NUM_STREAMS"):
        npu_persist.bench("affine", "CPU", "LATENCY", seconds=0.05, config={"NUM_STREAM": 1})
    with pytest.raises(npu_persist.UsageError, match="texts, numbers or booleans"):
        npu_persist.bench("affine", "CPU", "LATENCY", seconds=0.05, config={"NUM_STREAMS": object()})


def test_what_cannot_be_measured_is_told_before_anything_is() -> None:
    publish_affine(Store())
    with pytest.raises(npu_persist.BundleNotFoundError):
        npu_persist.bench(["affine", "absent"], "CPU")
    with pytest.raises(npu_persist.UsageError, match="seconds: expected a number above 0; got 0"):
        npu_persist.bench("affine", "CPU", seconds=0)
    with pytest.raises(npu_persist.UsageError, match="requests: expected a number above 0; got -1"):
        npu_persist.bench("affine", "CPU", requests=-1)
    with pytest.raises(npu_persist.UsageError, match="seconds"):
        npu_persist.bench("affine", "CPU", seconds=float("inf"))
    with pytest.raises(npu_persist.UsageError, match="interval"):
        Benchmark(["affine"], interval=float("nan"))
    with pytest.raises(npu_persist.UsageError, match="hint: expected one of LATENCY"):
        npu_persist.bench("affine", "CPU", "FAST")
    with pytest.raises(npu_persist.UsageError, match="none of them twice"):
        npu_persist.bench(["affine", "affine:1"], "CPU")
    with pytest.raises(npu_persist.UsageError, match="none of them twice"):
        npu_persist.bench("affine", [])
    with pytest.raises(npu_persist.UsageError, match="two configurations"):
        npu_persist.bench("affine", "CPU", "LATENCY", compare=True)


def test_a_warning_of_load_is_given_here() -> None:
    publish_affine(Store())
    with pytest.warns(npu_persist.DeviceWarning, match="AUTO:NPU,CPU"):
        npu_persist.bench("affine", "AUTO:NPU,CPU", "LATENCY", seconds=0.05)


def test_what_was_measured_before_an_error_is_kept() -> None:
    publish_affine(Store())
    benchmark = Benchmark(["affine"], ["CPU", "TPU"], ["LATENCY"], seconds=0.05)
    with pytest.raises(npu_persist.DeviceNotFoundError, match="TPU"):
        benchmark.run()
    assert [found.case.device for found in benchmark.results] == ["CPU"]


def test_what_was_measured_before_an_interruption_is_kept() -> None:
    publish_affine(Store())
    benchmark = Benchmark(["affine"], ["CPU"], ["LATENCY"], seconds=60, interval=0.05)

    def interrupt(_: Interval) -> None:
        raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(interrupt)
    assert time.monotonic() - begun < 50
    (found,) = benchmark.results
    assert found.rounds[0].inferences > 0
    assert found.peak_memory is None


def test_a_worker_that_is_gone_is_an_error_that_says_how() -> None:
    publish_affine(Store())
    ended = r"affine:1 CPU: the process that was measured ended with"
    with started("affine:1 CPU", make_spec(CASE, "affine:1", Store().home)) as subject:
        events = subject.run(60, 0.05)
        assert next(events)[0] == "interval"
        subject._process.kill()
        with pytest.raises(npu_persist.InferenceError, match=ended):
            list(events)


@pytest.mark.parametrize("is_busy", [False, True])
def test_no_process_is_left(is_busy: bool) -> None:  # noqa: FBT001
    publish_affine(Store())
    subject = Subject("affine", make_spec(CASE, "affine:1", Store().home))
    assert subject._process.poll() is None
    if is_busy:
        next(subject.run(60, 0.01))
    subject.close(patience=0 if is_busy else 30)
    # It may see that it is not wanted any more, and end by itself, before it is killed.
    by_force = {1, -signal.SIGKILL if sys.platform != "win32" else 1}
    assert subject._process.returncode in (by_force if is_busy else {0})
    assert not subject._reader.is_alive()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_worker_does_not_outlive_a_killed_benchmark() -> None:
    publish_affine(Store())
    code = (
        "from npu_persist.benchmark.subject import *\nfrom npu_persist.benchmark.results import Case\n"
        "from npu_persist.store import Store\n"
        "subject = Subject('x', make_spec(Case('affine:1', 'CPU', 'LATENCY'), 'affine:1', Store().home))\n"
        "for event in subject.run(60, 0.05): print(subject._process.pid, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.kill()
    wait_until_dead(pid)


def test_what_a_plugin_prints_is_no_message() -> None:
    code = (
        "import os\nfrom npu_persist.benchmark.worker import _take_stdout\nsend = _take_stdout()\n"
        "os.write(1, b'a driver ')\nprint('prints', flush=True)\nsend({'done': 1})"
    )
    done = run_python("-c", code)
    assert (done.stdout, done.stderr) == ('{"done": 1}\n', "a driver prints\n")


def test_the_benchmark_itself_imports_no_openvino(tmp_path: Path) -> None:
    publish_affine(Store())
    code = (
        "import sys, npu_persist; npu_persist.bench('affine', 'CPU', 'LATENCY', seconds=0.05); "
        "assert 'openvino' not in sys.modules"
    )
    done = run_python("-c", code, path=poison(tmp_path / "poisoned", "torch", "matplotlib"))
    assert (done.returncode, done.stderr) == (0, "")
