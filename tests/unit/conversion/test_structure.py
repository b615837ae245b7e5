"""Structures taken apart with torch come together again, with torch's classes and without."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npu_persist.bundle.graph_records import DictNode, OpaqueNode, RecordNode, TensorNode, ValueNode
from npu_persist.bundle.signature import rebuild
from npu_persist.conversion.structure import describe_parameters, flatten
from npu_persist.errors import ConversionError
from tests.support.modules import Answer, Pair

TENSOR, NOTHING = torch.ones(1), object()
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)
TENSORS = st.integers(0, 100).map(lambda value: torch.tensor([value]))
STRUCTURES = st.recursive(
    SCALARS | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner).map(lambda pair: Pair(*pair))
        | st.builds(Answer, inner, inner)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return left is right
    if dataclasses.is_dataclass(left):
        return all(same(getattr(left, field.name), getattr(right, field.name)) for field in dataclasses.fields(left))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        fields = getattr(left, "_fields", None) == getattr(right, "_fields", None)
        return fields and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


@settings(max_examples=200, deadline=None)
@given(STRUCTURES)
def test_every_structure_comes_back(value: Any) -> None:
    flat = flatten(value, "value", unique=False)
    assert same(value, flat.rebuild(flat.tensors)), "with torch's own classes"
    assert same(value, rebuild(flat.tree, flat.tensors)), "with records in place of dataclasses"


def test_a_tensor_that_comes_twice_is_one_leaf_among_results_and_two_among_arguments() -> None:
    tensor = torch.ones(1)
    for unique, count in ((True, 1), (False, 2)):
        assert len(flatten([tensor, tensor], unique=unique).tensors) == count


def test_names_follow_the_path() -> None:
    one = torch.ones(1)
    value = {"a": [one, Pair(one, one)], 3: Answer(one)}
    assert flatten(value, "x", unique=False).names == ("x.a.0", "x.a.1.first", "x.a.1.second", "x.3.value")
    assert flatten(value, unique=False).names == ("a.0", "a.1.first", "a.1.second", "3.value")


def test_an_ordered_dict_stays_one_for_the_module() -> None:
    flat = flatten(collections.OrderedDict(a=torch.ones(1)), unique=False)
    assert type(flat.rebuild(flat.tensors)) is collections.OrderedDict
    assert flat.tree == DictNode((("a", TensorNode(0)),))


def test_a_cache_in_the_result_says_how_to_leave_it_out() -> None:
    class DynamicCache:
        pass

    with pytest.raises(ConversionError, match=r"past\.1 is a .*DynamicCache, .*use_cache=False"):
        flatten((None, DynamicCache()), "past", unique=True)


def test_a_key_that_is_neither_text_nor_number_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"dict with the key \(1, 2\)"):
        flatten({(1, 2): torch.ones(1)}, "x", unique=True)


def test_defaults_are_described_and_those_that_are_no_values_are_opaque() -> None:
    def forward(a: int, /, b: float = 1.5, *rest: int, c: Any = TENSOR, d: Any = NOTHING, **more: int) -> None: ...

    described = {parameter.name: parameter for parameter in describe_parameters(forward)}
    assert described["a"].default is None
    assert described["b"].default == ValueNode(1.5)
    assert [described[name].kind for name in ("a", "b", "rest", "c", "more")] == [
        "positional_only", "positional_or_keyword", "var_positional", "keyword_only", "var_keyword",
    ]  # fmt: skip
    assert isinstance(described["c"].default, OpaqueNode)
    assert isinstance(described["d"].default, OpaqueNode)


def test_a_model_output_is_a_record_with_its_empty_fields() -> None:
    from transformers.modeling_outputs import BaseModelOutput

    tree = flatten(BaseModelOutput(last_hidden_state=torch.ones(1)), unique=True).tree
    assert isinstance(tree, RecordNode)
    assert dict(tree.fields)["hidden_states"] == ValueNode(None)
