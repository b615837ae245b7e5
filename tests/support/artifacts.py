"""Compiled artifacts without a compiler: folders that are right in everything that the cache looks at."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Any

from npu_persist.artifact.artifact import BLOB_FILE, Artifact, describe_files
from npu_persist.bundle.graph_records import Port
from npu_persist.files.digest import digest_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.cache import CacheEntry, CompileCache
    from npu_persist.files.locks import Lock

BLOB = b"what a compiler made\n" * 50


def make_artifact(**changes: Any) -> Artifact:
    """Return a description, of one blob unless `files` says otherwise."""
    fields: dict[str, Any] = {
        "subject": digest_bytes(b"a manifest"),
        "name": "tiny",
        "graph": "main",
        "shapes": None,
        "target": "CPU",
        "device": "CPU",
        "identity": {"FULL_DEVICE_NAME": "A processor", "DEVICE_ARCHITECTURE": "intel64"},
        "openvino": "2026.4.1-22982-e213a147257-releases/2026/4",
        "properties": {"PERFORMANCE_HINT": "LATENCY"},
        "inputs": (Port("x", "float32", (1, 4)),),
        "outputs": (Port("y", "float32", (1, 2)),),
        "kind": "blob",
        "weightless": True,
        "requirements": "meta=1.0;ov=2026.4.1;isa=AVX2",
        "toolchain": "plugin",
        "compiler": None,
        "files": {},
        "seconds": 3.25,
        "peak_memory": None,
    }
    return Artifact(**(fields | changes))


def fill(staging: Path, files: dict[str, bytes] | None = None, **changes: Any) -> Artifact:
    """Write files into a folder, and return their description."""
    for relative, data in (files or {BLOB_FILE: BLOB}).items():
        path = staging / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return make_artifact(files=describe_files(staging), **changes)


def publish(cache: CompileCache, files: dict[str, bytes] | None = None, **changes: Any) -> CacheEntry:
    """Put an entry into a cache: `graph="other"` gives it another key."""
    with cache.stage() as staging:
        return cache.publish(fill(staging, files, **changes), staging)


KEY = make_artifact().key


def damage(entry: CacheEntry, relative: str = BLOB_FILE, data: bytes = b"x" * len(BLOB)) -> None:
    path = entry.path / relative
    path.chmod(stat.S_IWRITE | stat.S_IREAD)
    path.write_bytes(data)


def age(entry: CacheEntry, seconds: float) -> None:
    """Let an entry be last used so long ago."""
    moment = time.time() - seconds
    os.utime(entry.path / "used", (moment, moment))


def held(entry: CacheEntry) -> Lock:
    """Mark an entry as in use."""
    lock = entry.mark_in_use()
    assert lock is not None
    return lock


def quarantined(cache: CompileCache) -> list[Path]:
    """Return what was quarantined."""
    return sorted((cache.path / "quarantine").iterdir()) if (cache.path / "quarantine").exists() else []


def names(cache: CompileCache) -> set[str]:
    """Return what is in the cache's folder besides its own folders."""
    return {path.name for path in cache.path.iterdir()} - {"quarantine", "staging"}


def is_used(entry: CacheEntry) -> bool:
    """Tell whether an entry is in use now; a type checker takes a property for a constant."""
    return entry.in_use
