"""What a call takes for an input, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from npu_persist.bundle.graph_records import DTYPES, Bounds, Dimension, Port
from npu_persist.errors import InputError
from npu_persist.runtime.inputs import Limits, Symbols, as_array
from tests.support.graphs import (
    AFFINE_OF_GRID,
    BATCH,
    GRID,
    read_only,
)

if TYPE_CHECKING:
    from npu_persist import Model


class OnlyArray:
    """An object that speaks `__array__` and nothing else."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return np.array(self.value, dtype=dtype)


class OnlyDlpack:
    """An object that speaks DLPack and nothing else."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class Broken:
    """An object whose `__array__` fails, as that of a tensor with gradients does."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        raise RuntimeError("use tensor.detach().numpy() instead")


class TestInputs:
    @pytest.mark.parametrize(
        "value",
        [
            GRID,
            GRID.astype(">f4"),
            GRID.astype(np.float16),
            GRID.astype(np.uint8),
            GRID.astype(np.int16),
            GRID.T.copy().T,
            np.asfortranarray(GRID),
            np.repeat(GRID, 2, axis=1)[:, ::2],
            GRID[::-1, ::-1].copy()[::-1, ::-1],
            read_only(GRID),
            np.lib.stride_tricks.as_strided(GRID.copy()),
            np.frombuffer(b"\0" + GRID.tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3),
            GRID.view(np.recarray),
            OnlyArray(GRID),
            OnlyArray(GRID.astype(np.int8)),
            OnlyDlpack(GRID.copy()),
            OnlyDlpack(GRID.astype(np.float16)),
            GRID.tolist(),
            GRID.astype(int).tolist(),
            tuple(map(tuple, GRID.tolist())),
            [[0, 1.0, 2], [3, 4, 5.0]],
            list(GRID),
            [GRID[0], GRID[1].astype(np.int8)],
            [OnlyArray(row) for row in GRID],
        ],
        ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
    )
    def test_what_means_the_same_gives_the_same(self, affine: Model, value: Any) -> None:
        for found in (affine(value), affine(x=value), affine.infer([value])[0], affine.infer({"x": value})[0]):
            assert found.dtype == np.float32
            assert np.array_equal(found, AFFINE_OF_GRID)

    def test_flags_become_numbers(self, affine: Model) -> None:
        assert np.array_equal(affine(GRID > 2), (GRID > 2) * [1, 2, 3] + 0.5)
        assert np.array_equal(affine((GRID > 2).tolist()), (GRID > 2) * [1, 2, 3] + 0.5)

    @pytest.mark.parametrize(
        ("value", "expected", "got"),
        [
            (GRID.astype(np.float64), "float32", "float64, which float32 cannot hold without loss"),
            (GRID.astype(">f8"), "float32", "float64, which float32 cannot hold"),
            (GRID.astype(np.int32), "float32", "int32, which float32 cannot hold"),
            (GRID.astype(np.uint32), "float32", "uint32, which float32 cannot hold"),
            (GRID.astype(np.int64), "float32", "int64, which float32 cannot hold"),
            (GRID.astype(np.complex64), "float32", "complex64, which float32 cannot hold"),
            (GRID.astype(str), "float32", "str"),
            (GRID.astype("S3"), "float32", "bytes"),
            (GRID.astype("M8[s]"), "float32", "datetime64[s]"),
            (GRID.astype(object), "float32", "object"),
            (np.zeros((2, 3), [("a", "f4")]), "float32", "void32"),
            (OnlyArray(GRID.astype(np.float64)), "float32", "float64, which float32 cannot hold"),
            (OnlyDlpack(GRID.astype(np.float64)), "float32", "float64, which float32 cannot hold"),
            (list(GRID.astype(np.float64)), "float32", "float64, which float32 cannot hold"),
            ([[np.float64(0), 1, 2], [3, 4, 5]], "float32", "float64, which float32 cannot hold"),
            (np.zeros((2, 3, 1), np.float32), "rank 2", "rank 3: float32[2, 3, 1]"),
            (np.zeros(6, np.float32), "rank 2", "rank 1: float32[6]"),
            (np.float32(1), "rank 2", "rank 0: float32[] of value 1.0"),
            (1.5, "rank 2", "rank 0: float32[] of value 1.5"),
            (np.zeros((2, 4), np.float32), "size 3 on axis 1", "4: float32[2, 4]"),
            (np.zeros((0, 3), np.float32), "size 2 on axis 0", "0: float32[0, 3]"),
            (np.zeros((3, 2), np.float32), "size 2 on axis 0", "3: float32[3, 2]"),
            ([[1, 2, 3], [4, 5]], "float32[2, 3]", "uneven lists"),
            ([GRID[0], GRID[1][:2]], "an array, float32[2, 3]", "a list of 2, which cannot be converted"),
            ([1, 2, 3], "rank 2", "rank 1: float32[3]"),
            ([[1, 2, "3"], [4, 5, 6]], "float32", "str"),
            ([[1, 2, None], [4, 5, 6]], "float32", "object"),
            ([[1e39, 0, 0]] * 2, "float32", "a list of 2, which float32 cannot hold"),
            ([[2**24 + 1, 0, 0]] * 2, "float32", "a list of 2, which float32 cannot hold"),
            ([[2**70, 0, 0]] * 2, "float32", "int beyond 64 bits"),
            (None, "an array, float32[2, 3]", "None"),
            ("text", "an array, float32[2, 3]", "'text'"),
            (b"bytes", "an array, float32[2, 3]", "b'bytes'"),
            ({"x": GRID}, "an array, float32[2, 3]", "a dict with the keys ['x']"),
            (object, "an array, float32[2, 3]", "<class 'object'>"),
            (1 + 2j, "an array, float32[2, 3]", "(1+2j)"),
            (Broken(), "an array, float32[2, 3]", "<tests.unit.runtime.test_inputs.Broken"),
        ],
        ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', value)}"[:40],
    )
    def test_what_does_not_fit_is_refused(self, affine: Model, value: Any, expected: str, got: str) -> None:
        with pytest.raises(InputError) as caught:
            affine(value)
        error = caught.value
        assert (error.argument, error.expected) == ("x", expected)
        assert error.got is not None
        assert error.got.startswith(got)
        signature = "Expected (x: float32[2, 3]) -> float32[2, 3]"
        advice = ". For other sizes, persist with buckets= or dynamic_shapes=" if expected.startswith("size") else ""
        assert str(error) == f"argument x: expected {expected}; got {error.got}. {signature}{advice}"

    def test_the_error_of_the_object_itself_is_shown(self, affine: Model) -> None:
        with pytest.raises(InputError, match=r"which cannot be converted: use tensor\.detach\(\)\.numpy\(\) instead"):
            affine(Broken())

    def test_what_to_do_about_a_lossy_cast_is_said(self, affine: Model) -> None:
        with pytest.raises(InputError, match=r"if that is meant: \.astype\(numpy\.float32\)"):
            affine(GRID.astype(np.float64))


