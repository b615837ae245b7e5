"""Sessions: conversations with one model, each with its own state."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from npu_persist.device.core import check_fork
from npu_persist.errors import ModelClosedError, UsageError
from npu_persist.runtime.lanes import LENT, StatefulLane

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from npu_persist.bundle.signature import CallPlan
    from npu_persist.runtime.inputs import Array
    from npu_persist.runtime.lanes import Lane
    from npu_persist.runtime.requests import Requests

    Check = Callable[[Sequence[Any] | Mapping[str, Any]], list[Array]]


class Session:
    """A conversation with a model that has a state: called like the model, but with its own state.

    It has its own inference request, and shares the compiled model and its weights. Any thread may use it; calls
    of several threads run one after the other. `close`, or the end of a `with` block, frees the request and the state;
    so does the model's `close`.

    Example:
        >>> import numpy, torch, npu_persist
        >>> class Total(torch.nn.Module):
        ...     def forward(self, x, total):
        ...         total = total + x
        ...         return total * 2, total
        >>> example = torch.ones(1, 2), torch.zeros(1, 2)
        >>> _ = npu_persist.persist(Total(), "doc-session", example, states={"total": "output.1"})
        >>> model = npu_persist.load("doc-session", device="CPU")
        >>> x = numpy.ones((1, 2), numpy.float32)
        >>> with model.session() as one, model.session() as other:
        ...     _ = one(x)
        ...     branch = one.copy()
        ...     one(x), other(x), branch(x)
        (array([[4., 4.]], dtype=float32), array([[2., 2.]], dtype=float32), array([[4., 4.]], dtype=float32))
        >>> branch.reset()
        >>> branch(x)
        array([[2., 2.]], dtype=float32)
    """

    def __init__(self, plan: CallPlan, requests: Requests, check: Check, reference: str) -> None:
        """Begin a conversation; use `Model.session` instead."""
        self._plan = plan
        self._requests = requests
        self._check = check
        self._reference = reference
        self._lock = threading.RLock()
        self._lane: Lane | None = None
        self._lane = requests.open(self)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run one inference with this session's state, which it changes; arguments and result are the model's.

        Raises:
            InputError: As for the model; or sizes are not those with which the conversation began. The state is kept.
            StateCapacityError: The state would be larger than it may become. The state is kept.
            InferenceError: The device failed: the state may be anything, and has to be reset.
            StateError: An inference failed before.
            ModelClosedError: The session or the model was closed.
        """
        return self._plan.rebuild(self.infer(self._plan.flatten(args, kwargs)))

    def infer(self, values: Sequence[Any] | Mapping[str, Any]) -> list[Array]:
        """Run one inference on flat inputs: a sequence in the order of `Model.inputs`, or a dict by their names."""
        arrays = self._check(values)
        with self._lock:
            return self._requests.run_on(self._open_lane(), arrays, LENT, share_outputs=False)

    def reset(self) -> None:
        """Set the state to its initial value, after any running call."""
        with self._lock:
            self._open_lane().reset()

    def copy(self) -> Session:
        """Return a new session with a copy of this one's state, to continue in two ways.

        Raises:
            StateError: An inference failed before.
            ModelClosedError: The session or the model was closed.
        """
        with self._lock:
            lane = self._open_lane()
            if not isinstance(lane, StatefulLane):
                raise UsageError(f"{self._reference}: its manifest describes no states, so they cannot be copied")
            other = Session(self._plan, self._requests, self._check, self._reference)
            try:
                other._take_over(lane)
            except BaseException:
                other.close()
                raise
            return other

    def _take_over(self, lane: StatefulLane) -> None:
        own = self._open_lane()
        assert isinstance(own, StatefulLane)  # noqa: S101 - of the same requests
        own.take_over(lane)

    def close(self) -> None:
        """Free the inference request and its state, after any running call; may be called more than once."""
        with self._lock:
            lane, self._lane = self._lane, None
        if lane is not None:
            self._requests.drop()

    def _open_lane(self) -> Lane:
        check_fork()
        if self._lane is None:
            raise ModelClosedError(
                f"{self._reference}: the session or its model is closed. Start another: model.session()"
            )
        return self._lane

    def __enter__(self) -> Session:  # noqa: PYI034 (Self is new in Python 3.11)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_lane", None) is not None:
            self.close()

    def __repr__(self) -> str:
        return f"<Session {'closed' if self._lane is None else 'open'} {self._reference} {self._plan}>"
