"""The inference requests of a compiled model: one for each inference that runs at the same time, and a queue for them.

The promise: a request runs one inference at a time and is given back whatever happens; what a caller passed is not
read after its call returned; and a model with a state runs its inferences one after the other, in order.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from npu_persist.bundle.signature import describe_value
from npu_persist.compilation.execution import executing_devices
from npu_persist.errors import InferenceError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

    import openvino as ov

    from npu_persist.bundle.signature import CallPlan
    from npu_persist.runtime.inputs import Array
    from npu_persist.runtime.padding import Fit

LENT = 1 << 19
"""Bytes from which an input is read where it is: copying less is faster than lending it and taking it back."""

_SLICE = 0.1
"""Seconds that a wait lasts at most before Python looks at signals: on Windows a longer one would hold up Ctrl-C."""


class Lane:
    """One inference request, and its inputs' own memory."""

    def __init__(self, compiled: ov.CompiledModel, is_static: Sequence[bool]) -> None:
        import openvino as ov

        # OpenVINO's native class: the Python class over it sorts out inputs of many kinds, which doubles a call's cost.
        native: Any = super(ov.CompiledModel, compiled)
        self.request = native.create_infer_request()
        self.share = ov.Tensor
        self.own = [self.request.get_input_tensor(index) for index in range(len(is_static))]
        self.views = [tensor.data if fixed else None for tensor, fixed in zip(self.own, is_static, strict=True)]

    def run(self, arrays: Sequence[Array], limit: float, share_outputs: bool) -> list[Array]:  # noqa: FBT001 - hot
        """Run one inference; an input of `limit` bytes or more is read where it is, where that is possible."""
        request = self.request
        lent = []
        try:
            for index, (view, array) in enumerate(zip(self.views, arrays, strict=True)):
                if view is None:
                    own = self.own[index]
                    own.shape = array.shape  # which may move its memory
                    own.data[...] = array
                    # Set each time: the CPU plugin copies a dynamic input that was not set to where the input of the
                    # last request was that was: another thread's, or an array that is gone. For the same reason no
                    # array of the caller is lent to a dynamic input.
                    request.set_input_tensor(index, own)
                elif array.nbytes < limit or not _is_lendable(array.flags):
                    view[...] = array
                else:
                    request.set_input_tensor(index, self.share(array, shared_memory=True))
                    lent.append(index)
            # Not start_async and wait: the detour over a thread of the device costs three times a small inference.
            return list(request.infer({}, share_outputs, False).values())  # noqa: FBT003 - decode_strings
        finally:
            for index in lent:
                request.set_input_tensor(index, self.own[index])


class _FirstLane(Lane):
    """A lane that was made before any inference was done: its first one is timed."""

    on_first: list[Callable[[float], None]]

    def run(self, arrays: Sequence[Array], limit: float, share_outputs: bool) -> list[Array]:  # noqa: FBT001
        start = time.perf_counter()
        outputs = super().run(arrays, limit, share_outputs)
        seconds = time.perf_counter() - start
        self.__class__ = Lane  # type: ignore[assignment]  # so that nothing of this is left in later calls
        try:
            report = self.on_first.pop()
        except IndexError:
            return outputs  # another thread was first
        report(seconds)
        return outputs


