"""OpenVINO: its import, its version, and the process's one `openvino.Core`.

A process that compiled or imported a model has threads of OpenVINO's, which a forked child lacks: there OpenVINO would
wait for them forever: in a load, in a call, when the child ends. `forked` tells whether this is such a child.

The deploy side imports OpenVINO here only, on first use, and without its model converter. The converter and the
telemetry that it starts take half of the import and no load needs them; they are imported when
`openvino.convert_model` is first used, by any thread.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import sys
import threading
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from npu_persist.errors import OpenVINOVersionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import openvino as ov

_CONVERTER = "openvino.tools.ovc"
_log = logging.getLogger(__name__)
_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})", re.ASCII)
_lock = threading.Lock()
_cores: list[ov.Core] = []
_has_threads = False

forked: list[int] = []
"""Empty, unless this process was forked from one with OpenVINO's threads: then its parent's id."""


def get_core() -> ov.Core:
    """Return the process's core, which loads each device's plugin once; UsageError as for `check_fork`."""
    check_fork()
    with _lock:
        if not _cores:
            openvino = import_openvino()
            import numpy as np

            # OpenVINO fills its table of dtypes on first use, under its own lock and without the GIL: two threads that
            # get there at the same time deadlock. So fill it here.
            _ = openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data
            _cores.append(openvino.Core())
        return _cores[0]


def note_threads() -> None:
    """Note that a model is about to be compiled or imported, which starts OpenVINO's threads."""
    global _has_threads  # noqa: PLW0603 (one for each process)
    _has_threads = True


def check_fork() -> None:
    """Raise UsageError in a forked child that OpenVINO cannot work in."""
    if forked:
        raise UsageError(
            "this process was forked from one that had loaded or compiled a model, and OpenVINO's threads do "
            "not exist in "
            "it: it would wait for them forever. Fork before the first model is loaded, or start processes with "
            "multiprocessing.get_context('spawn')"
        )


def _after_fork() -> None:
    if not (_has_threads or _lock.locked()):
        return
    forked[:] = [os.getppid()]
    import ctypes  # which numpy has imported

    for core in _cores:  # so that the end of this process does not end the core, which would wait for its threads, too
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(core))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        # TBB's exit handler takes a lock that a thread of the parent's may have had. The C library calls the handler
        # that came last first: this one flushes stdout and the like, and ends the process. macOS and musl lack it.
        libc.on_exit(libc["_exit"], None)
        libc["__cxa_atexit"](libc.fflush, None, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def get_version() -> str:
    """Return the installed OpenVINO's version, for instance `2026.4.1-22982-e213a147257-releases/2026/4`."""
    return str(import_openvino().get_version())


def import_openvino() -> Any:
    """Import OpenVINO, deferring its model converter to first use, unless OpenVINO is already imported."""
    if "openvino" not in sys.modules and _CONVERTER not in sys.modules:
        stand_in = _StandIn(_CONVERTER)
        sys.modules[_CONVERTER] = stand_in
        try:
            with _garbage_collection_paused():
                openvino = import_module("openvino")
        except ImportError as error:  # this OpenVINO needs its converter, or is broken: the plain import will tell
            _log.debug("OpenVINO does not import without its model converter: %s", error)
        else:
            stand_in.install_hooks(openvino)
        finally:
            stand_in.remove()
    return import_module("openvino")


@contextlib.contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause the garbage collector: it takes a tenth of the import and finds nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _StandIn(ModuleType):
    """Takes the converter's place in `sys.modules` while OpenVINO is imported.

    To the importing thread it is an empty module, which OpenVINO treats as a converter that is not installed. To other
    threads it is the converter.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._thread = threading.get_ident()
        self._removing = threading.Lock()
        self._later: Callable[[str], object] | None = None

    def __getattr__(self, name: str) -> Any:
        if threading.get_ident() == self._thread:
            if name == "convert_model" and self._later is None:
                # Installed now, because other threads may use OpenVINO as soon as the import is done.
                self._later = _import_later(sys.modules["openvino"], name)
            raise AttributeError(name)
        import_module("openvino")  # waits until the other thread has imported it
        self.remove()
        return getattr(import_module(_CONVERTER), name)

    def remove(self) -> None:
        """Make room for the converter."""
        with self._removing:
            if sys.modules.get(_CONVERTER) is self:
                del sys.modules[_CONVERTER]

    def install_hooks(self, openvino: ModuleType) -> None:
        """Let the converter be imported on first use, under each of its names."""
        if self._later is None:  # OpenVINO did not ask for it
            return
        self.remove()
        with contextlib.suppress(ImportError):  # a build without tools
            _import_later(import_module("openvino.tools"), "ovc")
        if openvino.__dict__.get("__getattr__") is not self._later:
            # This OpenVINO has its own module `__getattr__`, which replaced the hook: import the converter now.
            with contextlib.suppress(AttributeError):  # not installed
                self._later("convert_model")


def _import_later(module: ModuleType, missing: str) -> Callable[[str], object]:
    """Give a module a `__getattr__` (PEP 562) that imports the missing name, and return it."""
    earlier: Callable[[str], object] | None = module.__dict__.get("__getattr__")

    def find(name: str) -> object:
        if name == missing:
            try:
                converter = import_module(_CONVERTER)
            except ImportError as error:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}: {error}") from error
            value: object = converter.convert_model if missing == "convert_model" else converter
            module.__dict__[missing] = value  # found without `__getattr__` from now on
            return value
        if earlier is not None:
            return earlier(name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__dict__["__getattr__"] = find
    return find


def require_version(written_by: str, reference: str) -> None:
    """Raise OpenVINOVersionError if this OpenVINO is of an earlier release than the one that wrote `reference`.

    A version without numbers (`custom-master-…`) is not compared.
    """
    found, required = get_version(), _release(written_by)
    installed = _release(found)
    if installed is not None and required is not None and installed < required:
        least = ".".join(map(str, required))
        raise OpenVINOVersionError(
            f"{reference} was written by OpenVINO {written_by}; this is OpenVINO {found}, and an older OpenVINO may "
            f"misread graphs of a newer one. Run: pip install 'openvino>={least}'",
            found=found,
            required=written_by,
        )


def _release(version: str) -> tuple[int, int] | None:
    """Return a version's year and release; patch releases read each other's graphs."""
    named = _VERSION.match(version)
    return None if named is None else (int(named[1]), int(named[2]))
