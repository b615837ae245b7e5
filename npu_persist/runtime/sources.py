"""Where a compiled model comes from: an attached artifact, the compile cache, or a compilation of the graph.

An artifact is imported only if it was compiled from this bundle's graph, for the sizes and with the properties that are
asked for, runs on this machine and is trusted; what is damaged or rejected costs a compilation, never an answer. What
is kept for the next load was made from verified bytes. One process compiles while others wait for it, but nothing is
wrong where locks do nothing: the work is then done twice. An untrusted graph is compiled in a
separate process, with limits, before this one reads it or imports the result.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from npu_persist.bundle.manifest import ORIGIN_FILE
from npu_persist.compilation.local import compile_graph, export_blob, import_blob, is_from_cache, read_graph
from npu_persist.compilation.recipe import RecipeRecord  # noqa: TC001 (a field of a record)
from npu_persist.device.devices import PRECISION, get_kind
from npu_persist.errors import (
    ArtifactError,
    CompilationError,
    CompileCrashError,
    CompileMemoryError,
    CompileTimeoutError,
    DeviceNotFoundError,
    StoreError,
    UsageError,
    WeightsInUseError,
)
from npu_persist.runtime.report import Attempt, History, merge_notes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import openvino as ov

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.artifact.compatibility import Status
    from npu_persist.bundle.verification import Verification
    from npu_persist.cache import CacheEntry, CompileCache
    from npu_persist.compilation.cache_dir import CacheDir
    from npu_persist.compilation.local import Compiled
    from npu_persist.compilation.process.supervisor import Limits
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.device.machine import Machine
    from npu_persist.progress import ProgressCallback, Stage
    from npu_persist.runtime.report import Source
    from npu_persist.trust.policy import Policy

log = logging.getLogger(__name__)

WAIT = 600.0
"""Seconds to wait for another process that compiles the same, before doing it too."""

_NAMED = 5
"""So many folders of artifacts for other graphs and sizes are named in a reason."""


class FillRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request to the separate process `runtime.fill_cache`: what to compile, and where to store it.

    Attributes:
        recipe: What to compile.
        home: The store's home, which has the compile cache.
        key: The key of the cache entry that must be there in the end.
        is_tried: Whether to call what is compiled once, before it is kept.
    """

    recipe: RecipeRecord
    home: str
    key: str
    is_tried: bool


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """The sources of compiled models for one load, for all its devices and sizes.

    Attributes:
        verification: The checks of this load; the weights' is running.
        attached: The artifacts that are attached to the bundle.
        policy: Which of them are trusted.
        cache: The compile cache; None to do without.
        compile_timeout: Seconds for a compilation, which then runs in a separate process.
        progress: Called while something is compiled.
        is_tried: Whether what is compiled is called once before it is kept: in the process that compiles what is not
            trusted.
    """

    verification: Verification
    attached: Sequence[tuple[Path, Artifact | ArtifactError]]
    policy: Policy
    cache: CompileCache | None
    compile_timeout: float | None = None
    progress: ProgressCallback | None = None
    is_tried: bool = False


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The compiled model of the first source that worked, or why none did.

    Attributes:
        history: What was tried.
        compiled: The compiled model; None if no source worked.
        keep: What has to live as long as the model.
        from_cache: Whether a compiled artifact saved the compilation.
        key: The artifact's key; None if it cannot have one.
        error: Why no source worked.
    """

    history: History
    compiled: Compiled | None = None
    keep: tuple[Any, ...] = ()
    from_cache: bool = False
    key: str | None = None
    error: CompilationError | DeviceNotFoundError | None = None


def find_compiled(recipe: Recipe, sources: Sources) -> Found:
    """Return the compiled model of the first source that works for a recipe, with what was tried."""
    if sources.compile_timeout is not None and (unsendable := recipe.unsendable):
        raise UsageError(
            "compile_timeout: the compilation runs in a separate process, which takes strings and "
            f"numbers; {', '.join(unsendable)} is neither. Write it as a string, as in {{'PERFORMANCE_HINT': "
            "'LATENCY'}, or leave out compile_timeout"
        )
    return _Search(recipe, sources).run()


class _Search:
    """The search for one compiled model."""

    def __init__(self, recipe: Recipe, sources: Sources) -> None:
        self._recipe = recipe
        self._sources = sources
        self._verification = sources.verification
        self._attempts: list[Attempt] = []
        self._notes: list[str] = []
        self._phases: dict[str, float] = {}

    def run(self) -> Found:
        try:
            if unkeyed := self._recipe.unkeyed:
                self._note(f"not cached: no key can hold the value of {', '.join(unkeyed)}")
                self._probe_distrusted()
                return self._compile(None)
            return self._find_attached() or self._find_cached("found") or self._compile_once()
        except (CompilationError, DeviceNotFoundError) as error:
            return Found(history=self._history, error=error)

    def _find_attached(self) -> Found | None:
        if not self._sources.attached:
            return None
        began = time.perf_counter()
        selection = select_attached(self._recipe, self._sources.attached, self._sources.policy)
        for reason in selection.rejected:
            self._reject("attached", reason, began)
        for folder, artifact, _, reason in selection.candidates:
            began = time.perf_counter()
            try:
                compiled = self._import(artifact, folder)
            except (ArtifactError, OSError) as error:
                self._reject("attached", f"{folder.name}: {error}", began)
            else:
                return self._use("attached", compiled, reason, began, from_cache=True, key=artifact.key)
        return None

    def _find_cached(self, reason: str) -> Found | None:
        cache = self._sources.cache
        if cache is None:
            return None
        began = time.perf_counter()
        entry: CacheEntry | None = None
        found: Found | None = None
        damage = ""
        try:
            entry = cache.find(self._recipe.key)
            if entry is None or entry.artifact is None:
                self._reject("cache", "no entry for this bundle, device and OpenVINO", began)
                return None
            found = self._use_entry(cache, entry, entry.artifact, reason, began)
        except WeightsInUseError as error:  # the entry is right
            self._reject("cache", str(error), began)
            return None
        except (ArtifactError, FileNotFoundError) as error:
            damage = str(error)
        except (StoreError, OSError) as error:
            self._reject("cache", f"it cannot be read: {error}", began)
            return None
        # Out of the `except` block, which keeps files open that Windows could not rename.
        if found is None:
            self._reject("cache", damage, began)
            self._verification.finish()  # it may be the weights that are damaged, and not the entry
            cache.quarantine(entry or self._recipe.key, damage)
        return found

    def _use_entry(
        self, cache: CompileCache, entry: CacheEntry, artifact: Artifact, reason: str, began: float
    ) -> Found:
        held = entry.mark_in_use()
        if artifact.kind == "blob":
            compiled = self._import(artifact, entry.path)
            return self._use("cache", compiled, reason, began, held=held, from_cache=True)
        own = self._open_own_cache(cache)
        try:
            own.link_entry(entry)
        except BaseException:
            own.close()
            raise
        compiled = self._compile_with(own)
        if not is_from_cache(compiled.model):
            return self._use("graph", compiled, "OpenVINO did not use the files in the cache", began, held=held)
        self._verification.count(artifact.size)
        return self._use("cache", compiled, reason, began, held=held, from_cache=True)

    def _compile_once(self) -> Found:
        """Compile the graph, unless another process does it meanwhile."""
        cache = self._sources.cache
        if cache is None:
            self._probe_distrusted()
            return self._compile(None)
        if self._sources.compile_timeout is not None:
            return self._compile_in_process(cache, self._find_distrust())
        if self._verification.mode == "none" or self._recipe.unsendable:
            self._probe_distrusted()
        elif (distrust := self._find_distrust()) is not None:
            return self._compile_in_process(cache, distrust)
        try:
            with cache.claim(self._recipe.key, WAIT):
                # The process that held the claim before may have made it. It is used in here, before it can be pruned.
                if cache.find(self._recipe.key) is not None:
                    found = self._find_cached("another process compiled it meanwhile")
                    if found is not None:
                        return found
                return self._compile(cache)
        except StoreError as error:
            self._note(f"not cached: {error}")
            return self._compile(None)

    def _compile(self, cache: CompileCache | None) -> Found:
        began = time.perf_counter()
        own: CacheDir | None = None
        try:
            if cache is not None and not self._recipe.is_exportable:
                try:
                    own = self._open_own_cache(cache)
                except StoreError as error:  # a cache that can be read, but not written to
                    self._note(f"not cached: {error}")
                    cache = None
            compiled, held = self._compile_and_export(cache) if own is None else (self._compile_with(own), None)
        except (CompilationError, DeviceNotFoundError) as error:
            self._reject("graph", str(error), began)
            raise
        return self._use("graph", compiled, "compiled", began, held=held)

    def _compile_and_export(self, cache: CompileCache | None) -> tuple[Compiled, object]:
        model = self._read()
        with self._compiling():
            compiled = compile_graph(self._recipe, model)
        self._try(model, compiled)
        for text in compiled.notes:
            self._note(text)
        if cache is not None and self._may_keep():
            with self._phase("keep"):
                try:
                    with cache.stage() as staging:
                        entry = cache.publish(export_blob(self._recipe, compiled, staging), staging)
                    return compiled, entry.mark_in_use()
                except (CompilationError, StoreError, OSError) as error:
                    self._note(f"not cached: {error}")
        return compiled, None

    def _compile_with(self, own: CacheDir) -> Compiled:
        """Compile on a device that caches for itself."""
        try:
            model = self._read()
            with self._compiling():
                compiled = own.compile(model)
            self._try(model, compiled)
            may_keep = self._may_keep()
        except BaseException:
            own.close()
            raise
        if may_keep:
            return own.save(compiled)
        own.close()
        return compiled

    def _try(self, model: ov.Model, compiled: Compiled) -> None:
        if self._sources.is_tried:
            from npu_persist.compilation.trial import call_once

            call_once(self._recipe, model, compiled.model)

    def _open_own_cache(self, cache: CompileCache) -> CacheDir:
        from npu_persist.compilation.cache_dir import CacheDir  # which few devices need

        return CacheDir(self._recipe, cache)

    def _compile_in_process(self, cache: CompileCache, distrust: str | None) -> Found:
        began = time.perf_counter()
        recipe = self._recipe
        request = FillRequest(
            recipe=recipe.to_record(),
            home=str(cache.path.parent),
            key=recipe.key,
            is_tried=distrust is not None,
        )
        try:
            with self._confined(distrust, began) as limits:
                from npu_persist.compilation.process.python import run_module

                failure = run_module("npu_persist.runtime.fill_cache", request, str, limits).result
        except BaseException:
            with suppress(StoreError):  # what the ended process was writing is a leftover for prune, too
                cache.sweep()
            raise
        self._reject("graph", "compiled in a separate process, for the cache", began)
        found = self._find_cached("compiled in a separate process")
        if found is not None:
            return msgspec.structs.replace(found, from_cache=False)
        if distrust is None:
            raise CompilationError(
                f"{recipe}: compiled in a separate process, but its result is not in the cache.\n"
                f"{failure or self._history}"
            )
        return self._compile(cache)  # which it survived

    def _probe_distrusted(self) -> None:
        """Try an untrusted graph, or one with a timeout, in a separate process; keep nothing."""
        if (distrust := self._find_distrust()) is None and self._sources.compile_timeout is None:
            return
        from npu_persist.compilation.probe import probe

        began = time.perf_counter()
        with self._confined(distrust, began) as limits:
            probe(self._recipe, limits, compiles=True, verifies=self._verification.mode != "none")
        self._reject("graph", "tried in a separate process", began)

    def _find_distrust(self) -> str | None:
        distrust = self._sources.policy.find_distrust(self._recipe.bundle)
        if distrust is not None:
            self._note(f"its graph was first compiled in a separate process. {distrust}")
        return distrust

    @contextmanager
    def _confined(self, distrust: str | None, began: float) -> Iterator[Limits]:
        """Yield the limits of the separate process, and explain its errors."""
        from npu_persist.compilation.probe import limit  # with subprocess, which costs 10 ms
        from npu_persist.compilation.process.supervisor import Limits

        timeout = self._sources.compile_timeout
        try:
            with self._compiling(beats=False) as stage:
                report = None if stage is None else lambda text: stage.update(detail=text)
                yield (
                    Limits(timeout, report=report) if distrust is None else limit(self._recipe.device, timeout, report)
                )
        except DeviceNotFoundError as error:
            self._reject("graph", str(error), began)
            raise
        except CompilationError as error:
            self._reject("graph", str(error), began)
            advice = []
            if isinstance(error, CompileTimeoutError):
                given = f"compile_timeout={timeout}: allow more time"
                if timeout is None:
                    given = "the limit for untrusted graphs: allow more time with compile_timeout="
                advice.append(f"That was {given}, or name another device in fallback=(...).")
            if distrust is not None and isinstance(error, (CompileCrashError, CompileTimeoutError, CompileMemoryError)):
                advice.append(
                    "The graph is damaged or hostile, or too much for OpenVINO or this machine; this process did not "
                    f"read it. {distrust}"
                )
            if not advice:
                raise
            raise type(error)(f"{str(error).rstrip('.')}. {' '.join(advice)}") from error

    def _import(self, artifact: Artifact, directory: Path) -> Compiled:
        if artifact.kind != "blob":
            raise ArtifactError(f"{directory}: expected an exported blob; got the files of a CACHE_DIR")
        # A signature covers the digests: what was pulled is compared with them, whatever `verify` says.
        check = self._verification.mode != "none" or os.path.lexists(directory / ORIGIN_FILE)
        with self._phase("import_blob"):
            compiled = import_blob(self._recipe, artifact, directory, self._verification, check=check)
        if check:
            self._verification.count(artifact.size)
        return compiled

    def _read(self) -> ov.Model:
        with self._phase("read"):
            return read_graph(self._recipe, self._verification)

    def _may_keep(self) -> bool:
        """Wait for the weights' check: what is kept must be made of what was persisted."""
        if self._verification.mode == "none":
            self._note("not cached: unverified models are not cached (verify='none')")
            return False
        self._verification.finish()
        return True

    @contextmanager
    def _compiling(self, *, beats: bool = True) -> Iterator[Stage | None]:
        """Time a compilation, and report it if somebody listens."""
        with self._phase("compile"):
            if self._sources.progress is None:
                yield None
                return
            from npu_persist.progress import Reporter

            # OpenVINO lets other threads run while it compiles.
            with Reporter(self._sources.progress).stage("compile", beats=beats) as stage:
                stage.update(detail=self._recipe.device)
                yield stage

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._phases[name] = self._phases.get(name, 0.0) + time.perf_counter() - began

    @property
    def _history(self) -> History:
        return History(tuple(self._attempts), merge_notes(self._notes), dict(self._phases))

    def _use(  # noqa: PLR0913 (what is known of a source that worked)
        self,
        source: Source,
        compiled: Compiled,
        reason: str,
        began: float,
        *,
        held: object = None,
        from_cache: bool = False,
        key: str | None = None,
    ) -> Found:
        self._attempt(source, reason, began, is_used=True)
        return Found(
            history=self._history,
            compiled=compiled,
            keep=(*compiled.keep, held),
            from_cache=from_cache,
            key=key or (None if self._recipe.unkeyed else self._recipe.key),
        )

    def _reject(self, source: Source, reason: str, began: float) -> None:
        log.info("%s: %s rejected: %s", self._recipe, source, reason)
        self._attempt(source, reason, began, is_used=False)

    def _attempt(self, source: Source, reason: str, began: float, *, is_used: bool) -> None:
        seconds = time.perf_counter() - began
        self._attempts.append(Attempt(source, self._recipe.device, is_used, reason, seconds, self._recipe.shapes))

    def _note(self, text: str) -> None:
        log.info("%s: %s", self._recipe.bundle.reference, text)
        self._notes.append(text)


