"""Many inputs through one model: the device's optimal number at once, and no faster than results are consumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist.errors import InferenceError, InputError
from npu_persist.runtime.requests import stop, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from concurrent.futures import Future

    from npu_persist.runtime.inputs import Array
    from npu_persist.runtime.requests import Inference


def run_all(
    items: Iterator[Any],
    start: Callable[[Any], tuple[Future[list[Array]], Inference]],
    finish: Callable[[list[Array]], Any],
    *,
    window: int,
    is_ordered: bool,
) -> Generator[Any, None, None]:
    """Yield the result of every item; however the generator ends, nothing of it runs any more."""
    pending: dict[Future[list[Array]], tuple[int, Inference]] = {}
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
        stop([(future, inference) for future, (_, inference) in pending.items()])


def _start_next(
    items: Iterator[Any], start: Callable[[Any], tuple[Future[list[Array]], Inference]], index: int
) -> tuple[Future[list[Array]], Inference] | Exception | None:
    """Start the next item; return None if there is none, or the exception to raise when its turn has come."""
    try:
        item = next(items)
    except StopIteration:
        return None
    except Exception as error:  # noqa: BLE001 (whatever the iterator raises)
        return error
    try:
        return start(item)
    except InputError as error:
        return _add_index(error, index)


def _add_index(error: InputError | InferenceError, index: int) -> InputError | InferenceError:
    """Return the error with the number of its item, as attribute and in its message."""
    error.index = index
    error.args = (f"item {index} of map: {error}",)
    return error
