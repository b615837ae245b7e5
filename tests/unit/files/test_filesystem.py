from __future__ import annotations

import doctest
import errno
import os
import re
import stat
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from npu_persist.errors import StoreError, UsageError
from npu_persist.files import filesystem as files

if TYPE_CHECKING:
    from collections.abc import Callable


def _raise_no_link(*_: object) -> None:
    raise OSError(errno.EMLINK, "too many links")


def test_the_examples_run() -> None:
    assert doctest.testmod(files).failed == 0


@pytest.mark.parametrize("path", ["model.xml", "a/b/c.bin", "compiled/npu-4000/model.blob", "_x/0"])
def test_portable_paths_pass(path: str) -> None:
    assert files.path_problem(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "C:/x",
        "C:x",
        "a\\b",
        "nul",
        "a/CON.txt",
        "a./b",
        "a ",
        "a\0",
        "x/" * 150 + "x",
        "\u00e9",
        "\ud800",
        "~/x",
        ".git/config",
        "a:stream",
    ],
)
def test_paths_that_leave_the_folder_or_one_platform_are_refused(path: str) -> None:
    assert files.path_problem(path)


def test_replace_file_replaces_the_whole_content(tmp_path: Path) -> None:
    target = tmp_path / "alias"
    files.replace_file(target, b"3\n", temporary=tmp_path / "new", below=tmp_path)
    files.replace_file(target, b"4\n", temporary=tmp_path / "new", below=tmp_path)
    assert target.read_bytes() == b"4\n"
    assert [path.name for path in tmp_path.iterdir()] == ["alias"]


def test_a_read_only_file_is_replaced(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    files.make_read_only(old)
    files.replace(new, old, below=tmp_path)
    assert old.read_bytes() == b"new"


@pytest.mark.skipif(os.name != "nt", reason="elsewhere an open file can be renamed and removed")
def test_what_another_program_has_open_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "scanned"
    changes: list[Callable[[], object]] = [
        lambda: files.rename(path, tmp_path / "other", below=tmp_path),
        lambda: files.replace(path, tmp_path / "other", below=tmp_path),
        lambda: files.remove_file(path, below=tmp_path),
    ]
    for change in changes:
        path.write_bytes(b"x")
        scanner = path.open("rb")
        closing = threading.Timer(0.2, scanner.close)
        closing.start()
        change()
        closing.join()
        assert not path.exists()
        (tmp_path / "other").unlink(missing_ok=True)
    with path.open("wb"), pytest.raises(PermissionError):
        files.remove_file(path, below=tmp_path)


def test_replace_file_makes_the_folder_even_if_another_process_takes_it_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "aliases" / "prod"
    replace = os.replace

    def late(source: str, destination: str, **folders: int | None) -> None:
        monkeypatch.setattr(os, "replace", replace)
        target.parent.rmdir()
        replace(source, destination, **folders)

    monkeypatch.setattr(os, "replace", late)
    files.replace_file(target, b"3\n", temporary=tmp_path / "new", below=tmp_path)
    assert target.read_bytes() == b"3\n"


def test_replace_file_says_so_when_what_it_wrote_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "write_file", lambda *_: None)
    with pytest.raises(FileNotFoundError):
        files.replace_file(tmp_path / "prod", b"3\n", temporary=tmp_path / "new", below=tmp_path)


def test_write_file_replaces_nothing(tmp_path: Path) -> None:
    files.write_file(tmp_path / "file", b"old")
    with pytest.raises(FileExistsError):
        files.write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_rename_new_takes_a_free_name_only(tmp_path: Path) -> None:
    for name in ("source", "taken"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(name)
    (tmp_path / "plain").write_text("a file")
    for target in ("taken", "plain"):
        with pytest.raises(FileExistsError):
            files.rename_new(tmp_path / "source", tmp_path / target, below=tmp_path)
    files.rename_new(tmp_path / "source", tmp_path / "free", below=tmp_path)
    assert (tmp_path / "free" / "manifest.json").read_text() == "source"
    assert (tmp_path / "taken" / "manifest.json").read_text() == "taken"
    with pytest.raises(FileNotFoundError):
        files.rename_new(tmp_path / "source", tmp_path / "other", below=tmp_path)


def test_link_or_copy_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    assert files.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")
    with pytest.raises(FileExistsError):
        files.link_or_copy(tmp_path / "a", tmp_path / "b")


def test_link_or_copy_copies_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    monkeypatch.setattr(os, "link", _raise_no_link)
    assert not files.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"weights"
    assert not (tmp_path / "a").samefile(tmp_path / "b")
    with pytest.raises(FileExistsError):
        files.link_or_copy(tmp_path / "a", tmp_path / "b")


def test_make_read_only_takes_every_write_bit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o666)
    path.chmod(0o666)
    files.make_read_only(path)
    assert not stat.S_IMODE(path.stat().st_mode) & 0o222


def test_make_read_only_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch(0o644)
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic links"):
        files.make_read_only(tmp_path / "link")
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


