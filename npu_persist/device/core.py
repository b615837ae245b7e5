"""The process's one `openvino.Core`, and the import of OpenVINO.

The promise: OpenVINO is imported here, on first use, and nowhere else on the deploy side; commands that only look at
bundles do without it. What takes half of that import and no load needs, its model converter and the telemetry that this
starts, is left for the first use of `openvino.convert_model`; all else of OpenVINO is as ever, in every thread.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import sys
import threading
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from npu_persist.errors import OpenVINOVersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import openvino as ov

_CONVERTER = "openvino.tools.ovc"
_log = logging.getLogger(__name__)
_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})", re.ASCII)
_lock = threading.Lock()
_cores: list[ov.Core] = []


def get_core() -> ov.Core:
    """Return the process's core; devices and their plugins are loaded by it once."""
    with _lock:
        if not _cores:
            openvino = import_openvino()
            import numpy as np

            # Two threads that are the first to do this deadlock: OpenVINO makes its table of dtypes on first use, under
            # a lock of its own, and lets go of Python's meanwhile.
            _ = openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data
            _cores.append(openvino.Core())
        return _cores[0]


def get_version() -> str:
    """Return the version of OpenVINO that is installed, as `2026.4.1-22982-e213a147257-releases/2026/4`."""
    return str(import_openvino().get_version())


def import_openvino() -> Any:
    """Import OpenVINO without its model converter, which comes when it is first used, and return the module.

    A program that has imported OpenVINO itself keeps it as it is.
    """
    if "openvino" not in sys.modules and _CONVERTER not in sys.modules:
        stand_in = _StandIn(_CONVERTER)
        sys.modules[_CONVERTER] = stand_in
        try:
            with _without_collections():
                openvino = import_module("openvino")
        except ImportError as error:  # an OpenVINO that cannot do without; if it is broken, the plain import says so
            _log.debug("OpenVINO does not import without its model converter: %s", error)
        else:
            stand_in.leave(openvino)
        finally:
            stand_in.go()
    return import_module("openvino")


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Keep the garbage collector from looking again and again at what an import makes: nothing of it is garbage.

    It takes a tenth of the import.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _StandIn(ModuleType):
    """What is found in the converter's place while OpenVINO is imported: to this thread a module that is empty.

    OpenVINO passes over that, as it does where the converter is not installed. To other threads it is the converter.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._thread = threading.get_ident()
        self._going = threading.Lock()
        self._later: Callable[[str], object] | None = None

    def __getattr__(self, name: str) -> Any:
        if threading.get_ident() == self._thread:
            if name == "convert_model" and self._later is None:
                # Now and not when the import is done: another thread may use OpenVINO as soon as it is.
                self._later = _import_later(sys.modules["openvino"], name)
            raise AttributeError(name)
        import_module("openvino")  # waits until it is done
        self.go()
        return getattr(import_module(_CONVERTER), name)

    def go(self) -> None:
        """Make room for the converter."""
        with self._going:
            if sys.modules.get(_CONVERTER) is self:
                del sys.modules[_CONVERTER]

    def leave(self, openvino: ModuleType) -> None:
        """See that everything is found that this has kept away."""
        if self._later is None:  # OpenVINO did not ask for it
            return
        self.go()
        with contextlib.suppress(ImportError):  # a build without tools
            _import_later(import_module("openvino.tools"), "ovc")
        if openvino.__dict__.get("__getattr__") is not self._later:
            # OpenVINO has a way of its own to find names: the converter has to be there.
            with contextlib.suppress(AttributeError):  # not installed, which OpenVINO passes over
                self._later("convert_model")


def _import_later(module: ModuleType, missing: str) -> Callable[[str], object]:
    """Give a module a `__getattr__` (PEP 562) that imports what is missing from it, and return that."""
    earlier: Callable[[str], object] | None = module.__dict__.get("__getattr__")

    def find(name: str) -> object:
        if name == missing:
            try:
                converter = import_module(_CONVERTER)
            except ImportError as error:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}: {error}") from error
            value: object = converter.convert_model if missing == "convert_model" else converter
            module.__dict__[missing] = value  # the next look-up does not come here
            return value
        if earlier is not None:
            return earlier(name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__dict__["__getattr__"] = find
    return find


def require_version(written_by: str, reference: str) -> None:
    """Check that this OpenVINO can read what `written_by` wrote: it is as new, by year and release.

    OpenVINO's own builds name a version; those of others (`custom-master-…`) may not, and are not compared.

    Raises:
        OpenVINOVersionError: it is older.

    """
    found, required = get_version(), _release(written_by)
    installed = _release(found)
    if installed is not None and required is not None and installed < required:
        least = ".".join(map(str, required))
        raise OpenVINOVersionError(
            f"{reference} was written by OpenVINO {written_by}; this is OpenVINO {found}, and an older OpenVINO cannot "
            f"be relied on to read a newer one's graphs. Run: pip install 'openvino>={least}'",
            found=found,
            required=written_by,
        )


def _release(version: str) -> tuple[int, int] | None:
    """Return year and release of a version; patch releases read each other's graphs."""
    named = _VERSION.match(version)
    return None if named is None else (int(named[1]), int(named[2]))
