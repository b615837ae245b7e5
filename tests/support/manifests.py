"""Hypothesis strategies for manifests: any that is valid, and any way to spoil its JSON document."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from npu_persist.bundle.golden_records import Difference, Golden, Tolerance
from npu_persist.bundle.graph_records import (
    DTYPES,
    Buckets,
    DictNode,
    Dimension,
    FloatNode,
    Graph,
    ListNode,
    NamedTupleNode,
    OpaqueNode,
    Padding,
    Parameter,
    Port,
    RecordNode,
    Signature,
    TensorNode,
    Tree,
    TupleNode,
    ValueNode,
)
from npu_persist.bundle.manifest import FileEntry, Manifest, Producer, Weights
from npu_persist.files.filesystem import path_problem

if TYPE_CHECKING:
    from collections.abc import Iterator

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
integers = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(0, 2**40)
finite = st.floats(allow_nan=False, allow_infinity=False)
components = st.text("abcxyz019._+-", min_size=1, max_size=6).filter(lambda text: not path_problem(text))
digests = st.binary(min_size=32, max_size=32).map(lambda data: f"blake3:{data.hex()}")
constants = st.one_of(
    st.builds(ValueNode, st.none() | st.booleans() | integers | finite | texts),
    st.builds(FloatNode, st.sampled_from(["nan", "inf", "-inf"])),
    st.builds(OpaqueNode, texts),
)

BUCKETS: dict[str, Any] = {
    "shapes": [{"x.0": [1, 16, 4]}, {"x.0": [8, 3, 4]}],
    "padding": {"x.0": {"value": 0.5, "side": "left"}},
}
"""Buckets of the tiny manifest's graph, as JSON."""


