"""The load ladder: attached artifact, compile cache, compilation from the graph.

The promise: each rung that was passed over is in the report with its reason; a compiled artifact that is damaged,
stale, foreign or not trusted costs a compilation, never an answer; what is kept for the next load was made from
verified bytes. One process compiles while others wait, but nothing is wrong where locks do nothing: the work is then
done twice.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from npu_persist.bundle.manifest import COMPILED_DIRECTORY, ORIGIN_FILE
from npu_persist.compilation.execution import is_from_cache
from npu_persist.compilation.local import compile_graph, export_blob, import_blob, read_graph
from npu_persist.errors import (
    ArtifactError,
    CompilationError,
    DeviceNotFoundError,
    StoreError,
    UsageError,
)
from npu_persist.files.filesystem import is_directory
from npu_persist.runtime.report import Rung

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import openvino as ov

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.cache import CompileCache, Entry
    from npu_persist.compilation.cache_dir import OwnCache
    from npu_persist.compilation.local import Compiled
    from npu_persist.compilation.process import CompileProgress
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.runtime.report import Report, RungName
    from npu_persist.runtime.verification import Verification
    from npu_persist.trust.policy import Policy

log = logging.getLogger(__name__)

WAIT = 600.0
"""Seconds to wait for another process that compiles the same, before doing it too."""


class Ladder:
    """The way to one compiled model, for one device after another.

    Attributes:
        policy: What is trusted of what is attached to the bundle.

    Args:
        verification: The checks of this load; the weights' is running.
        cache: The compile cache; None to do without.
        report: Where every step is written down.
        policy: What is trusted of what is attached to the bundle.
        compile_timeout: Seconds for a compilation, which then runs in a process of its own.
        progress: Called while it runs there.
    """

    def __init__(  # noqa: PLR0913 (what a load decides once, for all its devices and sizes)
        self,
        verification: Verification,
        cache: CompileCache | None,
        report: Report,
        *,
        policy: Policy,
        compile_timeout: float | None = None,
        progress: Callable[[CompileProgress], object] | None = None,
    ) -> None:
        self._verification = verification
        self._cache = cache
        self._report = report
        self.policy = policy
        self._timeout = compile_timeout
        self._progress = progress
        self._attached: list[tuple[Path, Artifact | ArtifactError]] | None = None

    def climb(self, recipe: Recipe) -> Compiled:
        """Return the compiled model of the first rung that holds.

        Raises:
            DeviceNotFoundError: The device is not there.
            CompilationError: OpenVINO refused the graph or the properties, or took too long.
            IntegrityError: A file of the bundle is not what was persisted.
            UsageError: A property cannot be handed to a process of its own.
        """
        if self._timeout is not None and (unsendable := recipe.unsendable):
            raise UsageError(
                "compile_timeout: the compilation runs in a process of its own, which is given properties as texts and "
                f"numbers; {', '.join(unsendable)} is neither. Write it as text, as in {{'PERFORMANCE_HINT': "
                "'LATENCY'}, or leave out compile_timeout"
            )
        if unkeyed := recipe.unkeyed:
            self._note(f"not cached: no key can hold the value of {', '.join(unkeyed)}")
            return self._compile(recipe, None)
        self._report.key = recipe.key
        return self._from_attached(recipe) or self._from_cache(recipe, "found") or self._from_graph(recipe)

    def _from_attached(self, recipe: Recipe) -> Compiled | None:
        if not is_directory(recipe.bundle.path / COMPILED_DIRECTORY):
            return None
        from npu_persist.artifact.attached import list_attached  # which only bundles with artifacts need
        from npu_persist.runtime.attached import choose_attached

        began = time.perf_counter()
        if self._attached is None:  # one list for all sizes that a load asks for
            self._attached = list(list_attached(recipe.bundle))
        choice = choose_attached(recipe, self._attached, self.policy)
        for reason in choice.passed:
            self._pass("attached", recipe, reason, began)
        for folder, artifact, _, reason in choice.candidates:
            began = time.perf_counter()
            try:
                compiled = self._import(recipe, artifact, folder)
            except (ArtifactError, OSError) as error:
                self._pass("attached", recipe, f"{folder.name}: {error}", began)
            else:
                self._take("attached", recipe, reason, began)
                self._report.from_cache = True
                self._report.key = artifact.key
                return compiled
        return None

    def _from_cache(self, recipe: Recipe, how: str) -> Compiled | None:
        if self._cache is None:
            return None
        began = time.perf_counter()
        entry: Entry | None = None
        compiled: Compiled | None = None
        damage = ""
        try:
            entry = self._cache.find(recipe.key)
            if entry is None or entry.artifact is None:
                self._pass("cache", recipe, "nothing is there for this bundle, device and OpenVINO", began)
                return None
            compiled = self._use(recipe, entry, entry.artifact)
        except (ArtifactError, FileNotFoundError) as error:
            damage = str(error)
        except (StoreError, OSError) as error:
            self._pass("cache", recipe, f"it cannot be read: {error}", began)
            return None
        # Out of the `except` block, which keeps files open that Windows could not rename.
        if compiled is None:
            self._pass("cache", recipe, damage, began)
            self._verification.finish()  # it may be the weights that are damaged, and not the entry
            self._cache.put_aside(entry or recipe.key, damage)
            return None
        if entry is not None and entry.artifact is not None and entry.artifact.kind == "cache_dir":
            if not is_from_cache(compiled.model):
                self._take("compile", recipe, "OpenVINO did not take the files in the cache", began)
                return compiled
            self._verification.count(entry.artifact.size)
        self._take("cache", recipe, how, began)
        self._report.from_cache = True
        return compiled

    def _use(self, recipe: Recipe, entry: Entry, artifact: Artifact) -> Compiled:
        held = entry.hold()
        if artifact.kind == "blob":
            compiled = self._import(recipe, artifact, entry.path)
        else:
            own = self._open_own_cache(recipe)
            try:
                own.take(entry)
            except BaseException:
                own.close()
                raise
            compiled = self._compile_with(recipe, own)
        compiled.keep.append(held)
        return compiled

    def _from_graph(self, recipe: Recipe) -> Compiled:
        if self._cache is None:
            return self._compile(recipe, None)
        if self._timeout is not None:
            return self._in_worker(recipe, self._timeout)
        try:
            with self._cache.claim(recipe.key, WAIT):
                # Whoever held the claim before has made it.
                found = self._cache.find(recipe.key)
                if found is None:
                    return self._compile(recipe, self._cache)
        except StoreError as error:
            self._note(f"not cached: {error}")
            return self._compile(recipe, None)
        return self._from_cache(recipe, "another process compiled it meanwhile") or self._compile(recipe, self._cache)

    def _compile(self, recipe: Recipe, cache: CompileCache | None) -> Compiled:
        began = time.perf_counter()
        try:
            own: OwnCache | None = None
            if cache is not None and not recipe.is_exportable:
                try:
                    own = self._open_own_cache(recipe)
                except StoreError as error:  # a cache that can be read, but not written to
                    self._note(f"not cached: {error}")
                    cache = None
            compiled = self._compile_and_export(recipe, cache) if own is None else self._compile_with(recipe, own)
        except (CompilationError, DeviceNotFoundError) as error:
            self._pass("compile", recipe, str(error), began)
            raise
        self._take("compile", recipe, "from the graph", began)
        return compiled

    def _compile_and_export(self, recipe: Recipe, cache: CompileCache | None) -> Compiled:
        model = self._read(recipe)
        with self._phase("compile"):
            compiled = compile_graph(recipe, model)
        if cache is not None and self._may_keep():
            with self._phase("keep"):
                try:
                    with cache.stage() as staging:
                        entry = cache.publish(export_blob(recipe, compiled, staging), staging)
                    compiled.keep.append(entry.hold())
                except (CompilationError, StoreError, OSError) as error:
                    self._note(f"not cached: {error}")
        return compiled

    def _compile_with(self, recipe: Recipe, own: OwnCache) -> Compiled:
        """Compile on a device that caches for itself."""
        try:
            model = self._read(recipe)
            with self._phase("compile"):
                compiled = own.compile(model)
            may_keep = self._may_keep()
        except BaseException:
            own.close()
            raise
        if may_keep:
            own.keep(compiled)
        else:
            own.close()
        return compiled

    def _open_own_cache(self, recipe: Recipe) -> OwnCache:
        from npu_persist.compilation.cache_dir import OwnCache  # which few devices need

        return OwnCache(recipe, self._cache_there)

    def _in_worker(self, recipe: Recipe, timeout: float) -> Compiled:
        from npu_persist.compilation.worker import run as run_in_worker  # with subprocess, which costs 10 ms

        began = time.perf_counter()
        cache = self._cache_there
        job = {
            "bundle": str(recipe.bundle.path),
            "graph": recipe.graph.name,
            "device": recipe.device,
            "config": dict(recipe.properties),
            "shapes": recipe.shapes,
            "home": str(cache.path.parent),
            "key": recipe.key,
        }
        try:
            with self._phase("compile"):
                run_in_worker("npu_persist.runtime.load:fill_cache", job, timeout=timeout, progress=self._progress)
        except BaseException as error:
            with suppress(StoreError):  # it was killed at its work; what it was writing is a leftover for prune, too
                cache.sweep()
            if isinstance(error, CompilationError):
                self._pass("compile", recipe, str(error), began)
            raise
        self._pass("compile", recipe, "done in a process of its own, for the cache", began)
        compiled = self._from_cache(recipe, "compiled in a process of its own")
        if compiled is None:
            raise CompilationError(f"{recipe}: compiled in a process of its own, but nothing came back. {self._report}")
        self._report.from_cache = False
        return compiled

    def _import(self, recipe: Recipe, artifact: Artifact, directory: Path) -> Compiled:
        if artifact.kind != "blob":
            raise ArtifactError(f"{directory}: expected an exported blob; got the files of a CACHE_DIR")
        # What a signature vouches for are the digests: of what was pulled, they are compared whatever the caller says.
        check = self._verification.mode != "none" or os.path.lexists(directory / ORIGIN_FILE)
        with self._phase("import_blob"):
            compiled = import_blob(recipe, artifact, directory, check=check)
        if check:
            self._verification.count(artifact.size)
        return compiled

    def _read(self, recipe: Recipe) -> ov.Model:
        with self._phase("read"):
            graph = recipe.graph.path
            self._verification.check(recipe.bundle.file(graph), recipe.bundle.manifest.files[graph])
            return read_graph(recipe)

    def _may_keep(self) -> bool:
        """Wait for the weights' check: what is kept must be made of what was persisted."""
        if self._verification.mode == "none":
            self._note("not cached: what was not verified is not kept (verify='none')")
            return False
        self._verification.finish()
        return True

    @property
    def _cache_there(self) -> CompileCache:
        if self._cache is None:
            raise ValueError("there is no cache")
        return self._cache

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            phases = self._report.phases
            phases[name] = phases.get(name, 0.0) + time.perf_counter() - began

    def _take(self, name: RungName, recipe: Recipe, reason: str, began: float) -> None:
        self._rung(name, recipe, reason, began, taken=True)
        self._report.loaded_device = recipe.device

    def _pass(self, name: RungName, recipe: Recipe, reason: str, began: float) -> None:
        log.info("%s: %s passed over: %s", recipe, name, reason)
        self._rung(name, recipe, reason, began, taken=False)

    def _rung(self, name: RungName, recipe: Recipe, reason: str, began: float, *, taken: bool) -> None:
        seconds = time.perf_counter() - began
        self._report.rungs.append(Rung(name, recipe.device, taken, reason, seconds, recipe.shapes))

    def _note(self, text: str) -> None:
        log.info("%s: %s", self._report.reference, text)
        if text not in self._report.notes:
            self._report.notes.append(text)
