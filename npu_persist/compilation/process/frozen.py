"""Worker processes of a frozen program, which has no Python interpreter: the program itself, started once more.

It is started with an argument that `freeze_support` catches before the program's own code runs.
"""

from __future__ import annotations

import sys

from npu_persist.errors import CompilationError

_ARGUMENT = "--npu-persist-worker"
_PACKAGE = "npu_persist."

_is_ready = False


def is_frozen() -> bool:
    """Tell whether this is a frozen program: by PyInstaller, cx_Freeze or py2exe; or compiled by Nuitka."""
    return bool(getattr(sys, "frozen", False)) or "__compiled__" in globals()


def freeze_support() -> None:
    """Let a frozen program start its worker processes. Call it at the start of the program, before any other work.

    `compile`, `bench`, `load` with `compile_timeout`, and `load` of a bundle without a trusted signature use separate
    processes. In a frozen program each of these is the program itself, started again: there this function does the
    work and never returns. Everywhere else it returns immediately. PyInstaller programs need no call, because the
    package's hook makes it. Without the call, these functions raise a CompilationError in a frozen program.

    Example:
        >>> import npu_persist
        >>> if __name__ == "__main__":
        ...     npu_persist.freeze_support()
    """
    global _is_ready  # noqa: PLW0603 (one for each process)
    if not is_frozen():
        return
    _is_ready = True
    match sys.argv[1:]:
        case [argument, module] if argument == _ARGUMENT and module.startswith(_PACKAGE):
            import runpy

            del sys.argv[1:]
            runpy.run_module(module, None, "__main__", alter_sys=True)
            sys.exit()


def make_command(module: str, name: str) -> list[str]:
    """Return the command that runs a module of this package in this frozen program; `name` is what errors call it.

    Raises:
        CompilationError: The program would not notice that it is started for that, but run as another one of itself.
    """
    if not _is_ready:
        raise CompilationError(
            f"{name} runs in a separate process: in a frozen program that is the program, started again, but this "
            "one has not called npu_persist.freeze_support(), which takes over there. Call it first in the program "
            "(PyInstaller adds the call where npu_persist is installed); or load without compile_timeout, and only "
            "what you trust (trust=)"
        )
    return [sys.executable, _ARGUMENT, module]
