"""The compilation of a load, in a process of its own, under `compile_timeout`.

The promise: when `run` returns or raises, the process is gone (see `process`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist.compilation.process import CompileProgress, run_python
from npu_persist.errors import CompileTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable


def run(
    target: str,
    job: dict[str, Any],
    *,
    timeout: float,
    progress: Callable[[CompileProgress], object] | None = None,
) -> Any:
    """Call a function in a process of its own.

    Args:
        target: The function, as `module:name`.
        job: Its keyword arguments: what JSON can hold.
        timeout: Seconds after which the process is ended.
        progress: Called about twice a second.

    Returns:
        What the function returned: what JSON can hold.

    Raises:
        CompileTimeoutError: It took longer.
        CompilationError: The process ended without an answer, or cannot be started.
        NpuPersistError: What the function raised.
    """
    try:
        return run_python(target, job, timeout=timeout, progress=progress).result
    except CompileTimeoutError as error:
        raise CompileTimeoutError(
            f"{error}. That was compile_timeout={timeout}: allow more time, or name another device in fallback=(...)"
        ) from error
