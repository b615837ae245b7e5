"""Steps on a file system that work alike on Linux and Windows: portable names, atomic writes, renames, links, removal.

They raise the operating system's OSError; `store_errors` turns it into a `StoreError` that names the action.

`below` is the folder above which links are the user's own, such as the store's home. Below it none is followed: what
would write or move through a link refuses it, and what removes opens folder by folder where the system can do that, so
that a folder that is exchanged for a link meanwhile is refused as well. A Windows junction is a link here.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from contextlib import contextmanager, suppress
from errno import (
    EACCES,
    EBADF,
    EBUSY,
    EDQUOT,
    EEXIST,
    EINVAL,
    EIO,
    ELOOP,
    EMFILE,
    ENFILE,
    ENOSPC,
    ENOSYS,
    ENOTDIR,
    ENOTEMPTY,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    EXDEV,
)
from typing import TYPE_CHECKING, TypeVar

from npu_persist.errors import NpuPersistError, StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

Item = TypeVar("Item")
Result = TypeVar("Result")

DISK_FULL = frozenset({ENOSPC, EDQUOT})
"""Error numbers of a full disk or an exhausted quota."""

NO_DIRECTORY_SYNC = frozenset({EBADF, EINVAL, EIO, ENOSYS, EOPNOTSUPP})
"""Error numbers of a file system that cannot flush a directory; some network file systems and FUSE answer with EIO."""

MAX_COMPONENT_LENGTH = 100
"""Longest file or folder name, in characters."""

MAX_PATH_LENGTH = 200
"""Longest relative path inside a bundle, in characters: it leaves room for a store's path in Windows' 259."""

MAX_WINDOWS_PATH = 259
"""Longest path of a file, in characters, that Windows takes where long paths are not enabled."""

RESERVED_NAMES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{device}{digit}" for device in ("com", "lpt") for digit in range(10)}
)
"""Names that Windows gives to devices in every folder, with any extension."""

MAX_AHEAD = 24 * 3600.0
"""Seconds by which a file's time may be ahead of this machine's clock, which may not be the one that set it."""

FOLDER_MODE, FILE_MODE = 0o755, 0o644
"""Modes of what is made in a store, before the umask: nobody but its owner may write to it."""

PRIVATE_FOLDER_MODE = FOLDER_MODE if os.name == "nt" else 0o700
"""Mode of a folder that others do not get into. Windows has none for which what is moved out of it is public again."""

FEW_ITEMS, THREADS = 16, 8
"""Fewer items than this are worked on in the caller's thread, others in so many threads."""

_FOREIGN_CHARACTER = re.compile(r"[^A-Za-z0-9._+-]", re.ASCII)
_IN_USE = frozenset({EBUSY, EEXIST, ENOTEMPTY})
_NO_PERMISSIONS = frozenset({EINVAL, ENOSYS, EOPNOTSUPP, EPERM})
_FICLONE = 0x40049409
"""The request in linux/fs.h, which the module fcntl names since Python 3.12."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0) | _NO_LINK
_PASSED = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
"""Flags for a folder on the way to another: it need not be readable."""

HAS_DESCRIPTORS = {os.open, os.rename, os.rmdir, os.unlink} <= os.supports_dir_fd and os.scandir in os.supports_fd
"""Whether the system has calls that take a folder's descriptor, which no exchange of that folder can deceive."""

_PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds between attempts at what another program of Windows may be in the way of."""

_JUNCTION = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)
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
            f"could not {doing}: {error.strerror or error}{where}. {_advice(error)}", errno=error.errno
        ) from error


def check_path(path: str | os.PathLike[str], what: str) -> None:
    """Check that a file could have this path, which a user gave; UsageError if none can, on this system.

    Linux has no name for half of a surrogate pair, and no system one with a zero in it.
    """
    text = os.fspath(path)
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise UsageError(f"{what}: expected a path; got {text!r}, which no file can have: {error.reason}") from error
    if "\0" in text:
        raise UsageError(f"{what}: expected a path; got {text!r}, which no file can have: it has a zero in it")


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


def to_datetime(seconds: float) -> datetime:
    """Return a file's time in UTC; the nearest from 1970 to 9999 for one that nobody's calendar has.

    >>> to_datetime(-1e30).year, to_datetime(1e30).year
    (1970, 9999)
    """
    from datetime import datetime, timedelta, timezone

    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)  # `fromtimestamp` ends with the year 3000 on Windows
    last = datetime.max.replace(tzinfo=timezone.utc) - epoch - timedelta(days=1)  # a day less, for other time zones
    return epoch + timedelta(seconds=min(max(seconds, 0.0), last.total_seconds()))


def is_older(seconds: float, age: float) -> bool:
    """Tell whether a file's time is more than `age` seconds ago, or further ahead than clocks are apart.

    Who makes a file chooses its time: one in the future must not keep it for ever.
    """
    return not -MAX_AHEAD <= time.time() - seconds <= age


def is_directory(path: Path) -> bool:
    """Tell whether `path` is a directory itself, not a link to one."""
    try:
        found = path.lstat()
        return stat.S_ISDIR(found.st_mode) and not _is_link(found)
    except (FileNotFoundError, NotADirectoryError):
        return False


def list_directory(path: Path) -> list[str]:
    """Return the names in a directory, sorted; none if it is missing, or no directory itself."""
    try:
        return sorted(os.listdir(path)) if is_directory(path) else []  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
        return []


def is_obstructed(path: Path) -> bool:
    """Tell whether something other than a directory is at `path`: a file, or a link to whatever."""
    try:
        found = path.lstat()
        return not stat.S_ISDIR(found.st_mode) or _is_link(found)
    except (FileNotFoundError, NotADirectoryError):
        return False


def refuse_links(folder: Path, *, below: Path) -> None:
    """Raise a StoreError with ELOOP if `folder`, or one on the way from `below` to it, is a link; it may be missing."""
    path = below
    for name in folder.relative_to(below).parts:
        path /= name
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        if _is_link(found):
            raise StoreError(
                f"{path}: expected a folder, got a link. Nothing is written, moved or removed through it. Remove the "
                "link, or move the folder that it leads to here",
                errno=ELOOP,
            )


def _is_link(found: os.stat_result) -> bool:
    return stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", 0) == _JUNCTION


def make_folder(path: Path, *, parents: bool = False, mode: int = FOLDER_MODE) -> None:
    """Make a folder, unless there is one, that only its owner may write to, whatever the umask allows."""
    try:
        os.mkdir(path, mode)  # noqa: PTH102
    except FileNotFoundError:
        if not parents or path.parent == path:
            raise
        make_folder(path.parent, parents=True)
        make_folder(path, parents=True, mode=mode)
    except OSError:  # it is there; or the file system is read-only, and it may be there all the same
        if not path.is_dir():
            raise


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and fsync it; an existing one is a FileExistsError."""
    with open(path, "xb", opener=_open_own) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _open_own(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def replace_file(path: Path, data: bytes, *, temporary: Path, below: Path) -> None:
    """Write a file so that readers see the old content or the new, also after a crash. Its folder is made if missing.

    It is written to `temporary` first: a path that does not exist, on the same file system.
    """
    write_file(temporary, data)
    while True:
        refuse_links(path.parent, below=below)
        make_folder(path.parent)
        try:
            replace(temporary, path, below=below)
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
    """Wait until a directory's entries are on the disk, where the file system can do that.

    Windows has no such call, and journals them itself.
    """
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # files are flushed all the same, and are compared with their digests
        if error.errno not in NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path, *, below: Path) -> None:
    """Rename whatever is at `source`."""
    with _opened_parent(source, below) as (name, folder), _opened_parent(target, below) as (new_name, new_folder):
        _patiently(lambda: os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder))


def replace(source: Path, target: Path, *, below: Path) -> None:
    """Rename a file, also over an existing one."""
    with _opened_parent(source, below) as (name, folder), _opened_parent(target, below) as (new_name, new_folder):
        if os.name == "nt":  # where no read-only file can be replaced
            with suppress(OSError):
                os.chmod(new_name, stat.S_IWRITE)  # noqa: PTH101
        _patiently(lambda: os.replace(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder))


