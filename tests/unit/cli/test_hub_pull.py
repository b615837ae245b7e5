from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from npu_persist.cli.main import main
from npu_persist.store import Store
from tests.support.pulls import digest_of, list_artifacts, put_compiled, put_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.hub_server import HubServer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NPU_PERSIST_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_pull(hub: HubServer, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_tiny(hub, tmp_path / "a", tag="v1")
    assert main(["pull", "org/tiny", "--revision", "v1", "--alias", "prod", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert captured.err == ""
    assert (document["reference"], document["digest"]) == ("tiny:1", f"blake3:{digest_of(hub)}")
    assert main(["pull", "hf://org/tiny@v1"]) == 0
    assert capsys.readouterr().out.startswith("tiny:1  blake3:")
    assert Store(home).aliases("tiny") == {"prod": 1}
    assert main(["inspect", "hf://org/tiny@v1"]) == 0


def test_a_dry_run_shows_files_bytes_and_reasons(
    hub: HubServer, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_compiled(hub, tmp_path / "maker")
    assert main(["pull", "org/tiny", "--target", "NPU:4000", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "compiled/npu-4000/model.blob" in shown
    assert "npu-3720: It is for the NPU's platform 3720" in shown
    assert "to download" in shown
    assert main(["pull", "org/tiny", "--no-compiled", "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["download_size"] == sum(file["size"] for file in document["files"])
    assert not any("compiled" in file["path"] for file in document["files"])
    assert not home.exists()
    assert main(["pull", "org/tiny", "--all"]) == 0
    assert list_artifacts(Store(home).resolve("tiny")) == {"npu-3720", "npu-4000"}


@pytest.mark.usefixtures("home")
def test_what_cannot_be_pulled_ends_with_its_code(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_tiny(hub, tmp_path / "a")
    for arguments, code in (
        (["org/none"], 3),
        (["org/tiny@v9"], 3),
        (["unet:3"], 2),
        (["org/tiny", "--all", "--no-compiled"], 2),
        ([f"hf://org/tiny#{'0' * 64}"], 4),
    ):
        assert main(["pull", *arguments]) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "error:" in captured.err


@pytest.mark.usefixtures("home")
def test_a_terminal_shows_bytes(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_tiny(hub, tmp_path / "a")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert main(["pull", "org/tiny"]) == 0
    shown = capsys.readouterr().err
    assert "100%" in shown
    assert " MB of " in shown
    assert "weights" in shown