def _port(dtype: Any) -> Port:
    return Port("x", dtype, (Dimension(None, 0, None),))


def _try(value: Any, dtype: str) -> np.ndarray[Any, Any] | None:
    try:
        return as_array(value, _port(dtype), "(x)")
    except InputError:
        return None


FITS = {
    "bool": "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64",
    "int8": "int8 int16 int32 int64 float16 float32 float64",
    "int16": "int16 int32 int64 float32 float64",
    "int32": "int32 int64 float64",
    "int64": "int64 float64",
    "uint8": "uint8 uint16 uint32 uint64 int16 int32 int64 float16 float32 float64",
    "uint16": "uint16 uint32 uint64 int32 int64 float32 float64",
    "uint32": "uint32 uint64 int64 float64",
    "uint64": "uint64 float64",
    "float16": "float16 float32 float64",
    "float32": "float32 float64",
    "float64": "float64",
}
"""Each dtype, and those that an array of it is cast to."""


class TestCasts:
    @pytest.mark.parametrize("source", DTYPES)
    @pytest.mark.parametrize("is_swapped", [False, True])
    def test_arrays_are_cast_where_every_value_fits(self, source: str, is_swapped: bool) -> None:  # noqa: FBT001
        array = np.array([0, 1, 1], np.dtype(source).newbyteorder("S" if is_swapped else "="))
        taken = {target for target in DTYPES if _try(array, target) is not None}
        assert taken == set(FITS[source].split())
        for target in taken:
            found = as_array(array, _port(target), "(x)")
            assert found.dtype == np.dtype(target)
            assert found.dtype.isnative
            assert found.tolist() == [0, 1, 1]

    @given(st.data(), st.sampled_from(DTYPES), st.sampled_from(DTYPES))
    def test_a_cast_that_is_made_loses_nothing(self, data: st.DataObject, source: str, target: str) -> None:
        array = data.draw(arrays.arrays(source, st.integers(0, 4)))
        found = _try(array, target)
        assume(found is not None)
        assert found is not None
        assert found.dtype == target
        for before, after in zip(array.tolist(), found.tolist(), strict=True):
            assert before == after or (before != before and after != after)  # noqa: PLR0124

    @pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63) + 1])
    def test_integers_that_float64_cannot_tell_apart_are_refused(self, value: int) -> None:
        for given_value in (np.array([value]), [value]):
            with pytest.raises(InputError, match="float64"):
                as_array(given_value, _port("float64"), "(x)")
        for exact in (2**53, -(2**53)):
            assert as_array(np.array([exact]), _port("float64"), "(x)").tolist() == [exact]
        assert as_array([2**62], _port("float64"), "(x)").tolist() == [2**62]

    @given(st.lists(st.integers(-(2**65), 2**65) | st.booleans(), max_size=4), st.sampled_from(DTYPES))
    def test_plain_integers_are_taken_if_they_fit(self, values: list[int], target: str) -> None:
        found = _try(values, target)
        dtype = np.dtype(target)
        if dtype.kind in "iu":
            fits = all(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max for value in values)
            # numpy has no type for a list of both, and makes floats of them.
            assume(not (any(value >= 2**63 for value in values) and any(value < 0 for value in values)))
            assert (found is not None) == fits
        elif dtype.kind == "b":
            assert (found is not None) == all(isinstance(value, bool) for value in values)
        if found is not None:
            assert found.dtype == dtype
            assert found.tolist() == values

    @given(st.lists(st.floats(width=64), max_size=4), st.sampled_from(DTYPES))
    def test_plain_floats_are_rounded_but_never_to_infinity(self, values: list[float], target: str) -> None:
        found = _try(values, target)
        if np.dtype(target).kind != "f":
            assert (found is not None) == (not values)
            return
        with np.errstate(over="ignore"):
            rounded = np.array(values).astype(target)
        overflows = bool((np.isinf(rounded) != np.isinf(values)).any())
        assert (found is None) == overflows
        if found is not None:
            assert np.array_equal(found, rounded, equal_nan=True)

    def test_numpys_scalars_keep_their_width(self) -> None:
        port = Port("x", "float32", ())
        assert as_array(np.float16(0.5), port, "(x)") == np.float32(0.5)
        assert as_array(0.1, port, "(x)") == np.float32(0.1)
        for value in (np.float64(0.5), np.int64(1), np.array(0.5)):
            with pytest.raises(InputError, match="cannot hold without loss"):
                as_array(value, port, "(x)")

    def test_an_array_that_fits_is_not_copied(self) -> None:
        array = np.zeros(3, np.float32)
        assert as_array(array, _port("float32"), "(x)") is array


