"""The manifest's rules that relate one part to another.

The promise: a manifest that passes describes a folder that can exist on every platform and graphs that can be called;
every rule that is broken is noted. The rules for single values are in `reading`.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from npu_persist.bundle.manifest import parts
from npu_persist.bundle.manifest.strict_json import key_location, show

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from npu_persist.bundle.manifest.strict_json import Problems


_BESIDE = (parts.MANIFEST_FILE, parts.MANIFEST_SIGNATURE_FILE, parts.ORIGIN_FILE)
"""What stands beside the files that a manifest vouches for."""


def derived_bin(graph_path: str) -> str:
    """Return the path where stock OpenVINO looks for the weights of a graph.

    >>> derived_bin("model.xml")
    'model.bin'
    """
    return f"{graph_path.removesuffix('.xml')}.bin"


def check_graphs(graphs: tuple[parts.Graph, ...], problems: Problems) -> None:
    """Check each graph, and that no two share a name or file."""
    if not graphs:
        problems.add("graphs", "expected at least one graph, got none")
    _check_unique((graph.name for graph in graphs), "graphs", "graph names", problems)
    _check_unique((graph.path for graph in graphs), "graphs", "graph paths", problems)
    for index, graph in enumerate(graphs):
        where = f"graphs[{index}]"
        if not graph.path.endswith(".xml"):
            problems.add(f"{where}.path", f"expected a path that ends in .xml, got {show(graph.path)}")
        for direction, ports in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            _check_unique((port.name for port in ports), f"{where}.{direction}", "names", problems)
            for number, port in enumerate(ports):
                _check_shape(port.shape, f"{where}.{direction}[{number}].shape", problems)
        _check_signature(graph, f"{where}.signature", problems)
        if graph.buckets is not None:
            _check_buckets(graph, graph.buckets, f"{where}.buckets", problems)


def check_files(
    files: Mapping[str, parts.FileEntry],
    graphs: tuple[parts.Graph, ...],
    weights: parts.Weights,
    golden: parts.Golden | None,
    problems: Problems,
) -> None:
    """Check that the files can stand side by side, and that those the parts name are among them."""
    check_spellings(files, problems)
    derived = {derived_bin(graph.path).lower() for graph in graphs}
    for path in files:
        first, *rest = path.lower().split("/")
        places = accumulate(rest, lambda place, name: f"{place}/{name}", initial=first)
        if not derived.isdisjoint(places) or first in {*_BESIDE, parts.COMPILED_DIRECTORY}:
            problems.add(
                key_location("files", path),
                "expected no entry: what is here is not part of what the manifest vouches for",
            )
    named = [(f"graphs[{index}].path", graph.path) for index, graph in enumerate(graphs)]
    named.append(("weights.path", weights.path))
    if golden is not None:
        named.append(("golden.path", golden.path))
    for where, path in named:
        if path not in files:
            problems.add(where, f"expected a path that is in files, got {show(path)}")
    own = [path for where, path in named if not where.startswith("graphs")]
    if len({*own, *(graph.path for graph in graphs)}) < len(own) + len({graph.path for graph in graphs}):
        problems.add("files", "expected graphs, weights and golden sample in files of their own, got one file for two")
    _check_weights(weights, files, problems)


def _check_weights(weights: parts.Weights, files: Mapping[str, parts.FileEntry], problems: Problems) -> None:
    if weights.data_start <= 0 or weights.data_start % parts.DATA_ALIGNMENT:
        problems.add(
            "weights.data_start", f"expected a positive multiple of {parts.DATA_ALIGNMENT}, got {weights.data_start}"
        )
    size = weights.data_start + weights.data_size
    if weights.path in files and files[weights.path].size != size:
        problems.add(
            "weights.data_size",
            f"expected data_start + data_size to be the file's {files[weights.path].size} bytes, got {size}",
        )


def check_spellings(paths: Iterable[str], problems: Problems) -> None:
    """Check that files can stand side by side on every platform."""
    # On Windows `A/x` and `a/y` share a folder, and nowhere can `a` be a file and a folder.
    spellings: dict[str, tuple[str, bool]] = {}
    for path in paths:
        components = path.split("/")
        for length in range(1, len(components) + 1):
            place = "/".join(components[:length])
            is_file = length == len(components)
            other, other_is_file = spellings.setdefault(place.lower(), (place, is_file))
            if other != place:
                problems.add(
                    key_location("files", path), f"expected no twin in upper and lower case, got one: {show(other)}"
                )
            elif other_is_file != is_file:
                problems.add(key_location("files", path), f"expected {show(place)} to be a file or a folder, got both")


def _check_shape(shape: tuple[int | parts.Dimension, ...], where: str, problems: Problems) -> None:
    for axis, size in enumerate(shape):
        if isinstance(size, parts.Dimension) and size.max is not None and size.max < size.min:
            problems.add(f"{where}[{axis}].max", f"expected at least min, {size.min}, got {size.max}")


def _check_buckets(graph: parts.Graph, buckets: parts.Buckets, where: str, problems: Problems) -> None:
    opened = {
        port.name: port.shape for port in graph.inputs if any(isinstance(axis, parts.Dimension) for axis in port.shape)
    }
    if not buckets.shapes:
        problems.add(f"{where}.shapes", "expected at least one bucket, got none")
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


def _fits(promised: tuple[int | parts.Dimension, ...], shape: tuple[int, ...]) -> bool:
    """Tell whether a shape is one that an input allows; relations between its axes are no matter of the format."""
    return len(promised) == len(shape) and all(
        axis == size if isinstance(axis, int) else max(axis.min, 1) <= size and (axis.max is None or size <= axis.max)
        for axis, size in zip(promised, shape, strict=True)
    )


def _check_signature(graph: parts.Graph, where: str, problems: Problems) -> None:
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


def _tensors(tree: parts.Tree, where: str, problems: Problems) -> list[int]:
    match tree:
        case parts.TensorNode(index):
            return [index]
        case parts.ListNode(items) | parts.TupleNode(items):
            return [index for item in items for index in _tensors(item, where, problems)]
        case parts.DictNode(pairs):
            _check_unique((key for key, _ in pairs), where, "keys of each dict", problems)
            return [index for _, item in pairs for index in _tensors(item, where, problems)]
        case parts.NamedTupleNode(_, fields) | parts.RecordNode(_, fields):
            _check_unique((name for name, _ in fields), where, "field names of each record", problems)
            return [index for _, item in fields for index in _tensors(item, where, problems)]
        case _:
            return []


def _check_unique(values: Iterable[Hashable], where: str, what: str, problems: Problems) -> None:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            problems.add(where, f"expected {what} that differ, got {show(value)} twice")
        seen.add(value)


def _shorten(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"[{shown}]" if len(numbers) <= 10 else f"[{shown}, …]"  # noqa: PLR2004
