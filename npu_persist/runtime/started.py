"""An inference that was started, whose outputs are fetched later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist.errors import UsageError
from npu_persist.runtime.requests import wait_for

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from npu_persist.bundle.signature import CallPlan
    from npu_persist.runtime.inputs import Array
    from npu_persist.runtime.requests import Inference


class Started:
    """An inference that `Model.start` started.

    It holds an inference request, with the outputs in its memory, until `release`, the end of its `with` block, its
    garbage collection or the model's `close`. All of these stop a running inference, except `close`, which waits for
    it. A model with a state has only one request: there the inference runs to its end, its outputs are copied, and
    the request is freed immediately.

    Any thread may use it.
    """

    def __init__(self, plan: CallPlan, future: Future[list[Array]], inference: Inference, *, has_state: bool) -> None:
        """Wrap an inference in the queue; use `Model.start` instead."""
        self._plan = plan
        self._future = future
        self._inference = inference
        self._has_state = has_state
        self._is_released = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the inference is done, at most `timeout` seconds, and return whether it is.

        Raises:
            InferenceError: The device failed.
            InputError: The graph refused the sizes of dynamic inputs.
            UsageError: It was released.
        """
        self._require_kept()
        if not wait_for([self._future], timeout):
            return False
        self._require_kept()
        self._future.result()
        return True

    def output(self, name: str | int) -> Array:
        """Wait, and return a copy of one output: by its name, or by its position, in `Model.outputs`.

        Raises:
            UsageError: There is no such output, or it was released.
            InferenceError, InputError: As for `wait`.
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
            UsageError: It was released.
            InferenceError, InputError: As for `wait`.
        """
        return self._plan.rebuild(self._copy(range(len(self._plan.outputs))))

    def release(self) -> None:
        """Free the inference request, and stop the inference if it still runs."""
        self._is_released = True
        # An inference that is left out, or ended in its middle, would leave another state than the caller asked for.
        if not self._has_state and not self._future.cancel():
            self._inference.release()

    def _copy(self, indices: Any) -> list[Array]:
        self.wait()
        outputs = self._future.result()
        with self._inference.lock:
            self._require_kept()
            return [outputs[index].copy() for index in indices]

    def _require_kept(self) -> None:
        if self._is_released or self._inference.is_released:
            raise UsageError(
                "this inference was released, and its outputs are gone. Fetch what you need before release(), the end "
                "of the with block or the model's close(), or start it again"
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
        is_released = self._is_released or self._inference.is_released
        state = "released" if is_released else "done" if self._future.done() else "running"
        return f"<Started {state} {self._plan}>"
