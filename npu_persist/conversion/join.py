"""Joins graphs that were built one by one into one bundle: each tensor that several of them have is stored once.

Tensors are the same where dtype, shape and bytes are. A name is that in the module's state_dict; where graphs have
different tensors of one name, it gets the graph's name before it: `decoder.layers.0.weight`. A tensor with several
names is stored under the first one, and the file's metadata has the others, as of tied weights.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from msgspec.structs import replace

from npu_persist.bundle import weights as safetensors_file
from npu_persist.bundle.manifest import Weights
from npu_persist.bundle.tensors import Tensors, describe_compressed
from npu_persist.bundle.weights import read_header
from npu_persist.conversion.origins import OWN
from npu_persist.files.digest import Hasher, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from npu_persist.bundle.golden_records import Golden
    from npu_persist.bundle.graph_records import Graph
    from npu_persist.bundle.manifest import Refresh
    from npu_persist.bundle.tensors import CompressedTensor
    from npu_persist.bundle.weights import Tensor
    from npu_persist.conversion.build import Part

_CHUNK = 8 << 20
_OWN_NAME = re.compile(rf"{re.escape(OWN)}[0-9]+")
_Bytes: TypeAlias = "tuple[str, tuple[int, ...], str]"
"""What makes two tensors the same: dtype, shape and digest."""


class Joined(NamedTuple):
    """What the manifest says of the graphs together.

    Attributes:
        graphs: Each with the path of its file.
        weights: The file that all read.
        golden: The golden sample of the only graph.
        goldens: Those of several, by graph.
        digests: Those of all files.
        warnings: What the user was warned of.
        refresh: What `refresh` needs to know of the only graph.
    """

    graphs: tuple[Graph, ...]
    weights: Weights
    golden: Golden | None
    goldens: dict[str, Golden]
    digests: dict[str, str]
    warnings: tuple[str, ...]
    refresh: Refresh | None


def describe_one(part: Part) -> Joined:
    """Return what the manifest says of a graph that has the bundle to itself."""
    return Joined((part.graph,), part.weights, part.golden, {}, part.digests, part.warnings, part.refresh)


def join(parts: Sequence[Part], directory: Path, report: Callable[[float], None]) -> Joined:
    """Write `NAME.xml` and `NAME.golden.safetensors` for each graph, and one `weights.safetensors` for all."""
    sources = [_Source(part) for part in parts]
    names = _Names(sources)
    weights, digest, starts = _write_weights(names, directory / parts[0].weights.path, report)
    digests = {weights.path: digest}
    graphs, goldens = [], {}
    for source in sources:
        part = source.part
        graph = replace(part.graph, path=f"{part.graph.name}.xml")
        text = _point(part.folder / part.graph.path, source, names, starts)
        (directory / graph.path).write_bytes(text)
        golden = replace(part.golden, path=f"{part.graph.name}.{part.golden.path}")
        (part.folder / part.golden.path).rename(directory / golden.path)
        digests |= {graph.path: digest_bytes(text), golden.path: part.digests[part.golden.path]}
        graphs.append(graph)
        goldens[graph.name] = golden
    notes = tuple(f"{part.graph.name}: {text}" for part in parts for text in part.warnings)
    return Joined(tuple(graphs), weights, None, goldens, digests, notes, None)


class _Source:
    """The weights of one graph."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.path = part.folder / part.weights.path
        self.tensors = read_header(self.path).tensors
        self.digests = {name: self._digest(tensor) for name, tensor in self.tensors.items()}
        read = Tensors(self.path)
        self.aliases, self.records = read.aliases, read.compressed

    def chunks(self, tensor: Tensor) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(tensor.start)
            for start in range(0, tensor.size, _CHUNK):
                yield file.read(min(_CHUNK, tensor.size - start))

    def content(self, name: str) -> tuple[object, ...]:
        """Return what a name of the state_dict stands for: equal for the same values."""
        name = self.aliases.get(name, name)
        if (record := self.records.get(name)) is None:
            return self.digests[name]
        return record.precision, record.shape, record.grouped, self.digests[record.values], self.digests[record.scale]

    def names(self) -> list[str]:
        """Return the names of the state_dict, and those of scales."""
        stored = [name for name in self.tensors if not _OWN_NAME.fullmatch(name)]
        return [*dict.fromkeys([*stored, *self.records, *self.aliases])]

    def is_part(self, name: str) -> bool:
        """Tell whether a tensor is only part of a compressed one."""
        return name not in self.records and any(name in (one.values, one.scale) for one in self.records.values())

    def _digest(self, tensor: Tensor) -> _Bytes:
        hasher = Hasher()
        for chunk in self.chunks(tensor):
            hasher.update(chunk)
        return tensor.dtype, tensor.shape, hasher.digest()


