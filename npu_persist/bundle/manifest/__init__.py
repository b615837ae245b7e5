"""The manifest: `manifest.json`, a bundle's description of itself, whose digest is the bundle's identity.

The promise: a manifest that was read satisfies every rule of its format, so that nothing after it has to check again;
anything else is a `ManifestError` with every problem and its place, or a `FormatVersionError`. `schema.json` in this
folder says the same as a JSON Schema, but for the rules that relate one part to another (see `checks`). A graph without
buckets has no such member.

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
              {"name": "scale", "kind": "keyword_only", "default": {"value": 1.0}}
            ],
            "arguments": [["x", {"tensor": 0}], ["scale", {"value": 2.0}]],
            "result": {"tuple": [{"tensor": 0}, {"value": null}]}
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

from npu_persist.bundle.manifest.checks import derived_bin
from npu_persist.bundle.manifest.document import Manifest
from npu_persist.bundle.manifest.parts import (
    COMPILED_DIRECTORY,
    DATA_ALIGNMENT,
    DTYPES,
    FORMAT_VERSION,
    MANIFEST_FILE,
    MANIFEST_SIGNATURE_FILE,
    ORIGIN_FILE,
    Buckets,
    Conversion,
    DictNode,
    Difference,
    Dimension,
    FileEntry,
    Golden,
    Graph,
    ListNode,
    NamedTupleNode,
    OpaqueNode,
    Padding,
    Parameter,
    ParameterKind,
    Port,
    Precision,
    Producer,
    RecordNode,
    Side,
    Signature,
    TensorNode,
    Tolerance,
    Tree,
    TupleNode,
    ValueNode,
    Weights,
)
from npu_persist.bundle.manifest.strict_json import MAX_SIZE as MAX_MANIFEST_SIZE

__all__ = [
    "COMPILED_DIRECTORY",
    "DATA_ALIGNMENT",
    "DTYPES",
    "FORMAT_VERSION",
    "MANIFEST_FILE",
    "MANIFEST_SIGNATURE_FILE",
    "MAX_MANIFEST_SIZE",
    "ORIGIN_FILE",
    "Buckets",
    "Conversion",
    "DictNode",
    "Difference",
    "Dimension",
    "FileEntry",
    "Golden",
    "Graph",
    "ListNode",
    "Manifest",
    "NamedTupleNode",
    "OpaqueNode",
    "Padding",
    "Parameter",
    "ParameterKind",
    "Port",
    "Precision",
    "Producer",
    "RecordNode",
    "Side",
    "Signature",
    "TensorNode",
    "Tolerance",
    "Tree",
    "TupleNode",
    "ValueNode",
    "Weights",
    "derived_bin",
]
