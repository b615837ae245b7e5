"""Where a pipeline's compiled model comes from: on an NPU a blob, elsewhere the files of GenAI's own cache.

GenAI imports a language model's blob on an NPU: one that is attached to the bundle, as `load` would choose it, or one
of the compile cache, which has what `load` compiled and what GenAI compiled before. Each is linked into the pipeline's
folder and compared with its description there, as all that GenAI reads. Otherwise GenAI compiles, and fills a CACHE_DIR
or exports a blob, which is kept once everything that it was made of is verified.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from npu_persist.artifact.artifact import BLOB_FILE
from npu_persist.artifact.blob import read_blob
from npu_persist.bundle.manifest import COMPILED_DIRECTORY
from npu_persist.compilation import weights_in_memory
from npu_persist.compilation.cache_dir import CacheDir, is_refused
from npu_persist.compilation.generation import read_lengths
from npu_persist.compilation.local import describe
from npu_persist.compilation.recipe import make_recipe
from npu_persist.device.core import get_core
from npu_persist.device.devices import get_kind
from npu_persist.device.doctor import explain_missing_device
from npu_persist.errors import (
    ArtifactError,
    CompilationError,
    DeviceNotFoundError,
    FileIntegrityError,
    NpuPersistError,
    PropertyError,
    StoreError,
    WeightsInUseError,
)
from npu_persist.files.filesystem import is_directory, link_or_copy
from npu_persist.runtime.report import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.graph_records import Graph
    from npu_persist.bundle.verification import Verification
    from npu_persist.cache import CacheEntry, CompileCache
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.runtime.report import Source
    from npu_persist.trust.policy import Policy

BLOB_PROPERTIES = frozenset({"BLOB_PATH", "EXPORT_BLOB"})
"""Properties with which GenAI imports or exports a blob without verification."""

_LENGTHS = ("MAX_PROMPT_LEN", "MIN_RESPONSE_LEN")
_HINTS = ("PREFILL_HINT", "GENERATE_HINT", "PREFILL_CONFIG", "GENERATE_CONFIG", "SHARED_HEAD_CONFIG")
"""GenAI's names of NPUW's options, which begin with NPUW_LLM_."""

_WEIGHTS = "openvino_model.bin"


@dataclass(frozen=True)
class Job:
    """One pipeline to load.

    Attributes:
        recipe: What to compile, with GenAI as its runner.
        properties: The caller's properties.
        folder: The bundle's files, by GenAI's names.
        verification: Their checks.
        load: Makes the pipeline, given properties.
        cache: The compile cache; None to do without.
        policy: Which attached artifacts are trusted.
        stack: What is closed when the load fails, or when the pipeline is gone.
        attempts: What was tried so far.
        notes: What else is to be reported.
    """

    recipe: Recipe
    properties: Mapping[str, Any]
    folder: Path
    verification: Verification
    load: Callable[[Mapping[str, Any]], Any]
    cache: CompileCache | None
    policy: Policy
    stack: ExitStack
    attempts: list[Attempt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note_attempt(self, source: Source, reason: str, began: float, *, is_used: bool = False) -> None:
        """Remember a source that was tried."""
        seconds = time.perf_counter() - began
        self.attempts.append(Attempt(source, self.recipe.device, is_used, reason, seconds))


class Made(NamedTuple):
    """A pipeline, the key of what it runs, and the seconds of its making by phase."""

    pipeline: Any
    key: str | None
    phases: dict[str, float]


def imports_blobs(device: str, pipeline: str) -> bool:
    """Tell whether a pipeline of GenAI imports blobs on a device."""
    return (device, pipeline) == ("NPU", "LLMPipeline")


def make_npu_recipe(bundle: Bundle, graph: Graph, properties: Mapping[str, Any], runner: str) -> Recipe:
    """Return the recipe of a language model on an NPU, with NPUW's names and the lengths that GenAI would take."""
    asked = {f"NPUW_LLM_{name}": _read_length(properties, name) for name in _LENGTHS if name in properties}
    others = {
        f"NPUW_LLM_{name}" if name in _HINTS else name: value
        for name, value in properties.items()
        if name not in _LENGTHS
    }
    lengths = read_lengths(graph, others | asked)
    return replace(make_recipe(bundle, graph, "NPU", others, lengths=lengths), runner=runner)


