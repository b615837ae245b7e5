"""Wheels for Windows as small as can be, sound and hostile ones."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from typing import TYPE_CHECKING

from npu_persist.compilation.toolchains.install import LIBRARIES, RUNTIME

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OPENVINO = {
    **{f"openvino/libs/{name}": f"library {name}".encode() for name in LIBRARIES},
    "openvino/libs/openvino_c.lib": b"import library",
    "openvino/include/openvino/c/openvino.h": b"/* header */",
}

RUNTIME_DATA = {f"msvc_runtime-14.44.35112.data/data/Scripts/{name}": f"library {name}".encode() for name in RUNTIME}


def write_wheel(
    path: Path,
    members: Mapping[str, bytes],
    *,
    record: Mapping[str, bytes] | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a wheel.

    Args:
        path: Where.
        members: What is in it.
        record: What its RECORD says is in it, if that is not the same.
        extra: Members that RECORD does not name.
    """
    stem = "-".join(path.name.split("-")[:2])
    rows = [f"{name},{digest(data)},{len(data)}" for name, data in (members if record is None else record).items()]
    rows.append(f"{stem}.dist-info/RECORD,,")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*members.items(), *(extra or {}).items()]:
            archive.writestr(name, data)
        archive.writestr(f"{stem}.dist-info/RECORD", "\n".join(rows))
    return path


def digest(data: bytes) -> str:
    """Return a digest as RECORD has it."""
    return f"sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()}"