def _patiently(step: Callable[[], None]) -> None:
    """Do a step that a virus scanner or an indexer of Windows, which opens what is new, may refuse for a moment."""
    for pause in _PAUSES if os.name == "nt" else ():
        try:
            return step()
        except PermissionError:
            time.sleep(pause)
    return step()


def rename_new(source: Path, target: Path, *, below: Path) -> None:
    """Rename a directory that is not empty; an existing `target` is a FileExistsError.

    POSIX would replace an empty directory at `target`: never make one there.
    """
    try:
        rename(source, target, below=below)
    except OSError as error:
        if error.errno in {EEXIST, ENOTEMPTY} or (error.errno == ENOTDIR and os.path.lexists(target)):
            raise FileExistsError(EEXIST, "already exists", str(target)) from error
        raise


def move_directory(source: Path, target: Path, *, first: str, below: Path) -> bool:
    """Move a directory to a new path; tell whether it was renamed as a whole.

    An existing `target` is a FileExistsError.

    overlayfs cannot rename a directory of a lower layer (EXDEV), such as one of a container's image. There only the
    file `first`, without which readers ignore the directory, is moved to `target`, and the others are removed; what
    cannot be removed stays without it.
    """
    try:
        rename_new(source, target, below=below)
    except OSError as error:
        if error.errno != EXDEV or not is_directory(source):
            raise
    else:
        return True
    os.mkdir(target, FOLDER_MODE)  # noqa: PTH102
    try:
        with suppress(FileNotFoundError):
            rename(source / first, target / first, below=below)
    except BaseException:
        remove_empty(target, below=below)
        raise
    with suppress(OSError):
        remove_tree(source, below=below)
    return False


def link_or_copy(source: Path, target: Path) -> bool:
    """Hard-link a file to a new path, or copy and fsync it where the file system refuses; tell whether it is a link.

    Only inside of a store: whoever writes to one of the names changes what the other reads.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # another device, no links here, or too many (NTFS: 1023 a file)
        copy_file(source, target)
        return False
    return True


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content to a new file and fsync it; an existing one is a FileExistsError.

    Where the file system can (Btrfs, XFS, bcachefs, ZFS), both share their blocks until one of them is written to,
    which costs neither time nor space.
    """
    import shutil

    with source.open("rb") as reader, target.open("xb") as writer:
        if not _share_blocks(reader.fileno(), writer.fileno()):
            shutil.copyfileobj(reader, writer, 8 * 1024 * 1024)
            writer.flush()
        os.fsync(writer.fileno())


def _share_blocks(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:  # not this file system, or two of them
        return False
    return True


def make_read_only(path: Path) -> None:
    """Remove everyone's write permission from a file, where the file system has permissions and we may set them."""
    try:
        if os.name == "nt":
            os.chmod(path, stat.S_IREAD)  # noqa: PTH101
            return
        descriptor = os.open(path, os.O_RDONLY | _NO_LINK)
        try:
            os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~_WRITE_BITS)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_PERMISSIONS:
            raise


def remove_file(path: Path, *, below: Path | None = None) -> None:
    """Remove a file or a link, read-only or not; a missing one is fine. Without `below` its folder is trusted."""
    with suppress(FileNotFoundError), _opened_parent(path, below) as (name, folder):
        _unlink(name, folder)


def remove_tree(path: Path, *, below: Path | None = None) -> None:
    """Remove a directory tree, read-only files included; a missing one, or another process removing it, is fine."""
    with suppress(FileNotFoundError), _opened_parent(path, below) as (name, folder):
        _remove_tree(name, folder)


def remove(path: Path, *, below: Path | None = None) -> None:
    """Remove whatever is at `path`: a directory tree, a file or a link."""
    if is_directory(path):
        remove_tree(path, below=below)
    else:
        remove_file(path, below=below)


def remove_unused(path: Path, *, below: Path) -> bool:
    """Do what `remove` does, unless a program has something of it open; tell whether all of it is gone."""
    try:
        remove(path, below=below)
    except OSError as error:
        if not is_in_use(error):
            raise
        return False
    return True


def is_in_use(error: OSError) -> bool:
    """Tell whether something could not be removed or renamed because a program has it open.

    Windows refuses that. NFS and FUSE rename an open file that is removed, so that its folder is not empty.
    """
    return error.errno in _IN_USE or (os.name == "nt" and isinstance(error, PermissionError))


