from __future__ import annotations

import collections
import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npu_persist.bundle.graph_records import (
    DictNode,
    Dimension,
    ListNode,
    NamedTupleNode,
    OpaqueNode,
    Parameter,
    Port,
    Signature,
    TensorNode,
    Tree,
    TupleNode,
    ValueNode,
)
from npu_persist.bundle.signature import CallPlan, ModelOutput, read_symbol, rebuild, size_of
from npu_persist.errors import InputError, ManifestError, UsageError
from tests.support.graphs import BATCH, NESTED_INPUTS, NESTED_SIGNATURE, tree_signature

X = Port("x", "float32", (2,))
Y = Port("y", "int64", (BATCH, Dimension(None, 0, None)))
OUT = Port("out", "float32", (2, 3))
PLAN = CallPlan(NESTED_SIGNATURE, NESTED_INPUTS, [OUT, OUT])
Pair = collections.namedtuple("Pair", ["first", "second"])  # noqa: PYI024 - as a caller may have it
Swapped = collections.namedtuple("Swapped", ["second", "first"])  # noqa: PYI024
Renamed = collections.namedtuple("Renamed", ["first", "other"])  # noqa: PYI024
Longer = collections.namedtuple("Longer", ["first", "second", "third"])  # noqa: PYI024


@dataclasses.dataclass
class Hidden:
    """What the nested signature calls Hidden, as a caller may have it."""

    last: Any
    pooled: Any = None
    extra: Any = None


def plan_of(tree: Tree, *, inputs: int = 1) -> CallPlan:
    return CallPlan(tree_signature(tree), [X] * inputs, [OUT])