class TestSymbols:
    ports = (
        Port("x", "float32", (Dimension("2*batch+1", 3, 17), 4)),
        Port("y", "float32", (Dimension(None, 0, None), BATCH)),
        Port("z", "float32", (BATCH, Dimension("time", 1, None))),
    )

    def check(self, *shapes: tuple[int, ...]) -> None:
        Symbols(self.ports).check([np.zeros(shape) for shape in shapes], "(x)")

    def test_sizes_that_agree(self) -> None:
        self.check((5, 4), (9, 2), (2, 7))
        self.check((17, 4), (0, 8), (8, 1))

    @pytest.mark.parametrize(
        ("shapes", "argument", "expected", "got"),
        [
            (((4, 4), (1, 2), (2, 1)), "x", "2*batch+1 = 3 on axis 0", "4: float64[4, 4]"),
            (((5, 4), (1, 3), (3, 1)), "y", "batch = 2 on axis 1, since batch = 2 in x", "3: float64[1, 3]"),
            (((5, 4), (1, 2), (3, 1)), "z", "batch = 2 on axis 0, since batch = 2 in x", "3: float64[3, 1]"),
        ],
    )
    def test_sizes_that_do_not(self, shapes: Any, argument: str, expected: str, got: str) -> None:
        with pytest.raises(InputError) as caught:
            self.check(*shapes)
        error = caught.value
        assert (error.argument, error.expected, error.got) == (argument, expected, got)

    def test_one_symbol_on_two_axes_of_one_input(self) -> None:
        square = Symbols([Port("x", "float32", (BATCH, BATCH))])
        square.check([np.zeros((3, 3))], "(x)")
        with pytest.raises(InputError, match=r"argument x: expected batch = 3 on axis 1; got 2: float64\[3, 2\]"):
            square.check([np.zeros((3, 2))], "(x)")


