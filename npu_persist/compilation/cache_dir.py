"""Devices that cache for themselves: AUTO and the like, which export nothing, but fill a CACHE_DIR.

The promise: OpenVINO reads only files whose digests were checked, out of a folder that no other process writes to; what
it adds to them becomes the entry for the next load once every device has finished its compilation.

OpenVINO writes these files in place and under their final names. Hence it gets a staging folder with links to the
entry's files, and the folder becomes the new entry when nothing writes to it any more: right after the load, or, where
AUTO still compiles for an accelerator while it answers from the CPU, when that is done.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import CACHE_FOLDER, check_files, describe_files
from npu_persist.compilation.local import Compiled, compile_graph, describe, executing_devices, is_settled
from npu_persist.errors import ArtifactError, NpuPersistError
from npu_persist.files.filesystem import link_or_copy, store_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import openvino as ov

    from npu_persist.bundle.manifest import FileEntry
    from npu_persist.cache import CacheEntry, CompileCache
    from npu_persist.compilation.recipe import Recipe

log = logging.getLogger(__name__)

_POLL = 0.25
"""Seconds between two looks at what AUTO executes on."""


class OwnCache:
    """OpenVINO's cache for one recipe, in a folder of its own."""

    def __init__(self, recipe: Recipe, cache: CompileCache) -> None:
        self._recipe = recipe
        self._cache = cache
        self._stack = ExitStack()
        self._staging = self._stack.enter_context(cache.stage())
        self._folder = self._staging / CACHE_FOLDER
        self._known: Mapping[str, FileEntry] = {}
        self._taken: CacheEntry | None = None
        self._stop = threading.Event()
        try:
            with store_errors(f"make {self._folder}"):
                self._folder.mkdir()
        except BaseException:
            self._stack.close()
            raise

    def take(self, entry: CacheEntry) -> None:
        """Let OpenVINO read an entry's files, after they were checked.

        Raises:
            ArtifactError: They are not what the entry's description says.
        """
        artifact = entry.artifact
        if artifact is None or artifact.kind != "cache_dir":
            raise ArtifactError(f"{entry.path}: expected the files of a CACHE_DIR; got something else")
        with store_errors(f"read {entry.path}"):
            check_files(entry.path, artifact)
            for relative in artifact.files:
                target = self._staging / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(entry.path / relative, target)
        self._known = artifact.files
        self._taken = entry

    def compile(self, model: ov.Model) -> Compiled:
        """Compile a graph with this cache.

        Raises:
            DeviceNotFoundError: The device is not there.
            CompilationError: OpenVINO refused the graph or the properties.
        """
        try:
            return compile_graph(self._recipe, model, {"CACHE_DIR": str(self._folder)})
        except BaseException:
            self.close()
            raise

    def keep(self, compiled: Compiled) -> None:
        """Make an entry of what OpenVINO added: now, or in a thread when it has finished."""
        if is_settled(compiled.model):
            self._publish(compiled)
        else:
            compiled.pending = self._thread = threading.Thread(
                target=self._watch,
                args=(weakref.ref(compiled.model), compiled.seconds),
                name="compile cache of AUTO",
                daemon=True,
            )
            atexit.register(self._end)
            self._thread.start()

    def close(self) -> None:
        """Give up what was not published."""
        self._stack.close()

    def _publish(self, compiled: Compiled) -> None:
        try:
            files = describe_files(self._staging)
            if files and files != self._known:
                artifact = describe(self._recipe, compiled, self._staging, kind="cache_dir", is_weightless=False)
                self._cache.publish(artifact, self._staging, instead_of=self._taken)
        except (NpuPersistError, OSError) as error:  # the model runs all the same; the next load compiles again
            log.warning("could not keep what %s was compiled to: %s", self._recipe, error)
        finally:
            self.close()

    def _watch(self, reference: weakref.ref[ov.CompiledModel], seconds: float) -> None:
        """Wait until AUTO has finished, the model is gone or the process ends."""
        try:
            while not self._stop.wait(_POLL):
                model = reference()
                if model is None:
                    break
                if is_settled(model):
                    log.info("%s now runs on %s", self._recipe, ", ".join(executing_devices(model)))
                    self._publish(Compiled(model, seconds))
                    return
                del model
            self.close()
        finally:
            atexit.unregister(self._end)

    def _end(self) -> None:
        self._stop.set()
        self._thread.join()
