"""The sizes of a graph's states: when a conversation begins, and after each call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.bundle.graph_records import Dimension
from npu_persist.bundle.signature import describe_shape, size_of
from npu_persist.errors import DynamicShapeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from npu_persist.bundle.graph_records import Growth, State


def first_shape(state: State, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return the shape of a state when a conversation begins; None if it follows from a size that is not known.

    Args:
        state: The state.
        sizes: The size of each symbol in the call, from `buckets.read_sizes`.

    >>> from npu_persist.bundle.graph_records import Dimension, State
    >>> shape = (Dimension("batch", 1, None), Dimension("past", 0, 9), 64)
    >>> first_shape(State("past", "output.1", "v", "float32", shape, (None, 0, 64)), {"batch": 2})
    (2, 0, 64)
    """
    found = [
        first if first is not None or isinstance(axis, int) else size_of(axis.name or "", sizes)
        for axis, first in zip(state.shape, state.first, strict=True)
    ]
    known = tuple(size for size in found if size is not None)
    return known if len(known) == len(found) else None


def grow(growth: Growth, sizes: Mapping[str, int]) -> int | None:
    """Return by how much a state grows in a call; None if that follows from a size that is not known.

    >>> from npu_persist.bundle.graph_records import Growth
    >>> grow(Growth(1, 1), {}), grow(Growth(1, "2*time+1"), {"time": 3})
    (1, 7)
    """
    return growth.by if isinstance(growth.by, int) else size_of(growth.by, sizes)


def describe_state(state: State) -> str:
    """Describe a state: `float32[1, past:0..9] from output.1, grows by time on axis 1`."""
    text = f"{state.dtype}{describe_shape(state.shape)} from {state.output}"
    return text if state.growth is None else f"{text}, grows by {state.growth.by} on axis {state.growth.axis}"


def require_fixed(states: Iterable[State], reference: str, device: str) -> None:
    """Check that no state has an open axis, as a device wants that compiles for fixed sizes."""
    for state in states:
        for axis, size in enumerate(state.shape):
            if isinstance(size, Dimension):
                raise DynamicShapeError(
                    f"{reference}: axis {axis} of the state {state.name} varies ({state.dtype}"
                    f"{describe_shape(state.shape)}), and {device} compiles for fixed sizes. Persist the module with a "
                    "state of a fixed size: a cache of the largest size that the forward writes into, or a fixed batch",
                    input=state.name,
                    axis=axis,
                )
