"""Publishing: a filled staging directory becomes the next version of its name.

The version appears by one rename, when every byte is on the disk; if a later step fails, it is renamed back. Two
publishers cannot take the same number, since a rename onto an existing version fails. A file that an earlier version
has, intact, becomes a hard link to it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.manifest import MANIFEST_FILE, MANIFEST_SIGNATURE_FILE, ORIGIN_FILE
from npu_persist.errors import FileIntegrityError, NpuPersistError
from npu_persist.files.digest import digest_file
from npu_persist.files.filesystem import (
    fsync_directory,
    fsync_file,
    is_directory,
    make_read_only,
    remove_file,
    rename_new,
)
from npu_persist.store.folder import check_case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from npu_persist.bundle.manifest import FileEntry
    from npu_persist.store.folder import NameFolder

_BESIDE = (MANIFEST_SIGNATURE_FILE, ORIGIN_FILE)
"""Files that a pulled bundle may have and the manifest does not name."""


def prepare(bundle: Bundle, folder: NameFolder) -> None:
    """Check that a staged bundle is complete, link its files to earlier versions, flush and protect them."""
    _check_complete(bundle)
    _link_to_earlier(bundle, folder)
    bundle.ensure_bin()
    # The manifest last: after any crash a folder with a manifest has its files, too.
    paths = [*(bundle.path / relative for relative in bundle.manifest.files), *bundle.derived_files()]
    beside = [path for name in _BESIDE if (path := bundle.path / name).exists()]
    for path in [*paths, *beside, bundle.path / MANIFEST_FILE]:
        fsync_file(path)
        make_read_only(path)
    folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(bundle.path)}
    for path in sorted(folders, reverse=True):  # what is inside a folder before the folder
        fsync_directory(path)


def rename_to_next_version(staging: Path, folder: NameFolder, finish: Callable[[int], None]) -> int:
    """Rename a prepared staging directory to the next version, and return its number.

    `finish` is called with the number when the version is in place; if it raises, the version is renamed back.
    """
    number = folder.next_number()
    while True:
        folder.path.mkdir(parents=True, exist_ok=True)
        # Checked when our folder is there: of two that publish `unet` and `UNET` at once, one sees the other's.
        check_case(folder.path.parent, folder.name, "bundle name")
        try:
            rename_new(staging, folder.version_path(number))
        except FileExistsError:  # another publisher was faster
            number += 1
            continue
        except FileNotFoundError:
            if not is_directory(staging):
                raise
            continue  # a prune removed the name's folder while it was empty
        try:
            if number > folder.highest_removed():
                fsync_directory(folder.path)
                fsync_directory(folder.path.parent)
                finish(number)
                return number
        except BaseException:
            rename_new(folder.version_path(number), staging)
            raise
        # Others published and removed this number meanwhile: it is not given again.
        rename_new(folder.version_path(number), staging)
        number = folder.next_number()


def _check_complete(bundle: Bundle) -> None:
    for relative in bundle.manifest.files:
        bundle.file(relative)
    expected = {bundle.path / relative for relative in (*bundle.manifest.files, *_BESIDE, MANIFEST_FILE)}
    expected.update(bundle.derived_files())
    for path in _walk(bundle.path):
        if path not in expected:
            raise FileIntegrityError(
                f"{path} is not in the manifest. Remove it, or add it to the manifest's files",
                path=str(path),
                expected="no file",
                got="a file",
            )


def _walk(directory: Path) -> Iterator[Path]:
    for name in sorted(os.listdir(directory)):  # noqa: PTH208
        path = directory / name
        if is_directory(path):
            yield from _walk(path)
        else:
            yield path


def _link_to_earlier(bundle: Bundle, folder: NameFolder) -> None:
    wanted = dict(bundle.manifest.files)
    for number in reversed(folder.versions()):
        if not wanted:
            return
        try:
            earlier = Bundle.open(folder.version_path(number))
        except NpuPersistError:  # damaged, or removed meanwhile
            continue
        has = {entry.digest: relative for relative, entry in earlier.manifest.files.items()}
        for relative, entry in tuple(wanted.items()):
            if entry.digest in has and _replace_by_link(earlier, has[entry.digest], bundle.path / relative, entry):
                del wanted[relative]


def _replace_by_link(earlier: Bundle, relative: str, staged: Path, entry: FileEntry) -> bool:
    try:
        source = earlier.file(relative)
        if staged.samefile(source):  # the writer linked it already
            return True
        if source.stat().st_size != entry.size or digest_file(source) != entry.digest:
            return False
    except (OSError, NpuPersistError):  # damaged
        return False
    linked = staged.with_name(f"{staged.name}.linked")
    try:
        os.link(source, linked)
        os.replace(linked, staged)  # noqa: PTH105
    except OSError:  # no links here, or no more of them: the staged file costs space only
        remove_file(linked)
        return False
    remove_file(linked)  # POSIX leaves it if the staged file was this link already
    return True
