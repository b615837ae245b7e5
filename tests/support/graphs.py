"""Real small bundles without torch: graphs of OpenVINO's operations, written and published as `persist` does it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from npu_persist.bundle import weights as safetensors_file
from npu_persist.bundle.golden_records import Golden, Tolerance
from npu_persist.bundle.graph_records import (
    DTYPES,
    Buckets,
    DictNode,
    Dimension,
    Graph,
    Growth,
    ListNode,
    NamedTupleNode,
    OpaqueNode,
    Padding,
    Parameter,
    Port,
    RecordNode,
    Side,
    Signature,
    State,
    TensorNode,
    Tree,
    TupleNode,
    ValueNode,
)
from npu_persist.bundle.manifest import FileEntry, Manifest, Producer, Weights
from npu_persist.files.digest import digest_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.graph_records import Precision
    from npu_persist.store import Store

XML = "model.xml"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.safetensors"
BATCH = Dimension("batch", 1, 8)
GRID = np.arange(6, dtype=np.float32).reshape(2, 3)
AFFINE_OF_GRID = GRID * [1, 2, 3] + 0.5
"""What `publish_affine` gives for GRID."""

_OV_TYPES = {
    "bool": ov.Type.boolean, "int8": ov.Type.i8, "int16": ov.Type.i16, "int32": ov.Type.i32, "int64": ov.Type.i64,
    "uint8": ov.Type.u8, "uint16": ov.Type.u16, "uint32": ov.Type.u32, "uint64": ov.Type.u64,
    "float16": ov.Type.f16, "float32": ov.Type.f32, "float64": ov.Type.f64,
}  # fmt: skip
_STORED = {"f32": "F32", "f16": "F16", "i64": "I64", "i32": "I32", "u8": "U8", "boolean": "BOOL"}


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a copy that cannot be written to."""
    array = array.copy()
    array.flags.writeable = False
    return array


def parameter(port: Port) -> Any:
    """Return the graph's input for a port."""
    shape = [
        axis if isinstance(axis, int) else ov.Dimension(axis.min, -1 if axis.max is None else axis.max)
        for axis in port.shape
    ]
    node = ops.parameter(ov.PartialShape(shape), _OV_TYPES[port.dtype], name=port.name)
    node.output(0).get_tensor().set_names({port.name})
    return node


def make_model(inputs: Sequence[Any], outputs: Iterable[tuple[str, Any]]) -> ov.Model:
    """Return a graph with named outputs."""
    results = []
    for name, node in outputs:
        result = ops.result(node)
        result.set_friendly_name(name)
        results.append(result)
    return ov.Model(results, list(inputs), "main")


def call_of(inputs: Sequence[Port], outputs: Sequence[Port]) -> Signature:
    """Return the signature `(first, second, ...) -> only output`, or a tuple of several."""
    tensors = tuple(TensorNode(index) for index in range(len(outputs)))
    return Signature(
        parameters=tuple(Parameter(port.name, "positional_or_keyword", None) for port in inputs),
        arguments=tuple((port.name, TensorNode(index)) for index, port in enumerate(inputs)),
        result=tensors[0] if len(tensors) == 1 else TupleNode(tensors),
    )


def write_graph(  # noqa: PLR0913 - one argument for each part of a bundle
    directory: Path,
    model: ov.Model,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    signature: Signature | None = None,
    *,
    name: str = "graph",
    openvino: str = "2026.4.1",
    buckets: Buckets | None = None,
    precision: Precision = "fp16",
    sample: Mapping[str, Any] | None = None,
    tolerance: Tolerance | None = None,
    states: Sequence[State] = (),
    steps: int = 1,
) -> Manifest:
    """Write a graph as a bundle into a directory, the manifest last, and return the manifest.

    `sample` is the golden sample: arrays by `input.<name>` and `output.<name>`.
    """
    draft = directory / "draft.xml"
    ov.save_model(model, draft, compress_to_fp16=False)
    weights = write_weights({draft: directory / XML}, directory)
    graph = Graph(
        name="main",
        path=XML,
        precision=precision,
        conversion="trace",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        signature=signature or call_of(inputs, outputs),
        buckets=buckets,
        states=tuple(states),
    )
    golden = None if sample is None else _write_golden(directory, sample, tolerance, steps)
    return write_manifest(directory, graph, weights, golden, name=name, openvino=openvino)