def test_integers_that_openvino_would_cut_off_are_refused() -> None:
    port = Port("ids", "int64", (3,))
    limits = Limits(port)
    limits.check(np.array([-(2**31), 0, 2**31 - 1]), port, "()")
    limits.check(np.array([], np.int64), port, "()")
    for value in (2**31, -(2**31) - 1, 2**40):
        with pytest.raises(InputError, match=rf"argument ids: expected values from .*; got {value}"):
            limits.check(np.array([0, value, 1]), port, "()")


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
@pytest.mark.parametrize(("low", "high"), [(0, 9), (-10, 9), (0, None), (None, 9), (3, 3), (0, 2**40)])
def test_an_index_out_of_range_is_refused(dtype: Any, low: int | None, high: int | None) -> None:
    port = Port("ids", dtype, (3,), Bounds(low, high))
    limits = Limits(port)
    numbers = np.iinfo(dtype)
    computed = np.iinfo(np.int32) if dtype == "int64" else numbers
    least = computed.min if low is None else max(low, computed.min)
    most = computed.max if high is None else min(high, computed.max)
    inside = np.array([least, most, max(least, 0)]).astype(dtype)
    limits.check(inside, port, "()")
    limits.check(np.broadcast_to(inside[:, None], (3, 40))[::2].T, port, "()")
    for value in {least - 1, most + 1, numbers.min, numbers.max}:
        if not least <= value <= most and numbers.min <= value <= numbers.max:
            for count in (1, 100):
                with pytest.raises(InputError, match=rf"argument ids: expected values from .*; got {value}\."):
                    limits.check(np.array([least, value, *[least] * count]).astype(dtype), port, "()")


def test_an_index_of_sequences_is_below_their_number() -> None:
    port = Port("beam_idx", "int32", (Dimension("batch", 1, None),), Bounds(0, None, "batch"))
    limits = Limits(port)
    limits.check(np.array([1, 0], np.int32), port, "f(beam_idx)")
    for value in (2, -1):
        with pytest.raises(InputError, match=str(value)):
            limits.check(np.array([0, value], np.int32), port, "f(beam_idx)")