def make_with_blob(job: Job) -> Made:
    """Make a pipeline of the first blob that fits, or let GenAI compile, and keep the blob."""
    plain = replace(job.recipe, runner="")
    for source, folder, artifact, reason, entry in _find_blobs(job, plain):
        began = time.perf_counter()
        link = job.folder / f"{len(job.attempts)}.blob"
        try:
            link_or_copy(folder / BLOB_FILE, link)
            job.verification.check(folder / BLOB_FILE, artifact.files[BLOB_FILE], at=link)
            weights_in_memory.check(plain, artifact, folder / BLOB_FILE)
            weights = {"WEIGHTS_PATH": str(job.folder / _WEIGHTS)} if artifact.weightless else {}
            made = job.load({**plain.properties, **weights, "BLOB_PATH": str(link)})
        except WeightsInUseError as error:  # the blob is right
            job.note_attempt(source, str(error), began)
        except (FileIntegrityError, StoreError, OSError) as error:
            job.note_attempt(source, f"{folder.name}: {error}", began)
            if isinstance(error, FileIntegrityError) and entry is not None and job.cache is not None:
                job.cache.quarantine(entry, str(error))
        except (RuntimeError, TypeError, ValueError) as error:
            job.verification.finish()  # it may be the weights that are damaged, and not the blob
            job.note_attempt(source, f"{folder.name}: OpenVINO GenAI refuses it: {str(error).strip()}", began)
        else:
            seconds = time.perf_counter() - began
            job.verification.finish()
            weights_in_memory.note(plain, artifact, made)
            job.note_attempt(source, reason, began, is_used=True)
            return Made(made, artifact.key, {"import_blob": seconds})
    if job.cache is None:
        return _compile(job, {})
    with job.cache.stage() as staging:
        made = _compile(job, {"EXPORT_BLOB": True, "BLOB_PATH": str(staging / BLOB_FILE)})
        try:
            weightless = read_blob(staging / BLOB_FILE, "NPU").weightless is True
            seconds = made.phases["compile"]
            artifact = describe(job.recipe, None, staging, seconds=seconds, kind="blob", is_weightless=weightless)
            job.cache.publish(artifact, staging)
            weights_in_memory.note(plain, artifact, made.pipeline)
        except (NpuPersistError, OSError) as error:  # the pipeline runs anyway
            job.notes.append(f"not cached: {error}")
    return made


def make_with_cache_dir(job: Job) -> Made:
    """Make a pipeline with a CACHE_DIR, which has the files of the compile cache's entry if there is an intact one."""
    recipe = job.recipe  # its properties are the caller's, and the precision that the bundle asks for
    _note_attached(job)
    if job.cache is None:
        return _compile(job, recipe.properties)
    began = time.perf_counter()
    entry = job.cache.find(recipe.key)
    if entry is not None and is_refused(entry):
        reason = f"OpenVINO {recipe.openvino} does not take back what it compiled here"
        job.note_attempt("cache", reason, began)
        _hold(job, entry)
        return _compile(job, recipe.properties)
    own = _open_cache_dir(job, job.cache)
    if entry is not None:
        try:
            own.link_entry(entry)
        except ArtifactError as error:
            job.cache.quarantine(entry, str(error))
            job.note_attempt("cache", f"damaged: {error}", began)
            own.close()
            own, entry = _open_cache_dir(job, job.cache), None
        else:
            _hold(job, entry)
    else:
        job.note_attempt("cache", "nothing is there for this bundle, device, OpenVINO and GenAI", began)
    pipeline, seconds = _load(job, {**recipe.properties, "CACHE_DIR": str(own.folder)})
    if entry is not None:
        written = len(own.list_written())
        if not written:
            job.verification.count(own.size)
            own.close()
            job.note_attempt("cache", f"key {recipe.key}", began, is_used=True)
            return Made(pipeline, recipe.key, {"import_blob": seconds})
        job.note_attempt("cache", f"OpenVINO did not take what is there: it wrote {written} more", began)
    own.publish(None, seconds)
    return _note_compiled(job, pipeline, seconds)