def _nested(leaves: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    def fields(trees: st.SearchStrategy[Tree]) -> st.SearchStrategy[Any]:
        return st.lists(st.tuples(names, trees), max_size=3, unique_by=lambda pair: pair[0]).map(tuple)

    def more(trees: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        items = st.lists(trees, max_size=3).map(tuple)
        pairs = st.lists(st.tuples(texts | integers, trees), max_size=3, unique_by=lambda pair: pair[0]).map(tuple)
        return st.one_of(
            st.builds(ListNode, items),
            st.builds(TupleNode, items),
            st.builds(DictNode, pairs),
            st.builds(NamedTupleNode, names, fields(trees)),
            st.builds(RecordNode, names, fields(trees)),
        )

    return st.recursive(leaves, more, max_leaves=6)


def _numbered(tree: Tree, numbers: Iterator[int]) -> Tree:
    match tree:
        case TensorNode():
            return TensorNode(next(numbers))
        case ListNode(items):
            return ListNode(tuple(_numbered(item, numbers) for item in items))
        case TupleNode(items):
            return TupleNode(tuple(_numbered(item, numbers) for item in items))
        case DictNode(pairs):
            return DictNode(tuple((key, _numbered(item, numbers)) for key, item in pairs))
        case NamedTupleNode(name, fields):
            return NamedTupleNode(name, tuple((key, _numbered(item, numbers)) for key, item in fields))
        case RecordNode(name, fields):
            return RecordNode(name, tuple((key, _numbered(item, numbers)) for key, item in fields))
    return tree


@st.composite
def _dimensions(draw: st.DrawFn) -> Dimension:
    low = draw(counts)
    return Dimension(draw(st.none() | names), low, draw(st.none() | st.integers(low, 2**41)))


def _ports(number: int) -> st.SearchStrategy[tuple[Port, ...]]:
    shapes = st.lists(counts | _dimensions(), max_size=3).map(tuple)
    ports = st.builds(Port, names, st.sampled_from(DTYPES), shapes)
    return st.lists(ports, min_size=number, max_size=number, unique_by=lambda port: port.name).map(tuple)


@st.composite
def _graphs(draw: st.DrawFn, name: str, path: str) -> Graph:
    kinds = st.sampled_from(
        ["positional_only", "positional_or_keyword", "var_positional", "keyword_only", "var_keyword"]
    )
    parameters = draw(
        st.lists(
            st.builds(Parameter, names, kinds, st.none() | _nested(constants)),
            max_size=3,
            unique_by=lambda parameter: parameter.name,
        )
    )
    tensors = st.just(TensorNode(0))
    total = 0

    def count() -> Iterator[int]:
        nonlocal total
        while True:
            yield total
            total += 1

    numbers = count()
    arguments = tuple(
        (parameter.name, _numbered(draw(_nested(tensors | constants)), numbers)) for parameter in parameters
    )
    inputs = draw(_ports(next(numbers)))
    outputs = draw(st.integers(1, 3))
    return Graph(
        name=name,
        path=path,
        precision=draw(st.sampled_from(["fp16", "fp32"])),
        conversion=draw(st.sampled_from(["trace", "export"])),
        inputs=inputs,
        outputs=draw(_ports(outputs)),
        signature=Signature(
            tuple(parameters), arguments, draw(_nested(st.builds(TensorNode, st.integers(0, outputs - 1)) | constants))
        ),
        buckets=draw(st.none() | _buckets(inputs)),
    )


def _buckets(inputs: tuple[Port, ...]) -> st.SearchStrategy[Buckets]:
    opened = [port for port in inputs if any(isinstance(axis, Dimension) for axis in port.shape)]
    if any(isinstance(axis, Dimension) and axis.max == 0 for port in opened for axis in port.shape):
        return st.nothing()
    paddings = st.builds(Padding, finite, st.sampled_from(["right", "left"]))
    shapes = st.fixed_dictionaries(
        {
            port.name: st.tuples(
                *(
                    st.integers(max(axis.min, 1), axis.max or 2**42) if isinstance(axis, Dimension) else st.just(axis)
                    for axis in port.shape
                )
            )
            for port in opened
        }
    )
    return st.builds(
        Buckets,
        st.lists(shapes, min_size=1, max_size=3).map(tuple),
        st.fixed_dictionaries({port.name: paddings for port in opened}),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Draw a valid manifest."""
    stems = draw(st.lists(components, min_size=1, max_size=2, unique=True))
    graphs = tuple(draw(_graphs(stem, f"g/{stem}.xml")) for stem in stems)
    data_size = draw(counts)
    files = {graph.path: FileEntry(draw(counts), draw(digests)) for graph in graphs}
    files["weights.safetensors"] = FileEntry(8192 + data_size, draw(digests))
    golden = None
    differences = st.builds(Difference, names, finite, finite, finite, st.none() | finite)
    if draw(st.booleans()):
        files["golden.safetensors"] = FileEntry(draw(counts), draw(digests))
        golden = Golden(
            "golden.safetensors",
            draw(st.none() | st.builds(Tolerance, finite, finite, finite)),
            draw(st.none() | st.lists(differences, max_size=2).map(tuple)),
        )
    json_values = st.recursive(
        st.none() | st.booleans() | integers | finite | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    )
    return Manifest(
        name=draw(components),
        producer=Producer(draw(names), draw(names), draw(st.none() | names)),
        graphs=graphs,
        weights=Weights("weights.safetensors", 8192, data_size, draw(counts)),
        golden=golden,
        files=files,
        warnings=tuple(draw(st.lists(texts, max_size=2))),
        metadata=draw(st.dictionaries(texts, json_values, max_size=3)),
    )


replacements: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 2.5, "", "x", "NUL", "con.xml", "2.0", "../x", "a/b", "a.", [], {}),
        *("x/" * 101 + "x", "blake3:" + "a" * 64, ["a"], [["a", 1]], {"kind": "tensor", "index": 0}),
        *([["a", {"kind": "tensor", "index": 0}]], {"kind": "value", "value": []}, {"kind": "value", "value": 1}),
        *({"kind": "value", "text": ""}, {"kind": "float", "text": "nan"}, {"kind": "float", "text": 1.0}),
        *({"kind": "list", "items": [{}]}, {"kind": "tuple", "items": [{"kind": "opaque", "text": ""}]}),
        *({"kind": "dict", "items": [[key, {"kind": "value", "value": 1}]]} for key in (True, 1.5, "a", 1)),
        *({"kind": kind, "type": kind, "fields": []} for kind in ("record", "namedtuple", "list")),
    ]
).map(deepcopy)


def spoil(document: Any, data: st.DataObject) -> Any:
    """Return the document with one value replaced, removed or added, anywhere."""
    places = list(_places(document, ()))
    place = data.draw(st.sampled_from(places))
    replacement = data.draw(replacements)
    if not place:
        return replacement
    parent = document
    for step in place[:-1]:
        parent = parent[step]
    match data.draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            parent[place[-1]] = replacement
        case "remove":
            del parent[place[-1]]
        case _ if isinstance(parent, dict):
            parent[data.draw(st.sampled_from(["new", "kind", "a/b"]))] = replacement
        case _:
            parent.append(replacement)
    return document


def _places(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield place
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _places(item, (*place, index))
