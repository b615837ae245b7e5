"""Compile for devices such as AUTO, and for OpenVINO GenAI, which export nothing but fill a CACHE_DIR themselves.

OpenVINO writes the files of a CACHE_DIR in place and under their final names. So it gets a staging folder with links to
the checked files of a cache entry, which no other process writes to. The folder becomes the new entry when OpenVINO
does not write to it any more: right after the load, or, where AUTO still compiles for an accelerator while it answers
from the CPU, when that is done.

OpenVINO 2026.4 cannot load what it compiled with paged attention, as GenAI does for language models on a CPU: the blob
lacks the sizes of the heads, and its name depends on the model's path. So each load compiles and writes another file.
An entry without files records that, so that later loads neither read nor write any.
"""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
import threading
import weakref
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import CACHE_FOLDER, check_files, check_layout, describe_files, list_files
from npu_persist.compilation.local import Compiled, compile_graph, describe, executing_devices, is_settled
from npu_persist.errors import ArtifactError, NpuPersistError
from npu_persist.files.filesystem import link_or_copy, make_folder, store_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import openvino as ov

    from npu_persist.bundle.manifest import FileEntry
    from npu_persist.cache import CacheEntry, CompileCache
    from npu_persist.compilation.recipe import Recipe

log = logging.getLogger(__name__)

_REFUSED = "OpenVINO did not take back what it had compiled."

_POLL = 0.25
"""Seconds between two checks of what AUTO executes on."""


@contextmanager
def _named_in_utf_8(folder: Path) -> Iterator[Path]:
    """Give a path to a folder in UTF-8, which is all that OpenVINO takes: its own, or a link in a temporary folder."""
    if os.fsencode(folder) == str(folder).encode("utf-8", "replace"):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="npu_persist.") as temporary:
        link = Path(temporary) / folder.name
        link.symlink_to(folder)
        yield link


def is_refused(entry: CacheEntry) -> bool:
    """Tell whether an entry stands for what OpenVINO does not take back."""
    return entry.artifact is not None and entry.artifact.kind == "cache_dir" and not entry.artifact.files


def _identify(path: Path) -> tuple[int, ...]:
    """Return what tells a file from one that was written in its place, or into it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class CacheDir:
    """The CACHE_DIR for one recipe, in a staging folder of its own."""

    def __init__(self, recipe: Recipe, cache: CompileCache) -> None:
        self._recipe = recipe
        self._cache = cache
        self._stack = ExitStack()
        self._staging = self._stack.enter_context(cache.stage())
        self._folder = self._staging / CACHE_FOLDER
        self._known: Mapping[str, FileEntry] = {}
        self._linked: dict[Path, tuple[int, ...]] = {}
        self._entry: CacheEntry | None = None
        self._stop = threading.Event()
        try:
            with store_errors(f"make {self._folder}"):
                make_folder(self._folder)
                self._named = self._stack.enter_context(_named_in_utf_8(self._folder))
        except BaseException:
            self._stack.close()
            raise

    @property
    def folder(self) -> Path:
        """The folder, for another library's CACHE_DIR."""
        return self._named

    def link_entry(self, entry: CacheEntry) -> None:
        """Check a cache entry's files, and let OpenVINO read them; ArtifactError if they are damaged."""
        artifact = entry.artifact
        if artifact is None or artifact.kind != "cache_dir":
            raise ArtifactError(f"{entry.path}: expected the files of a CACHE_DIR; got something else")
        with store_errors(f"read {entry.path}"):
            check_layout(entry.path, artifact)
            for relative in artifact.files:
                target = self._staging / relative
                make_folder(target.parent, parents=True)
                link_or_copy(entry.path / relative, target)
                self._linked[target] = _identify(target)
            check_files(self._staging, artifact)  # what OpenVINO reads, and not what was in the entry
        self._known = artifact.files
        self._entry = entry

    @property
    def size(self) -> int:
        """Bytes of the entry's files."""
        return sum(entry.size for entry in self._known.values())

    def list_written(self) -> list[Path]:
        """Return the files that OpenVINO wrote: those that are not the entry's, untouched."""
        return [path for _, path in list_files(self._staging) if _identify(path) != self._linked.get(path)]

    def compile(self, model: ov.Model) -> Compiled:
        """Compile a graph with this cache."""
        try:
            return compile_graph(self._recipe, model, {"CACHE_DIR": str(self._named)})
        except BaseException:
            self.close()
            raise

    def save(self, compiled: Compiled) -> Compiled:
        """Make a cache entry of the files that OpenVINO wrote: now, or in a thread when it has finished."""
        if is_settled(compiled.model):
            self.publish(compiled.model, compiled.seconds)
            return compiled
        self._thread = threading.Thread(
            target=self._wait,
            args=(weakref.ref(compiled.model), compiled.seconds),
            name="compile cache of AUTO",
            daemon=True,
        )
        atexit.register(self._end)
        self._thread.start()
        return replace(compiled, pending=self._thread)

    def publish(self, model: ov.CompiledModel | None, seconds: float) -> None:
        """Make a cache entry of what OpenVINO wrote, which it does not write to any more, and close.

        The model is None where another library compiled it, and all of it at once. If that wrote as many files as it
        was given, it took none, and the new entry has none.
        """
        try:
            if model is None and self._linked:
                if len(self.list_written()) >= len(self._linked):
                    self._publish_refusal(seconds)
                return
            files = describe_files(self._staging)
            if files and files != self._known:
                artifact = describe(self._recipe, model, self._staging, seconds=seconds, kind="cache_dir")
                self._cache.publish(artifact, self._staging, instead_of=self._entry)
        except (NpuPersistError, OSError) as error:  # the model runs all the same; the next load compiles again
            log.warning("could not cache the compilation of %s: %s", self._recipe, error)
        finally:
            self.close()

    def _publish_refusal(self, seconds: float) -> None:
        with self._cache.stage() as staging:
            artifact = describe(self._recipe, None, staging, seconds=seconds, kind="cache_dir", notes=(_REFUSED,))
            self._cache.publish(artifact, staging, instead_of=self._entry)

    def close(self) -> None:
        """Remove the staging folder."""
        self._stack.close()

    def _wait(self, reference: weakref.ref[ov.CompiledModel], seconds: float) -> None:
        """Wait until AUTO has finished, the model is gone or the process ends."""
        try:
            while not self._stop.wait(_POLL):
                model = reference()
                if model is None:
                    break
                if is_settled(model):
                    log.info("%s now runs on %s", self._recipe, ", ".join(executing_devices(model)))
                    self.publish(model, seconds)
                    return
                del model
            self.close()
        finally:
            atexit.unregister(self._end)

    def _end(self) -> None:
        self._stop.set()
        self._thread.join()