class Candidate(NamedTuple):
    """An attached artifact that may be imported."""

    folder: Path
    artifact: Artifact
    status: Status
    reason: str
    """Why, and what is not known of it."""


class Selection(NamedTuple):
    """Which attached artifacts may be imported, the best first, and the reason of each that is rejected."""

    candidates: list[Candidate]
    rejected: list[str]


def select_attached(
    recipe: Recipe, attached: Iterable[tuple[Path, Artifact | ArtifactError]], policy: Policy
) -> Selection:
    """Return which attached artifacts may replace a recipe's compilation; their bytes are not checked here."""
    from npu_persist.artifact.compatibility import check_attached
    from npu_persist.device.core import get_core
    from npu_persist.device.machine import describe_machine

    candidates: list[Candidate] = []
    rejected: list[str] = []
    machine: Machine | None = None
    elsewhere: list[str] = []
    for folder, artifact in attached:
        name = folder.name
        if isinstance(artifact, ArtifactError):
            rejected.append(f"{name}: {artifact}")
        elif artifact.graph != recipe.graph.name or (artifact.shapes or {}) != (recipe.shapes or {}):
            elsewhere.append(name)  # there may be one for each of many sizes: their blobs are not read
        else:
            machine = machine or describe_machine(get_core(), recipe.device)
            verdict = check_attached(recipe.bundle, folder, artifact, machine)
            status, reasons = verdict.status, verdict.reasons
            if against := [*_differences(artifact, recipe), *(reasons if status == "unsupported" else ())]:
                rejected.append(f"{name}: {' '.join(against)}")
                continue
            how = "is for this machine:" if status == "supported" else "may run on this machine:"
            decision = policy.decide(folder, artifact, recipe.bundle.manifest.name)
            text = " ".join(part for part in (name, how, *reasons, decision.reason) if part)
            if decision.is_trusted:
                candidates.append(Candidate(folder, artifact, status, text))
            else:
                rejected.append(text)
    if elsewhere:
        names = ", ".join(elsewhere[:_NAMED]) + (f" and {len(elsewhere) - _NAMED} more" * (len(elsewhere) > _NAMED))
        rejected.append(f"{names}: for other graphs or input sizes.")
    candidates.sort(key=lambda candidate: _rank(candidate, recipe))
    return Selection(candidates, rejected)