class _Names:
    """What every tensor is called in the file of all graphs.

    Attributes:
        stored: The tensors of the file: name, and where its bytes are.
        metadata: Other names, and how compressed tensors are to be read.
    """

    def __init__(self, sources: Sequence[_Source]) -> None:
        self._places: dict[_Bytes, str] = {}
        self._joined = dict(zip(map(id, sources), self._join(sources), strict=True))
        self.stored: dict[str, tuple[_Source, Tensor]] = {}
        for is_own in (False, True):  # a name of the state_dict says more than the number of a constant
            for source in sources:
                for name, tensor in source.tensors.items():
                    if bool(_OWN_NAME.fullmatch(name)) is is_own and source.digests[name] not in self._places:
                        chosen = f"{OWN}{len(self.stored)}" if is_own else self._joined[id(source)][name]
                        self._places[source.digests[name]] = chosen
                        self.stored[chosen] = source, tensor
        self.metadata = self._describe(sources)

    def place(self, source: _Source, name: str) -> str:
        """Return what a tensor of a graph's own file is called in the file of all."""
        return self._places[source.digests[name]]

    def _join(self, sources: Sequence[_Source]) -> Iterator[dict[str, str]]:
        """Yield for each graph what its names become, each with the graph's name before it where they clash."""
        contents: defaultdict[str, set[tuple[object, ...]]] = defaultdict(set)
        for source in sources:
            for name in source.names():
                contents[name].add(source.content(name))
        taken: dict[str, tuple[object, ...]] = {}
        for source in sources:
            found: dict[str, str] = {}
            for name in source.names():
                joined, content = name, source.content(name)
                clashes = len(contents[name]) > 1
                while clashes or taken.get(joined, content) != content:
                    joined = f"{source.part.graph.name}.{joined}"
                    clashes = joined in contents
                taken[joined] = content
                found[name] = joined
            yield found

    def _describe(self, sources: Sequence[_Source]) -> dict[str, str]:
        aliases: dict[str, str] = {}
        records: dict[str, CompressedTensor] = {}
        held: dict[tuple[object, ...], str] = {}
        for source in sources:
            for name, joined in self._joined[id(source)].items():
                content = source.content(name)
                if (record := source.records.get(name)) is not None and content not in held:
                    values, scale = self.place(source, record.values), self.place(source, record.scale)
                    records[joined] = record._replace(values=values, scale=scale)
                    held[content] = joined
        for source in sources:
            for name, joined in self._joined[id(source)].items():
                target = source.aliases.get(name, name)
                place = held[source.content(name)] if target in source.records else self.place(source, target)
                if joined != place and joined not in self.stored and joined not in records and not source.is_part(name):
                    aliases[joined] = place
        return {**aliases, **describe_compressed(records)}


def _write_weights(names: _Names, path: Path, report: Callable[[float], None]) -> tuple[Weights, str, dict[str, int]]:
    """Return the file's entry in the manifest, its digest, and where its tensors start."""
    entries = {name: (tensor.dtype, tensor.shape, tensor.size) for name, (_, tensor) in names.stored.items()}
    header, starts = safetensors_file.lay_out(entries, {"format": "pt", **names.metadata})
    ordered = sorted(names.stored, key=starts.__getitem__)
    chunks = (chunk for name in ordered for chunk in names.stored[name][0].chunks(names.stored[name][1]))
    size = sum(size for _, _, size in entries.values())
    total = len(header) + size
    digest = safetensors_file.write(path, header, chunks, lambda done: report(done / total))
    return Weights(path.name, len(header), size, len(entries)), digest, starts


def _point(path: Path, source: _Source, names: _Names, starts: dict[str, int]) -> bytes:
    """Return a graph whose constants point into the file of all graphs."""
    root = ET.parse(path).getroot()  # noqa: S314 - written a moment ago
    by_place = {(tensor.start, tensor.size): name for name, tensor in source.tensors.items()}
    for layer in root.iter("layer"):
        if layer.get("type") == "Const" and (data := layer.find("data")) is not None:
            name = by_place[int(data.get("offset", "")), int(data.get("size", ""))]
            data.set("offset", str(starts[names.place(source, name)]))
    text: bytes = ET.tostring(root, encoding="utf-8")
    return b'<?xml version="1.0"?>\n' + text
