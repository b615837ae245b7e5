"""Bundles with compiled artifacts attached: blobs for an NPU with real trailers, as if a compiler had been here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist.artifact.artifact import ARTIFACT_FILE, BLOB_FILE, describe_files
from npu_persist.artifact.attached import attach, stage
from npu_persist.device.core import get_version
from tests.support.artifacts import make_artifact
from tests.support.blobs import DESCRIPTOR, real_blob

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle

REQUIREMENTS = f"meta=2.7;ov=2026.4.1;desc=[{DESCRIPTOR}]"


def attach_npu(bundle: Bundle, blob: bytes | None = None, *, folder: str | None = None, **changes: Any) -> Path:
    """Attach what the compiler for NPU:4000 could have made of a bundle's first graph.

    Args:
        bundle: The bundle.
        blob: The blob.
        folder: Name of the folder: it is then only put there, as it came from elsewhere.
        changes: What else its description says.
    """
    graph = bundle.manifest.graphs[0]
    fields: dict[str, Any] = {
        "subject": bundle.digest,
        "name": bundle.name,
        "graph": graph.name,
        "target": "NPU:4000",
        "device": "NPU",
        "identity": {"DEVICE_ARCHITECTURE": "4000"},
        "openvino": get_version(),
        "properties": {},
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "weightless": False,
        "requirements": REQUIREMENTS,
        "toolchain": "wine",
        "compiler": "8.4",
    }
    if folder is not None:
        place = bundle.path / "compiled" / folder
        place.mkdir(parents=True)
        (place / BLOB_FILE).write_bytes(real_blob() if blob is None else blob)
        artifact = make_artifact(**(fields | changes), files=describe_files(place))
        (place / ARTIFACT_FILE).write_bytes(artifact.to_json())
        return place
    with stage(bundle) as staging:
        (staging / BLOB_FILE).write_bytes(real_blob() if blob is None else blob)
        artifact = make_artifact(**(fields | changes), files=describe_files(staging))
        return attach(bundle, artifact, staging)
