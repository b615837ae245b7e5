"""Publishing: a filled staging directory becomes the next version of its name.

The version appears by one rename, when every byte is on the disk; if a later step fails, it is renamed back, unless its
alias points to it already. Two publishers cannot take the same number, since a rename onto an existing version fails.
A file that an earlier version has, intact, becomes a hard link to it; one that has a name outside of the store as well
becomes a copy.
"""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING

from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.manifest import MANIFEST_FILE, MANIFEST_SIGNATURE_FILE, ORIGIN_FILE, PARTIAL_SUFFIX
from npu_persist.bundle.origin import read_origin
from npu_persist.errors import FileIntegrityError, NpuPersistError
from npu_persist.files.digest import digest_file
from npu_persist.files.filesystem import (
    copy_file,
    fsync_directory,
    fsync_file,
    is_directory,
    make_folder,
    make_read_only,
    remove_file,
    rename_new,
    replace,
)
from npu_persist.store.folder import check_case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from npu_persist.bundle.manifest import FileEntry
    from npu_persist.store.folder import NameFolder

log = logging.getLogger(__name__)

_BESIDE = (MANIFEST_SIGNATURE_FILE, ORIGIN_FILE)
"""Files that a pulled bundle may have and the manifest does not name."""


def find_same(bundle: Bundle, folder: NameFolder) -> Bundle | None:
    """Return the newest version if it was made here, is intact, and has the content of a staged bundle.

    An earlier one is none: the name alone means the newest.
    """
    from npu_persist.bundle.field_changes import has_same_content  # which no load needs

    number = max(folder.versions(), default=0)
    if not number:
        return None
    try:
        newest = Bundle.open(folder.version_path(number), version=number)
        if not has_same_content(newest.manifest, bundle.manifest) or read_origin(newest.path) is not None:
            return None
        newest.verify()
    except NpuPersistError as error:  # damaged, or removed meanwhile
        log.info("%s:%d is not used again: %s", folder.name, number, error)
        return None
    return newest


def prepare(bundle: Bundle, folder: NameFolder) -> None:
    """Check that a staged bundle is complete, link its files to earlier versions, flush and protect them."""
    _check_complete(bundle)
    new = _link_to_earlier(bundle, folder)
    _unlink_from_outside(bundle, new, folder.home)
    bundle.ensure_bin()
    # What earlier versions have is on the disk; Windows does not flush a file that a loaded model maps.
    flushed = {bundle.path / relative for relative in bundle.manifest.files if relative not in new}
    if flushed:
        flushed.update(bundle.derived_files())
    # The manifest last: after any crash a folder with a manifest has its files, too.
    paths = [*(bundle.path / relative for relative in bundle.manifest.files), *bundle.derived_files()]
    beside = [path for name in _BESIDE if (path := bundle.path / name).exists()]
    for path in [*paths, *beside, bundle.path / MANIFEST_FILE]:
        if os.name != "nt" or path not in flushed:
            fsync_file(path)
        make_read_only(path)
    folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(bundle.path)}
    for path in sorted(folders, reverse=True):  # what is inside a folder before the folder
        fsync_directory(path)


def rename_to_next_version(
    staging: Path, folder: NameFolder, finish: Callable[[int], None], is_finished: Callable[[int], bool]
) -> int:
    """Rename a prepared staging directory to the next version, and return its number.

    `finish` is called with the number when the version is in place. Whatever is raised, the version stays if
    `is_finished` of its number, and is renamed back if not.
    """
    number = folder.next_number()
    while True:
        folder.refuse_links()
        make_folder(folder.path, parents=True)
        # Checked when our folder is there: of two that publish `unet` and `UNET` at once, one sees the other's.
        check_case(folder.path.parent, folder.name, "bundle name")
        try:
            rename_new(staging, folder.version_path(number), below=folder.home)
            if number > folder.highest_removed():
                fsync_directory(folder.path)
                fsync_directory(folder.path.parent)
                finish(number)
                return number
            # Others published and removed this number meanwhile: it is not given again.
            rename_new(folder.version_path(number), staging, below=folder.home)
            number = folder.next_number()
        except BaseException as error:
            # Judged by what is on the disk: an interrupt may come when a call is done, before the line after it.
            if is_directory(staging):
                if isinstance(error, FileExistsError):  # another publisher was faster
                    number += 1
                    continue
                if isinstance(error, FileNotFoundError):  # a prune removed the name's folder while it was empty
                    continue
                raise
            if not is_finished(number):
                rename_new(folder.version_path(number), staging, below=folder.home)
                raise
            if not isinstance(error, Exception):
                raise
            log.warning("%s:%d was published, but a later step failed: %s", folder.name, number, error)
            return number


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
        if path.name in _BESIDE and not stat.S_ISREG(path.lstat().st_mode):
            raise FileIntegrityError(
                f"{path}: expected a regular file, got something else. Remove it, or put the file itself there",
                path=str(path),
                expected="a regular file",
                got="something else",
            )


def _walk(directory: Path) -> Iterator[Path]:
    for name in sorted(os.listdir(directory)):  # noqa: PTH208
        path = directory / name
        if is_directory(path):
            yield from _walk(path)
        else:
            yield path


def _link_to_earlier(bundle: Bundle, folder: NameFolder) -> list[str]:
    """Link files to those of earlier versions; return the others."""
    wanted = dict(bundle.manifest.files)
    for number in reversed(folder.versions()):
        if not wanted:
            break
        try:
            earlier = Bundle.open(folder.version_path(number))
        except NpuPersistError:  # damaged, or removed meanwhile
            continue
        has = {entry.digest: relative for relative, entry in earlier.manifest.files.items()}
        for relative, entry in tuple(wanted.items()):
            if entry.digest in has and _replace_by_link(
                earlier, has[entry.digest], bundle.path / relative, entry, folder.home
            ):
                del wanted[relative]
    return list(wanted)


def _unlink_from_outside(bundle: Bundle, relatives: list[str], home: Path) -> None:
    """Copy files that also have a name outside: writing to that one would change the version."""
    names = {*(bundle.path / relative for relative in bundle.manifest.files), *bundle.derived_files()}
    for path in (bundle.path / relative for relative in relatives):
        found = path.lstat()
        if found.st_nlink > sum(os.path.lexists(name) and os.path.samestat(found, name.lstat()) for name in names):
            copy = path.with_name(f"{path.name}{PARTIAL_SUFFIX}")
            copy_file(path, copy)
            replace(copy, path, below=home)


def _replace_by_link(earlier: Bundle, relative: str, staged: Path, entry: FileEntry, home: Path) -> bool:
    try:
        source = earlier.file(relative)
        if staged.samefile(source):  # the writer linked it already
            return True
        if source.stat().st_size != entry.size or digest_file(source) != entry.digest:
            return False
    except (OSError, NpuPersistError):  # damaged
        return False
    linked = staged.with_name(f"{staged.name}{PARTIAL_SUFFIX}")
    try:
        os.link(source, linked)
        replace(linked, staged, below=home)
    except OSError:  # no links here, or no more of them: the staged file costs space only
        remove_file(linked, below=home)
        return False
    remove_file(linked, below=home)  # POSIX leaves it if the staged file was this link already
    return True
