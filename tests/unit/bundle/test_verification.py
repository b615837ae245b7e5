from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from npu_persist import load
from npu_persist.bundle import verification
from npu_persist.bundle.verification import TICK, VERIFY, Verification
from npu_persist.cache import CompileCache
from npu_persist.errors import FileIntegrityError, UsageError
from npu_persist.files.stamps import STAMP_FOLDER
from npu_persist.store import Store
from tests.support.graphs import WEIGHTS, XML, publish_affine

if TYPE_CHECKING:
    from collections.abc import Callable

GRID = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "home")
    publish_affine(found)
    return found


@pytest.fixture
def bundle(store: Store, tmp_path: Path) -> Path:
    """A bundle whose files may be spoiled."""
    target = tmp_path / "copy"
    shutil.copytree(store.resolve("affine").path, target, copy_function=shutil.copyfile)
    time.sleep(2 * TICK)
    return target


def flip(path: Path, *, keep_time: bool = False) -> None:
    found = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    if keep_time:
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


class TestStamp:
    def test_reads_nothing_the_second_time(self, store: Store, bundle: Path) -> None:
        first = load(bundle, "CPU", verify="stamp", store=store)
        second = load(bundle, "CPU", verify="stamp", store=store)
        assert first.report.verified_bytes == (bundle / WEIGHTS).stat().st_size + (bundle / XML).stat().st_size
        assert second.report.from_cache
        entry = CompileCache(store.home).find(second.report.key or "")
        assert entry is not None
        assert entry.artifact is not None
        assert second.report.verified_bytes == entry.artifact.size  # which is read all the same

    @pytest.mark.parametrize("keep_time", [False, True])
    def test_sees_a_changed_file_and_one_whose_time_was_set_back(
        self,
        store: Store,
        bundle: Path,
        keep_time: bool,  # noqa: FBT001
    ) -> None:
        load(bundle, "CPU", verify="stamp", store=store)
        flip(bundle / WEIGHTS, keep_time=keep_time)
        with pytest.raises(FileIntegrityError, match="weights"):
            load(bundle, "CPU", verify="stamp", store=store)

    def test_sees_another_file_of_the_same_size_and_time(self, store: Store, bundle: Path) -> None:
        load(bundle, "CPU", verify="stamp", store=store)
        found = (bundle / WEIGHTS).stat()
        other = bundle / "other"
        shutil.copyfile(bundle / WEIGHTS, other)
        flip(other)
        os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
        other.replace(bundle / WEIGHTS)
        with pytest.raises(FileIntegrityError, match="weights"):
            load(bundle, "CPU", verify="stamp", store=store)

    @pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b"\xff\xfe"])
    def test_a_broken_stamp_counts_as_none(self, store: Store, bundle: Path, content: bytes) -> None:
        load(bundle, "CPU", verify="stamp", store=store)
        for path in (store.home / STAMP_FOLDER).iterdir():
            path.write_bytes(content)
        read = [load(bundle, "CPU", verify="stamp", store=store).report.verified_bytes for _ in range(2)]
        assert read[0] - read[1] == (bundle / WEIGHTS).stat().st_size

    def test_prune_removes_those_that_do_not_hold_any_more(self, store: Store, bundle: Path) -> None:
        load(bundle, "CPU", verify="stamp", store=store)
        stamps = store.home / STAMP_FOLDER
        assert store.prune() == []
        (stamps / ("0" * 32)).write_bytes(b"{")
        (stamps / "mine").touch()
        flip(bundle / WEIGHTS, keep_time=True)
        removed = store.prune()
        assert [path.parent for path in removed] == [stamps, stamps]
        assert len(list(stamps.iterdir())) == 2  # of the graph, and what is none of ours
        shutil.rmtree(bundle)
        store.prune()
        assert [path.name for path in stamps.iterdir()] == ["mine"]

    def test_a_file_that_was_changed_a_moment_before_gets_none(self, store: Store, bundle: Path) -> None:
        """It could be changed once more at what the file system takes for the same time."""
        later = time.time() + 3600
        with Verification("stamp", store.home) as checks:
            checks._began = (bundle / WEIGHTS).stat().st_ctime + TICK / 2
            checks.check(bundle / WEIGHTS, store.resolve("affine").manifest.files[WEIGHTS])
            checks.write_stamps()
            assert not (store.home / STAMP_FOLDER).exists()
            checks._began = later
            checks.write_stamps()
            assert len(list((store.home / STAMP_FOLDER).iterdir())) == 1

    def test_full_writes_and_trusts_none(self, store: Store, bundle: Path) -> None:
        load(bundle, "CPU", verify="stamp", store=store)
        model = load(bundle, "CPU", store=store)
        assert model.report.verified_bytes >= (bundle / WEIGHTS).stat().st_size

    def test_a_folder_that_cannot_be_written_is_said(self, store: Store, bundle: Path) -> None:
        (store.home / STAMP_FOLDER).write_text("in the way")
        model = load(bundle, "CPU", verify="stamp", store=store)
        assert any(note.startswith("no stamps") for note in model.report.notes)


