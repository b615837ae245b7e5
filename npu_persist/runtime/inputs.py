"""Conversion of a caller's value for an input into an array, or an error that says exactly why it does not fit.

Casts that lose nothing are made: numpy's "safe" rule, and plain Python numbers take the input's dtype if they fit.
Casts that could lose something are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from npu_persist.bundle.graph_records import Bounds, Dimension, below_axis
from npu_persist.bundle.signature import describe_bounds, describe_port, describe_value, describe_values, read_symbol
from npu_persist.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npu_persist.bundle.graph_records import Port

Array = np.ndarray[Any, Any]
_INT32 = np.iinfo(np.int32)
_WIDE = frozenset({"int64", "uint32", "uint64"})
"""Types that OpenVINO takes but runs as int32."""

_OTHER_SIZES = ". For other sizes, persist with buckets= or dynamic_shapes="
_EXACT = 2**53
"""Largest integer up to which float64 holds every one."""


def as_array(value: Any, port: Port, signature: object) -> Array:
    """Return `value` as an array of the port's dtype and of a shape that the port allows."""
    array = _convert(value, port, signature)
    if array.ndim != len(port.shape):
        raise _error(port, f"rank {len(port.shape)}", f"rank {array.ndim}: {describe_value(array)}", signature)
    for axis, (wanted, size) in enumerate(zip(port.shape, array.shape, strict=True)):
        if isinstance(wanted, int):
            if size != wanted:
                got = f"{size}: {describe_value(array)}"
                raise _error(port, f"size {wanted} on axis {axis}", got, signature, _OTHER_SIZES)
        elif size < wanted.min or (wanted.max is not None and size > wanted.max):
            name = f" ({wanted.name})" if wanted.name else ""
            bounds = describe_bounds(wanted)
            raise _error(port, f"size {bounds} on axis {axis}{name}", f"{size}: {describe_value(array)}", signature)
    return array


