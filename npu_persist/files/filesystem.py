"""Steps on a file system that work alike on Linux and Windows: portable names, atomic writes, renames, links, removal.

They raise the operating system's OSError; `store_errors` turns it into a `StoreError` that names the action.
No symbolic link inside a tree is followed.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager, suppress
from errno import EACCES, EDQUOT, EEXIST, ENOSPC, ENOTDIR, ENOTEMPTY, EPERM, EROFS
from typing import TYPE_CHECKING

from npu_persist.errors import NpuPersistError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DISK_FULL = frozenset({ENOSPC, EDQUOT})
"""Error numbers of a full disk or an exhausted quota."""

MAX_COMPONENT_LENGTH = 100
"""Longest file or folder name, in characters."""

MAX_PATH_LENGTH = 200
"""Longest relative path inside a bundle, in characters: Windows allows 259 for the whole path."""

RESERVED_NAMES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{device}{digit}" for device in ("com", "lpt") for digit in range(10)}
)
"""Names that Windows gives to devices in every folder, with any extension."""

_FOREIGN_CHARACTER = re.compile(r"[^A-Za-z0-9._+-]", re.ASCII)
_WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def store_errors(doing: str, *, only: frozenset[int] | None = None) -> Iterator[None]:
    """Turn an OSError into a `StoreError`: "could not {doing}", why, and what to do.

    With `only`, other error numbers are left as they are.
    """
    try:
        yield
    except NpuPersistError:
        raise
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise StoreError(
            f"could not {doing}: {error.strerror or error}{where}. {_advice(error.errno)}", errno=error.errno
        ) from error


def component_problem(name: str) -> str | None:
    """Say why `name` cannot be the name of a file or folder on every platform; None if it can.

    >>> component_problem("unet-1.5") is None
    True
    >>> component_problem("aux.xml")
    'is a name that Windows reserves for a device'
    """
    if not name:
        return "is empty"
    if len(name) > MAX_COMPONENT_LENGTH:
        return f"is {len(name)} characters long, more than {MAX_COMPONENT_LENGTH}"
    if foreign := _FOREIGN_CHARACTER.search(name):
        return f"contains {foreign[0]!r}"
    if not (name[0].isalnum() or name[0] == "_"):
        return f"starts with {name[0]!r}"
    if name.endswith("."):
        return "ends with '.', which Windows drops"
    if name.split(".", maxsplit=1)[0].lower() in RESERVED_NAMES:
        return "is a name that Windows reserves for a device"
    return None


def path_problem(path: str) -> str | None:
    """Say why `path` is no relative POSIX path that stays in its folder on every platform; None if it is one.

    >>> path_problem("compiled/npu-4000/model.blob") is None
    True
    >>> path_problem("../model.xml")
    "component '..' starts with '.'"
    """
    if len(path) > MAX_PATH_LENGTH:
        return f"is {len(path)} characters long, more than {MAX_PATH_LENGTH}"
    for component in path.split("/"):
        if problem := component_problem(component):
            return f"component {component!r} {problem}"
    return None


def is_directory(path: Path) -> bool:
    """Tell whether `path` is a directory itself, not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and fsync it; an existing one is a FileExistsError."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes, *, temporary: Path) -> None:
    """Write a file so that readers see the old content or the new, also after a crash. Its folder is made if missing.

    It is written to `temporary` first: a path that does not exist, on the same file system.
    """
    write_file(temporary, data)
    while True:
        path.parent.mkdir(exist_ok=True)
        try:
            os.replace(temporary, path)  # noqa: PTH105 (the os functions are the seams that the fault tests use)
            break
        except FileNotFoundError:  # another process removed the empty folder as a leftover
            if not os.path.lexists(temporary):
                raise
    with suppress(OSError):  # the file is replaced; that a power failure may undo it is no failure
        fsync_directory(path.parent)


def fsync_file(path: Path) -> None:
    """Wait until a file's content is on the disk. On Windows the file must be writable."""
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Wait until a directory's entries are on the disk. Windows has no such call, and journals them itself."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_new(source: Path, target: Path) -> None:
    """Rename a directory that is not empty; an existing `target` is a FileExistsError.

    POSIX would replace an empty directory at `target`: never make one there.
    """
    try:
        os.rename(source, target)  # noqa: PTH104
    except OSError as error:
        if error.errno in {EEXIST, ENOTEMPTY} or (error.errno == ENOTDIR and os.path.lexists(target)):
            raise FileExistsError(EEXIST, "already exists", str(target)) from error
        raise


def link_or_copy(source: Path, target: Path) -> bool:
    """Hard-link a file to a new path, or copy and fsync it where the file system refuses; tell whether it is a link."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # another device, no links here, or too many (NTFS: 1023 a file)
        copy_file(source, target)
        return False
    return True


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content to a new file and fsync it; an existing one is a FileExistsError."""
    import shutil

    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, 8 * 1024 * 1024)
        writer.flush()
        os.fsync(writer.fileno())


def make_read_only(path: Path) -> None:
    """Remove everyone's write permission from a file."""
    os.chmod(path, stat.S_IMODE(path.lstat().st_mode) & ~_WRITE_BITS)  # noqa: PTH101


def remove_file(path: Path) -> None:
    """Remove a file, read-only or not; a missing one is fine."""
    with suppress(FileNotFoundError):
        try:
            os.unlink(path)  # noqa: PTH108
        except PermissionError:
            if os.name != "nt":
                raise
            # Windows deletes no read-only file. Other hard links lose the flag too; verification still sees changes.
            os.chmod(path, stat.S_IWRITE)  # noqa: PTH101
            os.unlink(path)  # noqa: PTH108


def remove_tree(path: Path) -> None:
    """Remove a directory tree, read-only files included; a missing one, or another process removing it, is fine."""
    with suppress(FileNotFoundError):
        with os.scandir(path) as entries:
            inside = list(entries)
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                remove_tree(path / entry.name)
            else:
                remove_file(path / entry.name)
        os.rmdir(path)  # noqa: PTH106


def remove(path: Path) -> None:
    """Remove whatever is at `path`: a directory tree, a file or a link."""
    if is_directory(path):
        remove_tree(path)
    else:
        remove_file(path)


def _advice(number: int | None) -> str:
    if number in DISK_FULL:
        return "Free some space: `npu-persist remove` removes a version, `npu-persist prune` what interrupted runs left"
    if number in {EACCES, EPERM, EROFS}:
        return "Check the permissions and that no other program has it open, or set NPU_PERSIST_HOME to another store"
    return "Check the folder and try again"