class TestNone:
    def test_reads_nothing(self, store: Store, bundle: Path) -> None:
        flip(bundle / WEIGHTS)
        model = load(bundle, "CPU", verify="none", store=store)
        assert model.report.verified_bytes == 0
        assert not np.array_equal(model(GRID), GRID * [1, 2, 3] + 0.5)


class TestFull:
    def test_counts_what_it_read(self, store: Store) -> None:
        files = store.resolve("affine").manifest.files
        report = load("affine", "CPU", store=store).report
        assert report.verified_bytes == files[XML].size + files[WEIGHTS].size

    def test_a_file_that_another_process_reads_by_its_name_must_stay(self, store: Store, bundle: Path) -> None:
        """Also if the right file is back at the end: its inode says that it was moved."""
        weights, entry = bundle / WEIGHTS, store.resolve("affine").manifest.files[WEIGHTS]
        with Verification("full", by_name=True) as checks:
            checks.start(weights, entry)
            checks.finish()
            assert checks.locate(weights) == weights
            if os.name == "nt":
                with pytest.raises(PermissionError):
                    weights.rename(bundle / "aside")
                checks.finish()
                return
            weights.rename(bundle / "aside").rename(weights)
            with pytest.raises(FileIntegrityError, match="replaced"):
                checks.finish()

    def test_without_proc_it_is_read_by_its_name(
        self, store: Store, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verification, "_find", lambda _, path: path)
        files = store.resolve("affine").manifest.files
        with Verification("full") as checks:
            for name in (XML, WEIGHTS):
                checks.check(bundle / name, files[name])
                assert checks.locate(bundle / name) == bundle / name
            checks.finish()
            shutil.copyfile(bundle / XML, bundle / "other")
            if os.name == "nt":
                with pytest.raises(PermissionError):
                    (bundle / "other").replace(bundle / XML)
                return
            (bundle / "other").replace(bundle / XML)
            with pytest.raises(FileIntegrityError, match="replaced"):
                checks.finish()

    @pytest.mark.parametrize(
        "change", [lambda path: path.chmod(0o400), lambda path: path.with_name("b").hardlink_to(path)]
    )
    def test_another_name_or_mode_is_no_change(
        self, store: Store, bundle: Path, change: Callable[[Path], object]
    ) -> None:
        """A store shares files between versions while others load them."""
        with Verification("full") as checks:
            checks.start(bundle / WEIGHTS, store.resolve("affine").manifest.files[WEIGHTS])
            change(bundle / WEIGHTS)
            checks.finish()

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
    def test_a_pipe_in_its_place_does_not_hold_the_load(self, store: Store, bundle: Path) -> None:
        entry = store.resolve("affine").manifest.files[WEIGHTS]
        (bundle / WEIGHTS).unlink()
        os.mkfifo(bundle / WEIGHTS)
        with Verification("full") as checks, pytest.raises(FileIntegrityError, match="regular"):
            checks.start(bundle / WEIGHTS, entry)

    @pytest.mark.skipif(sys.platform != "linux", reason="counts open files")
    def test_nothing_stays_open(self, store: Store) -> None:
        counts = []
        load("affine", "CPU", store=store).close()
        for verify in VERIFY:
            with load("affine", "CPU", verify=verify, store=store):  # OpenVINO keeps what it mapped open
                opened = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
                counts.append(len([path for path in opened if path.name in {XML, WEIGHTS}]))
        assert len(set(counts)) == 1

    def test_a_check_ends_with_the_load(self, store: Store, bundle: Path) -> None:
        entry = store.resolve("affine").manifest.files[WEIGHTS]
        with Verification("full", store.home) as checks:
            checks._is_canceled = True
            checks.start(bundle / WEIGHTS, entry)
            checks.finish()
        assert checks.bytes == 0


@pytest.mark.parametrize("verify", ["Full", "", None, True])
def test_must_be_one_of_three(store: Store, verify: str) -> None:
    with pytest.raises(UsageError, match="verify: expected one of full, stamp, none"):
        load("affine", "CPU", verify=verify, store=store)  # type: ignore[arg-type]
