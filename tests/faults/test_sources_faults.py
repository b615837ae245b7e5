"""Loading where the compile cache cannot be written to, locked or read."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from npu_persist import load
from npu_persist.store import Store
from tests.support import faults
from tests.support.graphs import publish_affine
from tests.support.loads import entries, is_right

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "home")
    publish_affine(found)
    return found


class TestWhereNothingCanBeKept:
    def test_a_file_in_place_of_the_folder(self, store: Store) -> None:
        (store.home / "compile-cache").write_text("in the way")
        model = load("affine", "CPU", store=store)
        assert is_right(model)
        assert any(note.startswith("not cached: ") for note in model.report.notes)

    def test_a_full_disk(self, store: Store) -> None:
        with faults.before_call(faults.disk_full, faults.ALLOCATING):
            model = load("affine", "CPU", store=store)
        assert is_right(model)
        assert any("No space left" in note for note in model.report.notes)
        assert entries(store) == []

    def test_a_disk_that_is_full_from_some_write_on(self, store: Store) -> None:
        model = None
        for enough in range(1, 60):

            def fill(count: int, _: str, enough: int = enough) -> None:
                if count > enough:
                    faults.disk_full()

            with faults.before_call(fill, faults.ALLOCATING):
                model = load("affine", "CPU", store=store)
            assert is_right(model)
            if entries(store):
                break
        assert len(entries(store)) == 1

    def test_a_folder_that_cannot_be_written_to(self, store: Store) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        with faults.before_call(refuse, ("mkdir", "open", "rename")):
            model = load("affine", "CPU", store=store)
        assert is_right(model)
        assert any("Permission denied" in note for note in model.report.notes)

    def test_a_folder_of_a_device_that_caches_for_itself(self, store: Store) -> None:
        load("affine", "MULTI:CPU", store=store)

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        with faults.before_call(refuse, ("mkdir", "open", "rename")):
            model = load("affine", "MULTI:CPU", store=store)  # what is there cannot be copied to where OpenVINO reads
        assert is_right(model)
        assert not model.report.from_cache
        assert any("not cached: could not make a staging directory" in note for note in model.report.notes)

    def test_a_file_system_without_locks(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr("npu_persist.files.windows.lock_byte" if os.name == "nt" else "fcntl.flock", refuse)
        assert is_right(load("affine", "CPU", store=store))
        model = load("affine", "CPU", store=store)
        assert model.report.from_cache
        assert is_right(model)