@pytest.fixture(params=["descriptors", "paths"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With folders that are held open, and as on a system that has no such calls."""
    if request.param == "paths":
        monkeypatch.setattr(files, "HAS_DESCRIPTORS", False)
    elif not files.HAS_DESCRIPTORS:
        pytest.skip("the system has no such calls")


@pytest.mark.usefixtures("_both_ways")
def test_remove_tree_follows_no_link_and_takes_read_only_files(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").touch()
    tree = tmp_path / "tree"
    (tree / "deep" / "deeper").mkdir(parents=True)
    (tree / "deep" / "file").touch(0o444)
    (tree / "link").symlink_to(outside)
    (tree / "dangling").symlink_to(tmp_path / "nowhere")
    files.remove_tree(tree)
    files.remove_tree(tree)
    assert not tree.exists()
    assert (outside / "keep").exists()


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("name", ["link/folder", "folder/link", "folder/dangling"])
def test_what_is_behind_a_link_is_refused_and_the_link_named(tmp_path: Path, name: str) -> None:
    outside, below = tmp_path / "outside", tmp_path / "home"
    (outside / "folder" / "1").mkdir(parents=True)
    (outside / "1").mkdir()
    (below / "folder").mkdir(parents=True)
    (below / "new").write_text("new")
    (below / "link").symlink_to(outside)
    (below / "folder" / "link").symlink_to(outside)
    (below / "folder" / "dangling").symlink_to(tmp_path / "nowhere")
    behind = below / name / "1"
    before = sorted(tmp_path.rglob("*"))
    steps: list[Callable[[], object]] = [
        lambda: files.refuse_links(behind, below=below),
        lambda: files.rename(behind, below / "free", below=below),
        lambda: files.rename_new(below / "folder", behind.with_name("free"), below=below),
        lambda: files.replace(below / "new", behind, below=below),
        lambda: files.move_directory(behind, below / "free", first="manifest.json", below=below),
        lambda: files.remove_file(behind, below=below),
        lambda: files.remove_tree(behind, below=below),
        lambda: files.remove(behind, below=below),
        lambda: files.replace_file(behind, b"", temporary=below / "part", below=below),
    ]
    link = below / "link" if name.startswith("link") else below / name
    for step in steps:
        with pytest.raises(StoreError, match=f"{re.escape(str(link))}: expected a folder, got a link") as caught:
            step()
        assert caught.value.errno == errno.ELOOP
    assert not files.remove_empty(behind, below=below)
    (below / "part").unlink()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("_both_ways")
def test_the_folder_above_may_be_a_link_and_a_link_itself_is_removed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "folder" / "tree").mkdir(parents=True)
    (tmp_path / "disk" / "folder" / "link").symlink_to(tmp_path / "disk")
    below = tmp_path / "home"
    below.symlink_to(tmp_path / "disk")
    files.remove(below / "folder" / "link", below=below)
    files.rename_new(below / "folder" / "tree", below / "tree", below=below)
    assert files.remove_empty(below / "folder", below=below)
    files.remove(below / "tree", below=below)
    files.remove(below / "missing" / "tree", below=below)
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.usefixtures("_both_ways")
def test_an_error_names_the_whole_path(tmp_path: Path) -> None:
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises((IsADirectoryError, PermissionError)) as caught:  # of a folder, which no unlink removes
        files.remove_file(tmp_path / "folder" / "full", below=tmp_path)
    assert caught.value.filename == str(tmp_path / "folder" / "full")


def test_a_junction_is_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows says that it is a folder, and by a tag of which kind."""
    tagged = SimpleNamespace(st_mode=stat.S_IFDIR, st_reparse_tag=0xA0000003)
    monkeypatch.setattr(files, "_JUNCTION", 0xA0000003)
    monkeypatch.setattr(Path, "lstat", lambda _: tagged)
    assert not files.is_directory(tmp_path)
    assert files.is_obstructed(tmp_path)
    with pytest.raises(StoreError, match="expected a folder, got a link"):
        files.refuse_links(tmp_path / "junction", below=tmp_path)


def test_is_directory_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert files.is_directory(tmp_path)
    assert not any(files.is_directory(tmp_path / name) for name in ("link", "file", "missing", "file/below"))


def test_nothing_is_flushed_as_a_directory_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "os", SimpleNamespace(name="nt"))
    files.fsync_directory(Path("no such directory"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_folder_is_its_owners_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.make_folder(tmp_path / "a" / "b" / "c", parents=True, mode=0o700)
        files.write_file(tmp_path / "a" / "file", b"")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("a", "a/b", "a/b/c", "a/file")]
    assert modes == [0o755, 0o755, 0o700, 0o644]


def test_a_folder_may_be_there_but_no_file(tmp_path: Path) -> None:
    files.make_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        files.make_folder(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        files.make_folder(tmp_path / "a" / "b")
    with pytest.raises(NotADirectoryError if os.name != "nt" else OSError):
        files.make_folder(tmp_path / "file" / "b", parents=True)


@pytest.mark.parametrize(
    ("ago", "is_older"), [(0, False), (99, False), (101, True), (-3600, False), (-25 * 3600, True), (-1e12, True)]
)
def test_what_is_ahead_of_every_clock_is_old(ago: float, *, is_older: bool) -> None:
    assert files.is_older(time.time() - ago, 100) is is_older


def test_no_file_has_a_zero_in_its_path() -> None:
    files.check_path("é/x", "key")
    with pytest.raises(UsageError, match=r"key: expected a path; got 'a.*which no file can have"):
        files.check_path("a\0", "key")


@pytest.mark.parametrize(("length", "advice"), [(259, "Check the folder"), (260, "The path has 260 characters")])
def test_a_path_that_is_too_long_for_windows_is_said(monkeypatch: pytest.MonkeyPatch, length: int, advice: str) -> None:
    """Its error is that there is no such path."""
    monkeypatch.setattr(files, "os", SimpleNamespace(name="nt", fspath=os.fspath))
    with pytest.raises(StoreError, match=advice), files.store_errors("write"):
        raise FileNotFoundError(errno.ENOENT, "no such path", "C:\\" + "x" * (length - 3))


@pytest.mark.skipif(os.name != "nt", reason="elsewhere a mode belongs to the folder's entry, or removal needs none")
def test_a_read_only_file_is_removed_and_its_other_name_stays_read_only(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"shared")
    os.link(path, other)
    files.make_read_only(path)
    files.remove_file(path, below=tmp_path)
    assert not path.exists()
    assert not other.stat().st_mode & 0o222
