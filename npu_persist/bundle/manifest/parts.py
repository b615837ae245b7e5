"""The parts that a manifest is made of, as frozen dataclasses, and the constants of its format.

The promise: plain data. Nothing here reads a file or checks anything; `Manifest.from_json` and `Manifest.to_json` do,
and what they let through satisfies every rule that is written beside a field here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import dataclass
else:
    from npu_persist.files.frozen import dataclass

FORMAT_VERSION = "1.0"
"""The manifest format that this package writes, and the only one it reads."""

MANIFEST_FILE = "manifest.json"
"""Name of the manifest in its bundle's folder. Written last: a folder without it is no bundle."""

MANIFEST_SIGNATURE_FILE = "manifest.json.sig"
"""Name of the manifest's detached signatures, if there are any (see `trust.signing`)."""

ORIGIN_FILE = "origin.json"
"""Name of the file that says where a pulled bundle, or a pulled artifact of one, came from (see `origin`)."""

COMPILED_DIRECTORY = "compiled"
"""Folder inside a bundle for compiled artifacts, which are attached later and are no part of the manifest."""

DATA_ALIGNMENT = 4096
"""The tensor data of a weights file starts at a multiple of this many bytes."""

DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
"""Element types of inputs and outputs, by their numpy names."""

Precision: TypeAlias = Literal["fp16", "fp32"]
"""What floating-point weights are stored as."""

Conversion: TypeAlias = Literal["trace", "export"]
"""Which way the module was captured: `torch.jit.trace` or `torch.export`."""

ParameterKind: TypeAlias = Literal[
    "positional_only", "positional_or_keyword", "var_positional", "keyword_only", "var_keyword"
]
"""`inspect.Parameter.kind`, in lower case."""

Side: TypeAlias = Literal["right", "left"]
"""Where an input is filled up: after its values or before them."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dynamic axis of a shape.

    Attributes:
        name: The symbol that axes of equal size share (`batch`), one computed from it (`2*batch+1`, `(batch+1)//2`), or
            None.
        min: Smallest allowed size, at least 0.
        max: Largest allowed size, at least `min`; None is unbounded.
    """

    name: str | None
    min: int
    max: int | None


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a graph.

    Attributes:
        name: The tensor's name in the IR; unique among the graph's inputs, or outputs.
        dtype: One of `DTYPES`.
        shape: One size or `Dimension` an axis.
    """

    name: str
    dtype: str
    shape: tuple[int | Dimension, ...]


@dataclass(frozen=True, slots=True)
class TensorNode:
    """A tensor in a structure: the graph's input or output of that index. In JSON `{"tensor": 0}`."""

    index: int


@dataclass(frozen=True, slots=True)
class ValueNode:
    """A constant in a structure. In JSON `{"value": 3}`, and `{"float": "nan"}`, `"inf"` or `"-inf"`."""

    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class OpaqueNode:
    """A constant that JSON cannot hold, by its repr: for people to read. In JSON `{"opaque": "slice(0, 3)"}`."""

    text: str


@dataclass(frozen=True, slots=True)
class ListNode:
    """A list. In JSON `{"list": [tree, …]}`."""

    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class TupleNode:
    """A tuple. In JSON `{"tuple": [tree, …]}`."""

    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class DictNode:
    """A dict with unique string or integer keys, in order. In JSON `{"dict": [[key, tree], …]}`."""

    items: tuple[tuple[str | int, Tree], ...]


@dataclass(frozen=True, slots=True)
class NamedTupleNode:
    """A named tuple. In JSON `{"namedtuple": {"type": "Point", "fields": [[name, tree], …]}}`."""

    type_name: str
    fields: tuple[tuple[str, Tree], ...]


@dataclass(frozen=True, slots=True)
class RecordNode:
    """A dataclass or ModelOutput. In JSON `{"record": {"type": "BaseModelOutput", "fields": [[name, tree], …]}}`."""

    type_name: str
    fields: tuple[tuple[str, Tree], ...]


Tree: TypeAlias = TensorNode | ValueNode | OpaqueNode | ListNode | TupleNode | DictNode | NamedTupleNode | RecordNode
"""A nested structure of tensors and constants."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the module's forward.

    Attributes:
        name: Its name; unique in the signature.
        kind: Its `ParameterKind`.
        default: Its default; None for a parameter that has none (a default of None is `ValueNode(None)`).
    """

    name: str
    kind: ParameterKind
    default: Tree | None


@dataclass(frozen=True, slots=True)
class Signature:
    """How the module is called, and what it gives back.

    Attributes:
        parameters: The forward's parameters, in order.
        arguments: The example call: parameter name and structure. Each of the graph's inputs is in it exactly once.
        result: Structure of the result; its tensors are indices into the graph's outputs.
    """

    parameters: tuple[Parameter, ...]
    arguments: tuple[tuple[str, Tree], ...]
    result: Tree


@dataclass(frozen=True, slots=True)
class Padding:
    """How an input is filled up to the size that a graph was compiled for.

    Attributes:
        value: What is put there: a finite number that the input's dtype can hold.
        side: "right": after the caller's values; "left": before them. On every axis that is filled.
    """

    value: float = 0.0
    side: Side = "right"


@dataclass(frozen=True, slots=True)
class Buckets:
    """The sizes that a graph with open axes is compiled for.

    Attributes:
        shapes: For each bucket a full shape for each input that has open axes, by its name.
        padding: How each of these inputs is filled up, by its name.
    """

    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    padding: Mapping[str, Padding]


@dataclass(frozen=True, slots=True)
class Graph:
    """One OpenVINO IR file.

    Attributes:
        name: Unique in the bundle.
        path: The `.xml` file, relative to the bundle; also in `Manifest.files`.
        precision: What its floating-point weights are stored as.
        conversion: Which way the module was captured.
        inputs: In the order of the IR.
        outputs: In the order of the IR.
        signature: How the module was called.
        buckets: The sizes that it is compiled for; None (in JSON: no such member) where nothing was said of them.
    """

    name: str
    path: str
    precision: Precision
    conversion: Conversion
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    signature: Signature
    buckets: Buckets | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """The safetensors file that all graphs read.

    Attributes:
        path: Relative to the bundle; also in `Manifest.files`.
        data_start: Bytes before the first tensor: 8 + header length, a multiple of `DATA_ALIGNMENT`.
        data_size: Bytes of tensor data; the file ends after them.
        tensors: How many tensors.
    """

    path: str
    data_start: int
    data_size: int
    tensors: int


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What the check against torch demands of every output.

    Attributes:
        max_relative: Largest allowed absolute difference, relative to the output's scale.
        cosine: Smallest allowed cosine similarity.
    """

    max_relative: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Difference:
    """What the check against torch measured on one output; all numbers are finite.

    Attributes:
        output: The output's name.
        max_abs: Largest absolute difference.
        max_relative: The same, relative to the output's scale.
        cosine: Cosine similarity.
    """

    output: str
    max_abs: float
    max_relative: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Golden:
    """The golden sample.

    Attributes:
        path: Its safetensors file, relative to the bundle; also in `Manifest.files`.
        tolerance: What was demanded; None when the bundle was persisted without the check.
        differences: What was measured; None when the bundle was persisted without the check.
    """

    path: str
    tolerance: Tolerance | None
    differences: tuple[Difference, ...] | None


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and digest of one file."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Producer:
    """Versions of the packages that made the bundle; `torch` is None where it was not involved."""

    npu_persist: str
    openvino: str
    torch: str | None
