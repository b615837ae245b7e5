"""System calls of a process, answered from outside: seccomp stops each one that touches files and asks (Linux, x86-64).

The process that is to be watched calls `watch_calls` and sends the descriptor to its supervisor, whose `Calls` tells of
each call before the kernel does it. The supervisor lets it happen, or gives it an error number in place of that.
Threads, children and what they execute are watched as well; nothing in the process is patched.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import select
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

READING = {
    "read": 0, "open": 2, "stat": 4, "lstat": 6, "mmap": 9, "pread64": 17, "readv": 19, "access": 21, "getdents64": 217,
    "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "statx": 332, "openat2": 437,
    "faccessat2": 439, "readlink": 89, "preadv": 295,
}  # fmt: skip
"""Calls that look at files; an open that writes counts as `create`."""

CHANGING = {
    "write": 1, "pwrite64": 18, "writev": 20, "sendfile": 40, "flock": 73, "fsync": 74, "fdatasync": 75, "truncate": 76,
    "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87, "symlink": 88,
    "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "utime": 132, "mknod": 133, "utimes": 235,
    "mkdirat": 258, "mknodat": 259, "fchownat": 260, "futimesat": 261, "unlinkat": 263, "renameat": 264, "linkat": 265,
    "symlinkat": 266, "fchmodat": 268, "utimensat": 280, "fallocate": 285, "pwritev": 296, "renameat2": 316,
    "copy_file_range": 326, "fchmodat2": 452, "ioctl": 16,
}  # fmt: skip
"""Calls that change files, wait for the disk or lock."""

_NAMES = {number: name for name, number in (*READING.items(), *CHANGING.items())}

_AT_FOLDER = {
    "openat": (0, 1), "openat2": (0, 1), "newfstatat": (0, 1), "readlinkat": (0, 1), "faccessat": (0, 1),
    "faccessat2": (0, 1), "statx": (0, 1), "mkdirat": (0, 1), "mknodat": (0, 1), "fchownat": (0, 1),
    "futimesat": (0, 1), "unlinkat": (0, 1), "renameat": (2, 3), "renameat2": (2, 3), "linkat": (2, 3),
    "symlinkat": (1, 2), "fchmodat": (0, 1), "fchmodat2": (0, 1), "utimensat": (0, 1),
}  # fmt: skip
"""Which arguments are a folder's descriptor and the path in it; of two paths, those of the new one."""

_AT_PATH = {
    "open": 0, "stat": 0, "lstat": 0, "access": 0, "readlink": 0, "truncate": 0, "rename": 1, "mkdir": 0, "rmdir": 0,
    "creat": 0, "link": 1, "unlink": 0, "symlink": 1, "chmod": 0, "chown": 0, "lchown": 0, "utime": 0, "utimes": 0,
    "mknod": 0,
}  # fmt: skip
"""Which argument is a path; of two, the new one."""

_AT_DESCRIPTOR = {"mmap": 4, "copy_file_range": 2}
"""Which argument is a descriptor, where it is not the first."""

_FICLONE, _MAP_ANONYMOUS, _WRITING = 0x40049409, 0x20, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_AT_FDCWD = -100

_SECCOMP, _AUDIT_ARCH_X86_64 = 317, 0xC000003E
_RET_ALLOW, _RET_USER_NOTIF = 0x7FFF0000, 0x7FC00000
_NOTIF = struct.Struct("<QIIiIQ6Q")
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1


class Call(NamedTuple):
    """A system call that waits for an answer.

    Attributes:
        key: What the kernel calls it.
        thread: The id of the thread that makes it.
        name: Its name; `create` for an open that writes, `clone` for a reflink.
        path: The file that it is about; of two, the new one. "" for what is no file.
        is_change: Whether it may change a file, waits for the disk or locks.
    """

    key: int
    thread: int
    name: str
    path: str
    is_change: bool


