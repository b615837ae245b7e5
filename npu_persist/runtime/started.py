"""An inference that was started and is fetched later.

The promise: its outputs stay what they are until it is released, and only those that are asked for are copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist.errors import UsageError
from npu_persist.runtime.requests import wait_for

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from npu_persist.bundle.signature import CallPlan
    from npu_persist.runtime.inputs import Array
    from npu_persist.runtime.requests import Job


class Started:
    """An inference that `Model.start` started.

    It keeps an inference request, with the outputs in its memory, until `release`, the end of its `with` block or its
    garbage collection; each of them also ends the inference if it still runs. A model with a state has one request
    only: there the inference runs to its end, its outputs are copied, and the request is given back at once.

    Any thread may use it.
    """

    def __init__(self, plan: CallPlan, future: Future[list[Array]], job: Job, *, has_state: bool) -> None:
        """Wrap a job in the queue; use `Model.start` instead."""
        self._plan = plan
        self._future = future
        self._job = job
        self._has_state = has_state
        self._is_released = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the inference is done, at most `timeout` seconds, and return whether it is.

        Raises:
            InferenceError: the device failed.
            InputError: the graph refused the sizes of dynamic inputs.
            UsageError: it was released.

        """
        self._require()
        if not wait_for([self._future], timeout):
            return False
        self._require()
        self._future.result()
        return True

    def output(self, name: str | int) -> Array:
        """Wait, and return a copy of one output: by its name, or by its position, in `Model.outputs`.

        Raises:
            UsageError: there is no such output, or it was released.
            InferenceError, InputError: as for `wait`.

        """
        names = [port.name for port in self._plan.outputs]
        if isinstance(name, str) and name in names:
            index = names.index(name)
        elif isinstance(name, int) and 0 <= name < len(names):
            index = name
        else:
            raise UsageError(
                f"expected one of the outputs {names}, or a position from 0 to {len(names) - 1}; got {name!r}"
            )
        return self._copy([index])[0]

    def result(self) -> Any:
        """Wait, and return what `model(...)` returns; the arrays are copies.

        Raises:
            UsageError: it was released.
            InferenceError, InputError: as for `wait`.

        """
        return self._plan.rebuild(self._copy(range(len(self._plan.outputs))))

    def release(self) -> None:
        """Give the inference request back; after that only `release` works. What still runs is ended."""
        self._is_released = True
        # An inference that is left out, or ended in its middle, would leave another state than the caller asked for.
        if not self._has_state and not self._future.cancel():
            self._job.release()

    def _copy(self, indices: Any) -> list[Array]:
        self.wait()
        outputs = self._future.result()
        with self._job.lock:
            self._require()
            return [outputs[index].copy() for index in indices]

    def _require(self) -> None:
        if self._is_released:
            raise UsageError(
                "this inference was released, and its outputs are gone. Fetch what you need before release() or the "
                "end of the with block, or start it again"
            )

    def __enter__(self) -> Started:  # noqa: PYI034 (Self is newer than Python 3.10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "released" if self._is_released else "done" if self._future.done() else "running"
        return f"<Started {state} {self._plan}>"
