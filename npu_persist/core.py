"""The process's one `openvino.Core`.

OpenVINO is imported here, on first use, and nowhere else on the deploy side: commands that only look at bundles do
without it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from npu_persist.errors import OpenVINOVersionError

if TYPE_CHECKING:
    import openvino as ov


@functools.cache
def get_core() -> ov.Core:
    """Return the process's core; devices and their plugins are loaded by it once."""
    import openvino as ov

    return ov.Core()


def get_version() -> str:
    """Return the version of OpenVINO that is installed, as `2026.4.1-22982-e213a147257-releases/2026/4`."""
    import openvino as ov

    return str(ov.get_version())


def require_version(written_by: str, reference: str) -> None:
    """Check that this OpenVINO can read what `written_by` wrote: it is as new, by year and release.

    Raises:
        OpenVINOVersionError: it is older.

    """
    found = get_version()
    if _release(found) < _release(written_by):
        least = ".".join(map(str, _release(written_by)))
        raise OpenVINOVersionError(
            f"{reference} was written by OpenVINO {written_by}; this is OpenVINO {found}, and an older OpenVINO cannot "
            f"be relied on to read a newer one's graphs. Run: pip install 'openvino>={least}'",
            found=found,
            required=written_by,
        )


def _release(version: str) -> tuple[int, int]:
    """Return year and release of a version; patch releases read each other's graphs."""
    year, release = (int(part) for part in version.split("-", maxsplit=1)[0].split(".")[:2])
    return year, release
