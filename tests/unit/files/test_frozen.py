from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from npu_persist.bundle.manifest import Dimension, Port, TensorNode, TupleNode
from npu_persist.bundle.reference import StoreReference
from npu_persist.files import frozen


@dataclasses.dataclass(frozen=True, slots=True)
class Standard:
    name: str
    size: int
    flag: bool = False


Ours: Any = frozen.dataclass(frozen=True, slots=True)(
    type("Ours", (), {"__annotations__": {"name": "str", "size": "int", "flag": "bool"}, "flag": False})
)
Ours.__module__ = __name__


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("a", 1), {}),
        (("a",), {"size": 1}),
        ((), {"size": 1, "name": "a"}),
        (("a", 1, True), {}),
        (("a",), {}),
        ((), {}),
        (("a", 1, True, 4), {}),
        (("a", 1), {"name": "b"}),
        (("a", 1), {"other": 2}),
    ],
)
def test_takes_what_the_standard_one_takes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        expected = dataclasses.asdict(Standard(*args, **kwargs))
    except TypeError:
        with pytest.raises(TypeError, match="Ours"):
            Ours(*args, **kwargs)
    else:
        assert dataclasses.asdict(Ours(*args, **kwargs)) == expected


def test_compares_by_class_and_fields() -> None:
    assert Port("x", "float32", (1, Dimension("b", 1, 8))) == Port("x", "float32", (1, Dimension("b", 1, 8)))
    assert Port("x", "float32", (1,)) != Port("x", "float32", (2,))
    assert Ours("a", 1) != Standard("a", 1)
    other: Any = (TensorNode(0),)
    assert TupleNode(other) != other
    assert len({Ours("a", 1), Ours(size=1, name="a"), Ours("a", 2)}) == 2


def test_cannot_be_changed() -> None:
    value = Ours("a", 1)
    for name in ("name", "new"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, "b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        del value.name
    assert repr(value) == "Ours(name='a', size=1, flag=False)"


def test_is_a_dataclass() -> None:
    value = Ours("a", 1)
    assert dataclasses.replace(value, size=2) == Ours("a", 2)
    assert [field.name for field in dataclasses.fields(value)] == ["name", "size", "flag"]
    match value:
        case Ours(name, size):
            assert (name, size) == ("a", 1)
        case _:
            pytest.fail("did not match")
    for twin in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):  # noqa: S301 (our own)
        assert twin == value
        with pytest.raises(dataclasses.FrozenInstanceError):
            twin.name = "b"


def test_keeps_methods_of_its_own() -> None:
    assert str(StoreReference("unet", version=3)) == "unet:3"


def test_is_for_frozen_classes_only() -> None:
    with pytest.raises(TypeError, match="frozen=True"):
        frozen.dataclass(frozen=False, slots=True)