def write_manifest(  # noqa: PLR0913
    directory: Path,
    graph: Graph,
    weights: Weights,
    golden: Golden | None = None,
    *,
    name: str = "graph",
    openvino: str = "2026.4.1",
) -> Manifest:
    """Write a manifest for the graph and weights file that a directory holds now."""
    manifest = Manifest(
        name=name,
        producer=Producer("0.1.0", openvino, None),
        graphs=(graph,),
        weights=weights,
        golden=golden,
        files={
            path: FileEntry((directory / path).stat().st_size, digest_file(directory / path))
            for path in (XML, WEIGHTS, *([] if golden is None else [golden.path]), *_assets(directory))
        },
        warnings=(),
        metadata={},
    )
    (directory / "manifest.json").write_bytes(manifest.to_json())
    return manifest


def _assets(directory: Path) -> list[str]:
    files = (path for path in (directory / "assets").rglob("*") if path.is_file())
    return sorted(path.relative_to(directory).as_posix() for path in files)


def _write_golden(directory: Path, sample: Mapping[str, Any], tolerance: Tolerance | None, steps: int) -> Golden:
    arrays = {name: np.asarray(value, order="C") for name, value in sample.items()}
    kinds = {"bool": "BOOL", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32"}
    entries = {name: (kinds[array.dtype.name], array.shape, array.nbytes) for name, array in arrays.items()}
    header, starts = safetensors_file.lay_out(entries, {})
    chunks = [arrays[name].tobytes() for name in sorted(starts, key=starts.__getitem__)]
    safetensors_file.write(directory / GOLDEN, header, chunks, lambda _: None)
    return Golden(GOLDEN, tolerance, None, steps=steps)


def write_weights(drafts: Mapping[Path, Path], directory: Path) -> Weights:
    """Write one weights file for graphs that OpenVINO saved, and each graph to its path; the drafts are removed."""
    trees = {draft: ET.parse(draft) for draft in drafts}  # noqa: S314 - written by OpenVINO a moment ago
    entries: dict[str, tuple[str, tuple[int, ...], int]] = {}
    sources: dict[str, tuple[Path, int, ET.Element]] = {}
    for draft, tree in trees.items():
        constants = [layer for layer in tree.iter("layer") if layer.get("type") == "Const"]
        for element in [element for layer in constants if (element := layer.find("data")) is not None]:
            size, shape = int(element.get("size", "")), element.get("shape", "")
            kind = _STORED.get(element.get("element_type", ""), "U8")
            axes = tuple(map(int, shape.split(","))) if shape else ()
            if 0 in axes:  # OpenVINO writes a byte for it
                size = 0
                element.set("size", "0")
            name = f"constant.{len(entries)}"
            entries[name] = (kind, axes if kind != "U8" else (size,), size)
            sources[name] = draft, int(element.get("offset", "")), element
    header, starts = safetensors_file.lay_out(entries, {"format": "pt"})
    contents = {draft: draft.with_suffix(".bin").read_bytes() for draft in drafts}
    chunks = []
    for name in sorted(entries, key=starts.__getitem__):
        draft, offset, element = sources[name]
        chunks.append(contents[draft][offset : offset + entries[name][2]])
        element.set("offset", str(starts[name]))
    safetensors_file.write(directory / WEIGHTS, header, chunks, lambda _: None)
    for draft, path in drafts.items():
        trees[draft].write(path, encoding="utf-8", xml_declaration=True)
        draft.unlink()
        draft.with_suffix(".bin").unlink()
    return Weights(WEIGHTS, len(header), sum(map(len, chunks)), len(entries))


def publish_graph(
    store: Store,
    model: ov.Model,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    signature: Signature | None = None,
    **options: Any,
) -> Bundle:
    """Publish a graph as a bundle, with the options of `write_graph`, and assets by name."""
    with store.stage() as staging:
        for asset, data in options.pop("assets", {}).items():
            path = staging / "assets" / asset
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        write_graph(staging, model, inputs, outputs, signature, **options)
        return store.publish(staging)


def constant(value: Any, dtype: str = "float32") -> Any:
    """Return a constant of a graph."""
    return ops.constant(np.asarray(value, dtype), _OV_TYPES[dtype])


def publish_affine(store: Store, *, name: str = "affine", openvino: str = "2026.4.1") -> Bundle:
    """Publish `x -> x * weight + bias` on float32[2, 3], with weight [1, 2, 3] and bias 0.5."""
    port = Port("x", "float32", (2, 3))
    x = parameter(port)
    y = ops.add(ops.multiply(x, constant([[1, 2, 3]])), constant([[0.5]]))
    out = Port("y", "float32", (2, 3))
    return publish_graph(store, make_model([x], [("y", y)]), [port], [out], name=name, openvino=openvino)


def publish_scaled(
    store: Store, size: int, *, factor: float = 1.0, name: str = "scaled", precision: Precision = "fp16"
) -> Bundle:
    """Publish `x @ weight` on float32[1, size], where all of the weight is `factor`."""
    port = Port("x", "float32", (1, size))
    x = parameter(port)
    y = ops.matmul(x, constant(np.full((size, size), factor)), transpose_a=False, transpose_b=False)
    out, model = Port("y", "float32", (1, size)), make_model([x], [("y", y)])
    return publish_graph(store, model, [port], [out], name=name, precision=precision)


PRODUCT_INPUT = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
PRODUCT_WEIGHT = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)


