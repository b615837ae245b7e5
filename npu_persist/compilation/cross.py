"""Compilation for the NPU of another machine, by a toolchain that has Intel's compiler.

The promise: what comes out is a blob for the platform that was asked for, by its own account; its description says what
compiled it, with what, and what it needs where it runs. A refusal names the layers of the torch module that it is
about, as far as the compiler tells.

A blob may leave the weights in the bundle's file ("weightless"). That is smaller where weights are most of the blob,
and larger where the code that prepares them outweighs them. Measured with OpenVINO 2026.4.1 for NPU:4000, megabytes of
weights (fp16), of the full and of the weightless blob, and of the compiler's peak memory for either:

    ResNet-50            46.9    47.9    2.3    263   177
    BERT-base           218.1   220.8    9.0    735   224
    UNet of 35M          70.0   121.0   48.3  1324  1195    19 minutes for either
    small UNet            1.6     3.9    2.6
    small ViT             0.2     0.7    1.4
    Whisper encoder       0.2     0.5    0.6

A full blob is never smaller than its weights in fp16. So little is compiled twice: small weights are always inside, and
so are those for NPU:3720, where leaving them out can take the compiler very long; a weightless blob that is smaller
than the weights is kept, and only beyond that both are compiled, and the smaller stays.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from npu_persist.artifact.artifact import BLOB_FILE, Artifact, describe_files
from npu_persist.artifact.blob import read_blob
from npu_persist.bundle.manifest import derived_bin
from npu_persist.compilation.local import read_graph
from npu_persist.compilation.messages import explain
from npu_persist.compilation.ports import describe_outputs, fix_inputs
from npu_persist.compilation.recipe import OURS
from npu_persist.compilation.toolchains import CompileJob, choose_toolchain
from npu_persist.device.core import get_core
from npu_persist.device.properties import check_properties
from npu_persist.errors import (
    CompilationError,
    CompileMemoryError,
    CompileTimeoutError,
    PropertyError,
    ToolchainError,
)
from npu_persist.files.filesystem import remove_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from npu_persist.artifact.blob import Blob
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.compilation.job import Job, Watch
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.compilation.toolchains import Outcome, Toolchain

log = logging.getLogger(__name__)

SMALL_WEIGHTS = 4_000_000
"""Bytes of weights up to which the blob has them inside: nothing much could be saved."""

SLOW_WITHOUT_WEIGHTS = frozenset({"3720"})
"""Platforms for which the compiler of OpenVINO 2026.4 may take many times as long to leave the weights out. BERT-base
for 3720 was not done after 134 s; it takes 16 s with them, and for 4000 without them 8 s. Only who asks gets that."""

_LIMITS = (CompileTimeoutError, CompileMemoryError)
_SET_HERE = frozenset({"NPU_PLATFORM", "NPU_COMPILER_TYPE", "LOG_LEVEL", "DEVICE_ID"}) | OURS


def check_config(names: Iterable[str]) -> None:
    """Refuse properties that are set here.

    Raises:
        PropertyError: There is one.
    """
    if ours := sorted(_SET_HERE.intersection(names)):
        raise PropertyError(
            f"{', '.join(ours)}: expected properties that say how to compile, such as PERFORMANCE_HINT, NPU_TURBO or "
            "NPU_COMPILATION_MODE_PARAMS. The platform comes from the target, and `weightless` says where the weights "
            "go. Leave it out"
        )


def compile_for_platform(job: Job, bundle: Bundle, staging: Path, watch: Watch) -> Artifact:
    """Compile into a folder, and describe what is there.

    Raises:
        ToolchainError: No toolchain can serve.
        CompilationError: The compiler refused the graph, or made something else.
        CompileTimeoutError: It took too long.
        CompileMemoryError: It held too much memory.
    """
    recipe = job.make_recipe(bundle)
    check_config(recipe.properties)
    check_properties(get_core(), job.target.device, recipe.properties)
    outputs = describe_outputs(recipe.graph, read_graph(recipe))
    bundle.ensure_bin()  # the plugin takes no other name than .bin
    toolchain = choose_toolchain(job.toolchain)
    made = _Maker(job, recipe, toolchain, staging, watch).make()
    made.path.rename(staging / BLOB_FILE)
    outcome, blob = made.outcome, made.blob
    return Artifact(
        subject=bundle.digest,
        name=bundle.name,
        graph=recipe.graph.name,
        shapes=recipe.shapes,
        target=str(job.target),
        device=job.target.device,
        identity={"DEVICE_ARCHITECTURE": str(job.target.platform)},
        openvino=outcome.openvino,
        properties=recipe.texts,
        inputs=fix_inputs(recipe.graph, recipe.shapes),
        outputs=outputs,
        kind="blob",
        weightless=made.is_weightless,
        requirements=outcome.requirements if blob.requirements is None else str(blob.requirements),
        toolchain=toolchain.name,
        compiler=outcome.compiler or blob.compiler,
        files=describe_files(staging),
        seconds=round(made.seconds, 3),
        peak_memory=made.peak_memory,
    )


class _Made(NamedTuple):
    """A blob that was compiled; time and memory are those of all that was compiled for it."""

    path: Path
    is_weightless: bool
    outcome: Outcome
    blob: Blob
    seconds: float
    peak_memory: int | None

    @property
    def size(self) -> int:
        return self.blob.size


class _Maker:
    """Makes the blob of one job: with its weights, without them, or the smaller of the two."""

    def __init__(self, job: Job, recipe: Recipe, toolchain: Toolchain, staging: Path, watch: Watch) -> None:
        self._job = job
        self._recipe = recipe
        self._toolchain = toolchain
        self._staging = staging
        self._watch = watch
        self._began = time.monotonic()

    def make(self) -> _Made:
        weights = self._recipe.bundle.manifest.weights.data_size
        if self._recipe.graph.precision == "fp32":
            weights //= 2  # the compiler makes fp16 of them
        if self._job.weightless is not None:
            return self._compile(is_weightless=self._job.weightless)
        if weights <= SMALL_WEIGHTS or self._job.target.platform in SLOW_WITHOUT_WEIGHTS:
            return self._compile(is_weightless=False)
        try:
            first = self._compile(is_weightless=True)
        except _LIMITS:
            raise
        except CompilationError as error:
            log.info("%s: not without its weights: %s", self._job.label, error)
            return self._compile(is_weightless=False)
        if not first.is_weightless or first.size <= weights:
            return first  # the compiler may leave the weights inside, although it was asked not to
        try:
            second = self._compile(is_weightless=False)
        except CompilationError as error:  # a limit was reached, for instance: there is a blob all the same
            log.info("%s: only without its weights: %s", self._job.label, error)
            if self._watch.cancelled is not None and self._watch.cancelled.is_set():
                raise
            return first
        kept, other = (first, second) if first.size < second.size else (second, first)
        log.info("%s: kept %d bytes, not %d", self._job.label, kept.size, other.size)
        remove_file(other.path)
        peaks = [made.peak_memory for made in (first, second) if made.peak_memory is not None]
        return kept._replace(seconds=first.seconds + second.seconds, peak_memory=max(peaks, default=None))

    def _compile(self, *, is_weightless: bool) -> _Made:
        job, recipe = self._job, self._recipe
        output = self._staging / ("weightless.blob" if is_weightless else "full.blob")
        timeout = None if job.timeout is None else job.timeout - (time.monotonic() - self._began)
        try:
            outcome = self._toolchain.compile(
                CompileJob(
                    graph=recipe.bundle.file(recipe.graph.path),
                    weights=recipe.bundle.path / derived_bin(recipe.graph.path),
                    output=output,
                    platform=str(job.target.platform),
                    shapes=recipe.shapes,
                    properties={name: _write(value) for name, value in recipe.properties.items()},
                    weightless=is_weightless,
                ),
                timeout=timeout,
                memory_limit=job.memory_limit,
                progress=self._watch.progress,
                cancelled=self._watch.cancelled,
            )
        except (*_LIMITS, ToolchainError):
            raise
        except CompilationError as error:
            raise explain(recipe, job.label, error) from error
        blob = read_blob(output, "NPU")
        told = is_weightless if blob.weightless is None else blob.weightless
        return _Made(output, told, outcome, blob, outcome.seconds, outcome.peak_memory)


def _write(value: Any) -> str:
    """Return a property's value as the compiler reads it."""
    return {True: "YES", False: "NO"}[value] if isinstance(value, bool) else str(value)