def why_not() -> str | None:
    """Say why no calls can be watched here; None if they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "system calls are stopped with seccomp, by Linux' numbers on x86-64"
    child = os.fork()
    if child == 0:
        try:
            os.close(watch_calls())
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return f"seccomp lets nobody answer system calls here: {os.strerror(number)}" if number else None


def watch_calls() -> int:
    """Stop this process at each call on a file from now on, for ever; return the descriptor for `Calls`."""
    libc = ctypes.CDLL(None, use_errno=True)
    jumps = [struct.pack("<HBBI", 0x15, len(_NAMES) - place, 0, number) for place, number in enumerate(_NAMES)]
    program = b"".join([
        struct.pack("<HBBI", 0x20, 0, 0, 4),  # the architecture
        struct.pack("<HBBI", 0x15, 1, 0, _AUDIT_ARCH_X86_64),
        struct.pack("<HBBI", 0x06, 0, 0, _RET_ALLOW),
        struct.pack("<HBBI", 0x20, 0, 0, 0),  # the number
        *jumps,
        struct.pack("<HBBI", 0x06, 0, 0, _RET_ALLOW),
        struct.pack("<HBBI", 0x06, 0, 0, _RET_USER_NOTIF),
    ])  # fmt: skip
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(code)))
    pr_set_no_new_privs, set_mode_filter, flag_new_listener = 38, 1, 8
    if libc.prctl(pr_set_no_new_privs, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    descriptor = int(libc.syscall(_SECCOMP, set_mode_filter, flag_new_listener, filter_))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return descriptor


class Calls:
    """The supervisor's end: iterate, and answer each call before the next."""

    def __init__(self, descriptor: int, silence: float = 60.0) -> None:
        self._descriptor, self._silence = descriptor, silence

    def __iter__(self) -> Iterator[Call]:
        """Give the calls until all watched processes have ended; a TimeoutError if none comes for a minute."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        while True:
            events = poll.poll(self._silence * 1000)
            if not events:
                raise TimeoutError
            if not events[0][1] & select.POLLIN:
                return
            data = bytearray(_NOTIF.size)
            try:
                fcntl.ioctl(self._descriptor, _RECEIVE, data)
            except FileNotFoundError:  # killed, or interrupted by a signal
                continue
            key, thread, _, number, _, _, *arguments = _NOTIF.unpack(data)
            yield _read_call(key, thread, _NAMES[number], arguments)

    def answer(self, call: Call, error: int = 0) -> None:
        """Let the call happen, or fail with an error number."""
        data = bytearray(struct.pack("<QqiI", call.key, 0, -error, 0 if error else _CONTINUE))
        with suppress(FileNotFoundError):  # killed, or interrupted by a signal
            fcntl.ioctl(self._descriptor, _SEND, data)


def _read_call(key: int, thread: int, name: str, arguments: list[int]) -> Call:
    is_change = name in CHANGING
    try:
        path = _read_path(thread, name, arguments)
    except OSError:  # killed meanwhile, or an address that is none
        path = ""
    if name == "ioctl":
        is_change = arguments[1] & 0xFFFFFFFF == _FICLONE
        name = "clone" if is_change else name
    elif name in {"open", "openat"}:
        flags = arguments[1 if name == "open" else 2]
        is_change = bool(flags & _WRITING)
        name = "create" if is_change else "open"
    elif name == "mmap" and arguments[3] & _MAP_ANONYMOUS:
        path = ""
    return Call(key, thread, name, path, is_change)


def _read_path(thread: int, name: str, arguments: list[int]) -> str:
    if name in _AT_PATH:
        folder, text = _AT_FDCWD, _read_text(thread, arguments[_AT_PATH[name]])
    elif name in _AT_FOLDER:
        at, path = _AT_FOLDER[name]
        folder, text = _signed(arguments[at]), _read_text(thread, arguments[path]) if arguments[path] else ""
    else:
        folder, text = _signed(arguments[_AT_DESCRIPTOR.get(name, 0)]), ""
    if not text.startswith("/"):
        where = "cwd" if folder == _AT_FDCWD else f"fd/{folder}"
        text = os.path.join(os.readlink(f"/proc/{thread}/{where}"), text)  # noqa: PTH115, PTH118 ("pipe:[1]" is no path)
    return os.path.normpath(text).removesuffix(" (deleted)") if text.startswith("/") else ""


def _signed(number: int) -> int:
    return ctypes.c_int32(number & 0xFFFFFFFF).value


def _read_text(thread: int, address: int) -> str:
    page = 4096
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        data = memory.read(page - address % page)
        if b"\0" not in data:
            data += memory.read(page)
    return os.fsdecode(data.partition(b"\0")[0])
