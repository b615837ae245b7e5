"""A manifest that names a file as ours are named while they are made: `prune` deleted it an hour after the pull.

`weights.safetensors.partial` is a valid file name, so that a verified version lost its weights to a clean-up. The same
holds for folders, for other spellings, and for the files of an attached artifact.
"""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from npu_persist.artifact.artifact import Artifact
from npu_persist.bundle.manifest import Manifest
from npu_persist.errors import ArtifactError, ManifestError
from tests.support.artifacts import make_artifact
from tests.support.bundles import tiny_manifest

NAMES = ["weights.partial", "Weights.PARTIAL", "graphs.partial/model.xml", "deep/x.partial"]


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_that_does_is_refused(name: str) -> None:
    document = json.loads(tiny_manifest().to_json())
    document["files"][name] = document["files"]["model.xml"]
    with pytest.raises(ManifestError, match=r"expected no name that ends with '\.partial'"):
        Manifest.from_json(json.dumps(document).encode())


@pytest.mark.parametrize("name", NAMES)
def test_and_so_is_an_artifact(name: str) -> None:
    artifact = make_artifact()
    entry = tiny_manifest().files["model.xml"]
    document = replace(artifact, files={**artifact.files, name: entry}).to_json()
    with pytest.raises(ArtifactError, match=r"expected no name that ends with '\.partial'"):
        Artifact.from_json(document)
