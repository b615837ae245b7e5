"""A job object of Windows: a process in it, and all that it starts, ends with the job, and with this process.

https://learn.microsoft.com/windows/win32/procthread/job-objects
"""

from __future__ import annotations

import ctypes
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

_ACCOUNTING, _EXTENDED_LIMITS = 1, 9
"""JobObjectBasicAccountingInformation, JobObjectExtendedLimitInformation."""

_KILL_ON_CLOSE, _NO_DIALOG = 0x2000, 0x400
"""JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, and JOB_OBJECT_LIMIT_DIE_ON_UNHANDLED_EXCEPTION: no window about a crash."""

_MAY_JOIN = 0x101
"""PROCESS_TERMINATE | PROCESS_SET_QUOTA."""

_PATIENCE, _PAUSE = 10.0, 0.005
"""Seconds to wait until ended processes are gone."""


class _Accounting(ctypes.Structure):
    """JOBOBJECT_BASIC_ACCOUNTING_INFORMATION."""

    _fields_ = (
        ("times", ctypes.c_int64 * 4),
        ("page_faults", ctypes.c_uint32),
        ("processes", ctypes.c_uint32),
        ("active_processes", ctypes.c_uint32),
        ("terminated_processes", ctypes.c_uint32),
    )


class _ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("times", ctypes.c_int64 * 2),
        ("flags", ctypes.c_uint32),
        ("working_set", ctypes.c_size_t * 2),
        ("active_processes", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("priority_class", ctypes.c_uint32),
        ("scheduling_class", ctypes.c_uint32),
        ("io_counters", ctypes.c_uint64 * 6),
        ("memory", ctypes.c_size_t * 4),
    )


class Job:
    """A job object with one process in it.

    Its only handle is this process's: the system closes it, and so ends all that is in the job, when this one dies.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Put a process into a new job: what it starts from now on is in it, too. OSError if the system refuses."""
        self._handle = _open("CreateJobObjectW", None, None)
        try:
            limits = _ExtendedLimits(flags=_KILL_ON_CLOSE | _NO_DIALOG)
            size = ctypes.sizeof(limits)
            _call("SetInformationJobObject", self._handle, _EXTENDED_LIMITS, ctypes.byref(limits), size)
            self._add(process)
        except BaseException:
            _call("CloseHandle", self._handle)
            raise

    def _add(self, process: subprocess.Popen[bytes]) -> None:
        handle = _open("OpenProcess", _MAY_JOIN, 0, process.pid)
        try:
            _call("AssignProcessToJobObject", self._handle, handle)
        except OSError:
            if process.poll() is None:  # one that has ended needs no job
                raise
        finally:
            _call("CloseHandle", handle)

    def end(self) -> None:
        """End all processes in the job and wait until they are gone; once."""
        _call("TerminateJobObject", self._handle, 1)
        known = _Accounting(active_processes=1)
        deadline = time.monotonic() + _PATIENCE
        while known.active_processes and time.monotonic() < deadline:
            size = ctypes.sizeof(known)
            _call("QueryInformationJobObject", self._handle, _ACCOUNTING, ctypes.byref(known), size, None)
            if known.active_processes:
                time.sleep(_PAUSE)
        _call("CloseHandle", self._handle)


def _open(name: str, *arguments: object) -> ctypes.c_void_p:
    """Call a function of kernel32 that gives a handle."""
    return ctypes.c_void_p(_call(name, *arguments, result=ctypes.c_void_p))


def _call(name: str, *arguments: object, result: type = ctypes.c_int) -> Any:
    """Call a function of kernel32; OSError where it fails."""
    windows: Any = ctypes  # type checkers elsewhere do not know what it has on Windows
    function = windows.WinDLL("kernel32", use_last_error=True)[name]
    function.restype = result
    found = function(*arguments)
    if not found:
        raise windows.WinError(windows.get_last_error())
    return found
