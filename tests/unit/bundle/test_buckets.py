"""Resolving buckets against a graph's inputs, choosing one for a call, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npu_persist.bundle.buckets import choose, describe_shapes, open_axes, read_sizes, require_bounds, resolve
from npu_persist.bundle.graph_records import Dimension, Padding, Port
from npu_persist.errors import DynamicShapeError, UsageError

BATCH = Dimension("batch", 1, 8)
SEQUENCE = Dimension("sequence", 1, 512)
IDS = Port("input_ids", "int64", (BATCH, SEQUENCE))
MASK = Port("attention_mask", "int64", (BATCH, SEQUENCE))
DOUBLE = Port("states", "float32", (Dimension("2*batch+1", 3, 17), 4))
FREE = Port("image", "float16", (1, Dimension(None, 8, 64), Dimension(None, 8, None)))
FIXED = Port("scale", "float32", (1,))


def shapes(inputs: list[Port], buckets: Any, padding: Any = None) -> list[dict[str, tuple[int, ...]]]:
    return [dict(one) for one in resolve(inputs, buckets, padding).shapes]


def test_inputs_that_share_names_get_the_same_sizes() -> None:
    assert shapes([IDS, MASK, FIXED], [{"input_ids": (1, 128)}]) == [
        {"input_ids": (1, 128), "attention_mask": (1, 128)}
    ]


def test_a_size_that_is_computed_from_another() -> None:
    assert shapes([IDS, DOUBLE], [{"input_ids": [3, 16]}]) == [{"input_ids": (3, 16), "states": (7, 4)}]
    assert shapes([IDS, DOUBLE], [{"states": (7, 4), "input_ids": (3, 16)}]) == [
        {"input_ids": (3, 16), "states": (7, 4)}
    ]


def test_buckets_come_smallest_first_and_the_smallest_that_fits_is_chosen() -> None:
    found = resolve([IDS], [{"input_ids": (8, 512)}, {"input_ids": (1, 128)}, {"input_ids": (2, 64)}])
    assert [one["input_ids"] for one in found.shapes] == [(1, 128), (2, 64), (8, 512)]
    assert choose(found.shapes, {"input_ids": (1, 64)}) == {"input_ids": (1, 128)}  # as large as (2, 64), and first
    assert choose(found.shapes, {"input_ids": (2, 64)}) == {"input_ids": (2, 64)}
    assert choose(found.shapes, {"input_ids": (2, 65)}) == {"input_ids": (8, 512)}
    assert choose(found.shapes, {"input_ids": (9, 1)}) is None


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 512)), min_size=1, max_size=5, unique=True),
    st.tuples(st.integers(1, 9), st.integers(1, 520)),
)
def test_what_is_chosen_holds_the_call_and_nothing_smaller_does(
    sizes: list[tuple[int, int]], call: tuple[int, int]
) -> None:
    found = choose(resolve([IDS], [{"input_ids": size} for size in sizes]).shapes, {"input_ids": call})
    fitting = [batch * length for batch, length in sizes if batch >= call[0] and length >= call[1]]
    if found is None:
        assert not fitting
    else:
        batch, length = found["input_ids"]
        assert batch >= call[0]
        assert length >= call[1]
        assert batch * length == min(fitting)


def test_axes_without_names_are_symbols_of_their_own() -> None:
    assert [axis.root for axis in open_axes(FREE)] == ["image[1]", "image[2]"]
    assert shapes([FREE], [{"image": (1, 32, 64)}]) == [{"image": (1, 32, 64)}]
    assert read_sizes([FREE, DOUBLE], {"image": (1, 9, 10), "states": (7, 4)}) == {
        "image[1]": 9,
        "image[2]": 10,
        "batch": 3,
    }


@pytest.mark.parametrize(
    ("inputs", "bucket", "message", "place"),
    [
        ([FREE], {"image": (2, 32, 32)}, "axis 0 of image: expected 1, which is fixed; got 2", ("image", 0)),
        ([FREE], {"image": (1, 7, 32)}, r"axis 1 of image: expected 8\.\.64; got 7", ("image", 1)),
        ([FREE], {"image": (1, 65, 32)}, r"axis 1 of image: expected 8\.\.64; got 65", ("image", 1)),
        ([IDS, FREE], {"image": (1, 8, 32)}, "axis 0 of input_ids: expected a size: no other input", ("input_ids", 0)),
        (
            [IDS, MASK],
            {"input_ids": (1, 8), "attention_mask": (1, 9)},
            "axis 1 of attention_mask: expected 8, since sequence is 8; got 9",
            ("attention_mask", 1),
        ),
        ([DOUBLE], {"states": (8, 4)}, "axis 0 of states: expected 7, since batch is 3; got 8", ("states", 0)),
        ([FIXED], {"scale": (1,)}, "dynamic axes; got one whose inputs have fixed sizes: scale", (None, None)),
    ],
)
def test_an_axis_that_does_not_fit_is_named(
    inputs: list[Port], bucket: Any, message: str, place: tuple[str, int]
) -> None:
    with pytest.raises(DynamicShapeError, match=message) as caught:
        resolve(inputs, [bucket])
    assert (caught.value.input, caught.value.axis) == place


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ([{"ids": (1, 8)}], "expected one of the inputs input_ids, scale; got 'ids'"),
        ([{"input_ids": (8,)}], r"expected 2 sizes for input_ids, which is int64\[.*; got \(8,\)"),
        ([{"input_ids": (1, 8)}, {"input_ids": (1, 8)}], "differ; got input_ids=1x8 twice"),
        ([], "expected a list of shapes"),
        ({"input_ids": (1, 8)}, "expected a list of shapes"),
        ("input_ids=1x8", "expected a list of shapes"),
        ([{}], "got the bucket {}"),
        ([(1, 8)], r"got the bucket \(1, 8\)"),
        ([{"input_ids": 8}], "got 'input_ids': 8"),
        ([{"input_ids": (1, 0)}], "sizes at least 1; got"),
        ([{"input_ids": (1, True)}], "sizes at least 1; got"),
        ([{"input_ids": (1, 8.0)}], "sizes at least 1; got"),
    ],
)
def test_what_is_no_list_of_buckets(buckets: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve([IDS, FIXED], buckets)


def padding(inputs: list[Port], given: Any) -> dict[str, tuple[float, str]]:
    bucket = {port.name: tuple(axis if isinstance(axis, int) else max(axis.min, 8) for axis in port.shape)
              for port in inputs if port is not DOUBLE}  # fmt: skip
    found = resolve(inputs, [bucket], given)
    return {name: (one.value, one.side) for name, one in found.padding.items()}


def test_without_a_word_it_is_zeros_on_the_right() -> None:
    assert padding([IDS, FREE, FIXED], None) == {"input_ids": (0, "right"), "image": (0, "right")}


def test_inputs_that_share_an_axis_are_padded_on_the_same_side() -> None:
    assert padding([IDS, MASK, FREE], {"attention_mask": Padding(side="left")}) == {
        "input_ids": (0, "left"),
        "attention_mask": (0, "left"),
        "image": (0, "right"),
    }
    with pytest.raises(UsageError, match="attention_mask is padded on the right and input_ids on the left"):
        padding([IDS, MASK], {"input_ids": Padding(5, "left"), "attention_mask": Padding()})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": Padding(0.5)}, "a number that int64 can hold; got 0.5"),
        ({"input_ids": Padding(1e30)}, "a number that int64 can hold"),
        ({"image": Padding(1e6)}, "a number that float16 can hold"),
        ({"image": Padding(float("nan"))}, "can hold; got nan"),
        ({"image": Padding("0")}, "can hold; got '0'"),  # type: ignore[arg-type]
        ({"image": Padding(0, "top")}, 'expected Padding.value, side="right" or "left"'),  # type: ignore[arg-type]
        ({"image": 0}, "padding of image: expected Padding"),
        ({"scale": Padding()}, "got 'scale', whose sizes are all fixed"),
        ({"mask": Padding()}, "expected one of the inputs with open axes, input_ids, image; got 'mask'"),
        ([Padding()], "padding: expected Padding by the name"),
    ],
)
def test_what_is_no_padding(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        padding([IDS, FREE, FIXED], given)


def test_a_padding_that_a_float_rounds_is_one() -> None:
    assert padding([FREE], {"image": Padding(0.1)}) == {"image": (0.1, "right")}


def test_axes_without_a_largest_size_are_named_with_the_way_to_buckets() -> None:
    require_bounds([IDS, FIXED], "unet:1", "NPU")
    with pytest.raises(
        DynamicShapeError, match=r"axis 2 of input image .* buckets=\[\{'image': \(1, 64, 128\)\}\]"
    ) as it:
        require_bounds([IDS, FREE], "unet:1", "NPU")
    assert (it.value.input, it.value.axis) == ("image", 2)


def test_a_bucket_as_text() -> None:
    assert describe_shapes({"input_ids": (1, 128), "x.y": (2,)}) == "input_ids=1x128,x.y=2"
