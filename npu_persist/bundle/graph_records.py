"""The manifest's records of one graph: its inputs, outputs and states, how it is called, and its buckets.

`bundle.manifest` has the document that they are parts of, `bundle.graph_checks` the rules that relate them to one
another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import msgspec

from npu_persist.bundle.document import Count, Integer, Name, Part, RelativePath, Text

DType: TypeAlias = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"
]  # fmt: skip
"""Element type of an input or output, by its numpy name."""

DTYPES: tuple[DType, ...] = get_args(DType)
"""Every `DType`."""

Precision: TypeAlias = Literal["fp16", "fp32", "int8", "int4"]
"""What weights are stored as; with the integers vectors, and what else is not compressed, are floats."""

Activations: TypeAlias = Literal["int8"]
"""What activations are quantized to: what flows from layer to layer, and is multiplied by weights."""

Conversion: TypeAlias = Literal["trace", "export"]
"""Which way the module was captured: `torch.jit.trace` or `torch.export`."""

ParameterKind: TypeAlias = Literal[
    "positional_only", "positional_or_keyword", "var_positional", "keyword_only", "var_keyword"
]
"""`inspect.Parameter.kind`, in lower case."""

Side: TypeAlias = Literal["right", "left"]
"""Where an input is filled up: after its values or before them."""


class _Node(Part, frozen=True, tag_field="kind"):
    pass


class Dimension(Part, frozen=True):
    """A dynamic axis of a shape.

    Attributes:
        name: The symbol that axes of equal size share (`batch`), one computed from it (`2*batch+1`, `(batch+1)//2`), or
            None.
        min: Smallest allowed size, at least 0.
        max: Largest allowed size, at least `min`; None is unbounded.
    """

    name: Text | None
    min: Count
    max: Count | None


class Bounds(Part, frozen=True, omit_defaults=True):
    """The values that an integer input may have, because the graph uses it as an index; torch raises for others.

    Attributes:
        low: Smallest allowed value: 0, or less where a negative index counts from the end; None is unbounded.
        high: Largest allowed value, at least `low`; None is unbounded.
        below: Name of a dimension of the input, whose size each value is less than, such as "batch" for indices of
            sequences; None, and left out, where there is none.
    """

    low: Integer | None
    high: Integer | None
    below: Text | None = None


class Port(Part, frozen=True, omit_defaults=True):
    """One input or output of a graph.

    Attributes:
        name: The tensor's name in the IR; unique among the graph's inputs, or outputs.
        dtype: Its `DType`.
        shape: One size or `Dimension` an axis.
        bounds: The values that an integer input may have; None, and left out, where the graph says nothing about them.
    """

    name: Text
    dtype: DType
    shape: tuple[Count | Dimension, ...]
    bounds: Bounds | None = None


class TensorNode(_Node, frozen=True, tag="tensor"):
    """A tensor in a structure: the graph's input or output of that index."""

    index: Count


class ValueNode(_Node, frozen=True, tag="value"):
    """A constant in a structure."""

    value: bool | int | float | str | None


class FloatNode(_Node, frozen=True, tag="float"):
    """A constant that JSON has no number for."""

    text: Literal["nan", "inf", "-inf"]

    @property
    def value(self) -> float:
        """The number."""
        return float(self.text)


class OpaqueNode(_Node, frozen=True, tag="opaque"):
    """A constant that JSON cannot hold, as its repr, for people to read: `slice(0, 3)`."""

    text: str


class ListNode(_Node, frozen=True, tag="list"):
    """A list."""

    items: tuple[Tree, ...]


class TupleNode(_Node, frozen=True, tag="tuple"):
    """A tuple."""

    items: tuple[Tree, ...]


class DictNode(_Node, frozen=True, tag="dict"):
    """A dict as pairs of key and structure, in order; keys are unique."""

    items: tuple[tuple[str | int, Tree], ...]


class NamedTupleNode(_Node, frozen=True, tag="namedtuple"):
    """A named tuple: the name of its type, and pairs of name and structure."""

    type_name: Text = msgspec.field(name="type")
    fields: tuple[tuple[Text, Tree], ...]


class RecordNode(_Node, frozen=True, tag="record"):
    """A dataclass or ModelOutput: the name of its type, and pairs of name and structure."""

    type_name: Text = msgspec.field(name="type")
    fields: tuple[tuple[Text, Tree], ...]


Tree: TypeAlias = (
    TensorNode | ValueNode | FloatNode | OpaqueNode | ListNode | TupleNode | DictNode | NamedTupleNode | RecordNode
)
"""A nested structure of tensors and constants."""


