from __future__ import annotations

import doctest
import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from npu_persist.files import filesystem as files


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
    files.replace_file(target, b"3\n", temporary=tmp_path / "new")
    files.replace_file(target, b"4\n", temporary=tmp_path / "new")
    assert target.read_bytes() == b"4\n"
    assert [path.name for path in tmp_path.iterdir()] == ["alias"]


def test_replace_file_makes_the_folder_even_if_another_process_takes_it_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "aliases" / "prod"
    replace = os.replace

    def late(source: Path, destination: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        target.parent.rmdir()
        replace(source, destination)

    monkeypatch.setattr(os, "replace", late)
    files.replace_file(target, b"3\n", temporary=tmp_path / "new")
    assert target.read_bytes() == b"3\n"


def test_replace_file_says_so_when_what_it_wrote_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "write_file", lambda *_: None)
    with pytest.raises(FileNotFoundError):
        files.replace_file(tmp_path / "prod", b"3\n", temporary=tmp_path / "new")


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
            files.rename_new(tmp_path / "source", tmp_path / target)
    files.rename_new(tmp_path / "source", tmp_path / "free")
    assert (tmp_path / "free" / "manifest.json").read_text() == "source"
    assert (tmp_path / "taken" / "manifest.json").read_text() == "taken"
    with pytest.raises(FileNotFoundError):
        files.rename_new(tmp_path / "source", tmp_path / "other")


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


def test_is_directory_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert files.is_directory(tmp_path)
    assert not any(files.is_directory(tmp_path / name) for name in ("link", "file", "missing", "file/below"))


def test_nothing_is_flushed_as_a_directory_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "os", SimpleNamespace(name="nt"))
    files.fsync_directory(Path("no such directory"))
