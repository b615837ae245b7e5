"""A tiny bundle without torch or openvino: right in everything that the store and the manifest look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.bundle.golden_records import Difference, Golden, Tolerance
from npu_persist.bundle.graph_records import (
    DictNode,
    Dimension,
    FloatNode,
    Graph,
    ListNode,
    NamedTupleNode,
    OpaqueNode,
    Parameter,
    Port,
    RecordNode,
    Signature,
    TensorNode,
    TupleNode,
    ValueNode,
)
from npu_persist.bundle.manifest import FileEntry, Manifest, Producer, Weights
from npu_persist.bundle.weights import lay_out
from npu_persist.files.digest import digest_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store

WEIGHTS = b"\0" * 4096 + bytes(range(64))
GRAPH = b"<net name='tiny'/>\n"
SIGNATURE = Signature(
    parameters=(
        Parameter("x", "positional_or_keyword", None),
        Parameter("scale", "keyword_only", ValueNode(1.0)),
        Parameter("options", "keyword_only", DictNode((("deep", ListNode((ValueNode("a"), ValueNode(None)))),))),
    ),
    arguments=(
        (
            "x",
            TupleNode((TensorNode(0), DictNode(((1, TensorNode(1)), ("1", ValueNode(2)))))),
        ),
        ("scale", FloatNode("inf")),
        ("options", OpaqueNode("slice(0, 3, None)")),
    ),
    result=RecordNode(
        "BaseModelOutput", (("y", TensorNode(0)), ("state", NamedTupleNode("Pair", (("first", TensorNode(0)),))))
    ),
)


def tiny_golden(note: str) -> bytes:
    """Return a golden sample of `TINY_GRAPH`, with a note that tells it from others."""
    entries = {"input.x.0": ("F32", (1, 0, 4), 0), "input.x.1": ("I64", (), 8), "output.y": ("F32", (1, 2), 8)}
    return lay_out(entries, {"note": note})[0] + bytes(16)


GOLDEN = tiny_golden("")

TINY_GRAPH = Graph(
    name="main",
    path="model.xml",
    precision="fp16",
    conversion="trace",
    inputs=(
        Port("x.0", "float32", (Dimension("batch", 1, 8), Dimension(None, 0, None), 4)),
        Port("x.1", "int64", ()),
    ),
    outputs=(Port("y", "float32", (Dimension("batch", 1, 8), 2)),),
    signature=SIGNATURE,
)


def tiny_files(**changes: bytes) -> dict[str, bytes]:
    """Return the content of a tiny bundle's files; `weights=b"..."` changes one by its stem."""
    files = {"model.xml": GRAPH, "weights.safetensors": WEIGHTS, "golden.safetensors": GOLDEN}
    return {path: changes.get(path.split(".", maxsplit=1)[0], data) for path, data in files.items()}


def tiny_manifest(name: str = "tiny", files: dict[str, bytes] | None = None) -> Manifest:
    """Return the manifest of a tiny bundle with these files."""
    files = tiny_files() if files is None else files
    return Manifest(
        name=name,
        producer=Producer("0.1.0", "2026.4.1", "2.13.0"),
        graphs=(TINY_GRAPH,),
        weights=Weights("weights.safetensors", 4096, len(files["weights.safetensors"]) - 4096, 1),
        golden=Golden("golden.safetensors", Tolerance(0.02, 0.999), (Difference("y", 0.001, 0.0004, 0.99999),)),
        files={path: FileEntry(len(data), digest_bytes(data)) for path, data in files.items()},
        warnings=("a branch was frozen",),
        metadata={"author": "Ada", "tags": ["a", 1, None, {"deep": 0.5}]},
    )


def write_tiny(directory: Path, name: str = "tiny", **changes: bytes) -> Manifest:
    """Write a tiny bundle into a directory, the manifest last, and return the manifest."""
    files = tiny_files(**changes)
    for path, data in files.items():
        (directory / path).write_bytes(data)
    manifest = tiny_manifest(name, files)
    (directory / "manifest.json").write_bytes(manifest.to_json())
    return manifest


def publish_tiny(store: Store, name: str = "tiny", alias: str | None = None, **changes: bytes) -> Bundle:
    """Publish a tiny bundle: `weights=` and `model=` change a file's content."""
    with store.stage() as staging:
        write_tiny(staging, name, **changes)
        return store.publish(staging, alias)
