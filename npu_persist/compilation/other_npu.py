"""Compile for the NPU of another machine, with a toolchain that has Intel's compiler.

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
than the weights is kept; only beyond that both are compiled, and the smaller one stays. The blob of a model that
generates leaves them out: 6 MB for SmolLM2's shape and 21 MB for TinyLlama's, in int4 for NPU:4000.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from npu_persist.artifact.artifact import BLOB_FILE, Artifact, describe_files
from npu_persist.artifact.blob import read_blob
from npu_persist.bundle.manifest import derived_bin
from npu_persist.bundle.verification import Verification
from npu_persist.compilation.compiler_errors import describe_whole, explain_refusal
from npu_persist.compilation.generation import (
    PIPELINE,
    WHOLE,
    WITH_WEIGHTS,
    WITHOUT_WEIGHTS,
    is_npuw,
)
from npu_persist.compilation.local import fix_inputs
from npu_persist.compilation.probe import probe
from npu_persist.compilation.recipe import CACHE_PROPERTIES
from npu_persist.compilation.toolchains.available import choose_toolchain
from npu_persist.compilation.toolchains.toolchain import CompilerRequest
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
    from npu_persist.compilation.process.supervisor import Limits
    from npu_persist.compilation.recipe import CompileJob, Recipe
    from npu_persist.compilation.toolchains.toolchain import CompilerResult, Toolchain

log = logging.getLogger(__name__)

SMALL_WEIGHTS = 4_000_000
"""Bytes of weights up to which the blob has them inside: little could be saved."""

SLOW_WITHOUT_WEIGHTS = frozenset({"3720"})
"""Platforms for which the compiler of OpenVINO 2026.4 may take many times as long to leave the weights out. BERT-base
for 3720 was not done after 134 s; it takes 16 s with them, and for 4000 without them 8 s. So it is done only on
request."""

_LIMIT_ERRORS = (CompileTimeoutError, CompileMemoryError)
_SET_HERE = frozenset({"NPU_PLATFORM", "NPU_COMPILER_TYPE", "LOG_LEVEL", "DEVICE_ID"}) | CACHE_PROPERTIES


def check_config(names: Iterable[str]) -> None:
    """Raise `PropertyError` for properties that are set here."""
    if ours := sorted(_SET_HERE.intersection(names)):
        raise PropertyError(
            f"{', '.join(ours)}: expected properties that say how to compile, such as PERFORMANCE_HINT, NPU_TURBO or "
            "NPU_COMPILATION_MODE_PARAMS. The platform comes from the target, and `weightless` says where the weights "
            "go. Leave it out"
        )


def compile_for_platform(job: CompileJob, platform: str, bundle: Bundle, staging: Path, limits: Limits) -> Artifact:
    """Compile into a folder, and describe what is there."""
    recipe = job.make_recipe(bundle)
    check_properties(get_core(), job.device, recipe.properties)
    bundle.ensure_bin()  # the plugin takes no other name than .bin
    toolchain = choose_toolchain(job.toolchain)
    with Verification("full", by_name=True) as verification:
        weights = bundle.manifest.files[bundle.manifest.weights.path]
        verification.start(bundle.path / derived_bin(recipe.graph.path), weights)
        verification.check(bundle.file(recipe.graph.path), bundle.manifest.files[recipe.graph.path])
        outputs = probe(recipe, limits)
        compiled = _BlobCompiler(job, platform, recipe, toolchain, staging, limits).compile()
        verification.finish()
    compiled.path.rename(staging / BLOB_FILE)
    result, blob = compiled.result, compiled.blob
    return Artifact(
        subject=bundle.digest,
        name=bundle.manifest.name,
        graph=recipe.graph.name,
        shapes=recipe.shapes,
        target=job.target,
        device=job.device,
        identity={"DEVICE_ARCHITECTURE": platform},
        openvino=result.openvino,
        properties=recipe.texts,
        inputs=fix_inputs(recipe.graph, recipe.shapes),
        outputs=outputs,
        kind="blob",
        weightless=compiled.is_weightless,
        requirements=result.requirements if blob.requirements is None else str(blob.requirements),
        toolchain=toolchain.name,
        compiler=result.compiler or blob.compiler,
        files=describe_files(staging),
        seconds=round(compiled.seconds, 3),
        peak_memory=compiled.peak_memory,
        lengths=recipe.lengths,
        options=recipe.options | (WHOLE if compiled.notes else {}),
        npuw=blob.npuw,
        notes=compiled.notes,
    )


class _CompiledBlob(NamedTuple):
    """A blob that was compiled; time and memory are those of all that was compiled for it."""

    path: Path
    is_weightless: bool
    result: CompilerResult
    blob: Blob
    seconds: float
    peak_memory: int | None
    notes: tuple[str, ...] = ()


class _BlobCompiler:
    """Compiles the blob of one job: with its weights, without them, or the smaller of the two."""

    def __init__(  # noqa: PLR0913, PLR0917 (what both compilations share)
        self, job: CompileJob, platform: str, recipe: Recipe, toolchain: Toolchain, staging: Path, limits: Limits
    ) -> None:
        self._job = job
        self._platform = platform
        self._recipe = recipe
        self._toolchain = toolchain
        self._staging = staging
        self._limits = limits
        self._began = time.monotonic()
        self._notes: tuple[str, ...] = ()

    def compile(self) -> _CompiledBlob:
        weights = self._recipe.bundle.manifest.weights.data_size
        if self._recipe.graph.precision == "fp32":
            weights //= 2  # the compiler makes fp16 of them
        if self._job.weightless is not None:
            return self._compile(is_weightless=self._job.weightless)
        if self._recipe.lengths is not None:
            return self._compile(is_weightless=True)
        if weights <= SMALL_WEIGHTS or self._platform in SLOW_WITHOUT_WEIGHTS:
            return self._compile(is_weightless=False)
        try:
            first = self._compile(is_weightless=True)
        except _LIMIT_ERRORS:
            raise
        except CompilationError as error:
            log.info("%s: weightless compilation failed: %s", self._job.label, error)
            return self._compile(is_weightless=False)
        if not first.is_weightless or first.blob.size <= weights:
            return first  # the compiler may leave the weights inside, although it was asked not to
        try:
            second = self._compile(is_weightless=False)
        except CompilationError as error:  # a limit was reached, for instance: there is a blob all the same
            log.info("%s: compilation with weights failed: %s", self._job.label, error)
            if self._limits.cancelled is not None and self._limits.cancelled.is_set():
                raise
            return first
        kept, other = (first, second) if first.blob.size < second.blob.size else (second, first)
        log.info("%s: kept the blob of %d bytes, not the one of %d", self._job.label, kept.blob.size, other.blob.size)
        remove_file(other.path)
        peaks = [each.peak_memory for each in (first, second) if each.peak_memory is not None]
        return kept._replace(seconds=first.seconds + second.seconds, peak_memory=max(peaks, default=None))

    def _compile(self, *, is_weightless: bool) -> _CompiledBlob:
        if self._recipe.lengths is None:
            return self._compile_once({}, is_weightless=is_weightless)
        options = self._recipe.options | (WITHOUT_WEIGHTS if is_weightless else WITH_WEIGHTS)
        if PIPELINE in options | dict(self._recipe.properties):
            return self._compile_once(options, is_weightless=is_weightless)
        if not self._notes:
            try:
                return self._compile_once(options, is_weightless=is_weightless)
            except (*_LIMIT_ERRORS, ToolchainError):
                raise
            except CompilationError as error:
                log.info("%s: compilation in parts failed: %s", self._job.label, error)
                self._notes = (describe_whole(str(error).removeprefix(f"{self._job.label}: ")),)
        return self._compile_once(options | WHOLE, is_weightless=is_weightless)

    def _compile_once(self, options: dict[str, str], *, is_weightless: bool) -> _CompiledBlob:
        recipe, limits = self._recipe, self._limits
        output = self._staging / ("weightless.blob" if is_weightless else "full.blob")
        if limits.timeout is not None:  # both compilations share it
            limits = replace(limits, timeout=limits.timeout - (time.monotonic() - self._began))
        request = CompilerRequest(
            graph=str(recipe.bundle.file(recipe.graph.path)),
            weights=str(recipe.bundle.path / derived_bin(recipe.graph.path)),
            output=str(output),
            platform=self._platform,
            shapes=self._job.shapes,
            properties={name: _write(value) for name, value in recipe.properties.items() if not is_npuw(name)},
            options=options | {name: _write(value) for name, value in recipe.properties.items() if is_npuw(name)},
            weightless=is_weightless and recipe.lengths is None,
        )
        try:
            result = self._toolchain.compile(request, limits)
        except (*_LIMIT_ERRORS, ToolchainError):
            raise
        except CompilationError as error:
            raise explain_refusal(recipe, self._job.label, error) from error
        blob = read_blob(output, "NPU")
        found = is_weightless if blob.weightless is None else blob.weightless
        return _CompiledBlob(output, found, result, blob, result.seconds, result.peak_memory, self._notes)


def _write(value: Any) -> str:
    """Return a property's value as the compiler reads it."""
    return {True: "YES", False: "NO"}[value] if isinstance(value, bool) else str(value)
