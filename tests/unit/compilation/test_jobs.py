"""Several compilations: side by side, by an executor, some failing, all of them stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import npu_persist
from npu_persist.artifact.attached import list_attached
from npu_persist.compilation import jobs as side_by_side
from npu_persist.compilation.jobs import CompileResult, run_job
from npu_persist.errors import (
    BundleNotFoundError,
    CompilationError,
    DeviceNotFoundError,
    FileIntegrityError,
    JobsError,
    UsageError,
)
from tests.support.graphs import publish_affine, publish_dynamic, publish_power
from tests.support.loads import copy_bundle, spoil

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store

BUCKETS = [{"x": (size, 4), "y": (size, 3)} for size in (1, 2, 4)]
ROOT = Path(__file__).parents[3]


def attached(bundle: Bundle) -> int:
    return len(list(list_attached(bundle)))


def test_so_many_as_were_asked_for_run_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_dynamic(store)
    running = {"now": 0, "most": 0}
    both, counting = threading.Barrier(2), threading.Lock()

    def run(*arguments: Any) -> CompileResult:
        with counting:
            running["now"] += 1
            running["most"] = max(running.values())
        if running["most"] < 3:
            with_other = both.wait(timeout=60)  # a third would be counted, one alone would not get here
            assert with_other in {0, 1}
        try:
            return run_job(*arguments)
        finally:
            with counting:
                running["now"] -= 1

    monkeypatch.setattr(side_by_side, "run_job", run)
    npu_persist.compile("dynamic", "CPU", buckets=[*BUCKETS, {"x": (8, 4), "y": (8, 3)}], jobs=2, store=store)
    assert running == {"now": 0, "most": 2}


def test_one_that_fails_does_not_stop_the_others(store: Store) -> None:
    bundle = publish_affine(store)
    with pytest.raises(JobsError, match="1 of 2 compilations failed; the others are attached") as caught:
        npu_persist.compile("affine", ["GPU.7", "CPU"], jobs=2, store=store)
    first, second = caught.value.results
    assert isinstance(first.error, DeviceNotFoundError)
    assert (first.target, first.artifact, first.path) == ("GPU.7", None, None)
    assert (second.target, second.error) == ("CPU", None)
    assert "affine:1 for GPU.7: " in str(caught.value)
    assert [path.name for path, _ in list_attached(bundle)] == ["cpu"]


def test_where_all_fail_none_is_said_to_be_attached(store: Store) -> None:
    publish_affine(store)
    with pytest.raises(JobsError, match=r"^2 of 2 compilations failed:\n"):
        npu_persist.compile("affine", ["GPU.7", "GPU.8"], jobs=2, store=store)


def test_one_alone_raises_its_own_error(store: Store) -> None:
    publish_affine(store)
    with pytest.raises(DeviceNotFoundError):
        npu_persist.compile("affine", ["GPU.7"], store=store)


def test_processes_of_an_executor_attach_to_the_same_bundle(store: Store) -> None:
    bundle = publish_dynamic(store)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        results = npu_persist.compile("dynamic", "CPU", buckets=BUCKETS, executor=executor, store=store)
    assert [result.shapes and result.shapes["x"][0] for result in results] == [1, 2, 4]
    assert attached(bundle) == len({result.path for result in results}) == 3
    store.verify()


def test_threads_of_an_executor_too(store: Store) -> None:
    bundle = publish_dynamic(store)
    with ThreadPoolExecutor(2) as executor:
        npu_persist.compile("dynamic", "CPU", buckets=BUCKETS, executor=executor, store=store)
    assert attached(bundle) == 3


def test_a_dask_cluster_compiles_a_matrix_of_models_and_targets(store: Store) -> None:
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed here")
    bundles = [publish_dynamic(store), publish_affine(store)]
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=store.home.parent
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor = client.get_executor()
        results = [
            *npu_persist.compile("dynamic", "CPU", buckets=BUCKETS, executor=executor, store=store),
            *npu_persist.compile("affine", ["CPU"], executor=executor, store=store),
        ]
    assert [result.error for result in results] == [None] * 4
    assert [attached(bundle) for bundle in bundles] == [3, 1]


class Changing(Executor):
    """Runs a job at once, after something was changed."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self._change = change

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*map(self._change, args)))
        except BrokenExecutor as error:
            future.set_exception(error)
        return future


def test_an_executor_that_loses_its_worker_is_that_jobs_error(store: Store) -> None:
    publish_dynamic(store)

    def lose(job: Any) -> Any:
        if job.shapes["x"][0] == 2:
            raise BrokenExecutor("a worker died")
        return job

    with pytest.raises(JobsError, match="BrokenExecutor: a worker died") as caught:
        npu_persist.compile("dynamic", "CPU", buckets=BUCKETS, executor=Changing(lose), store=store)
    assert [result.artifact is None for result in caught.value.results] == [False, True, False]
    assert isinstance(caught.value.results[1].error, CompilationError)


def test_a_worker_that_does_not_have_the_bundle_says_so(store: Store, tmp_path: Path) -> None:
    publish_affine(store)
    elsewhere = Changing(lambda job: msgspec.structs.replace(job, bundle=str(tmp_path / "elsewhere")))
    with pytest.raises(BundleNotFoundError, match="elsewhere"):
        npu_persist.compile("affine", "CPU", executor=elsewhere, store=store)
    npu_persist.compile("affine", "CPU", store=store)
    other = copy_bundle(store, tmp_path / "other")
    publish_dynamic(store)
    mixed = Changing(lambda job: msgspec.structs.replace(job, bundle=str(other)))
    with pytest.raises(FileIntegrityError, match="got another bundle"):
        npu_persist.compile("dynamic", "CPU", executor=mixed, store=store)


def test_a_worker_verifies_what_it_compiles(store: Store) -> None:
    bundle = publish_affine(store)
    spoil(bundle.path / "weights.safetensors")
    with ThreadPoolExecutor(1) as executor, pytest.raises(FileIntegrityError, match="expected blake3:"):
        npu_persist.compile("affine", "CPU", executor=executor, store=store)
    assert attached(bundle) == 0


def test_an_executor_says_how_much_it_runs_at_a_time(store: Store) -> None:
    publish_affine(store)
    with ThreadPoolExecutor(1) as executor, pytest.raises(UsageError, match="jobs, executor"):
        npu_persist.compile("affine", "CPU", executor=executor, jobs=2, store=store)


INTERRUPTED = """
import signal
import sys
import npu_persist

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
show = lambda event: event.detail and print(event.detail, flush=True)
npu_persist.compile("power", "CPU", store=sys.argv[1], progress=show)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent the POSIX way, and children are found in /proc")
def test_an_interrupt_ends_all_processes_and_leaves_nothing(store: Store) -> None:
    bundle = publish_power(store, 64, 2000)
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(store.home)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("power:1 for CPU, ")
    children = children_of(process.pid)
    assert len(children) == 1
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    for _ in range(200):
        if not any(map(is_running, children)):
            break
        time.sleep(0.05)
    assert not any(map(is_running, children))
    assert attached(bundle) == 0
    assert not list((bundle.path / "compiled").rglob("*.blob"))


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
