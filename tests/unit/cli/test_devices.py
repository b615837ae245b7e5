from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from npu_persist.cache import CompileCache
from npu_persist.cli.main import main
from npu_persist.device import core
from npu_persist.store import Store
from tests.support.bundles import publish_tiny
from tests.support.processes import run_python
from tests.support.second_device import SECOND, on_path

if TYPE_CHECKING:
    from pathlib import Path


class NoDevices:
    available_devices: tuple[str, ...] = ()

    def get_property(self, device: str, name: str) -> object:
        raise RuntimeError(f"{device} has no {name}")


class Npu(NoDevices):
    available_devices = ("NPU",)
    answers = {"FULL_DEVICE_NAME": "Intel(R) AI Boost", "OPTIMIZATION_CAPABILITIES": ["FP16", "INT8"]}  # noqa: RUF012

    def get_property(self, device: str, name: str) -> object:
        try:
            return self.answers[name]
        except KeyError as error:
            raise RuntimeError(f"{device} has no {name}") from error


def test_devices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == [
        "NAME",
        "DEVICE",
        "KIND",
        "ARCHITECTURE",
        "CAPABILITIES",
        "PRECISION",
        "DRIVER",
        "COMPILER",
    ]
    assert any(row.startswith("CPU ") and "EXPORT_IMPORT" in row for row in rows)


def test_devices_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    (cpu,) = [device for device in json.loads(capsys.readouterr().out) if device["name"] == "CPU"]
    assert (cpu["kind"], cpu["can_export"], cpu["driver"]) == ("CPU", True, None)


def test_devices_in_a_process_with_two(tmp_path: Path) -> None:
    done = run_python("-W", "error", "-m", "npu_persist", "devices", path=on_path(tmp_path / "second"))
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["NAME", "CPU", SECOND]
    assert (done.returncode, done.stderr) == (0, "")


def test_the_doctor_finds_a_cpu(capsys: pytest.CaptureFixture[str], store_home: Path) -> None:
    publish_tiny(Store())
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "CPU: works\n  CPU " in out
    assert core.get_version() in out
    assert f"store\n  path      {store_home}\n  writable  yes\n  bundles   1\n" in out
    assert "  entries   0\n  damaged   0\n  size      0 B\n  quota     20 GB\n" in out
    # Lines are broken where they can be: paths are as long as they are.
    assert all(len(line) < 120 for line in out.splitlines() if os.sep not in line)


def test_the_doctor_says_what_an_npu_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["works"] is True
    (npu,) = [kind for kind in data["kinds"] if kind["kind"] == "NPU"]
    if npu["devices"]:
        pytest.skip("this machine has an NPU")
    assert [part for part, where in npu["parts"].items() if where is None] == [each["part"] for each in npu["missing"]]
    assert all(each["advice"] for each in npu["missing"])
    assert data["cache"]["quota"] == CompileCache(Store().home).quota


@pytest.mark.skipif(sys.platform != "linux", reason="pip's OpenVINO lacks the NPU's compiler on Linux only")
def test_the_doctor_of_an_npu_without_a_compiler(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "_cores", [Npu()])
    assert main(["doctor"]) == 0
    npu = capsys.readouterr().out.partition("NPU: works\n")[2].partition("\nstore")[0]
    assert "  NPU       Intel(R) AI Boost; FP16, INT8\n" in npu
    assert "the NPU's compiler (libopenvino_intel_npu_compiler.so):" in npu
    assert "Level Zero loader" not in npu


def test_the_doctor_of_a_machine_without_any_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "_cores", [NoDevices()])
    assert main(["doctor"]) == 1
    shown = capsys.readouterr()
    assert "CPU: not found" in shown.out
    assert "error: OpenVINO finds no usable device on this machine" in shown.err


def test_the_doctor_goes_on_after_what_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NPU_PERSIST_CACHE_QUOTA", "much")
    assert main(["doctor", "--store", str(tmp_path / "file"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["store"]["writable"] is False
    assert "NPU_PERSIST_CACHE_QUOTA" in data["cache"]["problem"]
    assert main(["doctor", "--store", str(tmp_path / "file")]) == 0
    assert "compile cache\n  problem  NPU_PERSIST_CACHE_QUOTA" in capsys.readouterr().out


def test_the_doctor_leaves_nothing_behind(tmp_path: Path) -> None:
    assert main(["doctor", "--store", str(tmp_path / "store" / "of" / "mine")]) == 0
    assert list(tmp_path.iterdir()) == []