def _find_blobs(job: Job, plain: Recipe) -> Iterator[tuple[Source, Path, Artifact, str, CacheEntry | None]]:
    """Yield the blobs that may be imported, and note why others may not."""
    bundle = job.recipe.bundle
    if is_directory(bundle.path / COMPILED_DIRECTORY):
        from npu_persist.artifact.attached import list_attached  # which only bundles with artifacts need
        from npu_persist.runtime.sources import select_attached

        began = time.perf_counter()
        selection = select_attached(plain, list_attached(bundle), job.policy)
        for reason in selection.rejected:
            job.note_attempt("attached", reason, began)
        for folder, artifact, _, reason in selection.candidates:
            if too_short := _find_lack(job, artifact):
                job.note_attempt("attached", f"{folder.name}: {too_short}", began)
            else:
                yield "attached", folder, artifact, reason, None
    if job.cache is None:
        return
    began = time.perf_counter()
    is_empty = True
    for recipe in (plain, job.recipe):
        entry = job.cache.find(recipe.key)
        if entry is not None and entry.artifact is not None and BLOB_FILE in entry.artifact.files:
            is_empty = False
            _hold(job, entry)
            yield "cache", entry.path, entry.artifact, f"key {recipe.key}", entry
    if is_empty:
        job.note_attempt("cache", "nothing is there for this bundle, device, OpenVINO and these lengths", began)


def _note_attached(job: Job) -> None:
    """Note the attached artifacts for the device, none of which GenAI takes.

    Its WhisperPipeline would import a decoder's blob, but it gives the encoder the property that names it, too, and
    the NPU plugin refuses that. A CACHE_DIR is no way in: OpenVINO names a file by what it compiled, and where.
    """
    bundle = job.recipe.bundle
    if not is_directory(bundle.path / COMPILED_DIRECTORY):
        return
    from npu_persist.artifact.attached import list_attached  # which only bundles with artifacts need

    began = time.perf_counter()
    for folder, artifact in list_attached(bundle):
        if isinstance(artifact, ArtifactError) or get_kind(artifact.device) != get_kind(job.recipe.device):
            continue
        reason = f"{folder.name}: {job.recipe.runner} compiles its graphs itself; `load` uses it"
        job.note_attempt("attached", reason, began)


def _find_lack(job: Job, artifact: Artifact) -> str | None:
    """Return how an artifact is too short for what is asked for; None if it is not."""
    asked, found = job.recipe.lengths, artifact.lengths
    if asked is None or found is None:
        return "It was not compiled as a model that generates."
    is_asked = [name in job.properties for name in _LENGTHS]
    if (is_asked[0] and found.prompt < asked.prompt) or (is_asked[1] and found.response < asked.response):
        return f"It has {found}; {asked} was requested."
    return None


def _read_length(properties: Mapping[str, Any], name: str) -> int:
    value = properties[name]
    if type(value) is not int or value < 1:
        raise PropertyError(f"{name}: expected a number of tokens; got {value!r}")
    return value


def _open_cache_dir(job: Job, cache: CompileCache) -> CacheDir:
    own = CacheDir(job.recipe, cache)
    job.stack.callback(own.close)
    return own


def _hold(job: Job, entry: CacheEntry) -> None:
    """Mark an entry as in use for as long as the pipeline lives."""
    if (held := entry.mark_in_use()) is not None:
        job.stack.callback(held.release)


def _compile(job: Job, extra: Mapping[str, Any]) -> Made:
    return _note_compiled(job, *_load(job, extra))


def _load(job: Job, extra: Mapping[str, Any]) -> tuple[Any, float]:
    """Return the pipeline, all of whose files are verified, and the seconds of its making."""
    began = time.perf_counter()
    try:
        pipeline = job.load({**job.properties, **extra})
    except (RuntimeError, TypeError, ValueError) as error:
        job.verification.finish()  # which names the damaged file, if that is the cause
        tried = "".join(f"\n{attempt}" for attempt in job.attempts)
        missing = explain_missing_device(get_core(), job.recipe.device, error)
        if missing is not None:
            raise DeviceNotFoundError(f"{missing}{tried}") from error
        raise CompilationError(f"OpenVINO GenAI could not load {job.recipe}: {error}{tried}") from error
    seconds = time.perf_counter() - began
    job.verification.finish()
    return pipeline, seconds


def _note_compiled(job: Job, pipeline: Any, seconds: float) -> Made:
    job.note_attempt("graph", "compiled", time.perf_counter() - seconds, is_used=True)
    return Made(pipeline, None if job.cache is None else job.recipe.key, {"compile": seconds})
