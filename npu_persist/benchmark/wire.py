"""What goes between the process that measures and the one that is measured: one JSON document a line.

The promise: arrays, numbers and our own errors arrive as they were sent; nothing else can be sent, and no pickle.

    {"spec": {...}}                     first line to the worker: what to load, and with which inputs
    {"ready": {...}}                    from it: loaded, called once; see `worker.Ready`
    {"run": {...}}                      to it: measure for some seconds
    {"interval": [seconds, latencies]}  from it, as often as asked for
    {"done": {...}}                     from it: the run is over
    {"layers": {...}} {"profile": ...}  to it and back: time layer by layer
    {"end": {}}                         to it: end as a user's process ends
    {"warning": "..."}                  from it, at any time: a DeviceWarning
    {"error": {...}}                    from it, before it ends

A worker whose standard input ends without that ends at once, whatever it is doing: it outlives nobody.
"""

from __future__ import annotations

import base64
import io
import json
from array import array
from typing import TYPE_CHECKING, Any

from npu_persist import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as a line.

    Raises:
        TypeError: Something in it is not what JSON has.
    """
    return json.dumps(message).encode() + b"\n"


END = encode({"end": {}})
"""The last line to a worker."""


def pack_numbers(numbers: array[float]) -> str:
    """Return float64 numbers as text: quicker to make than their digits."""
    return base64.b64encode(numbers.tobytes()).decode()


def unpack_numbers(text: str) -> array[float]:
    """Return what `pack_numbers` was given."""
    numbers = array("d")
    numbers.frombytes(base64.b64decode(text))
    return numbers


def pack_arrays(arrays: Arrays) -> dict[str, str]:
    """Return arrays as text by name, each as the `.npy` file that it would be.

    Raises:
        UsageError: One is no array, or an array of Python objects.
    """
    import numpy as np

    packed = {}
    for name, value in arrays.items():
        buffer = io.BytesIO()
        try:
            np.lib.format.write_array(buffer, np.asarray(value), allow_pickle=False)
        except ValueError as error:
            raise errors.UsageError(f"inputs: {name} is no array of numbers: {error}") from error
        packed[name] = base64.b64encode(buffer.getvalue()).decode()
    return packed


def unpack_arrays(packed: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """Return what `pack_arrays` was given."""
    import numpy as np

    return {
        name: np.lib.format.read_array(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
        for name, text in packed.items()
    }


def pack_error(error: BaseException) -> dict[str, str]:
    """Return an error's class and text; those that are not ours with their class in the text."""
    if isinstance(error, errors.NpuPersistError):
        return {"kind": type(error).__name__, "message": str(error)}
    return {"kind": "NpuPersistError", "message": f"{type(error).__name__}: {error}"}


def unpack_error(packed: Mapping[str, str]) -> errors.NpuPersistError:
    """Return the error to raise for what `pack_error` was given."""
    kind = getattr(errors, packed["kind"])
    error: errors.NpuPersistError = kind(packed["message"])
    return error
