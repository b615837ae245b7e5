"""From a parsed JSON document to the manifest's parts.

The promise: every problem is noted with its place, and nothing is ignored: a missing member, an unknown member and a
value of the wrong type are problems. What is noted here is what `schema.json` says, rule by rule; rules that relate one
part to another are in `checks`.
"""

from __future__ import annotations

import re
from typing import Any

from npu_persist.bundle.manifest import parts
from npu_persist.bundle.manifest.strict_json import key_location
from npu_persist.bundle.manifest.values import MISSING, ValueReader

MAX_FILES = 10_000
"""Most files in a bundle."""

_FLOAT_NAMES = ("nan", "inf", "-inf")
_PRECISIONS: tuple[parts.Precision, ...] = ("fp16", "fp32")
_CONVERSIONS: tuple[parts.Conversion, ...] = ("trace", "export")
_KINDS: tuple[parts.ParameterKind, ...] = (
    "positional_only",
    "positional_or_keyword",
    "var_positional",
    "keyword_only",
    "var_keyword",
)
_SIDES: tuple[parts.Side, ...] = ("right", "left")
_FORMAT_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})", re.ASCII)


def is_format_version(value: object) -> bool:
    """Tell whether a value reads as a format version: `1.0`."""
    return isinstance(value, str) and _FORMAT_VERSION.fullmatch(value) is not None


