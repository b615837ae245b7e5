"""Inference requests: one for each concurrent inference, and the queue.

A request runs one inference at a time and is given back whatever happens. What a caller passed is not read after its
call returned. A model with a state runs its inferences one after the other, in order.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from weakref import WeakSet

import numpy as np

from npu_persist.bundle.signature import describe_value
from npu_persist.compilation.local import executing_devices
from npu_persist.device.core import check_fork, forked
from npu_persist.errors import InferenceError, InputError, ModelClosedError
from npu_persist.runtime.lanes import LENT, Lane, NewLane, NpuwLane, StatefulLane, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

    import openvino as ov

    from npu_persist.bundle.graph_records import State
    from npu_persist.bundle.signature import CallPlan
    from npu_persist.runtime.inputs import Array
    from npu_persist.runtime.padding import Fit

_SLICE = 0.1
"""Seconds that a wait lasts at most before Python looks at signals: on Windows a longer one would hold up Ctrl-C."""

_POLL = 0.001
"""Seconds between two looks for requests that are still in use, when a model is closed."""


class Closable(Protocol):
    """An object that holds its own request until it is closed."""

    def close(self) -> None:
        """Give it back."""


class _ReturnedLanes(list[Lane]):
    """Where the lanes of a closed model come back to: none can be taken from here."""

    def pop(self, _: Any = -1) -> NoReturn:
        raise IndexError


class Requests:
    """The requests of one compiled model, as many as inferences ever ran at once, and the queue for those to come.

    Args:
        compiled: The compiled model.
        plan: Its inputs, outputs and signature.
        reference: What errors call the bundle.
        on_first: Called with the seconds of each request's first inference.
        states: What the graph keeps from one inference to the next.
    """

    def __init__(
        self,
        compiled: ov.CompiledModel,
        plan: CallPlan,
        reference: str,
        on_first: Callable[[float], None],
        states: Sequence[State] = (),
    ) -> None:
        self._compiled: ov.CompiledModel | None = compiled
        self._plan = plan
        self._reference = reference
        self._is_static = [all(isinstance(axis, int) for axis in port.shape) for port in plan.inputs]
        # The memory of an output that may change its size moves: a view of it would show what is no longer there.
        self._moving = [index for index, port in enumerate(compiled.outputs) if port.get_partial_shape().is_dynamic]
        self._on_first = on_first
        self._states = states
        self._turns = Turns()
        self._sessions: WeakSet[Closable] = WeakSet()
        self._dropped: list[None] = []
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._is_closing = False
        self._kept: set[Inference] = set()
        first = self._make_lane()
        self._lanes = 1
        self._idle = [first]
        self._has_state = _has_state(first)

    @property
    def compiled(self) -> ov.CompiledModel:
        """The compiled model; ModelClosedError after `close`, UsageError in a forked child."""
        check_fork()
        if self._compiled is None:
            raise self._closed_error()
        return self._compiled

    @property
    def has_state(self) -> bool:
        """Whether the graph remembers something from one inference to the next."""
        return self._has_state

    @property
    def states(self) -> tuple[State, ...]:
        """What the manifest says of what the graph remembers."""
        return tuple(self._states)

    @property
    def optimal(self) -> int:
        """How many inferences at once make best use of the device: one if the model has a state."""
        compiled = self.compiled
        return 1 if self._has_state else int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def place(self, arrays: list[Array]) -> tuple[Requests, list[Array], None]:
        """Return whose request runs a call, on which arrays, and how its outputs are cut: here everything as it is."""
        return self, arrays, None

    def prepare(self, arrays: list[Array]) -> list[tuple[None, Callable[[], list[Array]]]]:
        """Return the runners for inputs in each bucket that they fit into: here a single one, without buckets."""
        return [(None, lambda: self.run(arrays))]

    def take(self) -> Lane:
        """Return a request for exclusive use; it must be returned."""
        check_fork()
        try:
            return self._idle.pop()
        except IndexError:
            return self._add_lane()

    def give_back(self, lane: Lane) -> None:
        """Let others use a request again."""
        self._idle.append(lane)

    @contextmanager
    def own_lane(self) -> Iterator[Lane]:
        """Lend a new request that calls never get."""
        lane = self._add_lane()
        try:
            yield lane
        finally:
            self.drop()

    def open(self, session: Closable) -> Lane:
        """Return a new request for a session, which `drop`s it, at the latest when the requests are closed."""
        lane = self._add_lane()
        self._sessions.add(session)
        return lane

    def drop(self) -> None:
        """Note that a request that calls never get is no more."""
        self._dropped.append(None)  # no lock: the garbage collector may drop a session while a thread holds it

    def run(self, arrays: Sequence[Array], limit: float = LENT, *, share_outputs: bool = False) -> list[Array]:
        """Run one inference on the caller's thread, or in its turn if the model has a state."""
        if forked:
            check_fork()
        if self._has_state:
            return self._run_in_turn(arrays, limit, share_outputs=share_outputs)
        try:
            lane = self._idle.pop()
        except IndexError:
            lane = self._add_lane()
        try:
            return self.run_on(lane, arrays, limit, share_outputs)
        finally:
            self._idle.append(lane)

    def run_on(self, lane: Lane, arrays: Sequence[Array], limit: float, share_outputs: bool) -> list[Array]:  # noqa: FBT001
        """Run one inference on a request that the caller took."""
        try:
            outputs = lane.run(arrays, limit, share_outputs)
        except RuntimeError as error:
            raise self._explain(error, arrays) from error
        if share_outputs:
            for index, output in enumerate(outputs):
                # An output that is an input of the graph has the input's memory, and that may be the caller's array.
                if index in self._moving or any(np.may_share_memory(output, array) for array in arrays):
                    outputs[index] = output.copy()
        return outputs

    def queue(self, job: Callable[[], Any]) -> Future[Any]:
        """Run a job as soon as a worker is free; there are as many workers as `optimal`, and they keep the order."""
        check_fork()  # before the lock, which a thread that is not here may have
        with self._lock:
            if self._is_closing:
                raise self._closed_error()
            if self._executor is None:
                # Imported now: it cannot be when the main thread has ended, and until then a call does without.
                from concurrent.futures import ThreadPoolExecutor

                # Threads that run blocking inferences, not AsyncInferQueue nor callbacks: after a failed inference
                # OpenVINO 2026.4 does not call the callback, and the queue raises the error at the next caller.
                # Frames per second are the same.
                self._executor = ThreadPoolExecutor(self.optimal, thread_name_prefix="npu_persist")
            return self._executor.submit(job)

    def run_on_each(self, arrays: Sequence[Array]) -> None:
        """Run one inference on each request that makes best use of the device."""
        for future in [self.queue(Inference(self, arrays, share_outputs=True)) for _ in range(self.optimal)]:
            future.result()

    def reset(self) -> None:
        """Set the state to its initial value, after the inferences that were queued before."""
        if self._has_state:
            self.queue(self._reset).result()
        elif self._is_closing:
            raise self._closed_error()

    def keep(self, inference: Inference) -> None:
        """Note that an inference keeps its request until it is released; `close` releases it."""
        self._kept.add(inference)

    def forget(self, inference: Inference) -> None:
        """Note that an inference keeps no request any more."""
        self._kept.discard(inference)

    def close(self) -> None:
        """Wait for running and queued inferences, and release the requests and the compiled model.

        In a forked child nothing is let go of: OpenVINO would wait for threads that are not there.
        """
        if forked:
            return
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()
        for inference in list(self._kept):
            inference.release()
        with self._lock:
            idle, self._idle = self._idle, _ReturnedLanes()
        collected: list[Lane] = []
        while True:
            for session in list(self._sessions):
                session.close()
            for lanes in (idle, self._idle):
                with suppress(IndexError):
                    while True:
                        collected.append(list.pop(lanes))
            if len(collected) + len(self._dropped) >= self._lanes:
                break
            time.sleep(_POLL)
        self._compiled = None

    def _add_lane(self) -> Lane:
        check_fork()
        with self._lock:
            if isinstance(self._idle, _ReturnedLanes):
                raise self._closed_error()
            self._lanes += 1
        try:
            return self._make_lane()
        except BaseException:
            with self._lock:
                self._lanes -= 1
            raise

    def _make_lane(self) -> Lane:
        try:
            if self._states:
                lane = StatefulLane(
                    self.compiled, self._is_static, self._on_first, self._states, self._plan.inputs, self._reference
                )
                return NpuwLane(lane, self.compiled, self._turns) if lane.is_npuw else lane
            return NewLane(self.compiled, self._is_static, self._on_first)
        except RuntimeError as error:
            raise InferenceError(
                f"{self._reference}: {self._device()} could not create another inference request; there is one "
                "for each inference that runs or was started and not released. Close other models, or run fewer "
                "inferences at "
                f"once. OpenVINO said: {error}"
            ) from error

    def _run_in_turn(self, arrays: Sequence[Array], limit: float, *, share_outputs: bool) -> list[Array]:
        inference = Inference(self, arrays, limit, share_outputs=share_outputs)
        future = self.queue(inference)
        try:
            wait_for([future])
            outputs: list[Array] = future.result()
        except BaseException:
            # The caller's arrays may be lent: they are the caller's again only when nothing runs.
            stop([(future, inference)])
            raise
        return outputs

    def _reset(self) -> None:
        lane = self.take()
        try:
            lane.reset()
        finally:
            self.give_back(lane)

    def _explain(self, error: RuntimeError, arrays: Sequence[Array]) -> InferenceError | InputError:
        shapes = ", ".join(map(describe_value, arrays))
        if not all(self._is_static):
            return InputError(
                f"OpenVINO could not run the model on these sizes, although each is within its bounds: {shapes}. "
                f"Expected {self._plan}. OpenVINO said: {error}",
                expected=str(self._plan),
                got=shapes,
            )
        return InferenceError(
            f"{self._reference} failed on {self._device()} with the inputs {shapes}: the graph cannot compute with "
            f"these values, or the device failed. OpenVINO said: {error}"
        )

    def _device(self) -> str:
        return ", ".join(executing_devices(self.compiled)) or "its device"

    def _closed_error(self) -> ModelClosedError:
        return ModelClosedError(f"{self._reference}: the model is closed. Load it again to use it")