def publish_product(store: Store, *, name: str = "product", output: Any = None, **options: Any) -> Bundle:
    """Publish `x @ weight` on float32[4, 64] with the right answer, or another one, as its golden sample."""
    port = Port("x", "float32", (4, 64))
    x = parameter(port)
    y = ops.matmul(x, constant(PRODUCT_WEIGHT), transpose_a=False, transpose_b=False)
    right = (PRODUCT_INPUT.astype(np.float64) @ PRODUCT_WEIGHT).astype(np.float32)
    sample = {"input.x": PRODUCT_INPUT, "output.y": right if output is None else output}
    out = Port("y", "float32", (4, 64))
    return publish_graph(store, make_model([x], [("y", y)]), [port], [out], name=name, sample=sample, **options)


def publish_relu(store: Store, shape: tuple[int, ...], *, name: str = "relu", **options: Any) -> Bundle:
    """Publish a graph of one operation."""
    port = Port("x", "float32", shape)
    x = parameter(port)
    model = make_model([x], [("y", ops.relu(x))])
    return publish_graph(store, model, [port], [Port("y", "float32", shape)], name=name, **options)


def publish_dynamic(store: Store) -> Bundle:
    """Publish `x[batch, 4], y[batch, ?], z[2*batch+1] -> (2 * x, y, sum of z)`."""
    ports = [
        Port("x", "float32", (BATCH, 4)),
        Port("y", "float32", (BATCH, Dimension(None, 0, None))),
        Port("z", "float32", (Dimension("2*batch+1", 3, 17),)),
    ]
    x, y, z = (parameter(port) for port in ports)
    total = ops.reduce_sum(z, constant([0], "int64"), keep_dims=False)
    model = make_model([x, y, z], [("double", ops.add(x, x)), ("y.copy", ops.relu(y)), ("total", total)])
    outputs = [
        Port("double", "float32", (BATCH, 4)),
        Port("y.copy", "float32", (BATCH, Dimension(None, 0, None))),
        Port("total", "float32", ()),
    ]
    return publish_graph(store, model, ports, outputs, name="dynamic")


def publish_dtypes(store: Store) -> Bundle:
    """Publish a graph with an input of every dtype: numbers come back doubled, flags negated, and all also as is."""
    ports = [Port(dtype, dtype, (2, 2)) for dtype in DTYPES]
    nodes = [parameter(port) for port in ports]
    changed = [
        ops.logical_not(node) if port.dtype == "bool" else ops.add(node, node)
        for node, port in zip(nodes, ports, strict=True)
    ]
    named = [(f"{port.name}.changed", node) for port, node in zip(ports, changed, strict=True)]
    named += [(f"{port.name}.same", node) for port, node in zip(ports, nodes, strict=True)]
    outputs = [Port(name, port.dtype, (2, 2)) for (name, _), port in zip(named, ports + ports, strict=True)]
    return publish_graph(store, make_model(nodes, named), ports, outputs, name="dtypes")


def publish_aliased(store: Store) -> Bundle:
    """Publish a graph whose outputs share what they are: the input twice, one node twice."""
    port = Port("x", "float32", (2, 2))
    x = parameter(port)
    y = ops.relu(x)
    named = [("x.0", x), ("y.0", y), ("x.1", x), ("y.1", y)]
    outputs = [Port(name, "float32", (2, 2)) for name, _ in named]
    return publish_graph(store, make_model([x], named), [port], outputs, name="aliased")