def _differences(artifact: Artifact, recipe: Recipe) -> list[str]:
    """Return how an artifact differs from what a recipe asks for, whatever the machine, as sentences."""
    differences = []
    if artifact.device != recipe.device and get_kind(artifact.device) == get_kind(recipe.device) != "NPU":
        differences.append(f"It was compiled for {artifact.device}; {recipe.device} was requested.")
    asked, given = recipe.texts, {**artifact.options, **artifact.properties}
    if get_kind(artifact.device) == "NPU":
        # Other properties, such as how hard the compiler tries, change no answers; the precision does.
        given = {name: text for name, text in given.items() if name in asked or name == PRECISION}
    if given != asked:
        differences.append(f"It was compiled with the properties {dict(artifact.properties)}; {asked} was requested.")
    return differences


def _rank(candidate: Candidate, recipe: Recipe) -> tuple[object, ...]:
    from npu_persist.artifact.compatibility import version_numbers

    artifact = candidate.artifact
    same_release = version_numbers(artifact.openvino, 3) == version_numbers(recipe.openvino, 3)
    return (
        candidate.status != "supported",
        artifact.key != recipe.key,
        not same_release,
        dict(artifact.properties) != recipe.texts,
        [-number for number in version_numbers(artifact.compiler or "0", 3)],
        candidate.folder.name,
    )
