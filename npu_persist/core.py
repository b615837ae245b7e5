"""The process's one `openvino.Core`.

The promise: OpenVINO is imported here, on first use, and nowhere else on the deploy side; commands that only look at
bundles do without it.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from npu_persist.errors import OpenVINOVersionError

if TYPE_CHECKING:
    import openvino as ov

_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})", re.ASCII)
_lock = threading.Lock()
_cores: list[ov.Core] = []


def get_core() -> ov.Core:
    """Return the process's core; devices and their plugins are loaded by it once."""
    with _lock:
        if not _cores:
            import numpy as np
            import openvino as ov

            # Two threads that are the first to do this deadlock: OpenVINO makes its table of dtypes on first use, under
            # a lock of its own, and lets go of Python's meanwhile.
            _ = ov.Tensor(np.zeros(1, np.float32), shared_memory=True).data
            _cores.append(ov.Core())
        return _cores[0]


def get_version() -> str:
    """Return the version of OpenVINO that is installed, as `2026.4.1-22982-e213a147257-releases/2026/4`."""
    import openvino as ov

    return str(ov.get_version())


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
