"""The manifest: `manifest.json`, a bundle's description of itself, whose digest is the bundle's identity.

The records here, in `graph_records` and in `golden_records` are the format: `manifest.schema.json` is generated from
them (see `schema`). A manifest that was read also satisfies the rules that relate its parts to one another, at the end
of this file and in `graph_checks`. The same manifest always has the same bytes, and nothing in it differs between two
runs: the time of publishing is the file's modification time. Where there are several graphs, `golden` is null, and
`goldens` has the golden sample of each by the graph's name.

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
from typing import Annotated, Any

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
from npu_persist.bundle.golden_records import Golden
from npu_persist.bundle.graph_checks import check_graphs
from npu_persist.bundle.graph_records import Graph
from npu_persist.errors import FormatVersionError, ManifestError
from npu_persist.files.filesystem import component_problem

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

RESTORE = "Persist the model again, or get another copy of the bundle"
"""What errors advise where a bundle is damaged."""


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
    check_graphs(manifest.graphs, problems)
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
        f"{source} is not a valid manifest:{error.listing}\nIt is damaged, or npu_persist did not write it. {RESTORE}",
        problems=error.problems,
    )


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
