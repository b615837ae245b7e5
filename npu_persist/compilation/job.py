"""One compilation ahead of time: one graph of a bundle, for one target, at one set of sizes.

The promise: a job ends with its artifact attached to the bundle, or with an error and nothing left behind. It can be
sent to another process or machine, where the bundle's folder is under the same path; only the description of the
artifact comes back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_persist.artifact import attached as attachment
from npu_persist.artifact.artifact import Artifact
from npu_persist.bundle.buckets import describe_shapes
from npu_persist.bundle.bundle import Bundle
from npu_persist.compilation.local import compile_graph, export_blob, read_graph
from npu_persist.compilation.process import run_python
from npu_persist.compilation.recipe import Recipe
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

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from npu_persist.artifact.artifact import Shapes
    from npu_persist.artifact.target import Target
    from npu_persist.compilation.process import CompileProgress


@dataclass(frozen=True)
class Job:
    """What to compile.

    Attributes:
        bundle: The bundle's folder.
        digest: The bundle's digest.
        reference: What to call the bundle.
        graph: Name of the graph.
        target: What for.
        shapes: Sizes for inputs that the graph leaves open; None: as in the graph.
        config: OpenVINO's properties.
        weightless: Whether the blob leaves the weights in their file; None: what is best.
        toolchain: Name of the toolchain for another machine's NPU; None: the first that is usable.
        timeout: Seconds; None for no limit.
        memory_limit: Bytes; None for no limit.
    """

    bundle: str
    digest: str
    reference: str
    graph: str
    target: Target
    shapes: Shapes | None
    config: Mapping[str, Any]
    weightless: bool | None
    toolchain: str | None
    timeout: float | None
    memory_limit: int | None

    @property
    def label(self) -> str:
        """What to call the job: `unet:3 for NPU:4000`."""
        sizes = f", {describe_shapes(self.shapes)}" if self.shapes else ""
        return f"{self.reference} for {self.target}{sizes}"

    def make_recipe(self, bundle: Bundle) -> Recipe:
        """Return what OpenVINO is to compile.

        Raises:
            PropertyError: A property steers OpenVINO's caching.
        """
        return Recipe(bundle, bundle.graph(self.graph), self.target.device, dict(self.config), self.shapes)


@dataclass(frozen=True)
class JobResult:
    """What came of one compilation.

    Attributes:
        label: What to call it: `unet:3 for NPU:4000`.
        graph: Name of the graph.
        target: What for: "NPU:4000".
        shapes: The bucket; None: the sizes of the graph.
        artifact: What was attached; None if it failed.
        path: The artifact's folder; None if it failed.
        error: Why it failed; None if it did not.
        seconds: How long it took, all in all.
        peak_memory: Most bytes that the compiler's process held; None where that is not known.
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


@dataclass(frozen=True)
class Watch:
    """What a running job is watched with; it stays in the process that started it.

    Attributes:
        progress: Called about twice a second.
        cancelled: Ends the job when it is set.
    """

    progress: Callable[[CompileProgress], object] | None = None
    cancelled: threading.Event | None = None


def run_job(job: Job, watch: Watch | None = None) -> JobResult:
    """Compile and attach; what goes wrong is in the result.

    Args:
        job: What to compile.
        watch: What to watch it with; None in another process than the one that asked, which verifies for itself then.
    """
    began = time.monotonic()
    artifact, path, failure = None, None, None
    try:
        with store_errors(f"compile {job.label}"):
            bundle = _open(job)
            if watch is None:
                verify(bundle, job.graph)
            with attachment.stage(bundle) as staging:
                artifact = _compile(job, bundle, staging, watch or Watch())
                path = attachment.attach(bundle, artifact, staging)
    except NpuPersistError as error:
        artifact, failure = None, error
    except MemoryError as error:
        artifact, failure = None, CompileMemoryError(f"{job.label}: the system has no more memory. {error}")
    return JobResult(
        label=job.label,
        graph=job.graph,
        target=str(job.target),
        shapes=job.shapes,
        artifact=artifact,
        path=path,
        error=failure,
        seconds=round(time.monotonic() - began, 3),
        peak_memory=None if artifact is None else artifact.peak_memory,
    )


def verify(bundle: Bundle, graph: str) -> None:
    """Read what is compiled, and compare it with the manifest.

    Raises:
        FileIntegrityError: The graph or the weights are not what was persisted.
    """
    bundle.verify_file(bundle.graph(graph).path)
    bundle.verify_file(bundle.manifest.weights.path)


def compile_here(  # noqa: PLR0913 (a recipe in words)
    *,
    bundle: str,
    graph: str,
    device: str,
    config: Mapping[str, Any],
    shapes: Mapping[str, list[int]] | None,
    weightless: bool | None,
    staging: str,
) -> str:
    """Compile for a device of this machine into a folder: what runs in a process of its own.

    Returns:
        The `artifact.json`.

    Raises:
        DeviceNotFoundError: The device is not there.
        PropertyError: The device refused a property.
        CompilationError: OpenVINO refused the graph.
    """
    from npu_persist.device.core import get_core
    from npu_persist.device.devices import check_device
    from npu_persist.device.properties import check_properties

    opened = Bundle.open(bundle)
    check_device(get_core(), device)
    check_properties(get_core(), device, config)
    sizes = None if shapes is None else {name: tuple(shape) for name, shape in shapes.items()}
    recipe = Recipe(opened, opened.graph(graph), device, dict(config), sizes)
    inside = weightless is False
    try:
        compiled = compile_graph(recipe, read_graph(recipe), {} if inside else None)
    except DeviceNotFoundError as error:
        if device != "NPU":
            raise
        known = ", ".join(f"NPU:{number}" for number in PLATFORMS)
        raise DeviceNotFoundError(
            f"{error} To compile for an NPU of another machine, name its kind: {known}"
        ) from error
    if not recipe.is_exportable:
        raise CompilationError(f"{recipe}: OpenVINO's {device} does not give away what it compiles. `load` compiles it")
    if weightless and not recipe.is_weightless:
        raise UsageError(f"weightless: blobs for {device} always hold the weights. Leave it out")
    artifact = export_blob(recipe, compiled, Path(staging))
    if inside:
        artifact = replace(artifact, weightless=False)
    return artifact.to_json().decode()


def _open(job: Job) -> Bundle:
    bundle = Bundle.open(job.bundle)
    if bundle.digest != job.digest:
        raise FileIntegrityError(
            f"{bundle.path}: expected {job.reference}, {job.digest}; got another bundle, {bundle.digest}. Compile it "
            "again by its reference",
            path=str(bundle.path),
            expected=job.digest,
            got=bundle.digest,
        )
    return bundle


def _compile(job: Job, bundle: Bundle, staging: Path, watch: Watch) -> Artifact:
    if job.target.platform is not None:
        from npu_persist.compilation.cross import compile_for_platform

        return compile_for_platform(job, bundle, staging, watch)
    answer = run_python(
        "npu_persist.compilation.job:compile_here",
        {
            "bundle": str(bundle.path),
            "graph": job.graph,
            "device": job.target.device,
            "config": dict(job.config),
            "shapes": job.shapes and {name: list(shape) for name, shape in job.shapes.items()},
            "weightless": job.weightless,
            "staging": str(staging),
        },
        timeout=job.timeout,
        memory_limit=job.memory_limit,
        progress=watch.progress,
        cancelled=watch.cancelled,
    )
    artifact = Artifact.from_json(answer.result.encode(), source=job.label)
    return replace(artifact, peak_memory=answer.peak_memory)
