from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from npu_persist.files import owners

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither owners nor modes of this kind")
def test_a_folder_that_is_believed_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "_believed", set())
    home, folder = tmp_path / "home", tmp_path / "home" / "keys"
    assert owners.find_distrust(folder) is None  # nothing is there to believe
    home.mkdir(mode=0o755)
    folder.mkdir(mode=0o755)
    folder.chmod(0o775)
    reason = owners.find_distrust(folder)
    assert reason is not None
    assert reason.endswith(f"(mode 775). Run: chmod go-w {folder}")
    folder.chmod(0o755)
    assert owners.find_distrust(folder) is None
    monkeypatch.delattr(os, "stat")
    assert owners.find_distrust(folder) is None
