"""Runs a model over many inputs, as many at once as make best use of the device.

The promise: inputs are taken from the iterable only as fast as results are taken from the generator; results come
before the error of a later input; and when the generator ends, however it ends, nothing of it runs any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist.errors import InferenceError, InputError
from npu_persist.runtime.requests import stop, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from concurrent.futures import Future

    from npu_persist.runtime.inputs import Array
    from npu_persist.runtime.requests import Job


def run_all(
    items: Iterator[Any],
    start: Callable[[Any], tuple[Future[list[Array]], Job]],
    finish: Callable[[list[Array]], Any],
    *,
    window: int,
    is_ordered: bool,
) -> Generator[Any, None, None]:
    """Yield the result of every item.

    Args:
        items: what to run.
        start: starts one of them.
        finish: makes its result of its outputs.
        window: how many may be started whose results were not yielded.
        is_ordered: whether results come in the order of the items, or as they are done.

    Raises:
        InputError, InferenceError: with the index of the item.
        Exception: what the iterator raised, as it is.

    """
    pending: dict[Future[list[Array]], tuple[int, Job]] = {}
    failure: Exception | None = None
    is_open, index = True, 0
    try:
        while is_open or pending:
            while is_open and len(pending) < window:
                begun = _start_next(items, start, index)
                if isinstance(begun, tuple):
                    pending[begun[0]] = index, begun[1]
                    index += 1
                else:
                    is_open, failure = False, begun
                del begun
            if pending:
                head = next(iter(pending))
                wait_for([head] if is_ordered else pending)
                done = head if is_ordered else next(future for future in pending if future.done())
                at, _ = pending.pop(done)
                try:
                    result = finish(done.result())
                except (InputError, InferenceError) as error:
                    raise _add_index(error, at) from error.__cause__
                del done, head  # what is yielded is the caller's alone
                yield result
                del result
        if failure is not None:
            raise failure
    finally:
        failure = None  # which refers to this frame
        stop([(future, job) for future, (_, job) in pending.items()])


def _start_next(
    items: Iterator[Any], start: Callable[[Any], tuple[Future[list[Array]], Job]], index: int
) -> tuple[Future[list[Array]], Job] | Exception | None:
    """Start the next item; None if there is none, and the exception to raise when its turn has come if one is due."""
    try:
        item = next(items)
    except StopIteration:
        return None
    except Exception as error:  # noqa: BLE001 (whatever the iterator has to say)
        return error
    try:
        return start(item)
    except InputError as error:
        return _add_index(error, index)


def _add_index(error: InputError | InferenceError, index: int) -> InputError | InferenceError:
    """Return the error with the item that it is about, as attribute and in its message."""
    error.index = index
    error.args = (f"item {index} of map: {error}",)
    return error
