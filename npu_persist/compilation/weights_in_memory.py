"""Which weights the process holds for the blobs of models that generate: one set for each blob.

NPUW keeps the weights of a blob that reads them from their file under a name that is in the blob, once in a process.
While one model lives, another import of the same blob gets its weights, whatever file it names, and answers as the
other model. So an import with other weights is refused while that is so.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import BLOB_FILE
from npu_persist.errors import WeightsInUseError

if TYPE_CHECKING:
    from pathlib import Path

    import openvino as ov

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.compilation.recipe import Recipe

_lock = threading.Lock()
_living: weakref.WeakKeyDictionary[ov.CompiledModel, tuple[str, str]] = weakref.WeakKeyDictionary()
"""Digests of the blob and of the weights of each model."""


def check(recipe: Recipe, artifact: Artifact, path: Path) -> None:
    """Raise WeightsInUseError if the process holds other weights for an artifact's blob."""
    if (digests := _find_digests(recipe, artifact)) is None:
        return
    with _lock:
        other = next((one for one in _living.values() if one[0] == digests[0] and one[1] != digests[1]), None)
    if other is not None:
        raise WeightsInUseError(
            f"{path}: a model that this process has loaded from the same blob has other weights, {other[1]}; OpenVINO "
            f"would answer with those for {recipe.bundle.reference} too. Close that model first, or load this one in "
            "a process of its own",
            path=str(path),
            expected=digests[1],
            got=other[1],
        )


def note(recipe: Recipe, artifact: Artifact, model: ov.CompiledModel) -> None:
    """Remember the weights of a model for as long as it lives."""
    if (digests := _find_digests(recipe, artifact)) is not None:
        with _lock:
            _living[model] = digests


def _find_digests(recipe: Recipe, artifact: Artifact) -> tuple[str, str] | None:
    if artifact.lengths is None or not artifact.weightless:
        return None
    manifest = recipe.bundle.manifest
    return artifact.files[BLOB_FILE].digest, manifest.files[manifest.weights.path].digest
