"""The manifest: `manifest.json`, a bundle's description of itself, whose digest is the bundle's identity.

The records below are the format: `manifest.schema.json` is generated from them (see `schema`). A manifest that was read
also satisfies the rules that relate its parts to one another, at the end of this file. The same manifest always has the
same bytes, and nothing in it differs between two runs: the time of publishing is the file's modification time. Where
there are several graphs, `golden` is null, and `goldens` has the golden sample of each by the graph's name.

    {
      "format_version": "1.0",
      "name": "unet",
      "producer": {"npu_persist": "0.1.0", "openvino": "2026.4.1", "torch": "2.13.0"},
      "graphs": [
        {
          "name": "model", "path": "model.xml", "precision": "fp16", "conversion": "trace",
          "inputs": [{"name": "x", "dtype": "float32", "shape": [{"name": "batch", "min": 1, "max": 8}, 4]}],
          "outputs": [{"name": "y", "dtype": "float32", "shape": [{"name": "batch", "min": 1, "max": 8}, 2]}],
          "signature": {
            "parameters": [
              {"name": "x", "kind": "positional_or_keyword", "default": null},
              {"name": "scale", "kind": "keyword_only", "default": {"kind": "value", "value": 1.0}}
            ],
            "arguments": [["x", {"kind": "tensor", "index": 0}], ["scale", {"kind": "value", "value": 2.0}]],
            "result": {"kind": "tuple", "items": [{"kind": "tensor", "index": 0}, {"kind": "value", "value": null}]}
          },
          "buckets": {
            "shapes": [{"x": [1, 4]}, {"x": [8, 4]}],
            "padding": {"x": {"value": 0.0, "side": "right"}}
          }
        }
      ],
      "weights": {"path": "weights.safetensors", "data_start": 4096, "data_size": 16, "tensors": 1},
      "golden": {
        "path": "golden.safetensors",
        "tolerance": {"max_relative": 0.02, "cosine": 0.999},
        "differences": [{"output": "y", "max_abs": 0.001, "max_relative": 0.0004, "cosine": 0.99999}]
      },
      "files": {
        "model.xml": {"size": 3120, "digest": "blake3:<64 hex digits>"},
        "weights.safetensors": {"size": 4112, "digest": "blake3:<64 hex digits>"},
        "golden.safetensors": {"size": 240, "digest": "blake3:<64 hex digits>"}
      },
      "warnings": [],
      "metadata": {}
    }
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from npu_persist.bundle.document import (
    FORMAT_VERSION,
    MAX_SIZE,
    Count,
    Digest,
    Document,
    DocumentError,
    Name,
    Part,
    Problems,
    RelativePath,
    Text,
    check_digest,
    check_name,
    check_path,
    check_side_by_side,
    check_values,
    convert,
    dump,
    key_location,
    parse,
    plain,
    show,
)
from npu_persist.bundle.golden_records import Difference, Evaluation, Golden, Metric, Tolerance
from npu_persist.bundle.graph_records import (
    DTYPES,
    Activations,
    Bounds,
    Buckets,
    Conversion,
    DictNode,
    Dimension,
    DType,
    FloatNode,
    Graph,
    Growth,
    ListNode,
    NamedTupleNode,
    OpaqueNode,
    Padding,
    Parameter,
    ParameterKind,
    Port,
    Precision,
    RecordNode,
    Side,
    Signature,
    State,
    TensorNode,
    Tree,
    TupleNode,
    ValueNode,
)
from npu_persist.errors import FormatVersionError, ManifestError
from npu_persist.files.filesystem import component_problem

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

__all__ = [
    "COMPILED_DIRECTORY",
    "DATA_ALIGNMENT",
    "DTYPES",
    "MANIFEST_FILE",
    "MANIFEST_SIGNATURE_FILE",
    "MAX_FILES",
    "MAX_MANIFEST_SIZE",
    "MAX_STEPS",
    "ORIGIN_FILE",
    "PARTIAL_SUFFIX",
    "Activations",
    "Bounds",
    "Buckets",
    "Conversion",
    "DType",
    "DictNode",
    "Difference",
    "Dimension",
    "Evaluation",
    "FileEntry",
    "FloatNode",
    "Golden",
    "Graph",
    "Growth",
    "ListNode",
    "Manifest",
    "Metric",
    "NamedTupleNode",
    "OpaqueNode",
    "Padding",
    "Parameter",
    "ParameterKind",
    "Port",
    "Precision",
    "Producer",
    "RecordNode",
    "Refresh",
    "Rows",
    "Side",
    "Signature",
    "State",
    "TensorNode",
    "Tolerance",
    "Tree",
    "TupleNode",
    "ValueNode",
    "Weights",
    "allows",
    "axis_bounds",
    "below_axis",
    "check_listed_files",
    "derived_bin",
]

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

_FORMAT_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})", re.ASCII)
PARTIAL_SUFFIX = ".partial"
"""End of the name of a file that is being made, which `prune` removes an hour later."""

_NOT_FILES = frozenset({MANIFEST_FILE, MANIFEST_SIGNATURE_FILE, ORIGIN_FILE, COMPILED_DIRECTORY})
"""What stands beside the files that a manifest vouches for, in lower case."""

MAX_MANIFEST_SIZE = MAX_SIZE
"""Largest manifest, in bytes."""

MAX_FILES = 10_000
"""Most files in a bundle."""

MAX_STEPS = 1000
"""Most calls in a golden sample."""


class Weights(Part, frozen=True):
    """The safetensors file that all graphs read.

    Attributes:
        path: Relative to the bundle; also in `Manifest.files`.
        data_start: Bytes before the first tensor: 8 + header length, a multiple of `DATA_ALIGNMENT`.
        data_size: Bytes of tensor data; the file ends after them.
        tensors: How many tensors.
    """

    path: RelativePath
    data_start: Count
    data_size: Count
    tensors: Count


class FileEntry(Part, frozen=True):
    """Size in bytes and digest of one file."""

    size: Count
    digest: Digest


class Producer(Part, frozen=True):
    """Versions of the packages that made the bundle; `torch` is None where it was not involved."""

    npu_persist: Text
    openvino: Text
    torch: Text | None


class Rows(Part, frozen=True, omit_defaults=True):
    """Rows of a tensor that the graph has as a constant: `start`, `start + step`, and so on.

    Attributes:
        of: The tensor's name in the module.
        start: The first row.
        count: How many rows.
        step: From each to the next: 0 is the same row again.
        scale: What all values are multiplied by, in the tensor's own precision.
    """

    of: Text
    start: Count
    count: Count
    step: Count
    scale: float = 1.0


class Refresh(Part, frozen=True, omit_defaults=True):
    """What a module must have in common with the one that was persisted, so that the graph is right for its weights.

    Attributes:
        program: Digest of the traced program, without the values of the module's tensors; None where new weights cannot
            take the places of the old ones, and the module is converted again.
        dtype: The dtype of the module's tensors.
        dtypes: The dtypes of those that have another one, by name.
        fixed: Digests of the tensors that were folded into other constants, or left out for their values: where they
            have changed, the module is converted again.
        rows: Tensors of the weights file that are rows of a tensor of the module.
        bfloat16: The inputs that the module takes in bfloat16, which the golden sample has in float32.
        calibrated: Whether data chose the weights' integers.
        operations: Digest of the functions that the forward calls, with the golden sample: a module that calls the same
            has the same program. None where that is not so.
    """

    program: Digest | None
    dtype: Text
    dtypes: Mapping[Text, Text]
    fixed: Mapping[Text, Digest]
    rows: Mapping[Text, Rows]
    bfloat16: tuple[Text, ...] = ()
    calibrated: bool = False
    operations: Digest | None = None


class Manifest(Document, frozen=True, kw_only=True, omit_defaults=True):
    """A bundle's description of itself.

    Attributes:
        name: The bundle's name.
        producer: What wrote it.
        graphs: One or more graphs, all on the same weights.
        weights: The weights file.
        golden: The golden sample of the only graph; None where there is none, or several graphs.
        files: Size and digest of every file of the bundle but the manifest, by relative path.
        warnings: What the user was warned of when the bundle was persisted.
        metadata: The user's own data, anything that JSON can hold.
        refresh: What `refresh` needs to know; None, and left out, where there are states or several graphs, or another
            program wrote the bundle.
        goldens: The golden samples by the names of their graphs; empty, and left out, where there is one graph.
    """

    name: Name
    producer: Producer
    graphs: tuple[Graph, ...]
    weights: Weights
    golden: Golden | None
    files: Annotated[Mapping[RelativePath, FileEntry], msgspec.Meta(max_length=MAX_FILES)]
    warnings: tuple[str, ...]
    metadata: Mapping[str, Any]
    refresh: Refresh | None = None
    goldens: Mapping[Text, Golden] = {}

    def golden_of(self, graph: Graph) -> Golden | None:
        """Return the golden sample of a graph; None where there is none."""
        return self.goldens.get(graph.name, self.golden)

    @classmethod
    def from_json(cls, data: bytes, *, source: str = MANIFEST_FILE) -> Manifest:
        """Read and check a manifest."""
        try:
            document = parse(data)
            _refuse_other_format(document, source)
            return _read(document)
        except DocumentError as error:
            raise _error(source, error) from error

    def to_json(self) -> bytes:
        """Write the manifest in the canonical form."""
        try:
            # First: what contains itself has no end.
            check_values({"metadata": dict(self.metadata)})
            document = plain(self)
            check_values(document)
            return dump(plain(_read(document)))
        except DocumentError as error:
            raise _error("what was to be written", error) from error


def derived_bin(graph_path: str) -> str:
    """Return the path where stock OpenVINO looks for the weights of a graph.

    >>> derived_bin("model.xml")
    'model.bin'
    """
    return f"{graph_path.removesuffix('.xml')}.bin"


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


def check_listed_files(files: Mapping[str, FileEntry], problems: Problems) -> None:
    """Check that paths and digests are well-formed, and that the files can stand side by side on every platform."""
    for path, entry in files.items():
        where = key_location("files", path)
        check_path(path, where, problems)
        if any(part.endswith(PARTIAL_SUFFIX) for part in path.lower().split("/")):
            problems.add(
                where, f"expected no name that ends with {PARTIAL_SUFFIX!r}, which is reserved for unfinished files"
            )
        check_digest(entry.digest, f"{where}.digest", problems)
    check_side_by_side(files, "files", problems)


def _refuse_other_format(document: Any, source: str) -> None:
    # First of all: the other rules are those of our format, and say nothing about another.
    found = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(found, str) and _FORMAT_VERSION.fullmatch(found) and found != FORMAT_VERSION:
        raise FormatVersionError(
            f"{source} has format version {found}; this version of npu_persist reads {FORMAT_VERSION}. "
            "Install the version that wrote the bundle, or a newer one: pip install --upgrade npu_persist",
            found=found,
            supported=FORMAT_VERSION,
        )


def _read(document: Any) -> Manifest:
    manifest = convert(document, Manifest)
    problems = Problems()
    _check_names(manifest, problems)
    _check_graphs(manifest.graphs, problems)
    _check_roles(manifest, problems)
    problems.raise_if_any()
    return manifest


def _check_names(manifest: Manifest, problems: Problems) -> None:
    """Check what the schema says of text: names, paths and digests."""
    check_name(manifest.name, "name", problems)
    for index, graph in enumerate(manifest.graphs):
        if problem := component_problem(graph.name):  # `export` makes files of this name
            where = f"graphs[{index}].name"
            problems.add(where, f"expected a valid file name, got {show(graph.name)}, which {problem}")
    check_listed_files(manifest.files, problems)
    for where, path in _roles(manifest):
        check_path(path, where, problems)


def _roles(manifest: Manifest) -> list[tuple[str, str]]:
    """Return where a file is named for what it is, and its path."""
    roles = [(f"graphs[{index}].path", graph.path) for index, graph in enumerate(manifest.graphs)]
    roles.append(("weights.path", manifest.weights.path))
    if manifest.golden is not None:
        roles.append(("golden.path", manifest.golden.path))
    return [*roles, *((key_location("goldens", name) + ".path", one.path) for name, one in manifest.goldens.items())]


def _error(source: str, error: DocumentError) -> ManifestError:
    return ManifestError(
        f"{source} is not a valid manifest:{error.listing}\n"
        "It is damaged, or npu_persist did not write it. Persist the model again, or get another copy of the bundle",
        problems=error.problems,
    )


def _check_graphs(graphs: tuple[Graph, ...], problems: Problems) -> None:
    """Check each graph, and that no two share a name or file."""
    if not graphs:
        problems.add("graphs", "expected at least one graph, got none")
    _check_unique((graph.name.lower() for graph in graphs), "graphs", "graph names", problems)
    _check_unique((graph.path for graph in graphs), "graphs", "graph paths", problems)
    for index, graph in enumerate(graphs):
        where = f"graphs[{index}]"
        if not graph.path.endswith(".xml"):
            problems.add(f"{where}.path", f"expected a path that ends in .xml, got {show(graph.path)}")
        for direction, ports in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            _check_unique((port.name for port in ports), f"{where}.{direction}", "names", problems)
            for number, port in enumerate(ports):
                _check_shape(port.shape, f"{where}.{direction}[{number}].shape", problems)
                if port.bounds is not None:
                    place = f"{where}.{direction}[{number}].bounds"
                    _check_bounds(port, port.bounds, place, problems, is_input=direction == "inputs")
        _check_signature(graph, f"{where}.signature", problems)
        if graph.buckets is not None:
            _check_buckets(graph, graph.buckets, f"{where}.buckets", problems)
        _check_states(graph, f"{where}.states", problems)


def _check_states(graph: Graph, where: str, problems: Problems) -> None:
    states = graph.states
    _check_unique((state.name for state in states), where, "names", problems)
    _check_unique((state.variable for state in states), where, "variables", problems)
    if states and graph.buckets is not None:
        problems.add(where, "expected no states in a graph with buckets, since each bucket would have its own")
    for number, state in enumerate(states):
        place = f"{where}[{number}]"
        _check_shape(state.shape, f"{place}.shape", problems)
        if len(state.first) != len(state.shape):
            problems.add(f"{place}.first", f"expected {len(state.shape)} sizes, got {len(state.first)}")
        for axis, (size, first) in enumerate(zip(state.shape, state.first, strict=False)):
            low, high = axis_bounds(size)
            if first is None and (isinstance(size, int) or size.name is None):
                problems.add(f"{place}.first[{axis}]", "expected a size, since the axis depends on no other; got null")
            elif first is not None and not low <= first <= high:
                problems.add(f"{place}.first[{axis}]", f"expected a size that the shape allows, got {first}")
        if state.initial is None and None in state.first:
            problems.add(f"{place}.initial", "expected a number, since the size is known at the first call; got null")
        if state.bounds is not None:
            _check_bounds(state, state.bounds, f"{place}.bounds", problems, is_input=True)
        growth = state.growth
        if growth is not None and (
            growth.axis >= len(state.first)
            or isinstance(state.shape[growth.axis], int)
            or state.first[growth.axis] is None
        ):
            problems.add(f"{place}.growth.axis", f"expected an open axis with a first size, got {growth.axis}")


def axis_bounds(axis: int | Dimension) -> tuple[int, float]:
    """Return the smallest and the largest size that an axis may have; infinity where it is unbounded."""
    if isinstance(axis, int):
        return axis, axis
    return axis.min, float("inf") if axis.max is None else axis.max


def _check_roles(manifest: Manifest, problems: Problems) -> None:
    """Check that what graphs, weights and golden sample name are files, each in one role."""
    files, graphs = manifest.files, manifest.graphs
    derived = {derived_bin(graph.path).lower() for graph in graphs}
    for path in files:
        first, *rest = path.lower().split("/")
        places = accumulate(rest, lambda place, name: f"{place}/{name}", initial=first)
        if not derived.isdisjoint(places) or first in _NOT_FILES:
            problems.add(
                key_location("files", path),
                "expected no entry: the manifest does not cover these files",
            )
    roles = _roles(manifest)
    for where, path in roles:
        if path not in files:
            problems.add(where, f"expected a path that is in files, got {show(path)}")
    paths = [*{graph.path for graph in graphs}, *(path for _, path in roles[len(graphs) :])]
    if len(set(paths)) < len(paths):
        problems.add("files", "expected graphs, weights and golden sample in files of their own, got one file for two")
    for name in manifest.goldens.keys() - {graph.name for graph in graphs}:
        problems.add(key_location("goldens", name), "expected the name of a graph")
    _check_weights(manifest.weights, files, problems)


def _check_weights(weights: Weights, files: Mapping[str, FileEntry], problems: Problems) -> None:
    if weights.data_start <= 0 or weights.data_start % DATA_ALIGNMENT:
        problems.add(
            "weights.data_start", f"expected a positive multiple of {DATA_ALIGNMENT}, got {weights.data_start}"
        )
    size = weights.data_start + weights.data_size
    if weights.path in files and files[weights.path].size != size:
        problems.add(
            "weights.data_size",
            f"expected data_start + data_size to be the file's {files[weights.path].size} bytes, got {size}",
        )


def _check_shape(shape: tuple[int | Dimension, ...], where: str, problems: Problems) -> None:
    for axis, size in enumerate(shape):
        if isinstance(size, Dimension) and size.max is not None and size.max < size.min:
            problems.add(f"{where}[{axis}].max", f"expected at least min, {size.min}, got {size.max}")


def _check_bounds(port: Port | State, bounds: Bounds, where: str, problems: Problems, *, is_input: bool) -> None:
    low, high = bounds.low, bounds.high
    if not is_input or "int" not in port.dtype:
        problems.add(where, f"expected bounds of an integer input only, got those of {port.dtype} {show(port.name)}")
    elif low is None and high is None:
        problems.add(where, "expected low or high, got neither")
    elif bounds.below is not None and below_axis(port) is None:
        problems.add(f"{where}.below", f"expected the name of a dimension of the input, got {show(bounds.below)}")
    elif low is not None and high is not None and high < low:
        problems.add(f"{where}.high", f"expected at least low, {low}, got {high}")


def _check_buckets(graph: Graph, buckets: Buckets, where: str, problems: Problems) -> None:
    opened = {port.name: port.shape for port in graph.inputs if any(isinstance(axis, Dimension) for axis in port.shape)}
    if not buckets.shapes:
        problems.add(f"{where}.shapes", "expected at least one bucket, got none")
    for port in graph.inputs:
        if (padding := buckets.padding.get(port.name)) is not None and not allows(port.bounds, padding.value):
            place = f"{key_location(f'{where}.padding', port.name)}.value"
            problems.add(place, f"expected a value within the input's bounds, got {padding.value:g}")
    named = [(f"{where}.shapes[{index}]", shapes) for index, shapes in enumerate(buckets.shapes)]
    for place, names in [*named, (f"{where}.padding", buckets.padding)]:
        if set(names) != set(opened):
            problems.add(
                place, f"expected the inputs with open axes, {show(sorted(opened))}, got {show(sorted(names))}"
            )
    for place, shapes in named:
        for name, shape in shapes.items():
            if not _fits(opened.get(name, shape), shape):
                problems.add(
                    key_location(place, name), f"expected sizes that the input allows, got {show(list(shape))}"
                )


def _fits(promised: tuple[int | Dimension, ...], shape: tuple[int, ...]) -> bool:
    """Tell whether a shape is one that an input allows; relations between its axes are no matter of the format."""
    return len(promised) == len(shape) and all(
        axis == size if isinstance(axis, int) else max(axis.min, 1) <= size and (axis.max is None or size <= axis.max)
        for axis, size in zip(promised, shape, strict=True)
    )


def _check_signature(graph: Graph, where: str, problems: Problems) -> None:
    signature = graph.signature
    parameters = [parameter.name for parameter in signature.parameters]
    _check_unique(parameters, f"{where}.parameters", "names", problems)
    _check_unique((name for name, _ in signature.arguments), f"{where}.arguments", "names", problems)
    used: list[int] = []
    for index, (name, tree) in enumerate(signature.arguments):
        if name not in parameters:
            problems.add(f"{where}.arguments[{index}][0]", f"expected the name of a parameter, got {show(name)}")
        used += _tensors(tree, f"{where}.arguments[{index}][1]", problems)
    if sorted(used) != list(range(len(graph.inputs))):
        problems.add(
            f"{where}.arguments",
            f"expected each of the {len(graph.inputs)} inputs exactly once, got tensors {_shorten(sorted(used))}",
        )
    for index, parameter in enumerate(signature.parameters):
        if parameter.default is not None and _tensors(parameter.default, f"{where}.parameters[{index}]", problems):
            problems.add(f"{where}.parameters[{index}].default", "expected constants, got a tensor")
    given = set(_tensors(signature.result, f"{where}.result", problems))
    if beyond := sorted(index for index in given if index >= len(graph.outputs)):
        problems.add(
            f"{where}.result", f"expected tensors below {len(graph.outputs)} (outputs), got {_shorten(beyond)}"
        )


def _tensors(tree: Tree, where: str, problems: Problems) -> list[int]:
    match tree:
        case TensorNode(index):
            return [index]
        case ListNode(items) | TupleNode(items):
            return [index for item in items for index in _tensors(item, where, problems)]
        case DictNode(pairs):
            _check_unique((key for key, _ in pairs), where, "keys of each dict", problems)
            return [index for _, item in pairs for index in _tensors(item, where, problems)]
        case NamedTupleNode(_, fields) | RecordNode(_, fields):
            _check_unique((name for name, _ in fields), where, "field names of each record", problems)
            return [index for _, item in fields for index in _tensors(item, where, problems)]
        case _:
            return []


def _check_unique(values: Iterable[Hashable], where: str, what: str, problems: Problems) -> None:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            problems.add(where, f"expected different {what}, got {show(value)} twice")
        seen.add(value)


def _shorten(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"[{shown}]" if len(numbers) <= 10 else f"[{shown}, …]"  # noqa: PLR2004