class Reader(ValueReader):
    """Reads parts out of a document."""

    def producer(self, value: Any, where: str) -> parts.Producer:
        """Return the versions of what wrote the manifest."""
        got = self.members(value, where, "npu_persist", "openvino", "torch")
        return parts.Producer(
            npu_persist=self.text(got["npu_persist"], f"{where}.npu_persist"),
            openvino=self.text(got["openvino"], f"{where}.openvino"),
            torch=self.optional(got["torch"], f"{where}.torch", self.text),
        )

    def graph(self, value: Any, where: str) -> parts.Graph:
        """Return a graph."""
        names = ["name", "path", "precision", "conversion", "inputs", "outputs", "signature"]
        # Absent where there are none, so that bundles without buckets are what they were before there were any.
        has_buckets = isinstance(value, dict) and "buckets" in value
        got = self.members(value, where, *names, *(["buckets"] if has_buckets else []))
        return parts.Graph(
            name=self.text(got["name"], f"{where}.name"),
            path=self.path(got["path"], f"{where}.path"),
            precision=self.choice(got["precision"], f"{where}.precision", _PRECISIONS),
            conversion=self.choice(got["conversion"], f"{where}.conversion", _CONVERSIONS),
            inputs=self.array(got["inputs"], f"{where}.inputs", self.port),
            outputs=self.array(got["outputs"], f"{where}.outputs", self.port),
            signature=self.signature(got["signature"], f"{where}.signature"),
            buckets=self.buckets(got["buckets"], f"{where}.buckets") if has_buckets else None,
        )

    def buckets(self, value: Any, where: str) -> parts.Buckets:
        """Return the sizes that a graph is compiled for."""
        got = self.members(value, where, "shapes", "padding")
        padding = got["padding"]
        if not isinstance(padding, dict):
            self.expected("an object", padding, f"{where}.padding")
            padding = {}
        return parts.Buckets(
            shapes=self.array(got["shapes"], f"{where}.shapes", self.shapes),
            padding={name: self.padding(one, key_location(f"{where}.padding", name)) for name, one in padding.items()},
        )

    def padding(self, value: Any, where: str) -> parts.Padding:
        """Return how an input is filled up."""
        got = self.members(value, where, "value", "side")
        return parts.Padding(
            value=self.number(got["value"], f"{where}.value"),
            side=self.choice(got["side"], f"{where}.side", _SIDES),
        )

    def port(self, value: Any, where: str) -> parts.Port:
        """Return an input or output."""
        got = self.members(value, where, "name", "dtype", "shape")
        return parts.Port(
            name=self.text(got["name"], f"{where}.name"),
            dtype=self.choice(got["dtype"], f"{where}.dtype", parts.DTYPES),
            shape=self.array(got["shape"], f"{where}.shape", self.axis),
        )

    def axis(self, value: Any, where: str) -> int | parts.Dimension:
        """Return one axis of a shape."""
        if not isinstance(value, dict):
            return self.integer(value, where)
        got = self.members(value, where, "name", "min", "max")
        return parts.Dimension(
            name=self.optional(got["name"], f"{where}.name", self.text),
            min=self.integer(got["min"], f"{where}.min"),
            max=self.optional(got["max"], f"{where}.max", self.integer),
        )

    def shapes(self, value: Any, where: str) -> dict[str, tuple[int, ...]]:
        """Return sizes of inputs, by name."""
        if not isinstance(value, dict):
            self.expected("an object", value, where)
            return {}
        return {name: self.array(shape, key_location(where, name), self.integer) for name, shape in value.items()}

    def signature(self, value: Any, where: str) -> parts.Signature:
        """Return a signature."""
        got = self.members(value, where, "parameters", "arguments", "result")
        return parts.Signature(
            parameters=self.array(got["parameters"], f"{where}.parameters", self.parameter),
            arguments=self.array(got["arguments"], f"{where}.arguments", self.field),
            result=self.tree(got["result"], f"{where}.result"),
        )

    def parameter(self, value: Any, where: str) -> parts.Parameter:
        """Return a parameter."""
        got = self.members(value, where, "name", "kind", "default")
        return parts.Parameter(
            name=self.text(got["name"], f"{where}.name"),
            kind=self.choice(got["kind"], f"{where}.kind", _KINDS),
            default=self.optional(got["default"], f"{where}.default", self.tree),
        )

    def tree(self, value: Any, where: str) -> parts.Tree:
        """Return a structure of tensors and constants: an object with one member, which says what it is."""
        kind, inside = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", value)
        location = f"{where}.{kind}"
        match kind:
            case "tensor":
                return parts.TensorNode(self.integer(inside, location))
            case "value" | "float" | "opaque":
                return self.constant(kind, inside, location)
            case "list":
                return parts.ListNode(self.array(inside, location, self.tree))
            case "tuple":
                return parts.TupleNode(self.array(inside, location, self.tree))
            case "dict":
                return parts.DictNode(self.array(inside, location, self.entry))
            case "namedtuple":
                return parts.NamedTupleNode(*self.record(inside, location))
            case "record":
                return parts.RecordNode(*self.record(inside, location))
        expected = "an object with one of tensor, value, float, opaque, list, tuple, dict, namedtuple, record"
        self.expected(expected, value, where)
        return parts.ValueNode(None)

    def constant(self, kind: str, value: Any, where: str) -> parts.ValueNode | parts.OpaqueNode:
        """Return a constant of a structure."""
        if kind == "opaque":
            return parts.OpaqueNode(self.any_text(value, where))
        if kind == "float":
            return parts.ValueNode(float(self.choice(value, where, _FLOAT_NAMES)))
        if value is None or isinstance(value, (bool, int, float, str)):
            return parts.ValueNode(value)
        self.expected("null, a boolean, a number or text", value, where)
        return parts.ValueNode(None)

    def record(self, value: Any, where: str) -> tuple[str, tuple[tuple[str, parts.Tree], ...]]:
        """Return type name and fields of a named tuple or record."""
        got = self.members(value, where, "type", "fields")
        return self.text(got["type"], f"{where}.type"), self.array(got["fields"], f"{where}.fields", self.field)

    def field(self, value: Any, where: str) -> tuple[str, parts.Tree]:
        """Return a pair of name and structure."""
        name, tree = self.pair(value, where)
        return self.text(name, f"{where}[0]"), self.tree(tree, f"{where}[1]")

    def entry(self, value: Any, where: str) -> tuple[str | int, parts.Tree]:
        """Return a pair of a dict's key and structure."""
        key, tree = self.pair(value, where)
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            self.expected("text or an integer", key, f"{where}[0]")
            key = ""
        return key, self.tree(tree, f"{where}[1]")

    def pair(self, value: Any, where: str) -> tuple[Any, Any]:
        """Return the two items of an array."""
        if isinstance(value, list) and len(value) == 2:  # noqa: PLR2004
            return value[0], value[1]
        self.expected("an array of two", value, where)
        return MISSING, MISSING

    def weights(self, value: Any, where: str) -> parts.Weights:
        """Return the weights file's description."""
        got = self.members(value, where, "path", "data_start", "data_size", "tensors")
        return parts.Weights(
            path=self.path(got["path"], f"{where}.path"),
            data_start=self.integer(got["data_start"], f"{where}.data_start"),
            data_size=self.integer(got["data_size"], f"{where}.data_size"),
            tensors=self.integer(got["tensors"], f"{where}.tensors"),
        )

    def golden(self, value: Any, where: str) -> parts.Golden:
        """Return the golden sample's description."""
        got = self.members(value, where, "path", "tolerance", "differences")
        return parts.Golden(
            path=self.path(got["path"], f"{where}.path"),
            tolerance=self.optional(got["tolerance"], f"{where}.tolerance", self.tolerance),
            differences=self.optional(got["differences"], f"{where}.differences", self.differences),
        )

    def tolerance(self, value: Any, where: str) -> parts.Tolerance:
        """Return a tolerance."""
        got = self.members(value, where, "max_relative", "cosine")
        return parts.Tolerance(
            max_relative=self.number(got["max_relative"], f"{where}.max_relative"),
            cosine=self.number(got["cosine"], f"{where}.cosine"),
        )

    def differences(self, value: Any, where: str) -> tuple[parts.Difference, ...]:
        """Return the differences of all outputs."""
        return self.array(value, where, self.difference)

    def difference(self, value: Any, where: str) -> parts.Difference:
        """Return the difference of one output."""
        got = self.members(value, where, "output", "max_abs", "max_relative", "cosine")
        return parts.Difference(
            output=self.text(got["output"], f"{where}.output"),
            max_abs=self.number(got["max_abs"], f"{where}.max_abs"),
            max_relative=self.number(got["max_relative"], f"{where}.max_relative"),
            cosine=self.number(got["cosine"], f"{where}.cosine"),
        )

    def files(self, value: Any, where: str) -> dict[str, parts.FileEntry]:
        """Return size and digest by path."""
        if not isinstance(value, dict):
            self.expected("an object", value, where)
            return {}
        if len(value) > MAX_FILES:
            self.problems.add(where, f"expected at most {MAX_FILES} files, got {len(value)}")
        return {
            self.path(path, key_location(where, path)): self.file(entry, key_location(where, path))
            for path, entry in value.items()
        }

    def file(self, value: Any, where: str) -> parts.FileEntry:
        """Return size and digest of a file."""
        got = self.members(value, where, "size", "digest")
        return parts.FileEntry(
            size=self.integer(got["size"], f"{where}.size"), digest=self.digest(got["digest"], f"{where}.digest")
        )

    def metadata(self, value: Any, where: str) -> dict[str, Any]:
        """Return the user's own data."""
        if isinstance(value, dict):
            return value
        self.expected("an object", value, where)
        return {}
