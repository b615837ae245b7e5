"""Pruning: what leaves the compile cache, and in which order.

The promise: leftovers first, then damaged entries, then the least recently used, and none that is in use. What cannot
be removed because another process opened it meanwhile stays, and is no error.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from npu_persist.cache.entry import tree_size
from npu_persist.cache.folder import remove_aside, remove_lock
from npu_persist.files.staging import prune_staging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from npu_persist.cache.entry import Entry
    from npu_persist.cache.folder import Folder

_DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed, and why.

    Attributes:
        path: Where it was.
        size: Its bytes.
        reason: Why: "put aside", "damaged", "not used for 31 days", "least recently used",
            "not in use".
        reference: The bundle that it was compiled from, where that was known.
        device: The device that it was compiled for, where that was known.
    """

    path: Path
    size: int
    reason: str
    reference: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What may stay.

    Attributes:
        max_size: Bytes of all entries.
        older_than: Seconds without use.
        device: Only entries of this device are looked at.
    """

    max_size: int | None = None
    older_than: float | None = None
    device: str | None = None


def remove_leftovers(folder: Folder) -> Iterator[Removed]:
    """Remove what was put aside, and what interrupted runs left."""
    yield from remove_asides(folder)
    for path in prune_staging(folder.staging):
        yield Removed(path, 0, "left by an interrupted run")
    for path in folder.locks():
        remove_lock(path)


def remove_asides(folder: Folder) -> Iterator[Removed]:
    """Remove what was put aside."""
    for path in folder.asides():
        size = tree_size(path)
        if remove_aside(path):
            yield Removed(path, size, "put aside")


def remove_entries(folder: Folder, limits: Limits, but: Path | None = None) -> Iterator[Removed]:
    """Remove entries until the limits are kept.

    Args:
        folder: The cache's folder.
        limits: What may stay.
        but: An entry that stays in any case; its size counts.
    """
    entries = [entry for entry in folder.entries() if limits.device is None or is_for(entry, limits.device)]
    entries.sort(key=lambda entry: (entry.artifact is not None, entry.last_used))
    sizes = {entry.path: entry.size for entry in entries}
    total = sum(sizes.values())
    for entry in entries:
        reason = _reason(entry, limits, total)
        if reason is None or entry.path == but:
            continue
        is_removed = folder.remove_entry(entry)
        if is_removed or not os.path.lexists(entry.path):  # someone else prunes, too: its space is free as well
            total -= sizes[entry.path]
        if is_removed:
            device = None if entry.artifact is None else entry.artifact.device
            yield Removed(entry.path, sizes[entry.path], reason, entry.reference, device)


def is_for(entry: Entry, device: str) -> bool:
    """Tell whether an entry is for a device: `GPU` means `GPU.1` too, and `AUTO` `AUTO:NPU,CPU`."""
    if entry.artifact is None:
        return False
    found, wanted = entry.artifact.device.upper(), device.upper()
    return found == wanted or found.startswith((f"{wanted}.", f"{wanted}:"))


def _reason(entry: Entry, limits: Limits, total: int) -> str | None:
    idle = time.time() - entry.last_used.timestamp()
    if entry.artifact is None:
        return "damaged"
    if limits.older_than is not None and idle > limits.older_than:
        return f"not used for {idle / _DAY:.3g} days"
    if limits.max_size is not None and total > limits.max_size:
        return "least recently used" if limits.max_size else "not in use"
    return None
