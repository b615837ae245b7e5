"""What a store has, for tests that compare it before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.store import Store


def snapshot(store: Store) -> dict[str, Any]:
    """Return all that a reader can see of the store, and the content of every file."""
    bundles = store.home / "bundles"
    files = {str(path.relative_to(bundles)): path.read_bytes() for path in bundles.rglob("*") if path.is_file()}
    return {"files": files, "entries": store.list()}


def staging_of(store: Store) -> list[str]:
    """Return the names in its staging folder."""
    path = store.home / "staging"
    return sorted(found.name for found in path.iterdir()) if path.exists() else []


def files_below(path: Path) -> list[str]:
    """Return the paths of all files in a folder; none if there is no such folder."""
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file()) if path.exists() else []