NESTED_INPUTS = (
    Port("x", "float32", (2, 2)),
    Port("pair.first", "float32", (2,)),
    Port("pair.second.a", "float32", ()),
    Port("more.0", "float32", (2,)),
    Port("more.1", "float32", (2,)),
    Port("output.last", "float32", (2,)),
)
NESTED_SIGNATURE = Signature(
    parameters=(
        Parameter("x", "positional_only", None),
        Parameter("pair", "positional_or_keyword", None),
        Parameter("more", "var_positional", None),
        Parameter("output", "keyword_only", None),
        Parameter("mask", "keyword_only", ValueNode(None)),
        Parameter("scale", "keyword_only", ValueNode(1.0)),
        Parameter("mode", "keyword_only", ValueNode("linear")),
        Parameter("steps", "keyword_only", TupleNode((ValueNode(1), ValueNode(2)))),
        Parameter("window", "keyword_only", OpaqueNode("slice(0, 3, None)")),
        Parameter("return_dict", "keyword_only", ValueNode(None)),
        Parameter("options", "var_keyword", None),
    ),
    arguments=(
        ("x", TensorNode(0)),
        ("pair", NamedTupleNode("Pair", (("first", TensorNode(1)), ("second", DictNode((("a", TensorNode(2)),)))))),
        ("more", TupleNode((TensorNode(3), TensorNode(4)))),
        ("output", RecordNode("Hidden", (("last", TensorNode(5)), ("pooled", ValueNode(None))))),
        ("scale", ValueNode(2.0)),
        ("return_dict", ValueNode(True)),  # noqa: FBT003 - a node has one field
        ("options", DictNode((("level", ValueNode(3)),))),
    ),
    result=RecordNode(
        "Result",
        (
            ("values", TensorNode(0)),
            ("loss", ValueNode(None)),
            ("pair", NamedTupleNode("Pair", (("first", TensorNode(1)), ("second", TensorNode(0))))),
            ("parts", DictNode((("list", ListNode((TensorNode(1), ValueNode(7)))),))),
        ),
    ),
)
"""Every kind of parameter, argument and result."""


def publish_nested(store: Store) -> Bundle:
    """Publish `NESTED_SIGNATURE`: values is the sum of all inputs by broadcast, and the second output x + 1."""
    nodes = [parameter(port) for port in NESTED_INPUTS]
    total = nodes[0]
    for node in nodes[1:]:
        total = ops.add(total, node)
    model = make_model(nodes, [("values", total), ("more", ops.add(nodes[0], constant(1)))])
    outputs = [Port("values", "float32", (2, 2)), Port("more", "float32", (2, 2))]
    return publish_graph(store, model, NESTED_INPUTS, outputs, NESTED_SIGNATURE, name="nested")


def tree_signature(tree: Tree, result: Tree | None = None) -> Signature:
    """Return the signature of a call with one argument, `x`, of this structure."""
    return Signature((Parameter("x", "positional_or_keyword", None),), (("x", tree),), result or TensorNode(0))


def publish_sum(store: Store, *, name: str = "sum") -> Bundle:
    """Publish a graph with a state: `x[4] -> sum of all x since the reset`."""
    from openvino.op import assign, read_value
    from openvino.op.util import Variable, VariableInfo

    port = Port("x", "float32", (4,))
    info = VariableInfo()
    info.data_shape, info.data_type, info.variable_id = ov.PartialShape([4]), ov.Type.f32, "sum"
    variable = Variable(info)
    x = parameter(port)
    total = ops.add(read_value(constant([0, 0, 0, 0]), variable), x)
    result = ops.result(total)
    result.set_friendly_name("total")
    model = ov.Model([result], [assign(total, variable)], [x], "main")
    return publish_graph(store, model, [port], [Port("total", "float32", (4,))], name=name)


MEMORY = State(
    "past",
    "present",
    "pastpresent",
    "float32",
    (BATCH, Dimension("past", 0, 6), 2),
    (None, 0, 2),
    growth=Growth(1, "time"),
)
"""The state of `publish_memory`."""


def publish_memory(store: Store, *, name: str = "memory", **options: Any) -> Bundle:
    """Publish a graph whose state grows: `x[batch, time, 2] -> sum of all x since the reset`, of 6 in time at most."""
    from openvino.op import assign, read_value
    from openvino.op.util import Variable, VariableInfo

    port = Port("x", "float32", (BATCH, Dimension("time", 1, 4), 2))
    info = VariableInfo()
    info.data_shape, info.data_type, info.variable_id = ov.PartialShape([-1, -1, 2]), ov.Type.f32, MEMORY.variable
    variable = Variable(info)
    x = parameter(port)
    both = ops.concat([read_value(constant(np.zeros((1, 0, 2))), variable), x], 1)
    result = ops.result(ops.reduce_sum(both, constant([1], "int64"), keep_dims=False))
    result.set_friendly_name("total")
    model = ov.Model([result], [assign(both, variable)], [x], "main")
    out = Port("total", "float32", (BATCH, 2))
    options = {"states": (MEMORY,), **options}
    return publish_graph(store, model, [port], [out], name=name, **options)


