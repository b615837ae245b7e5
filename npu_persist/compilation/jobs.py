"""Compile one graph of a bundle ahead of time, for one target and one set of sizes; or several in parallel.

A job ends with its artifact attached to the bundle, or with an error and nothing left behind. It can run in another
process or on another machine that has the bundle's folder under the same path.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from npu_persist.artifact import attached
from npu_persist.artifact.artifact import Artifact
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.manifest import ORIGIN_FILE
from npu_persist.bundle.verification import Verification
from npu_persist.compilation.local import compile_graph, export_blob, read_graph
from npu_persist.compilation.process.python import run_module, serve
from npu_persist.compilation.process.supervisor import Limits
from npu_persist.compilation.recipe import CompileJob  # noqa: TC001 (msgspec evaluates the annotations of a request)
from npu_persist.device.platforms import PLATFORMS
from npu_persist.errors import (
    CompilationError,
    CompileMemoryError,
    DeviceNotFoundError,
    FileIntegrityError,
    NpuPersistError,
    UsageError,
)
from npu_persist.files.filesystem import store_errors
from npu_persist.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor, Future

    from npu_persist.artifact.artifact import Shapes
    from npu_persist.progress import ProgressCallback

_LOOK = 0.5
"""Seconds between two moments in which Windows lets Ctrl-C through."""


@dataclass(frozen=True)
class CompileResult:
    """How one compilation ended.

    Attributes:
        label: A label for messages: `unet:3 for NPU:4000`.
        graph: Name of the graph.
        target: The target: "NPU:4000".
        shapes: The bucket; None: the sizes of the graph.
        artifact: The attached artifact; None if it failed.
        path: The artifact's folder; None if it failed.
        error: Why it failed; None if it did not.
        seconds: Its total time.
        peak_memory: Peak memory of the compiler's process in bytes; None if unknown.
    """

    label: str
    graph: str
    target: str
    shapes: Shapes | None
    artifact: Artifact | None
    path: Path | None
    error: NpuPersistError | None
    seconds: float
    peak_memory: int | None


def run_in_threads(
    jobs: Sequence[CompileJob], count: int, progress: ProgressCallback | None = None
) -> list[CompileResult]:
    """Run jobs whose bundles were verified, each in a separate process; Ctrl-C ends all of them."""
    cancelled = threading.Event()
    with (
        Reporter(progress).stage("compile", total=len(jobs), unit="compilations") as stage,
        ThreadPoolExecutor(count, thread_name_prefix="npu_persist compile") as pool,
    ):

        def run(job: CompileJob) -> CompileResult:
            report = None if progress is None else lambda text: stage.update(detail=f"{job.label}, {text}")
            return run_job(job, Limits(job.timeout, job.memory_limit, cancelled, report))

        try:
            futures = [pool.submit(run, job) for job in jobs]
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=_LOOK, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if done:
                    stage.update(len(jobs) - len(waiting))
            return [future.result() for future in futures]
        except BaseException:
            cancelled.set()  # the pool's end waits for the threads, and these end their processes
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_by(executor: Executor, jobs: Sequence[CompileJob]) -> list[CompileResult]:
    """Run jobs by an executor, whose workers have the bundles under the same paths, and verify them there."""
    futures: list[Future[CompileResult]] = []
    try:
        futures += [executor.submit(run_job, job) for job in jobs]
        while wait(futures, timeout=_LOOK).not_done:
            pass
        return [_get_result(job, future) for job, future in zip(jobs, futures, strict=True)]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def run_job(job: CompileJob, limits: Limits | None = None) -> CompileResult:
    """Compile and attach; an error is in the result."""
    began = time.monotonic()
    try:
        with store_errors(f"compile {job.label}"):
            bundle = _open(job)
            if limits is None:
                verify(bundle, job.graph)
                limits = Limits(job.timeout, job.memory_limit)
            with attached.stage(bundle) as staging:
                artifact = _compile(job, bundle, staging, limits)
                return _make_result(job, began, artifact=artifact, path=attached.attach(bundle, artifact, staging))
    except NpuPersistError as error:
        return _make_result(job, began, error=error)
    except MemoryError as error:
        lack = CompileMemoryError(f"{job.label}: the system is out of memory. {error}")
        return _make_result(job, began, error=lack)


def verify(bundle: Bundle, graph: str) -> None:
    """Compare the graph and the weights with the manifest."""
    bundle.verify_file(bundle.graph(graph).path)
    bundle.verify_file(bundle.manifest.weights.path)


def _make_result(
    job: CompileJob,
    began: float,
    *,
    artifact: Artifact | None = None,
    path: Path | None = None,
    error: NpuPersistError | None = None,
) -> CompileResult:
    return CompileResult(
        label=job.label,
        graph=job.graph,
        target=job.target,
        shapes=job.shapes,
        artifact=artifact,
        path=path,
        error=error,
        seconds=round(time.monotonic() - began, 3),
        peak_memory=None if artifact is None else artifact.peak_memory,
    )


def _get_result(job: CompileJob, future: Future[CompileResult]) -> CompileResult:
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 (whatever an executor raises when it loses a worker)
        lost = CompilationError(f"{job.label}: its executor did not run it: {type(error).__name__}: {error}")
        lost.__cause__ = error
        return _make_result(job, time.monotonic(), error=lost)


def _open(job: CompileJob) -> Bundle:
    bundle = Bundle.open(job.bundle, version=job.version)
    if bundle.digest != job.digest:
        raise FileIntegrityError(
            f"{bundle.path}: expected {job.reference}, {job.digest}; got another bundle, {bundle.digest}. Compile it "
            "again by its reference",
            path=str(bundle.path),
            expected=job.digest,
            got=bundle.digest,
        )
    return bundle


def _compile(job: CompileJob, bundle: Bundle, staging: Path, limits: Limits) -> Artifact:
    if job.platform is not None:
        from npu_persist.compilation.other_npu import compile_for_platform

        return compile_for_platform(job, job.platform, bundle, staging, limits)
    answer = run_module("npu_persist.compilation.jobs", LocalRequest(job, str(staging)), str, limits)
    artifact = Artifact.from_json(answer.result.encode(), source=job.label)
    if artifact.key != job.make_recipe(bundle).key:
        raise CompilationError(
            f"{job.label}: its process returned an artifact for something else, {artifact.name} for "
            f"{artifact.target}. Its graph may have taken over the process: compile only bundles from people you trust"
        )
    return msgspec.structs.replace(artifact, peak_memory=answer.peak_memory)


class LocalRequest(msgspec.Struct, frozen=True):
    """The request to the process that compiles for a device of this machine, by running this module.

    Attributes:
        job: The job.
        staging: The folder for the blob.
    """

    job: CompileJob
    staging: str


def compile_here(request: LocalRequest, *_: object) -> str:
    """Compile for a device of this machine into a folder, and return the `artifact.json`."""
    from npu_persist.device.core import get_core
    from npu_persist.device.devices import check_device
    from npu_persist.device.properties import check_properties

    job = request.job
    check_device(get_core(), job.device)
    check_properties(get_core(), job.device, job.config)
    recipe = job.make_recipe(_open(job))
    is_inside = job.weightless is False
    with Verification("full") as verification:
        verification.start(recipe.weights, recipe.bundle.manifest.files[recipe.bundle.manifest.weights.path])
        try:
            model = read_graph(recipe, verification)
            compiled = compile_graph(recipe, model, {} if is_inside else None)
        except DeviceNotFoundError as error:
            if job.device != "NPU":
                raise
            known = ", ".join(f"NPU:{number}" for number in PLATFORMS)
            raise DeviceNotFoundError(f"{error} To compile for the NPU of another machine, name it: {known}") from error
        verification.finish()
    if os.path.lexists(recipe.bundle.path / ORIGIN_FILE):  # pulled: it may be of somebody whom nobody trusts
        from npu_persist.compilation.trial import call_once

        call_once(recipe, model, compiled.model)
    if not recipe.is_exportable:
        raise CompilationError(
            f"{recipe}: OpenVINO's {job.device} cannot export compiled models. `load` compiles the graph"
        )
    if job.weightless and not recipe.is_weightless:
        raise UsageError(f"weightless: blobs for {job.device} always contain the weights. Leave it out")
    with store_errors(f"compile {job.label}"):
        artifact = export_blob(recipe, compiled, Path(request.staging))
    if is_inside:
        artifact = msgspec.structs.replace(artifact, weightless=False)
    return artifact.to_json().decode()


if __name__ == "__main__":
    serve(compile_here, LocalRequest)
