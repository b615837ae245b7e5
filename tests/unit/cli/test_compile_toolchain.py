from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from npu_persist.cli.main import main
from npu_persist.compilation.toolchains.native import installed_version
from npu_persist.compilation.toolchains.wine import HOME_VARIABLE, WineToolchain
from npu_persist.device.platforms import PLATFORMS
from tests.support.programs import BEHAVIOUR
from tests.support.programs import installed as installed  # noqa: PLC0414 (a fixture is found by its name here)
from tests.support.programs import programs as programs  # noqa: PLC0414

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.usefixtures("programs")
def test_install_list_check_and_remove(capsys: pytest.CaptureFixture[str], store_home: Path) -> None:
    folder = store_home / "toolchains" / f"wine-{installed_version()}"
    assert main(["toolchain", "install"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{folder}: OpenVINO {installed_version()}-22982-of-a-test, NPU compiler 2026.5.0-of-a-test\n"
    assert "building the host program" in shown.err
    assert "this package was not tested with this wheel" in shown.err
    assert main(["toolchain", "list"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["TOOLCHAIN", "USABLE", "OPENVINO", "REASON"]
    assert [row.split()[0] for row in rows] == ["plugin", "libraries", "wine"]
    assert rows[2].split()[1:3] == ["yes", installed_version()]
    assert main(["toolchain", "check"]) == 0
    assert [row.split()[:3] for row in capsys.readouterr().out.splitlines()[1:]] == [
        ["wine", "NPU:3720", "ok"],
        ["wine", "NPU:4000", "ok"],
    ]
    assert main(["toolchain", "remove"]) == 0
    assert capsys.readouterr().out == f"removed {folder}\n"
    assert main(["toolchain", "remove"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


@pytest.mark.usefixtures("programs")
def test_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = ["--store", str(tmp_path / "other"), "--json"]
    assert main(["toolchain", "install", *store]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["path"] == str(tmp_path / "other" / "toolchains" / f"wine-{installed_version()}")
    assert len(data["wheels"]) == 2
    assert main(["toolchain", "list", *store]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [each["usable"] for each in data["toolchains"]][2]
    assert data["installed"][0]["openvino"] == installed_version()
    assert main(["toolchain", "check", "wine", *store]) == 0
    assert [each["problem"] for each in json.loads(capsys.readouterr().out)] == [None, None]
    assert main(["toolchain", "remove", installed_version(), *store]) == 0
    assert len(json.loads(capsys.readouterr().out)["removed"]) == 1


def test_check_tells_damage_and_refusals(
    capsys: pytest.CaptureFixture[str], installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(installed))
    monkeypatch.setenv(BEHAVIOUR, "refuse")
    assert main(["toolchain", "check"]) == 1
    assert "error: wine for NPU:3720: the NPU compiler rejected the graph" in capsys.readouterr().err
    (WineToolchain(installed).folder / "bin" / "tbb12.dll").write_bytes(b"")
    assert main(["toolchain", "check", "--json"]) == 1
    shown = capsys.readouterr()
    assert all("tbb12.dll: expected " in each["problem"] for each in json.loads(shown.out))


def test_check_without_any(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toolchain", "check", "wine"]) == 1
    shown = capsys.readouterr()
    assert "error: toolchain wine: " in shown.err
    assert main(["toolchain", "remove", "2025.1.0"]) == 1
    assert "no toolchain for OpenVINO 2025.1.0" in capsys.readouterr().err


def test_targets(capsys: pytest.CaptureFixture[str], installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["targets", "--json"]) == 0
    shown = capsys.readouterr()
    npus = [each for each in json.loads(shown.out) if each["target"].startswith("NPU")]
    assert [each["target"] for each in npus] == [f"NPU:{number}" for number in PLATFORMS]
    if npus[0]["toolchain"] is None:
        assert "Run: npu-persist toolchain install" in shown.err
    monkeypatch.setenv(HOME_VARIABLE, str(installed))
    assert main(["targets"]) == 0
    header, first, *others = capsys.readouterr().out.splitlines()
    assert header.split() == ["TARGET", "NAMES", "TILES", "TOOLCHAIN"]
    assert first.split() == ["NPU:3720", "meteor-lake,", "arrow-lake", "2", npus[0]["toolchain"] or "wine"]
    assert any(line.startswith("CPU ") for line in others)


def test_the_doctor_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    section = capsys.readouterr().out.partition("toolchains for the NPU\n")[2]
    for name in ("plugin", "libraries", "wine"):
        assert f"  {name}: " in section
    assert main(["doctor", "--json"]) == 0
    states = json.loads(capsys.readouterr().out)["toolchains"]
    assert [each["name"] for each in states] == ["plugin", "libraries", "wine"]
    assert all(each["reason"] for each in states)
