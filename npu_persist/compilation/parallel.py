"""Several compilations side by side: in threads that each watch a process, or by an executor of the caller's.

The promise: a job that fails does not stop the others. What stops them is Ctrl-C, or an error that is none of ours:
then every process of ours is ended, and nothing of what was not done is left.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING

from npu_persist.compilation.job import JobResult, Watch, run_job
from npu_persist.errors import CompilationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor, Future

    from npu_persist.compilation.job import Job
    from npu_persist.compilation.process import CompileProgress

    Progress = Callable[[str, CompileProgress], object]

_LOOK = 0.5
"""Seconds between two moments in which Windows lets Ctrl-C through."""


def run_in_threads(jobs: Sequence[Job], count: int, progress: Progress | None) -> list[JobResult]:
    """Run jobs, so many at a time, each in a process of its own.

    Args:
        jobs: The jobs.
        count: How many at a time.
        progress: Called with a job's label and how far it is, by one thread at a time.
    """
    cancelled, speaking = threading.Event(), threading.Lock()

    def report(label: str, beat: CompileProgress) -> None:
        with speaking:
            if progress is not None:
                progress(label, beat)

    with ThreadPoolExecutor(count, thread_name_prefix="npu_persist compile") as pool:
        try:
            futures = [pool.submit(run_job, job, Watch(partial(report, job.label), cancelled)) for job in jobs]
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=_LOOK, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            return [future.result() for future in futures]
        except BaseException:
            cancelled.set()  # the pool's end waits for the threads, and these end their processes
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_by(executor: Executor, jobs: Sequence[Job]) -> list[JobResult]:
    """Run jobs by an executor, whose workers have the bundles under the same paths."""
    futures: list[Future[JobResult]] = []
    try:
        futures += [executor.submit(run_job, job) for job in jobs]
        while wait(futures, timeout=_LOOK).not_done:
            pass
        return [_take(job, future) for job, future in zip(jobs, futures, strict=True)]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _take(job: Job, future: Future[JobResult]) -> JobResult:
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 (whatever an executor says when it loses a worker)
        lost = CompilationError(f"{job.label}: its executor did not run it: {type(error).__name__}: {error}")
        lost.__cause__ = error
        return JobResult(
            label=job.label,
            graph=job.graph,
            target=str(job.target),
            shapes=job.shapes,
            artifact=None,
            path=None,
            error=lost,
            seconds=0.0,
            peak_memory=None,
        )
