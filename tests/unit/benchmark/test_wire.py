from __future__ import annotations

import json
import math
from array import array

import numpy as np
import pytest

from npu_persist import errors
from npu_persist.benchmark.wire import (
    encode,
    pack_arrays,
    pack_error,
    pack_numbers,
    unpack_arrays,
    unpack_error,
    unpack_numbers,
)


def test_a_message_is_one_line() -> None:
    line = encode({"done": {"text": "two\nlines"}})
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"done": {"text": "two\nlines"}}
    with pytest.raises(TypeError):
        encode({"spec": {"config": object()}})


def test_numbers_arrive_bit_by_bit() -> None:
    numbers = array("d", [0.1, 1e-300, math.pi, 5e9])
    assert unpack_numbers(json.loads(json.dumps(pack_numbers(numbers)))) == numbers


def test_arrays_arrive_as_they_were() -> None:
    arrays = {
        "file": np.arange(6, dtype="float16").reshape(2, 3).T,
        "mask": np.array([True]),
        "none": np.zeros((0, 4), np.int64),
    }
    found = unpack_arrays(json.loads(json.dumps(pack_arrays(arrays))))
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert np.array_equal(found[name], value)


def test_python_objects_are_no_arrays() -> None:
    with pytest.raises(errors.UsageError, match="inputs: x is no array of numbers"):
        pack_arrays({"x": np.array([{}], dtype=object)})


def test_our_errors_arrive_as_themselves() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.NpuPersistError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        found = unpack_error(json.loads(json.dumps(pack_error(kind("what, where")))))
        assert (type(found), str(found)) == (kind, "what, where")


def test_other_errors_arrive_with_their_names() -> None:
    found = unpack_error(pack_error(ZeroDivisionError("by zero")))
    assert (type(found), str(found)) == (errors.NpuPersistError, "ZeroDivisionError: by zero")