def publish_broadcast(store: Store, size: int = 4, *, name: str = "broadcast") -> Bundle:
    """Publish `x[size], shape[2] -> sum of x broadcast to the shape`, which the device refuses unless it ends in size.

    Not a Reshape: where its shape was refused, OpenVINO 2026.4 answers with an earlier shape when it is asked again.
    """
    ports = [Port("x", "float32", (size,)), Port("shape", "int64", (2,))]
    x, shape = (parameter(port) for port in ports)
    total = ops.reduce_sum(ops.relu(ops.broadcast(x, shape)), constant([0, 1], "int64"), keep_dims=False)
    model = make_model([x, shape], [("total", total)])
    return publish_graph(store, model, ports, [Port("total", "float32", ())], name=name)


def publish_power(store: Store, size: int, steps: int, *, name: str = "power") -> Bundle:
    """Publish a graph that takes its time: `x[size, size] -> x` times itself as often as there are steps."""
    port = Port("x", "float32", (size, size))
    x = parameter(port)
    power = x
    for _ in range(steps):
        power = ops.matmul(power, x, transpose_a=False, transpose_b=False)
    return publish_graph(store, make_model([x], [("power", power)]), [port], [port], name=name)


def publish_text(  # noqa: PLR0913 - what tests vary
    store: Store,
    *,
    buckets: Sequence[tuple[int, ...]] = (),
    masks: Sequence[tuple[int, ...]] | None = None,
    names: bool = True,
    half: str = "(sequence+1)//2",
    side: Side = "right",
    name: str = "text",
) -> Bundle:
    """Publish `ids[batch, sequence], attention_mask=None -> Result(states, pooled, halves)`, with the buckets if any.

    Each id is a row of a table; `pooled` is the mean of the rows that the mask counts, `states` the rows plus that
    mean, and `halves` every second of the states. `names` says whether the outputs' axes are named after the inputs',
    `half` what the manifest says of the last one, and `masks` which sizes the masks have in the buckets.
    """
    axes = (Dimension("batch", 1, 4), Dimension("sequence", 1, 64))
    inputs = [Port("ids", "int64", axes), Port("attention_mask", "int64", axes)]
    ids, mask = (parameter(port) for port in inputs)
    rows = ops.gather(constant(TABLE), ids, constant(0, "int64"))
    counted = ops.unsqueeze(ops.convert(mask, "f32"), constant([2], "int64"))
    total = ops.reduce_sum(ops.multiply(rows, counted), constant([1], "int64"), keep_dims=True)
    mean = ops.divide(total, ops.reduce_sum(counted, constant([1], "int64"), keep_dims=True))
    states = ops.add(rows, mean)
    start, stop, step = (constant([value], "int64") for value in (0, 2**31 - 1, 2))
    halves = ops.slice(states, start, stop, step, constant([1], "int64"))
    pooled = ops.squeeze(mean, constant([1], "int64"))
    batch, sequence, every_second = [
        Dimension(text if names else None, low, high)
        for text, low, high in (("batch", 1, 4), ("sequence", 1, 64), (half, 1, 32))
    ]
    outputs = [
        Port("states", "float32", (batch, sequence, 4)),
        Port("pooled", "float32", (batch, 4)),
        Port("halves", "float32", (batch, every_second, 4)),
    ]
    signature = Signature(
        parameters=(
            Parameter("ids", "positional_or_keyword", None),
            Parameter("attention_mask", "positional_or_keyword", ValueNode(None)),
        ),
        arguments=(("ids", TensorNode(0)), ("attention_mask", TensorNode(1))),
        result=RecordNode("Result", (("states", TensorNode(0)), ("pooled", TensorNode(1)), ("halves", TensorNode(2)))),
    )
    found = None
    if buckets:
        shapes = tuple(
            {"ids": size, "attention_mask": mask} for size, mask in zip(buckets, masks or buckets, strict=True)
        )
        found = Buckets(shapes, {"ids": Padding(7, side), "attention_mask": Padding(0, side)})
    model = make_model([ids, mask], [("states", states), ("pooled", pooled), ("halves", halves)])
    return publish_graph(store, model, inputs, outputs, signature, name=name, buckets=found)


TABLE = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
"""What `publish_text` looks ids up in."""


def text_of(ids: Any, mask: Any = None) -> dict[str, Any]:
    """Return what the graph of `publish_text` gives."""
    ids = np.asarray(ids)
    counted = np.ones(ids.shape, np.float32) if mask is None else np.asarray(mask, np.float32)
    rows = TABLE[ids]
    pooled = (rows * counted[..., None]).sum(1) / counted.sum(1)[:, None]
    states = rows + pooled[:, None]
    return {"states": states, "pooled": pooled, "halves": states[:, ::2]}