class Inference:
    """One inference in the queue, which can be stopped.

    Args:
        requests: Where it takes its request from.
        arrays: Its inputs.
        limit: Bytes from which they are lent.
        share_outputs: Whether it gives views of the request's memory.
        is_kept: Whether it keeps its request when it is done, until `release`.
        fit: How its outputs are cut back, if they are.

    Attributes:
        lock: While it is held, `release` waits.
    """

    def __init__(  # noqa: PLR0913 (one inference, and what becomes of its outputs)
        self,
        requests: Requests,
        arrays: Sequence[Array],
        limit: float = LENT,
        *,
        share_outputs: bool = False,
        is_kept: bool = False,
        fit: Fit | None = None,
    ) -> None:
        self._requests = requests
        self._fit = fit
        self._arrays = arrays
        self._limit = limit
        self._share_outputs = share_outputs
        self._is_kept = is_kept
        self._is_released = False
        self._is_running = False
        self._lane: Lane | None = None
        # Reentrant: the garbage collector may release what it is in the middle of.
        self.lock = threading.RLock()

    def __call__(self) -> list[Array]:
        """Run the inference."""
        with self.lock:
            if self._is_released:
                raise CancelledError
            self._lane = lane = self._requests.take()
            self._is_running = True
        is_done = False
        try:
            outputs = self._requests.run_on(lane, self._arrays, self._limit, self._share_outputs)
            if self._fit is not None:
                outputs = self._fit.cut(outputs, share_outputs=self._share_outputs)
            is_done = True
        finally:
            with self.lock:
                self._is_running = False
                self._arrays = ()
                if not (is_done and self._is_kept) or self._is_released:
                    self._give_back()
                else:
                    self._requests.keep(self)
        return outputs

    @property
    def is_released(self) -> bool:
        """Whether it was released."""
        return self._is_released

    def release(self) -> None:
        """Stop it if it runs, and give its request back when it has ended.

        The CPU stops at the end of a layer; AUTO and the NPU finish the inference.
        """
        with self.lock:
            self._is_released = True
            if not self._is_running:
                self._give_back()
            elif self._lane is not None:
                self._lane.request.cancel()

    def _give_back(self) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            self._requests.forget(self)
            self._requests.give_back(lane)


def wait_for(futures: Collection[Future[Any]], timeout: float | None = None) -> bool:
    """Wait until one of several futures is done, or the time is up; a signal ends it at once, or nearly."""
    end = None if timeout is None else time.monotonic() + timeout
    while not any(future.done() for future in futures):
        left = _SLICE if end is None else min(end - time.monotonic(), _SLICE)
        if left <= 0:
            return False
        wait(futures, left, return_when=FIRST_COMPLETED)
    return True


def stop(pending: Collection[tuple[Future[Any], Inference]]) -> None:
    """Cancel what is queued, stop what runs, and wait until nothing of it runs."""
    for future, inference in pending:
        if not future.cancel():
            inference.release()
    for future, _ in pending:
        wait_for([future])


def _has_state(lane: Lane) -> bool:
    try:
        return bool(lane.request.query_state())
    except RuntimeError:  # "Not Implemented": what AUTO answers for a graph without state, and only for that
        return False
