"""Calls of Windows that Python has no function for, or one that does not say why it failed.

https://learn.microsoft.com/windows/win32/api/fileapi/
"""

from __future__ import annotations

import ctypes
from typing import Any

_AT_ONCE, _EXCLUSIVE = 1, 2
"""LOCKFILE_FAIL_IMMEDIATELY, LOCKFILE_EXCLUSIVE_LOCK."""

_LOCK_VIOLATION = 33
"""The error of a byte that another one has locked."""

_DELETE, _SHARE_ALL, _OPEN_EXISTING, _OPEN_ITSELF = 0x10000, 7, 3, 0x200000
"""Of CreateFileW; the last is FILE_FLAG_OPEN_REPARSE_POINT: no link is followed. It opens no folder."""

_DISPOSITION, _REMOVE = 21, 0x13
"""FileDispositionInfoEx; FILE_DISPOSITION_DELETE, _POSIX_SEMANTICS and _IGNORE_READONLY_ATTRIBUTE."""


def lock_byte(descriptor: int) -> bool:
    """Lock a file's first byte without waiting; tell whether nobody else had it. OSError where there are no locks."""
    try:
        _call("LockFileEx", _handle_of(descriptor), _AT_ONCE | _EXCLUSIVE, 0, 1, 0, _overlapped())
    except OSError as error:
        if getattr(error, "winerror", None) != _LOCK_VIOLATION:
            raise
        return False
    return True


def unlock_byte(descriptor: int) -> None:
    """Unlock a file's first byte."""
    _call("UnlockFileEx", _handle_of(descriptor), 0, 1, 0, _overlapped())


def remove_read_only(path: str) -> None:
    """Remove a read-only file, whose other hard links stay read-only; OSError also on a system without this.

    Windows 10 has it since 1809, on NTFS.
    """
    name, open_file = ctypes.c_wchar_p(path), _function("CreateFileW", ctypes.c_void_p)
    handle = ctypes.c_void_p(open_file(name, _DELETE, _SHARE_ALL, None, _OPEN_EXISTING, _OPEN_ITSELF, None))
    if handle.value == ctypes.c_void_p(-1).value:
        raise _last_error()
    try:
        flags = ctypes.c_uint32(_REMOVE)
        _call("SetFileInformationByHandle", handle, _DISPOSITION, ctypes.byref(flags), ctypes.sizeof(flags))
    finally:
        _call("CloseHandle", handle)


def _overlapped() -> Any:
    return (ctypes.c_uint64 * 4)()  # an OVERLAPPED structure: the offset 0, and no event


def _handle_of(descriptor: int) -> ctypes.c_void_p:
    import msvcrt

    windows: Any = msvcrt  # type checkers elsewhere do not know what it has on Windows
    return ctypes.c_void_p(windows.get_osfhandle(descriptor))


def _call(name: str, *arguments: object) -> None:
    if not _function(name, ctypes.c_int)(*arguments):
        raise _last_error()


def _function(name: str, result: type) -> Any:
    windows: Any = ctypes
    function = windows.WinDLL("kernel32", use_last_error=True)[name]
    function.restype = result
    return function


def _last_error() -> OSError:
    windows: Any = ctypes
    error: OSError = windows.WinError(windows.get_last_error())
    return error
