"""A bundle that came from elsewhere, with a folder of artifacts that is made to keep a load busy."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import npu_persist.artifact.attached as attachment_module
from npu_persist import load
from npu_persist.artifact.artifact import ARTIFACT_FILE, Artifact
from npu_persist.artifact.attached import list_attached
from npu_persist.errors import ArtifactError
from npu_persist.store import Store
from tests.support.attached import attach_npu
from tests.support.graphs import publish_affine
from tests.support.loads import is_right

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_more_entries_than_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = publish_affine(Store(tmp_path / "home"))
    for number in range(5):
        (bundle.path / "compiled" / f"x{number}").mkdir(parents=True)
    attach_npu(bundle)
    assert [type(found) for _, found in list_attached(bundle)] == [Artifact] + [ArtifactError] * 5
    monkeypatch.setattr(attachment_module, "MAX_ATTACHED", 2)
    found = list(list_attached(bundle))
    assert [path.name for path, _ in found] == ["npu-4000", "x0", "compiled"]
    assert "expected at most 2 entries" in str(found[-1][1])
    assert "got 6 entries" in str(found[-1][1])


def test_more_text_than_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = publish_affine(Store(tmp_path / "home"))
    place = attach_npu(bundle)
    (bundle.path / "compiled" / "z").mkdir()
    (bundle.path / "compiled" / "z" / ARTIFACT_FILE).write_bytes(b" " * 100)
    monkeypatch.setattr(attachment_module, "MAX_DESCRIPTIONS", (place / ARTIFACT_FILE).stat().st_size + 99)
    found = list(list_attached(bundle))
    assert [path.name for path, _ in found] == ["npu-4000", "compiled"]


def test_hostile_entries(tmp_path: Path) -> None:
    """Links, pipes, descriptions of many megabytes, thousands of entries: each is an error or not looked at."""
    bundle = publish_affine(Store(tmp_path / "home"))
    root = attach_npu(bundle).parent
    huge = root / "npu-huge"
    huge.mkdir()
    with (huge / ARTIFACT_FILE).open("wb") as file:
        file.truncate(2**40)
    found = [(path.name, isinstance(entry, Artifact)) for path, entry in list_attached(bundle)]
    assert found == [("npu-4000", True), ("compiled", False)]
    (huge / ARTIFACT_FILE).unlink()
    (huge / ARTIFACT_FILE).mkdir()
    if sys.platform != "win32":
        (root / "npu-link").symlink_to(root / "npu-4000")
        (root / "npu-loop").symlink_to(root)
        pipe = root / "npu-pipe"
        pipe.mkdir()
        os.mkfifo(pipe / ARTIFACT_FILE)
    for number in range(5000):
        (root / f"y{number}").touch()
    found = [(path.name, isinstance(entry, Artifact)) for path, entry in list_attached(bundle)]
    assert found[0] == ("npu-4000", True)
    assert found[-1] == ("compiled", False)
    assert {name for name, _ in found[1:-1]} <= {"npu-huge", "npu-pipe"}
    model = load(bundle.path, "CPU", store=tmp_path / "other")
    assert is_right(model)
