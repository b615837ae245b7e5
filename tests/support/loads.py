"""What tests of loading look at: is the answer right, which sources were tried, what is in the cache."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np

from npu_persist.cache import CompileCache

if TYPE_CHECKING:
    from pathlib import Path

    import npu_persist
    from npu_persist.store import Store

GRID = np.arange(6, dtype=np.float32).reshape(2, 3)
AFFINE_OF_GRID = GRID * [1, 2, 3] + 0.5


def is_right(model: npu_persist.Model) -> bool:
    return np.array_equal(model(GRID), AFFINE_OF_GRID)


def attempts(model: npu_persist.Model) -> list[tuple[str, str, bool]]:
    return [(attempt.source, attempt.device, attempt.is_used) for attempt in model.report.attempts]


def entries(store: Store) -> list[Path]:
    return [entry.path for entry in CompileCache(store.home).entries()]


def spoil(path: Path, data: bytes | None = None) -> None:
    """Flip the last bit of a read-only file in place, or write something else there."""
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if data is None else data)


def copy_bundle(store: Store, target: Path) -> Path:
    shutil.copytree(store.resolve("affine").path, target, copy_function=shutil.copyfile)
    return target
