"""Makes one array out of what a caller passed for one input, or says exactly why it cannot be.

Casts that lose nothing are made (numpy's "safe" rule; plain Python numbers take the input's dtype if they fit); casts
that could lose something are refused, for a silent one is a wrong answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from npu_persist.errors import InputError
from npu_persist.signature import describe_shape, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npu_persist.manifest import Dimension, Port

Array = np.ndarray[Any, Any]


def as_array(value: Any, port: Port, signature: object) -> Array:
    """Return `value` as an array of the port's dtype and of a shape that the port allows.

    Args:
        value: a numpy array, anything with `__array__` or `__dlpack__`, a number, or nested lists of numbers.
        port: the input.
        signature: the model's whole signature, shown in errors.

    Raises:
        InputError: the value is no array, its cast would lose something, or its rank or an axis does not fit.

    """
    array = _convert(value, port, signature)
    if array.ndim != len(port.shape):
        raise _error(
            port, f"{len(port.shape)} axes {describe_shape(port.shape)}", f"shape {list(array.shape)}", signature
        )
    for axis, (wanted, size) in enumerate(zip(port.shape, array.shape, strict=True)):
        if isinstance(wanted, int):
            if size != wanted:
                raise _error(port, f"size {wanted} on axis {axis}", f"{size} (shape {list(array.shape)})", signature)
        elif size < wanted.min or (wanted.max is not None and size > wanted.max):
            name = f" ({wanted.name})" if wanted.name else ""
            high = "" if wanted.max is None else wanted.max
            raise _error(port, f"size {wanted.min}..{high} on axis {axis}{name}", f"{size}", signature)
    return array


def check_symbols(ports: Sequence[Port], arrays: Sequence[Array], signature: object) -> None:
    """Check that axes that share a name have the sizes that the name says.

    Raises:
        InputError: names the axis that contradicts an earlier one.

    """
    sizes: dict[str, int] = {}
    derived: list[tuple[Port, int, Dimension, int]] = []
    for port, array in zip(ports, arrays, strict=True):
        for axis, (wanted, size) in enumerate(zip(port.shape, array.shape, strict=True)):
            if isinstance(wanted, int) or wanted.name is None:
                continue
            if "*" in wanted.name:
                derived.append((port, axis, wanted, size))
            elif sizes.setdefault(wanted.name, size) != size:
                raise _error(port, f"{wanted.name} = {sizes[wanted.name]} on axis {axis}", f"{size}", signature)
    for port, axis, wanted, size in derived:
        expected = size_of(wanted.name or "", sizes)
        if expected is not None and expected != size:
            raise _error(port, f"{wanted.name} = {expected} on axis {axis}", f"{size}", signature)


def _convert(value: Any, port: Port, signature: object) -> Array:
    target = np.dtype(port.dtype)
    if isinstance(value, (bool, int, float, list, tuple)):
        return _convert_numbers(value, target, port, signature)
    try:
        array = np.asarray(value) if hasattr(value, "__array__") else np.from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError, AttributeError) as error:
        raise _error(
            port,
            f"{port.dtype}{describe_shape(port.shape)}",
            f"{type(value).__name__}, which is no array: {error}",
            signature,
        ) from error
    if array.dtype == target:
        return array
    if array.dtype == object or not np.can_cast(array.dtype, target, "safe"):
        raise _error(
            port,
            target.name,
            f"{array.dtype.name}, which {target.name} cannot hold without loss (if that is meant: "
            f".astype(numpy.{target.name}))",
            signature,
        )
    return array.astype(target)


def _convert_numbers(value: Any, target: np.dtype[Any], port: Port, signature: object) -> Array:
    """Plain numbers have no width of their own: an int fits any type that holds its value, a float any float."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise _error(port, f"{target.name}{describe_shape(port.shape)}", f"uneven lists: {error}", signature) from error
    if array.dtype == target:
        return array
    kinds = "biuf".find(array.dtype.kind), {"b": 0, "i": 2, "u": 2, "f": 3}[target.kind]
    if array.dtype.kind not in "biuf" or kinds[0] > kinds[1]:
        raise _error(port, target.name, f"numbers of type {array.dtype.name}", signature)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(target)
    if array.dtype.kind in "iu" and not np.array_equal(cast.astype(np.float64), array.astype(np.float64)):
        raise _error(port, f"{target.name}", f"an integer that {target.name} cannot hold: {value!r:.60}", signature)
    return cast


def _error(port: Port, expected: str, got: str, signature: object) -> InputError:
    return InputError(
        f"argument {port.name}: expected {expected}; got {got}. Expected {signature}",
        argument=port.name,
        expected=expected,
        got=got,
    )