def remove_empty(path: Path, *, below: Path) -> bool:
    """Remove a directory if it is empty; tell whether it was removed."""
    with suppress(OSError), _opened_parent(path, below) as (name, folder):
        os.rmdir(name, dir_fd=folder)
        return True
    return False


@contextmanager
def _opened_parent(path: Path, below: Path | None) -> Iterator[tuple[str, int | None]]:
    """Open the folder that `path` is in, through no link below `below`; give the name in it, and its descriptor.

    Where the system has no such calls, or no descriptors left, give the path and None.
    """
    below = path.parent if below is None else below
    folder = None
    try:
        folder = _open_folder(path.parent, below) if HAS_DESCRIPTORS else None
        if folder is None:
            refuse_links(path.parent, below=below)
        yield (str(path), None) if folder is None else (path.name, folder)
    except NpuPersistError:
        raise
    except OSError as error:
        refuse_links(path.parent, below=below)  # it says more than ENOTDIR
        error.filename = str(path)
        raise
    finally:
        if folder is not None:
            os.close(folder)


def _open_folder(folder: Path, below: Path) -> int | None:
    opened = None
    try:
        opened = os.open(below, _PASSED)
        for part in folder.relative_to(below).parts:
            above, opened = opened, os.open(part, _PASSED | _NO_LINK, dir_fd=opened)
            os.close(above)
    except BaseException as error:
        if opened is not None:
            os.close(opened)
        if isinstance(error, OSError) and error.errno in {EMFILE, ENFILE}:
            return None  # what is undone must not need one
        raise
    return opened


def _remove_tree(name: str, folder: int | None) -> None:
    with suppress(FileNotFoundError):
        opened = None if folder is None else os.open(name, os.O_RDONLY | _FOLDER, dir_fd=folder)
        try:
            with os.scandir(name if opened is None else opened) as entries:
                inside = list(entries)
            for entry in inside:  # whose paths are names, if a descriptor was listed
                if entry.is_dir(follow_symlinks=False) and not _is_link_entry(entry):
                    _remove_tree(entry.path, opened)
                else:
                    _unlink(entry.path, opened)
        finally:
            if opened is not None:
                os.close(opened)
        os.rmdir(name, dir_fd=folder)


def _is_link_entry(entry: os.DirEntry[str]) -> bool:
    return os.name == "nt" and _is_link(entry.stat(follow_symlinks=False))


def _unlink(name: str, folder: int | None) -> None:
    with suppress(FileNotFoundError):
        try:
            os.unlink(name, dir_fd=folder)
        except PermissionError:
            if os.name != "nt":
                raise
            from npu_persist.files.windows import remove_read_only

            try:
                _patiently(lambda: remove_read_only(name))
            except PermissionError:  # in use, or a folder
                raise
            except OSError:  # Windows or a file system without this call; other hard links become writable, too
                os.chmod(name, stat.S_IWRITE)  # noqa: PTH101
                _patiently(lambda: os.unlink(name))  # noqa: PTH108


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield the result for each item, in order; many of them are worked on in threads.

    For removing many folders: on a volume that is mounted with `discard`, a thread waits for the disk at every one.
    """
    if len(items) < FEW_ITEMS:
        yield from map(work, items)
        return
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(THREADS)
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _advice(error: OSError) -> str:
    number, name = error.errno, os.fspath(error.filename or "")
    if os.name == "nt" and len(name) > MAX_WINDOWS_PATH and not name.startswith("\\\\?\\"):
        return (
            f"The path has {len(name)} characters; Windows takes {MAX_WINDOWS_PATH}, unless its long paths are enabled "
            "(LongPathsEnabled in the registry). Enable them, or set NPU_PERSIST_HOME to a folder with a shorter path"
        )
    if number in DISK_FULL:
        return "Free some space: `npu-persist remove` removes a version, `npu-persist prune` what interrupted runs left"
    if number in {EACCES, EPERM, EROFS}:
        return "Check the permissions and that no other program has it open, or set NPU_PERSIST_HOME to another store"
    return "Check the folder and try again"
