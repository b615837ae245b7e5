from __future__ import annotations

import os
import stat
import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from npu_persist import cache as room
from npu_persist.artifact.artifact import ARTIFACT_FILE, BLOB_FILE, Artifact, check_files, read_artifact
from npu_persist.cache import CacheEntry, CompileCache
from npu_persist.errors import ArtifactError, StoreError, UsageError
from tests.support.artifacts import BLOB, KEY, damage, fill, held, make_artifact, names, publish, quarantined
from tests.support.faults import path_at
from tests.support.processes import run_python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path) -> CompileCache:
    return CompileCache(tmp_path / "home")


def test_what_was_published_is_found_by_its_key(cache: CompileCache) -> None:
    assert cache.find(KEY) is None
    entry = publish(cache)
    assert entry.key == KEY
    assert entry.path == cache.path / KEY
    found = cache.find(KEY)
    assert found == entry
    assert found is not None
    assert found.artifact is not None
    assert found.problem is None
    check_files(found.path, found.artifact)
    assert (found.path / BLOB_FILE).read_bytes() == BLOB
    assert found.reference == f"tiny@{found.artifact.subject.removeprefix('blake3:')[:12]}"
    assert found.size == sum(path.stat().st_size for path in found.path.iterdir())
    assert abs(found.last_used - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert not found.in_use
    assert cache.entries() == (found,)
    assert cache.find(make_artifact(graph="other").key) is None


def test_nothing_is_made_by_looking(cache: CompileCache) -> None:
    assert cache.find(KEY) is None
    assert cache.entries() == ()
    assert cache.unknown_files() == ()
    assert list(cache.verify()) == []
    assert cache.prune() == []
    assert cache.sweep() == []
    cache.quarantine(KEY, "no reason")
    assert not cache.home.exists()


@pytest.mark.parametrize(
    "key", ["", "x", "../..", KEY.upper(), KEY[:-1], f"{KEY}\n", "quarantine", f"quarantine/{KEY}-0"]
)
def test_what_is_no_key_is_never_found(cache: CompileCache, key: str) -> None:
    publish(cache)
    assert cache.find(key) is None


def test_a_folder_of_openvinos_is_kept_too(cache: CompileCache) -> None:
    entry = publish(cache, {"openvino/1.blob": b"one", "openvino/deep/2.cl_cache": b"two"}, kind="cache_dir")
    entry.verify()
    assert (entry.path / "openvino" / "deep" / "2.cl_cache").read_bytes() == b"two"


def test_published_files_are_read_only_but_the_mark_of_use(cache: CompileCache) -> None:
    entry = publish(cache)
    for name in (ARTIFACT_FILE, BLOB_FILE):
        assert not (entry.path / name).stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    assert (entry.path / "used").stat().st_mode & stat.S_IWUSR


def test_every_byte_is_on_the_disk_before_the_entry_is_there(
    cache: CompileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(descriptor: int) -> None:
        steps.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def note_rename(source: str, target: str, *, dst_dir_fd: int | None, **folder: int | None) -> None:
        steps.append(f"rename {path_at(target, dst_dir_fd)}")
        rename(source, target, dst_dir_fd=dst_dir_fd, **folder)

    if sys.platform != "linux":
        pytest.skip("no /proc to tell which file is fsynced")
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    with cache.stage() as staging:
        artifact = fill(staging)
        cache.publish(artifact, staging)
    until = steps.index(f"rename {cache.path / KEY}")
    assert {str(staging), *(str(staging / name) for name in (ARTIFACT_FILE, BLOB_FILE))} <= set(steps[:until])
    assert steps.index(str(staging / BLOB_FILE)) < steps.index(str(staging / ARTIFACT_FILE)) < steps.index(str(staging))


def test_who_comes_second_gets_the_first_ones_entry(cache: CompileCache) -> None:
    first = publish(cache, {BLOB_FILE: b"first"})
    second = publish(cache, {BLOB_FILE: b"another"}, seconds=9.0)
    assert second == first
    assert (second.path / BLOB_FILE).read_bytes() == b"first"
    assert list((cache.path / "staging").iterdir()) == []


def test_an_entry_is_replaced_on_demand_but_not_one_that_came_since(
    cache: CompileCache, caplog: pytest.LogCaptureFixture
) -> None:
    def publish_instead(data: bytes, old: CacheEntry) -> CacheEntry:
        with cache.stage() as staging:
            return cache.publish(fill(staging, {BLOB_FILE: data}), staging, instead_of=old)

    first = publish(cache, {BLOB_FILE: b"first"})
    second = publish_instead(b"second", first)
    assert cache.find(KEY) == second != first
    assert publish_instead(b"third", first) == second
    assert (second.path / BLOB_FILE).read_bytes() == b"second"
    assert caplog.text == ""  # nothing is wrong with what was replaced
    assert len(cache.sweep()) == 1


@pytest.mark.parametrize("relative", [ARTIFACT_FILE, BLOB_FILE])
def test_a_damaged_entry_gives_way_to_a_new_one(cache: CompileCache, relative: str) -> None:
    damage(publish(cache), relative, b"short")
    entry = publish(cache)
    entry.verify()
    assert cache.find(KEY) == entry
    assert len(quarantined(cache)) == 1


@pytest.mark.parametrize("files", [{}, {BLOB_FILE: b"blob", "extra": b""}], ids=["missing", "too many"])
def test_what_is_published_is_what_its_description_says(cache: CompileCache, files: dict[str, bytes]) -> None:
    with cache.stage() as staging:
        artifact = fill(staging)
        (staging / BLOB_FILE).unlink()
        for name, data in files.items():
            (staging / name).write_bytes(data)
        with pytest.raises(ArtifactError):
            cache.publish(artifact, staging)
    assert cache.find(KEY) is None
    assert cache.sweep() == []


def test_only_a_staging_directory_of_the_cache_is_published(cache: CompileCache, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(UsageError, match="expected a directory that `stage` of this cache made"):
        cache.publish(fill(folder), folder)
    assert (folder / BLOB_FILE).exists()


def no_description(entry: CacheEntry) -> None:
    (entry.path / ARTIFACT_FILE).chmod(stat.S_IWRITE)
    (entry.path / ARTIFACT_FILE).unlink()


def cut_description(entry: CacheEntry) -> None:
    damage(entry, ARTIFACT_FILE, (entry.path / ARTIFACT_FILE).read_bytes()[:-9])


def other_description(entry: CacheEntry) -> None:
    """Sound, but of another key."""
    damage(entry, ARTIFACT_FILE, make_artifact(graph="other").to_json())


def huge_description(entry: CacheEntry) -> None:
    damage(entry, ARTIFACT_FILE, b" " * (2 * 1024 * 1024))


def file_in_place(entry: CacheEntry) -> None:
    entry.path.rename(entry.path.parent.parent / "moved")
    entry.path.write_bytes(b"no folder")


def link_in_place(entry: CacheEntry) -> None:
    entry.path.rename(entry.path.parent.parent / "moved")
    entry.path.symlink_to(entry.path.parent.parent / "moved", target_is_directory=True)


def link_as_description(entry: CacheEntry) -> None:
    (entry.path / ARTIFACT_FILE).rename(entry.path.parent.parent / "moved")
    (entry.path / ARTIFACT_FILE).symlink_to(entry.path.parent.parent / "moved")


def folder_as_description(entry: CacheEntry) -> None:
    no_description(entry)
    (entry.path / ARTIFACT_FILE).mkdir()


DAMAGE = [
    no_description,
    cut_description,
    other_description,
    huge_description,
    file_in_place,
    link_in_place,
    link_as_description,
    folder_as_description,
]


@pytest.mark.parametrize("harm", DAMAGE)
def test_a_damaged_entry_is_quarantined_when_it_is_looked_for(
    cache: CompileCache, harm: Callable[[CacheEntry], None], caplog: pytest.LogCaptureFixture
) -> None:
    harm(publish(cache))
    assert cache.find(KEY) is None
    assert "was quarantined" in caplog.text
    assert names(cache) == set()
    assert len(quarantined(cache)) == 1
    publish(cache).verify()
    assert [removed.reason for removed in cache.prune()] == ["quarantined"]
    assert quarantined(cache) == []
    moved = cache.home / "moved"
    assert not moved.is_dir() or (moved / BLOB_FILE).read_bytes() == BLOB  # nothing was removed through the link


@pytest.mark.parametrize("harm", DAMAGE)
def test_a_damaged_entry_is_listed_and_found_by_verify_and_removed_by_prune(
    cache: CompileCache, harm: Callable[[CacheEntry], None]
) -> None:
    harm(publish(cache))
    sound = publish(cache, graph="other")
    listed = {entry.key: entry for entry in cache.entries()}
    assert listed[KEY].artifact is None
    assert listed[KEY].problem
    assert listed[KEY].reference is None
    assert listed[KEY].size >= 0
    assert not listed[KEY].in_use
    assert listed[sound.key] == sound
    errors = {entry.key: error for entry, error in cache.verify()}
    assert isinstance(errors[KEY], ArtifactError)
    assert errors[sound.key] is None
    assert [(removed.path, removed.reason) for removed in cache.prune()] == [(cache.path / KEY, "damaged")]
    assert cache.entries() == (sound,)


def test_verify_reads_every_byte(cache: CompileCache) -> None:
    sound, other = publish(cache), publish(cache, graph="other")
    damage(other)
    assert cache.find(other.key) == other  # the description is sound, and nothing else was looked at
    errors = {entry.key: error for entry, error in cache.verify()}
    assert errors[sound.key] is None
    assert isinstance(errors[other.key], ArtifactError)
    assert cache.find(other.key) is not None  # verify changes nothing


def test_an_entry_that_takes_anothers_place_while_it_is_read_is_sound(
    cache: CompileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(cache)

    def read_late(path: Path) -> Artifact:
        monkeypatch.setattr("npu_persist.cache.entry.read_artifact", read_artifact)
        cache.prune(max_size=0)
        with pytest.raises(FileNotFoundError):
            read_artifact(path)
        publish(cache, seconds=7.0)
        raise FileNotFoundError(path)

    monkeypatch.setattr("npu_persist.cache.entry.read_artifact", read_late)
    found = cache.find(KEY)
    assert found is not None
    assert found.artifact is not None
    assert found.artifact.seconds == 7.0


def test_what_was_removed_meanwhile_is_no_failure(cache: CompileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(cache)
    check = room.CacheEntry.verify

    def check_late(entry: CacheEntry) -> None:
        cache.prune(max_size=0)
        check(entry)

    monkeypatch.setattr(room.CacheEntry, "verify", check_late)
    assert list(cache.verify()) == []


def test_a_damaged_entry_is_quarantined_for_its_finder(cache: CompileCache, caplog: pytest.LogCaptureFixture) -> None:
    entry = publish(cache)
    cache.quarantine(entry, "its blob is not what it was")
    assert cache.find(KEY) is None
    assert "its blob is not what it was" in caplog.text
    cache.quarantine(entry, "again")
    assert "again" not in caplog.text


def test_an_entry_that_took_the_place_of_a_damaged_one_is_not_quarantine(cache: CompileCache) -> None:
    damaged = publish(cache)
    cache.quarantine(damaged, "damaged")
    sound = publish(cache)
    cache.quarantine(damaged, "found by another process before")
    assert cache.find(KEY) == sound
    cache.quarantine(KEY, "whatever it is")
    assert cache.find(KEY) is None


def test_an_entry_that_comes_while_one_is_quarantined_is_put_back(
    cache: CompileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = publish(cache)
    rename = os.rename
    calls: list[CacheEntry] = []

    def rename_late(source: str, target: str, **folders: int | None) -> None:
        if not calls:
            rename(damaged.path, cache.home / "gone")
            calls.append(damaged)
            calls.append(publish(cache))
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", rename_late)
    cache.quarantine(damaged, "damaged")
    assert cache.find(KEY) == calls[1]
    assert quarantined(cache) == []


def test_marking_an_entry_as_used_does_not_make_it_another_one(cache: CompileCache) -> None:
    entry = publish(cache)
    (entry.path / "used").unlink()
    with held(entry):
        assert (entry.path / "used").exists()
    cache.quarantine(entry, "damaged")
    assert cache.find(KEY) is None


def test_names_that_are_none_of_ours_are_told_and_left_alone(cache: CompileCache, tmp_path: Path) -> None:
    entry = publish(cache)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / KEY).write_text("precious")
    (cache.path / "notes.txt").write_text("mine")
    (cache.path / f"{KEY}.bak").mkdir()
    (cache.path / "link").symlink_to(precious, target_is_directory=True)
    (cache.path / "quarantine" / "mine").mkdir()
    strangers = {"notes.txt", f"{KEY}.bak", "link"}
    assert {path.name for path in cache.unknown_files()} == strangers
    assert cache.entries() == (entry,)
    cache.prune(max_size=0)
    assert names(cache) == strangers
    assert [path.name for path in quarantined(cache)] == ["mine"]
    assert (precious / KEY).exists()


@pytest.mark.parametrize("name", ["quarantine", "staging"])
def test_nothing_is_removed_through_a_link_in_place_of_our_own_folders(
    cache: CompileCache, tmp_path: Path, name: str
) -> None:
    precious = tmp_path / "precious"
    (precious / f"{KEY}-0123456789abcdef").mkdir(parents=True)
    (precious / "0123456789abcdef").mkdir()
    cache.path.mkdir(parents=True)
    (cache.path / name).symlink_to(precious, target_is_directory=True)
    cache.prune(max_size=0)
    assert len(list(precious.iterdir())) == 2


def test_the_cache_may_be_elsewhere_by_a_link(cache: CompileCache, tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    cache.home.mkdir()
    cache.path.symlink_to(tmp_path / "large disk", target_is_directory=True)
    entry = publish(cache)
    assert (tmp_path / "large disk" / KEY / BLOB_FILE).exists()
    assert cache.find(KEY) == entry
    assert len(cache.prune(max_size=0)) == 1


def test_finding_imports_neither_openvino_nor_numpy(cache: CompileCache) -> None:
    entry = publish(cache)
    code = """if True:
        import sys
        from pathlib import Path
        from npu_persist.cache import CompileCache

        with CompileCache(Path(sys.argv[1])).find(sys.argv[2]).mark_in_use() as lock:
            print(*sorted({"openvino", "numpy", "torch"} & sys.modules.keys()))
    """
    assert run_python("-c", code, str(cache.home), entry.key).stdout.strip() == ""


def test_finding_reads_one_file(cache: CompileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        publish(cache, graph=f"graph {number}")
    entry = publish(cache)
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail(f"{path} was listed"))
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} was listed"))
    assert cache.find(KEY) == entry


def test_errors_of_the_file_system_are_ours(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("no folder")
    cache = CompileCache(tmp_path / "home")
    calls: list[Callable[[], object]] = [
        lambda: cache.find(KEY),
        cache.entries,
        cache.unknown_files,
        lambda: list(cache.verify()),
        lambda: cache.stage().__enter__(),
    ]
    for call in calls[-1:] if os.name == "nt" else calls:  # where nothing is in a file, as in a folder that is missing
        with pytest.raises(StoreError, match="Check the folder"):
            call()
    with cache.claim(KEY, timeout=60) as claimed:
        assert not claimed


def test_an_artifact_is_what_its_entry_says(cache: CompileCache) -> None:
    entry = publish(cache)
    assert entry.artifact == Artifact.from_json((entry.path / ARTIFACT_FILE).read_bytes())
