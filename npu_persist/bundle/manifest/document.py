"""The manifest as a whole, from bytes and to bytes.

The promise: `from_json` gives a manifest that satisfies every rule or raises a typed error that names every problem,
whatever the bytes are; `to_json` gives the same bytes for equal manifests, and never bytes that `from_json` refuses.
The digest of these bytes is the bundle's identity, so nothing that differs between two runs stands in them: the time
of a publish is the modification time of the file.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from npu_persist.bundle.manifest import parts, strict_json
from npu_persist.bundle.manifest.checks import check_files, check_graphs
from npu_persist.bundle.manifest.reading import Reader, is_format_version
from npu_persist.bundle.manifest.writing import files_document, golden_document, graph_document
from npu_persist.errors import FormatVersionError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import dataclass
else:
    from npu_persist.files.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Manifest:
    """A bundle's description of itself.

    Attributes:
        name: The bundle's name.
        producer: What wrote it.
        graphs: One or more graphs, all on the same weights.
        weights: The weights file.
        golden: The golden sample; None where there is none.
        files: Size and digest of every file of the bundle but the manifest, by relative path.
        warnings: What the user was warned of when the bundle was persisted.
        metadata: The user's own data, anything that JSON can hold.
        format_version: The manifest format.
    """

    name: str
    producer: parts.Producer
    graphs: tuple[parts.Graph, ...]
    weights: parts.Weights
    golden: parts.Golden | None
    files: Mapping[str, parts.FileEntry]
    warnings: tuple[str, ...]
    metadata: Mapping[str, Any]
    format_version: str = parts.FORMAT_VERSION

    @classmethod
    def from_json(cls, data: bytes, *, source: str = parts.MANIFEST_FILE) -> Manifest:
        """Read and check a manifest.

        Args:
            data: Content of the file.
            source: What errors call it.

        Raises:
            ManifestError: It is damaged, hostile or does not agree with itself.
            FormatVersionError: It is of a format that this version does not read.
        """
        problems = strict_json.Problems(source)
        document = strict_json.load(data, problems)
        manifest = cls._read(document, problems, source)
        problems.raise_if_any()
        check_graphs(manifest.graphs, problems)
        check_files(manifest.files, manifest.graphs, manifest.weights, manifest.golden, problems)
        problems.raise_if_any()
        return manifest

    def to_json(self) -> bytes:
        """Write the manifest: UTF-8, sorted keys, two spaces, a newline at the end.

        Raises:
            ManifestError: `from_json` would refuse it, for instance for metadata that JSON cannot hold.
        """
        problems = strict_json.Problems("what was to be written")
        document = self._document()
        strict_json.inspect(document, problems)
        problems.raise_if_any()
        data = strict_json.dump(document)
        Manifest.from_json(data, source="what was to be written")
        return data

    def _document(self) -> dict[str, Any]:
        return {
            "format_version": self.format_version,
            "name": self.name,
            "producer": asdict(self.producer),
            "graphs": [graph_document(graph) for graph in self.graphs],
            "weights": asdict(self.weights),
            "golden": None if self.golden is None else golden_document(self.golden),
            "files": files_document(self.files),
            "warnings": list(self.warnings),
            "metadata": dict(self.metadata),
        }

    @classmethod
    def _read(cls, document: Any, problems: strict_json.Problems, source: str) -> Manifest:
        if isinstance(document, dict):
            _refuse_other_format(document.get("format_version"), source)
        reader = Reader(problems)
        got = reader.members(
            document,
            "",
            "format_version",
            "name",
            "producer",
            "graphs",
            "weights",
            "golden",
            "files",
            "warnings",
            "metadata",
        )
        return cls(
            format_version=reader.choice(got["format_version"], "format_version", (parts.FORMAT_VERSION,)),
            name=reader.bundle_name(got["name"], "name"),
            producer=reader.producer(got["producer"], "producer"),
            graphs=reader.array(got["graphs"], "graphs", reader.graph),
            weights=reader.weights(got["weights"], "weights"),
            golden=reader.optional(got["golden"], "golden", reader.golden),
            files=reader.files(got["files"], "files"),
            warnings=reader.array(got["warnings"], "warnings", reader.any_text),
            metadata=reader.metadata(got["metadata"], "metadata"),
        )


def _refuse_other_format(found: Any, source: str) -> None:
    # First of all: the other rules are those of our format, and say nothing about another.
    if is_format_version(found) and found != parts.FORMAT_VERSION:
        raise FormatVersionError(
            f"{source} has format version {found}; this version of npu_persist reads {parts.FORMAT_VERSION}. "
            "Install the version that wrote the bundle, or a newer one: pip install --upgrade npu_persist",
            found=found,
            supported=parts.FORMAT_VERSION,
        )
