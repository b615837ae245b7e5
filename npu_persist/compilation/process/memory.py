"""How much memory a process holds, as the system counts it; None if the system does not report it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

_MAY_QUERY = 0x1010
"""PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_VM_READ."""


class Memory(NamedTuple):
    """Resident memory of a process, in bytes: what of it is in RAM, mapped files included."""

    now: int | None
    """What it holds now."""
    peak: int | None
    """The most that it has ever held."""


def read_memory(pid: int | None = None) -> Memory:
    """Return what a process holds, and the most that it has held.

    Sources: `/proc/<pid>/status` on Linux, `VmRSS` and `VmHWM` (proc(5); not `ru_maxrss`, which a process inherits from
    the one that started it), `GetProcessMemoryInfo` on Windows, for this process `ru_maxrss` elsewhere.
    """
    return {"linux": _read_linux, "win32": _read_windows}.get(sys.platform, _read_usage)(pid)


def read_total() -> int | None:
    """Return how much memory this machine, or its container, has."""
    found = []
    with suppress(OSError, ValueError, AttributeError):  # no sysconf on Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError), open(path, encoding="ascii") as file:  # noqa: PTH123 (imports less)
            found.append(int(file.read()))  # "max" is no number
    return min(found, default=None)


def _read_linux(pid: int | None) -> Memory:
    try:
        path = f"/proc/{'self' if pid is None else pid}/status"
        with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123 (imports less)
            lines = dict(line.split(":", maxsplit=1) for line in file if ":" in line)
    except OSError:  # no /proc in this container, or the process is gone
        return Memory(None, None)

    def read(name: str) -> int | None:
        return int(lines[name].split()[0]) * 1024 if name in lines else None

    return Memory(read("VmRSS"), read("VmHWM"))


def _read_usage(pid: int | None) -> Memory:
    if pid is not None:
        return Memory(None, None)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # https://man.freebsd.org/getrusage(2): kilobytes, but on macOS
    return Memory(None, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _read_windows(pid: int | None) -> Memory:
    import ctypes

    kernel, counters = _windows()
    process = kernel.GetCurrentProcess() if pid is None else kernel.OpenProcess(_MAY_QUERY, 0, pid)
    if not process:
        return Memory(None, None)
    found = counters(cb=ctypes.sizeof(counters))
    known = kernel.K32GetProcessMemoryInfo(process, ctypes.byref(found), found.cb)
    if pid is not None:
        kernel.CloseHandle(process)
    # One that has ended holds nothing.
    return Memory(found.WorkingSetSize or None, found.PeakWorkingSetSize or None) if known else Memory(None, None)


@cache
def _windows() -> tuple[Any, Any]:
    """Return kernel32 with the types of what is called, and the structure that tells a process's memory."""
    # https://learn.microsoft.com/windows/win32/api/psapi/ns-psapi-process_memory_counters
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = (
            ("cb", wintypes.DWORD),
            ("PageFaultCount", wintypes.DWORD),
            ("PeakWorkingSetSize", ctypes.c_size_t),
            ("WorkingSetSize", ctypes.c_size_t),
            ("QuotaPeakPagedPoolUsage", ctypes.c_size_t),
            ("QuotaPagedPoolUsage", ctypes.c_size_t),
            ("QuotaPeakNonPagedPoolUsage", ctypes.c_size_t),
            ("QuotaNonPagedPoolUsage", ctypes.c_size_t),
            ("PagefileUsage", ctypes.c_size_t),
            ("PeakPagefileUsage", ctypes.c_size_t),
        )

    # Not `windll.kernel32`, on whose functions any code of this process may set other types.
    kernel: Any = getattr(ctypes, "WinDLL")("kernel32")  # noqa: B009 (type checkers elsewhere do not know it)
    kernel.GetCurrentProcess.restype = kernel.OpenProcess.restype = wintypes.HANDLE
    kernel.OpenProcess.argtypes = (wintypes.DWORD, wintypes.BOOL, wintypes.DWORD)
    kernel.CloseHandle.argtypes = (wintypes.HANDLE,)
    kernel.K32GetProcessMemoryInfo.argtypes = (wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD)
    return kernel, Counters