class Parameter(Part, frozen=True):
    """One parameter of the module's forward.

    Attributes:
        name: Its name; unique in the signature.
        kind: Its `ParameterKind`.
        default: Its default; None for a parameter that has none (a default of None is `ValueNode(None)`).
    """

    name: Text
    kind: ParameterKind
    default: Tree | None


class Signature(Part, frozen=True):
    """How the module is called, and what it gives back.

    Attributes:
        parameters: The forward's parameters, in order.
        arguments: The example call: parameter name and structure. Each of the graph's inputs is in it exactly once.
        result: Structure of the result; its tensors are indices into the graph's outputs.
    """

    parameters: tuple[Parameter, ...]
    arguments: tuple[tuple[Text, Tree], ...]
    result: Tree


class Padding(Part, frozen=True):
    """How an input is filled up to the size that a graph was compiled for.

    Attributes:
        value: What is put there: a finite number that the input's dtype can hold.
        side: "right": after the caller's values; "left": before them. On every axis that is filled.
    """

    value: float = 0.0
    side: Side = "right"


class Buckets(Part, frozen=True):
    """The sizes that a graph with open axes is compiled for.

    Attributes:
        shapes: For each bucket a full shape for each input that has open axes, by its name.
        padding: How each of these inputs is filled up, by its name.
    """

    shapes: tuple[Mapping[str, tuple[Count, ...]], ...]
    padding: Mapping[str, Padding]


class Growth(Part, frozen=True):
    """How a state grows with each inference.

    Attributes:
        axis: Along which axis.
        by: How much: a size, or what it is computed from, as in `Dimension.name`: `time`, `2*time+1`.
    """

    axis: Count
    by: Count | Text


class State(Part, frozen=True, omit_defaults=True):
    """What a graph keeps from one inference to the next: a result of the module that its next call takes again.

    Attributes:
        name: The module's argument: `hidden`, `cache.0.key`.
        output: The module's result: `output.1`, `cache_output.0.key`.
        variable: The variable's name in the IR.
        dtype: What it is kept as: int32 for int64.
        shape: One size or `Dimension` an axis.
        first: Its sizes when a conversation begins; None for an axis whose `Dimension.name` says which axis of the
            inputs it is equal to.
        initial: What all of its elements are then; None where they differ, and the graph has them as a constant.
        growth: How it grows; None, and left out, where it does not, or not evenly.
        bounds: The values that an integer state may have when a call begins, because the graph uses it as an index.
    """

    name: Text
    output: Text
    variable: Text
    dtype: DType
    shape: tuple[Count | Dimension, ...]
    first: tuple[Count | None, ...]
    initial: float | None = 0.0
    growth: Growth | None = None
    bounds: Bounds | None = None


class Graph(Part, frozen=True, omit_defaults=True):
    """One OpenVINO IR file.

    Attributes:
        name: Unique in the bundle, whatever the case of its letters.
        path: The `.xml` file, relative to the bundle; also in `Manifest.files`.
        precision: What its floating-point weights are stored as.
        conversion: Which way the module was captured.
        inputs: In the order of the IR.
        outputs: In the order of the IR.
        signature: How the module was called.
        buckets: The sizes that it is compiled for; None where none were given.
        states: What it keeps from one inference to the next. Neither its inputs and outputs nor the signature have it.
        activations: What its activations are quantized to; None where they are floats.
    """

    name: Name
    path: RelativePath
    precision: Precision
    conversion: Conversion
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    signature: Signature
    buckets: Buckets | None = None
    states: tuple[State, ...] = ()
    activations: Activations | None = None

    @property
    def stored_as(self) -> str:
        """The precision for people, with that of activations where they are quantized."""
        return self.precision if self.activations is None else f"{self.precision}, activations {self.activations}"


def axis_bounds(axis: int | Dimension) -> tuple[int, float]:
    """Return the smallest and the largest size that an axis may have; infinity where it is unbounded."""
    if isinstance(axis, int):
        return axis, axis
    return axis.min, float("inf") if axis.max is None else axis.max


def allows(bounds: Bounds | None, value: float) -> bool:
    """Tell whether an input with these bounds may have a value.

    >>> allows(Bounds(0, 9), 9), allows(Bounds(None, 9), 10), allows(None, 10)
    (True, False, True)
    """
    return bounds is None or (
        (bounds.low is None or bounds.low <= value) and (bounds.high is None or value <= bounds.high)
    )


def below_axis(port: Port | State) -> int | None:
    """Return the axis whose size each value of an input is less than; None where there is none."""
    name = None if port.bounds is None else port.bounds.below
    if name is None:
        return None
    named = (axis for axis, size in enumerate(port.shape) if isinstance(size, Dimension) and size.name == name)
    return next(named, None)