class Requests:
    """The requests of one compiled model, as many as inferences ever ran at once, and the queue for those to come.

    Args:
        compiled: the compiled model.
        plan: its inputs, outputs and signature.
        reference: what errors call the bundle.
        on_first: called once, with the seconds of the first inference.

    """

    def __init__(
        self,
        compiled: ov.CompiledModel,
        plan: CallPlan,
        reference: str,
        on_first: Callable[[float], None] | None = None,
    ) -> None:
        self.compiled = compiled
        self._plan = plan
        self._reference = reference
        self._is_static = [all(isinstance(axis, int) for axis in port.shape) for port in plan.inputs]
        # The memory of an output that may change its size moves: a view of it would show what is no longer there.
        self._moving = [index for index, port in enumerate(compiled.outputs) if port.get_partial_shape().is_dynamic]
        self._on_first = [] if on_first is None else [on_first]
        self._idle = [self.new_lane()]
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0
        self._has_state = _has_state(self._idle[0])

    @property
    def has_state(self) -> bool:
        """Whether the graph remembers something from one inference to the next."""
        return self._has_state

    def new_lane(self) -> Lane:
        """Return a request of its own, that is not among those for calls.

        Raises:
            InferenceError: the device has no memory for it, or is in trouble.

        """
        kind = _FirstLane if self._on_first else Lane
        try:
            lane = kind(self.compiled, self._is_static)
        except RuntimeError as error:
            raise InferenceError(
                f"{self._reference}: {self._device()} could not make one more inference request, of which there is one "
                "for each inference that runs or was started and not released. Close other models, or let fewer run at "
                f"once. OpenVINO said: {error}"
            ) from error
        if isinstance(lane, _FirstLane):
            lane.on_first = self._on_first
        return lane

    def place(self, arrays: list[Array]) -> tuple[Requests, list[Array], None]:
        """Return whose request runs a call, on which arrays, and how its outputs are cut: all as it is."""
        return self, arrays, None

    def take(self) -> Lane:
        """Return a request that nobody else uses; it must be given back."""
        try:
            return self._idle.pop()
        except IndexError:
            return self.new_lane()

    def give_back(self, lane: Lane) -> None:
        """Let others use a request again."""
        self._idle.append(lane)

    def run(self, arrays: Sequence[Array], limit: float = LENT, *, share_outputs: bool = False) -> list[Array]:
        """Run one inference on the caller's thread, or in its turn if the model has a state.

        Raises:
            InferenceError: the device failed.
            InputError: the graph refused the sizes of dynamic inputs.

        """
        if self._has_state:
            return self._run_in_turn(arrays, limit, share_outputs=share_outputs)
        try:
            lane = self._idle.pop()
        except IndexError:
            lane = self.new_lane()
        try:
            return self.run_on(lane, arrays, limit, share_outputs)
        finally:
            self._idle.append(lane)

    def run_on(self, lane: Lane, arrays: Sequence[Array], limit: float, share_outputs: bool) -> list[Array]:  # noqa: FBT001
        """Run one inference on a request that the caller took; errors as for `run`."""
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

    def _run_in_turn(self, arrays: Sequence[Array], limit: float, *, share_outputs: bool) -> list[Array]:
        job = Job(self, arrays, limit, share_outputs=share_outputs)
        future = self.queue(job)
        try:
            wait_for([future])
            outputs: list[Array] = future.result()
        except BaseException:
            # The caller's arrays may be lent: they are the caller's again only when nothing runs.
            stop([(future, job)])
            raise
        return outputs

    @property
    def optimal(self) -> int:
        """How many inferences at once make best use of the device: one if the model has a state."""
        return 1 if self._has_state else int(self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def queue(self, job: Callable[[], Any]) -> Future[Any]:
        """Run a job as soon as a worker is free; there are as many workers as `optimal`, and they keep the order."""
        with self._lock:
            # A forked child inherits the executor without its threads: a job would wait for them forever.
            if self._executor is None or self._process != os.getpid():
                # Imported now: it cannot be when the main thread has ended, and until then a call does without.
                from concurrent.futures import ThreadPoolExecutor

                # Threads that run blocking inferences, not AsyncInferQueue nor callbacks: after a failed inference
                # OpenVINO 2026.4 does not call the callback, and the queue raises the error at whoever comes next.
                # Frames per second are the same.
                self._executor = ThreadPoolExecutor(self.optimal, thread_name_prefix="npu_persist")
                self._process = os.getpid()
            return self._executor.submit(job)

    def reset(self) -> None:
        """Give the state its first value again, when what is queued before is done."""
        if self._has_state:
            self.queue(self._reset).result()

    def _reset(self) -> None:
        lane = self.take()
        try:
            lane.request.reset_state()
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
            f"{self._reference} failed on {self._device()} with the inputs {shapes}: the values are none that the "
            f"graph can compute with, or the device is in trouble. OpenVINO said: {error}"
        )

    def _device(self) -> str:
        return ", ".join(executing_devices(self.compiled)) or "its device"


class Job:
    """One inference in the queue, which can be stopped.

    Args:
        requests: where it takes its request from.
        arrays: its inputs.
        limit: bytes from which they are lent.
        share_outputs: whether it gives views of the request's memory.
        is_kept: whether it keeps its request when it is done, until `release`.
        fit: how its outputs are cut back, if they are.

    Attributes:
        lock: who holds it keeps `release` waiting.

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
        """Run the inference; errors as for `Requests.run`."""
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
        return outputs

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
            self._requests.give_back(lane)


def run_on_each(requests: Requests, arrays: Sequence[Array]) -> None:
    """Run one inference on each request that makes best use of the device; errors as for `Requests.run`."""
    for future in [requests.queue(Job(requests, arrays, share_outputs=True)) for _ in range(requests.optimal)]:
        future.result()


def wait_for(futures: Collection[Future[Any]], timeout: float | None = None) -> bool:
    """Wait until one of several futures is done, or the time is up; a signal ends it at once, or nearly."""
    end = None if timeout is None else time.monotonic() + timeout
    while not any(future.done() for future in futures):
        left = _SLICE if end is None else min(end - time.monotonic(), _SLICE)
        if left <= 0:
            return False
        wait(futures, left, return_when=FIRST_COMPLETED)
    return True


def stop(pending: Collection[tuple[Future[Any], Job]]) -> None:
    """Cancel what is queued, stop what runs, and wait until nothing of it runs."""
    for future, job in pending:
        if not future.cancel():
            job.release()
    for future, _ in pending:
        wait_for([future])


def _is_lendable(flags: Any) -> bool:
    return bool(flags.c_contiguous and flags.writeable and flags.aligned)


def _has_state(lane: Lane) -> bool:
    try:
        return bool(lane.request.query_state())
    except RuntimeError:  # "Not Implemented": what AUTO answers for a graph without state, and only for that
        return False