class Symbols:
    """The dynamic axes of a graph's inputs whose names relate their sizes: `batch`, and `2*batch+1`."""

    def __init__(self, ports: Sequence[Port]) -> None:
        self._axes = [
            (index, port, axis, wanted.name, read_symbol(wanted.name))
            for index, port in enumerate(ports)
            for axis, wanted in enumerate(port.shape)
            if isinstance(wanted, Dimension) and wanted.name is not None
        ]

    def check(self, arrays: Sequence[Array], signature: object) -> None:
        """Check that the sizes are what the names say; InputError names the axis that contradicts an earlier one."""
        sizes: dict[str, tuple[int, str]] = {}
        for index, port, axis, name, (factor, root, offset) in self._axes:
            size = arrays[index].shape[axis]
            known, origin = sizes.setdefault(root, ((size - offset) // factor, port.name))
            if factor * known + offset != size:
                why = "" if origin == port.name else f", since {root} = {known} in {origin}"
                expected = f"{name} = {factor * known + offset} on axis {axis}{why}"
                raise _error(port, expected, f"{size}: {describe_value(arrays[index])}", signature)


def _convert(value: Any, port: Port, signature: object) -> Array:
    target = np.dtype(port.dtype)
    if _is_plain(value):
        return _convert_numbers(value, target, port, signature)
    array = _read_array(value, port, signature)
    if array.dtype == target:
        return array
    if array.dtype == object or not np.can_cast(array.dtype, target, "safe") or _is_beyond_float64(array, target):
        raise _error(
            port,
            target.name,
            f"{array.dtype.name}, which {target.name} cannot hold without loss (if that is meant: "
            f".astype(numpy.{target.name}))",
            signature,
        )
    return array.astype(target)


def _read_array(value: Any, port: Port, signature: object) -> Array:
    is_list = isinstance(value, (list, tuple))
    if not is_list and not hasattr(value, "__array__") and not hasattr(value, "__dlpack__"):
        raise _error(port, f"an array, {describe_port(port)}", describe_value(value), signature)
    try:
        return np.asarray(value) if is_list or hasattr(value, "__array__") else np.from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError, AttributeError) as error:
        raise _error(
            port,
            f"an array, {describe_port(port)}",
            f"{describe_value(value)}, which cannot be converted: {error}",
            signature,
        ) from error


def _is_beyond_float64(array: Array, target: np.dtype[Any]) -> bool:
    """Tell whether 64-bit integers do not fit float64: numpy calls that cast safe."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < target.itemsize or target.kind != "f":
        return False
    return bool((array > _EXACT).any() or (array < -_EXACT).any())


def _is_plain(value: Any) -> bool:
    """Tell whether a value consists of Python's own numbers, which have no width; numpy's scalars have one."""
    if isinstance(value, (list, tuple)):
        return all(type(item) in {bool, int, float} or _is_plain(item) for item in value)
    return type(value) in {bool, int, float}


def _convert_numbers(value: Any, target: np.dtype[Any], port: Port, signature: object) -> Array:
    """Convert plain numbers, which have no width: an int fits any type that holds its value, a float any float."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise _error(port, describe_port(port), f"uneven lists: {error}", signature) from error
    if array.dtype == target or array.size == 0:
        return array.astype(target, copy=False)
    allowed = {"b": "b", "i": "biu", "u": "biu", "f": "biuf"}[target.kind]
    if array.dtype.kind not in allowed:
        kind = {"i": "int", "u": "int", "f": "float"}.get(array.dtype.kind, "int beyond 64 bits")
        raise _error(port, target.name, f"{kind}: {describe_value(value)}", signature)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(target)
    # Python compares an int with a float exactly, numpy rounds first.
    is_kept = (
        cast.tolist() == array.tolist() if array.dtype.kind in "iu" else not (np.isinf(cast) ^ np.isinf(array)).any()
    )
    if not is_kept:
        raise _error(port, target.name, f"{describe_value(value)}, which {target.name} cannot hold", signature)
    return cast


_FEW = 64
"""Numbers up to which Python finds the smallest and the largest faster than numpy."""


class Limits:
    """The values that an integer input may have: those of an index, and those that OpenVINO computes with.

    OpenVINO's CPU, GPU and NPU plugins run 64-bit and unsigned 32-bit integers as int32, and silently cut them off.
    For an index that is out of range torch raises; OpenVINO answers something.
    """

    def __init__(self, port: Port) -> None:
        bounds = port.bounds or Bounds(None, None)
        is_wide = port.dtype in _WIDE
        lowest, highest = (_INT32.min, _INT32.max) if is_wide else (None, None)
        self.low = lowest if bounds.low is None else max(bounds.low, _INT32.min)
        self.high = highest if bounds.high is None else min(bounds.high, _INT32.max)
        self._is_index = port.bounds is not None
        self._axis = below_axis(port)
        # As unsigned numbers negative ones are the largest: then one look at all values is enough.
        self._unsigned = np.dtype(port.dtype.replace("int", "uint")) if self.low == 0 and port.dtype[0] == "i" else None

    def check(self, array: Array, port: Port, signature: object) -> None:
        """Raise InputError for a value outside."""
        if self._axis is not None and array.size:
            size, worst = array.shape[self._axis], int(array.max())
            if worst >= size:
                raise _error(port, f"values below {size}, its size on axis {self._axis}", f"{worst}", signature)
        if array.size <= _FEW:
            values = array.ravel().tolist()
            if not values or self._allows(min(values), max(values)):
                return
        elif self._unsigned is not None and self.high is not None:
            if int(np.maximum.reduce(array.view(self._unsigned), axis=None)) <= self.high:
                return
        elif self._allows(int(np.minimum.reduce(array, axis=None)), int(np.maximum.reduce(array, axis=None))):
            return
        highest = int(array.max())
        worst = highest if self.high is not None and highest > self.high else int(array.min())
        why = "since the model uses it as an index" if self._is_index else "which OpenVINO computes with"
        allowed = describe_values(Bounds(self.low, self.high))
        raise _error(port, f"values from {allowed}, {why}", f"{worst}", signature)

    def _allows(self, lowest: int, highest: int) -> bool:
        return (self.low is None or lowest >= self.low) and (self.high is None or highest <= self.high)


def read_limits(ports: Sequence[Port]) -> list[tuple[int, Port, Limits]]:
    """Return what has to be checked of the values of a call's inputs: index, input and limits."""
    return [
        (index, port, Limits(port))
        for index, port in enumerate(ports)
        if port.dtype in _WIDE or port.bounds is not None
    ]


def _error(port: Port, expected: str, got: str, signature: object, advice: str = "") -> InputError:
    return InputError(
        f"argument {port.name}: expected {expected}; got {got}. Expected {signature}{advice}",
        argument=port.name,
        expected=expected,
        got=got,
    )