def nested_call(**changes: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a call that fits the nested signature, its tensors the texts t0 to t5 in arrays."""
    tensors = [np.full((1,), index) for index in range(6)]
    args = (tensors[0], Pair(tensors[1], {"a": tensors[2]}), tensors[3], tensors[4])
    kwargs = {"output": Hidden(tensors[5]), "scale": 2.0, "return_dict": True, "level": 3}
    return args, {**kwargs, **changes}


def indices(leaves: Any) -> list[int]:
    return [int(leaf[0]) for leaf in leaves]


class TestFlatten:
    def test_nested_arguments_come_in_the_graphs_order(self) -> None:
        args, kwargs = nested_call()
        assert indices(PLAN.flatten(args, kwargs)) == [0, 1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        "changes",
        [
            {"mask": None},
            {"mode": "linear"},
            {"mode": np.str_("linear")},
            {"steps": (1, 2)},
            {"steps": [1, 2]},
            {"scale": 2},
            {"scale": np.float32(2)},
            {"scale": np.array(2, np.int8)},
            {"return_dict": np.bool_(True)},  # noqa: FBT003 - numpy's own flag
            {"level": 3.0},
            {"output": {"last": np.array([5]), "pooled": None}},
            {"output": {"last": np.array([5])}},
            {"output": ModelOutput("Hidden", {"last": np.array([5]), "pooled": None})},
            {"output": ModelOutput("Other", {"last": np.array([5])})},
            {"output": Hidden(np.array([5]), extra=None)},
            {"output": collections.OrderedDict(last=np.array([5]), unused=None)},
        ],
    )
    def test_the_same_values_in_other_clothes_are_taken(self, changes: dict[str, Any]) -> None:
        args, kwargs = nested_call(**changes)
        assert indices(PLAN.flatten(args, kwargs)) == [0, 1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        "pair", [(1, {"a": 2}), [1, {"a": 2}], {"first": 1, "second": {"a": 2}}, Pair(1, {"a": 2})]
    )
    def test_a_named_tuple_is_given_by_position_or_by_name(self, pair: Any) -> None:
        args, kwargs = nested_call()
        assert PLAN.flatten((args[0], pair, *args[2:]), kwargs)[1:3] == [1, 2]

    def test_a_named_tuple_is_read_by_its_names(self) -> None:
        args, kwargs = nested_call()
        assert PLAN.flatten((args[0], Swapped({"a": 2}, 1), *args[2:]), kwargs)[1:3] == [1, 2]

    @pytest.mark.parametrize(
        ("changes", "argument", "expected", "got"),
        [
            ({"scale": 1.0}, "scale", "2.0: the value was fixed when the module was traced", "1.0"),
            ({"scale": np.float32(1.5)}, "scale", "2.0: the value", "float32[] of value 1.5"),
            ({"scale": np.array([2.0])}, "scale", "2.0: the value", "float64[1]"),
            ({"scale": True}, "scale", "2.0: the value", "True"),
            ({"scale": "2.0"}, "scale", "2.0: the value", "'2.0'"),
            ({"scale": None}, "scale", "2.0: the value", "None"),
            ({"scale": 10**400}, "scale", "2.0: the value", "1000"),
            ({"return_dict": False}, "return_dict", "True: the value", "False"),
            ({"return_dict": 1}, "return_dict", "True: the value", "1"),
            ({"return_dict": np.int64(1)}, "return_dict", "True: the value", "int64[] of value 1"),
            ({"return_dict": None}, "return_dict", "True: the value", "None"),
            ({"level": True}, "options['level']", "3: the value", "True"),
            ({"level": 4}, "options['level']", "3: the value", "4"),
            ({"mask": np.zeros(2)}, "mask", "None: the value", "float64[2]"),
            ({"mask": False}, "mask", "None: the value", "False"),
            ({"mode": "cubic"}, "mode", "'linear': the value", "'cubic'"),
            ({"mode": b"linear"}, "mode", "'linear': the value", "b'linear'"),
            ({"mode": None}, "mode", "'linear': the value", "None"),
            ({"steps": (1, 3)}, "steps[1]", "2: the value", "3"),
            ({"steps": (1,)}, "steps", "a tuple of 2", "a tuple of 1"),
            ({"steps": 1}, "steps", "a tuple of 2", "1"),
            ({"window": slice(0, 3)}, "window", "to be left out: only its default slice(0, 3, None)", "slice"),
            ({"output": None}, "output", "Hidden with the fields ['last', 'pooled']", "None"),
            ({"output": np.zeros(2)}, "output", "Hidden with the fields", "float64[2]"),
            ({"output": (1, None)}, "output", "Hidden with the fields", "a tuple of 2"),
            ({"output": {"pooled": None}}, "output", "Hidden with the fields", "a dict with the keys ['pooled']"),
            ({"output": Hidden(1, pooled=2)}, "output.pooled", "None: the value", "2"),
            ({"output": Hidden(1, extra=2)}, "output", "Hidden with only the fields ['last', 'pooled']", "Hidden("),
            ({"output": {"last": 1, "extra": 2}}, "output", "Hidden with only the fields", "a dict with the keys"),
            ({"output": {"last": None}}, "output.last", "float32[2]", "None"),
            ({"output": {"last": "text"}}, "output.last", "float32[2]", "'text'"),
            ({"output": {"last": {}}}, "output.last", "float32[2]", "a dict with the keys []"),
        ],
    )
    def test_another_value_or_structure_is_refused(
        self, changes: dict[str, Any], argument: str, expected: str, got: str
    ) -> None:
        args, kwargs = nested_call(**changes)
        with pytest.raises(InputError) as caught:
            PLAN.flatten(args, kwargs)
        error = caught.value
        assert error.argument == argument
        assert error.expected is not None
        assert error.expected.startswith(expected)
        assert error.got is not None
        assert error.got.startswith(got)
        assert str(error).startswith(f"argument {argument}: expected {error.expected}; got {error.got}. Expected (x: ")
        assert isinstance(error, UsageError)
        assert isinstance(error, TypeError)

    @pytest.mark.parametrize(
        ("pair", "argument"),
        [
            ((1,), "pair"),
            ((1, 2), "pair.second"),
            ((1, {}), "pair.second"),
            ((1, {"a": 1, "b": 2}), "pair.second"),
            ((1, {"a": None}), "pair.second['a']"),
            (None, "pair"),
            ("ab", "pair"),
            (Renamed(1, {"a": 2}), "pair"),
            (Longer(1, {"a": 2}, 3), "pair"),
        ],
    )
    def test_another_structure_inside_is_refused(self, pair: Any, argument: str) -> None:
        args, kwargs = nested_call()
        with pytest.raises(InputError) as caught:
            PLAN.flatten((args[0], pair, *args[2:]), kwargs)
        assert caught.value.argument == argument

    @pytest.mark.parametrize(
        ("change", "argument", "message"),
        [
            (lambda args, kwargs: (args[:1], kwargs), "pair", "missing a required"),
            (lambda _, kwargs: ((), kwargs), "x", "missing a required"),
            (lambda args, _: (args, {}), "output", "missing a required"),
            (lambda args, kwargs: (args, {**kwargs, "pair": 1}), "pair", "multiple values"),
            (lambda args, kwargs: (args[:3], kwargs), "more", "a tuple of 2; got a tuple of 1"),
            (lambda args, kwargs: ((*args, 1), kwargs), "more", "a tuple of 2; got a tuple of 3"),
            (lambda args, kwargs: (args, {**kwargs, "other": 1}), "options", r"keys \['level'\]; got a dict with"),
            (lambda args, kwargs: (args, {**kwargs, "x": 1}), "options", r"keys \['level'\]; got a dict with"),
        ],
    )
    def test_missing_and_unknown_arguments_are_refused(self, change: Any, argument: str, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            PLAN.flatten(*change(*nested_call()))
        assert caught.value.argument == argument
        assert "Expected (x: float32[2, 2], /, pair: Pair(" in str(caught.value)

    def test_an_unknown_keyword_is_named_where_there_is_no_place_for_it(self) -> None:
        with pytest.raises(InputError, match="unexpected keyword argument 'y'") as caught:
            plan_of(TensorNode(0)).flatten((1,), {"y": 2})
        assert caught.value.argument == "y"

    def test_what_the_example_left_out_must_be_left_out(self) -> None:
        signature = Signature(
            (
                Parameter("x", "positional_or_keyword", None),
                Parameter("rest", "var_positional", None),
                Parameter("more", "var_keyword", None),
            ),
            (("x", TensorNode(0)),),
            TensorNode(0),
        )
        plan = CallPlan(signature, [X], [OUT])
        assert plan.flatten((5,), {}) == (5,)
        assert list(plan.flatten((), {"x": 5})) == [5]
        for args, kwargs, argument in (((5, np.zeros(3)), {}, "rest"), ((5,), {"z": np.zeros(3)}, "more")):
            with pytest.raises(InputError, match="no value: the persisted example did not pass it") as caught:
                plan.flatten(args, kwargs)
            assert caught.value.argument == argument

    def test_an_optional_tensor_that_the_example_gave_is_needed(self) -> None:
        parameters = (Parameter("x", "positional_or_keyword", None), Parameter("mask", "keyword_only", ValueNode(None)))
        plan = CallPlan(
            Signature(parameters, (("x", TensorNode(0)), ("mask", TensorNode(1))), TensorNode(0)), [X, Y], [OUT]
        )
        assert plan.flatten((1,), {"mask": 2}) == [1, 2]
        with pytest.raises(InputError, match=r"argument mask: expected int64\[batch:1\.\.8, \?:0\.\.\]; got None"):
            plan.flatten((1,), {})

    def test_inputs_are_in_the_order_of_the_graph_not_of_the_call(self) -> None:
        parameters = tuple(Parameter(name, "positional_or_keyword", None) for name in "ab")
        arguments = (("a", TensorNode(1)), ("b", TensorNode(0)))
        plan = CallPlan(Signature(parameters, arguments, TensorNode(0)), [X, X], [OUT])
        assert list(plan.flatten((1, 2), {})) == [2, 1]
        assert list(plan.flatten((), {"b": 2, "a": 1})) == [2, 1]

    def test_an_unused_default_in_front_is_not_taken_for_a_tensor(self) -> None:
        parameters = (
            Parameter("flag", "positional_or_keyword", ValueNode(None)),
            Parameter("x", "positional_or_keyword", ValueNode(None)),
        )
        plan = CallPlan(Signature(parameters, (("x", TensorNode(0)),), TensorNode(0)), [X], [OUT])
        with pytest.raises(InputError, match="argument flag"):
            plan.flatten((1,), {})
        assert plan.flatten((None, 1), {}) == [1]

    def test_not_a_number_is_the_same_as_itself(self) -> None:
        plan = plan_of(TupleNode((TensorNode(0), ValueNode(float("nan")), ValueNode(float("inf")))))
        assert plan.flatten(((1, np.float64("nan"), np.inf),), {}) == [1]
        for value in (0.0, 1, 10**400):
            with pytest.raises(InputError, match="nan: the value was fixed"):
                plan.flatten(((1, value, np.inf),), {})

    def test_a_long_value_is_shortened_in_the_message(self) -> None:
        with pytest.raises(InputError) as caught:
            plan_of(ValueNode(1), inputs=0).flatten(("x" * 10_000,), {})
        assert len(str(caught.value)) < 1000


class TestRebuild:
    def test_every_kind_of_structure(self) -> None:
        first, second = np.zeros(1), np.ones(1)
        found: Any = PLAN.rebuild([first, second])
        assert repr(type(found)) == repr(ModelOutput)
        assert found.values is first
        assert found.loss is None
        assert type(found.pair).__name__ == "Pair"
        assert found.pair.first is second
        assert found.pair[1] is first
        assert found.parts["list"] == [second, 7]

    def test_a_single_tensor_is_no_tuple(self) -> None:
        array = np.zeros(1)
        assert plan_of(TensorNode(0)).rebuild([array]) is array

    @pytest.mark.parametrize(
        ("tree", "value"),
        [
            (TupleNode((TensorNode(0), TensorNode(0))), ("a", "a")),
            (TupleNode(()), ()),
            (ListNode((TensorNode(1), ValueNode(None))), ["b", None]),
            (DictNode(((1, TensorNode(0)), ("1", ValueNode(2.5)))), {1: "a", "1": 2.5}),
            (ValueNode(value=True), True),
        ],
    )
    def test_plain_structures(self, tree: Tree, value: Any) -> None:
        assert rebuild(tree, ["a", "b"]) == value
        assert type(rebuild(tree, ["a", "b"])) is type(value)

    def test_named_tuples_are_of_one_class_and_survive_pickling(self) -> None:
        tree = NamedTupleNode("Point", (("x", TensorNode(0)), ("y", ValueNode(2))))
        found = rebuild(tree, ["a"])
        assert found == ("a", 2)
        assert repr(found) == "Point(x='a', y=2)"
        assert type(found) is type(rebuild(tree, ["b"]))
        for copied in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):  # noqa: S301 - our own bytes
            assert copied == found
            assert type(copied) is type(found)


class TestRecord:
    record = ModelOutput("Output", {"logits": 1, "loss": None, "hidden": 2})

    def test_reads_like_a_model_output(self) -> None:
        record = self.record
        assert (record.logits, record["logits"], record[0], record.loss) == (1, 1, 1, None)
        assert (list(record), len(record), dict(record)) == (["logits", "hidden"], 2, {"logits": 1, "hidden": 2})
        assert (record.to_tuple(), record[-1], record[:1]) == ((1, 2), 2, (1,))
        assert "logits" in record
        assert "loss" not in record
        assert record.get("loss", "none") == "none"
        assert repr(record) == "Output(logits=1, loss=None, hidden=2)"
        assert {"logits", "loss", "to_tuple"} <= set(dir(record))
        logits, hidden = record.values()
        assert (logits, hidden) == (1, 2)

    def test_what_is_not_there(self) -> None:
        with pytest.raises(AttributeError, match="Output has no field 'other'; its fields are logits, loss, hidden"):
            _ = self.record.other
        for key in ("loss", "other"):
            with pytest.raises(KeyError, match=key):
                self.record[key]
        with pytest.raises(IndexError):
            self.record[2]
        assert not hasattr(self.record, "__array__")
        assert not hasattr(self.record, "__dlpack__")

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError, match="Output is read-only: cannot set 'logits'"):
            self.record.logits = 2
        fields = {"a": 1}
        record = ModelOutput("Output", fields)
        fields["a"] = 2
        assert record.a == 1

    @pytest.mark.parametrize("name", ["values", "items", "keys", "get", "to_tuple", "_fields", "_type_name", "_hidden"])
    def test_a_field_may_have_any_name(self, name: str) -> None:
        record = ModelOutput("Output", {"a": 1, name: 2})
        assert record[name] == 2
        assert list(record) == ["a", name]
        if name not in ModelOutput.__slots__:
            assert getattr(record, name) == 2
        assert repr(record) == f"Output(a=1, {name}=2)"

    def test_a_field_cannot_pose_as_the_class(self) -> None:
        record = ModelOutput("Output", {"__class__": int, "__reduce__": None})
        assert isinstance(record, ModelOutput)
        assert record["__class__"] is int
        assert type(pickle.loads(pickle.dumps(record))) is ModelOutput  # noqa: S301 - our own bytes

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_survives_pickling(self, protocol: int) -> None:
        inner = rebuild(NamedTupleNode("Point", (("x", ValueNode(1)),)), ())
        record = ModelOutput(
            "Output", {"values": np.arange(3), "none": None, "inner": ModelOutput("In", {"point": inner})}
        )
        copied = pickle.loads(pickle.dumps(record, protocol))  # noqa: S301 - our own bytes
        assert np.array_equal(copied.values, [0, 1, 2])
        assert copied.none is None
        assert copied.inner.point == (1,)
        assert repr(copied) == repr(record)

    def test_copies(self) -> None:
        record: Any = ModelOutput("Output", {"values": [1]})
        shallow: Any = copy.copy(record)
        deep: Any = copy.deepcopy(record)
        assert shallow.values is record.values
        assert deep.values == [1]
        assert deep.values is not record.values


class TestText:
    def test_shows_what_must_be_given_and_what_may_be_left_out(self) -> None:
        assert str(PLAN) == (
            "(x: float32[2, 2], /, pair: Pair(first=float32[2], second={'a': float32[]}), "
            "*more: (float32[2], float32[2]), output: Hidden(last=float32[2], pooled=None), mask=None, scale: 2.0, "
            "mode='linear', steps=(1, 2), window=slice(0, 3, None), return_dict: True, **options: {'level': 3}) -> "
            "Result(values=float32[2, 3], loss=None, pair=Pair(first=float32[2, 3], second=float32[2, 3]), "
            "parts={'list': [float32[2, 3], 7]})"
        )

    @pytest.mark.parametrize(
        ("kinds", "text"),
        [
            (["positional_only", "keyword_only"], "(a: float32[2], /, *, b: float32[2])"),
            (["positional_only", "positional_only"], "(a: float32[2], b: float32[2], /)"),
            (["positional_or_keyword", "keyword_only"], "(a: float32[2], *, b: float32[2])"),
            (["keyword_only", "keyword_only"], "(*, a: float32[2], b: float32[2])"),
        ],
    )
    def test_shows_how_arguments_may_be_passed(self, kinds: list[Any], text: str) -> None:
        parameters = tuple(Parameter(name, kind, None) for name, kind in zip("ab", kinds, strict=True))
        arguments = (("a", TensorNode(0)), ("b", TensorNode(1)))
        plan = CallPlan(Signature(parameters, arguments, ValueNode(None)), [X, X], [])
        assert str(plan) == f"{text} -> None"

    def test_a_tuple_of_one_has_its_comma(self) -> None:
        assert str(plan_of(TupleNode((TensorNode(0),)))) == "(x: (float32[2],)) -> float32[2, 3]"

    def test_dynamic_axes(self) -> None:
        plan = CallPlan(tree_signature(TensorNode(0)), [Y], [OUT])
        assert str(plan) == "(x: int64[batch:1..8, ?:0..]) -> float32[2, 3]"


class TestHostile:
    """A manifest that passes its own rules may still describe no signature of Python."""

    @pytest.mark.parametrize(
        "parameters",
        [
            (Parameter("not a name", "positional_or_keyword", None),),
            (Parameter("class", "positional_or_keyword", None),),
            (Parameter("rest", "var_positional", ValueNode(1)),),
            (Parameter("a", "keyword_only", ValueNode(1)), Parameter("b", "positional_only", ValueNode(1))),
            (Parameter("a", "positional_only", ValueNode(1)), Parameter("needed", "positional_only", None)),
            (Parameter("needed", "keyword_only", None),),
            (Parameter("a", "keyword_only", NamedTupleNode("not a name", ())),),
        ],
    )
    def test_parameters(self, parameters: tuple[Parameter, ...]) -> None:
        with pytest.raises(ManifestError, match="the manifest's signature is impossible for a module") as caught:
            CallPlan(Signature(parameters, (), ValueNode(None)), [], [])
        assert caught.value.problems[0].location == "signature"

    @pytest.mark.parametrize(
        "node",
        [
            NamedTupleNode("class", ()),
            NamedTupleNode("a.b", ()),
            NamedTupleNode("T", (("def", ValueNode(1)),)),
            NamedTupleNode("T", (("_x", ValueNode(1)),)),
            NamedTupleNode("T", (("x=__import__('os')", ValueNode(1)),)),
        ],
    )
    def test_results(self, node: Tree) -> None:
        for tree in (node, ListNode((DictNode((("a", node),)),))):
            with pytest.raises(ManifestError):
                CallPlan(Signature((), (), tree), [], [])

    def test_an_argument_that_can_never_be_given(self) -> None:
        with pytest.raises(InputError, match="to be left out"):
            plan_of(OpaqueNode("slice(0, 3)"), inputs=0).flatten((slice(0, 3),), {})


class TestSymbols:
    @pytest.mark.parametrize(
        ("name", "symbol"),
        [
            ("batch", (1, "batch", 0)),
            ("2*batch", (2, "batch", 0)),
            ("2*batch+1", (2, "batch", 1)),
            ("16*time-15", (16, "time", -15)),
            ("0*batch", (1, "0*batch", 0)),
            ("*", (1, "*", 0)),
            ("a*b", (1, "a*b", 0)),
            ("\u0662*batch", (1, "\u0662*batch", 0)),
        ],
    )
    def test_a_name_is_read(self, name: str, symbol: tuple[int, str, int]) -> None:
        assert tuple(read_symbol(name)) == symbol

    @given(st.text())
    def test_any_text_is_a_name(self, name: str) -> None:
        factor, _, _ = read_symbol(name)
        assert factor > 0

    def test_sizes_are_computed(self) -> None:
        assert size_of("2*batch+1", {"batch": 3}) == 7
        assert size_of("batch", {"batch": 3}) == 3
        assert size_of("2*time", {"batch": 3}) is None
