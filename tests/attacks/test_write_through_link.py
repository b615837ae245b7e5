"""A user edits a file outside of the store in place, as root, whom read-only modes do not hold back.

Before: `export` hard-linked the store's files, and a file that was hard-linked into a staging directory was published
as it was. Versions share files, so one edit of an exported model.xml damaged every version. Now: `export` copies,
unless `link` is asked for, and publishing copies what has another name outside of the store.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import npu_persist
from npu_persist.artifact.artifact import ARTIFACT_FILE, BLOB_FILE
from npu_persist.cache import CompileCache
from npu_persist.cli.main import main
from npu_persist.store import Store
from tests.support.artifacts import publish as publish_entry
from tests.support.bundles import publish_tiny, write_tiny

if TYPE_CHECKING:
    from pathlib import Path


def edit_in_place(folder: Path) -> int:
    """Overwrite every file below a folder; return how many there were."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o644)  # as the owner; root needs not even this
        path.write_bytes(b"edited" * 10)
    return len(files)


@pytest.mark.parametrize("layout", ["openvino", "ovms", "genai"])
def test_edit_exported_files(tmp_path: Path, layout: str) -> None:
    store = Store()
    publish_tiny(store)
    publish_tiny(store)
    assert main(["export", "tiny:1", str(tmp_path / "out"), "--layout", layout]) == 0
    assert edit_in_place(tmp_path / "out") == 2
    npu_persist.verify()


def test_edit_exported_cache_entry(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path / "home")
    entry = publish_entry(cache)
    cache.export(entry, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {ARTIFACT_FILE, BLOB_FILE}
    edit_in_place(tmp_path / "out")
    entry.verify()


def test_edit_files_that_were_linked_into_the_staging_directory(tmp_path: Path) -> None:
    store, outside = Store(), tmp_path / "outside"
    outside.mkdir()
    with store.stage() as staging:
        manifest = write_tiny(staging)
        for relative in manifest.files:
            os.link(staging / relative, outside / relative.replace("/", "_"))
        store.publish(staging)
    assert edit_in_place(outside) == len(manifest.files)
    npu_persist.verify()


def test_edit_a_copy_of_a_folder_that_shares_files_with_an_earlier_version(tmp_path: Path) -> None:
    """An export that was linked on request, published again: the new version shares with the store only."""
    store, outside = Store(), tmp_path / "outside"
    first = publish_tiny(store)
    outside.mkdir()
    with store.stage() as staging:
        manifest = write_tiny(staging)
        for relative in manifest.files:
            os.link(staging / relative, outside / relative.replace("/", "_"))
        second = store.publish(staging)
    assert all((first.path / relative).samefile(second.path / relative) for relative in manifest.files)
    edit_in_place(outside)
    npu_persist.verify()
