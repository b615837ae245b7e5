"""Machines that are not here: made of folders, and judged."""

from __future__ import annotations

import os
import sys
import types
from typing import TYPE_CHECKING

import pytest

from npu_persist.device.advice import _PARTS, find_missing, say_missing
from npu_persist.device.diagnosis import diagnose
from npu_persist.device.host import look_for
from npu_persist.device.missing import find_libraries
from tests.support.second_device import SECOND

if TYPE_CHECKING:
    from pathlib import Path

    import openvino as ov

LINUX_NPU = (
    "openvino/libopenvino_intel_npu_plugin.so",
    "openvino/libopenvino_intel_npu_compiler.so",
    "dev/accel/accel0",
    "usr/lib/x86_64-linux-gnu/libze_loader.so.1",
    "usr/lib/x86_64-linux-gnu/libze_intel_npu.so.1",
)
LINUX_GPU = (
    "openvino/libopenvino_intel_gpu_plugin.so",
    "dev/dri/renderD128",
    "usr/lib64/libOpenCL.so.1",
    "etc/OpenCL/vendors/intel.icd",
)


def make(root: Path, *paths: str) -> Path:
    """Make files below a root, and return the root."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    (root / "openvino").mkdir(exist_ok=True)
    return root


def missing_on_linux(kind: str, root: Path) -> list[str]:
    parts = look_for(kind, root / "openvino", system="linux", root=root, environ={})
    return [each.part for each in find_missing("linux", kind, parts)]


@pytest.mark.parametrize(("kind", "files"), [("NPU", LINUX_NPU), ("GPU", LINUX_GPU)])
class TestLinux:
    def test_a_machine_that_has_all(self, kind: str, files: tuple[str, ...], tmp_path: Path) -> None:
        parts = look_for(kind, tmp_path / "openvino", system="linux", root=make(tmp_path, *files), environ={})
        assert all(parts.values())
        assert find_missing("linux", kind, parts) == ()
        assert f"but not the {kind} itself" in say_missing("linux", kind, parts)

    def test_a_machine_that_has_nothing(self, kind: str, files: tuple[str, ...], tmp_path: Path) -> None:
        assert len(missing_on_linux(kind, make(tmp_path))) == len(files)

    def test_a_node_that_this_user_may_not_use(
        self, kind: str, files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(tmp_path, *files)
        monkeypatch.setattr(os, "access", lambda path, _: "dev" not in path.parts)
        assert missing_on_linux(kind, tmp_path) == ["access"]

    def test_an_openvino_that_is_not_pips(self, kind: str, files: tuple[str, ...], tmp_path: Path) -> None:
        parts = look_for(kind, tmp_path / "none", system="linux", root=make(tmp_path, *files[1:]), environ={})
        assert parts["plugin"] == "OpenVINO's own place"


@pytest.mark.parametrize(
    ("kind", "files", "absent", "part"),
    [
        ("NPU", LINUX_NPU, "libopenvino_intel_npu_plugin", "plugin"),
        ("NPU", LINUX_NPU, "libopenvino_intel_npu_compiler", "compiler"),
        ("NPU", LINUX_NPU, "accel0", "device"),
        ("NPU", LINUX_NPU, "libze_loader", "loader"),
        ("NPU", LINUX_NPU, "libze_intel_npu", "driver"),
        ("GPU", LINUX_GPU, "libopenvino_intel_gpu_plugin", "plugin"),
        ("GPU", LINUX_GPU, "renderD128", "device"),
        ("GPU", LINUX_GPU, "libOpenCL", "loader"),
        ("GPU", LINUX_GPU, "intel.icd", "driver"),
    ],
)
def test_a_machine_without_one_part(kind: str, files: tuple[str, ...], absent: str, part: str, tmp_path: Path) -> None:
    kept = [file for file in files if absent not in file]
    assert len(kept) == len(files) - 1
    assert missing_on_linux(kind, make(tmp_path, *kept)) == [part]


def test_the_compiler_of_the_driver_will_do(tmp_path: Path) -> None:
    kept = [file for file in LINUX_NPU if "compiler" not in file]
    assert missing_on_linux("NPU", make(tmp_path, *kept, "usr/lib/libnpu_driver_compiler.so")) == []


def test_the_gpu_of_another_maker_is_none(tmp_path: Path) -> None:
    make(tmp_path, *LINUX_GPU, "dev/dri/renderD129")
    for node, vendor in (("renderD128", "0x10de"), ("renderD129", "0x8086")):
        folder = tmp_path / "sys/class/drm" / node / "device"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
    parts = look_for("GPU", tmp_path / "openvino", system="linux", root=tmp_path, environ={})
    assert parts["device"] == str(tmp_path / "dev/dri/renderD129")
    (tmp_path / "dev/dri/renderD129").unlink()
    assert missing_on_linux("GPU", tmp_path) == ["device"]


def test_a_gpu_under_windows_subsystem_for_linux(tmp_path: Path) -> None:
    make(tmp_path, "dev/dxg", *LINUX_GPU[2:])
    assert missing_on_linux("GPU", tmp_path) == ["plugin"]


def test_libraries_are_found_where_the_loader_finds_them(tmp_path: Path) -> None:
    make(tmp_path, "mine/libze_loader.so.1", "elsewhere/libze_intel_vpu.so.1", "etc/none")
    listed = f"\0ld.so\0{tmp_path}/elsewhere/libze_intel_vpu.so.1\0{tmp_path}/gone/libze_intel_npu.so.1\0"
    (tmp_path / "etc/ld.so.cache").write_bytes(listed.encode())
    environ = {"LD_LIBRARY_PATH": f":{tmp_path / 'mine'}"}
    parts = look_for("NPU", tmp_path / "openvino", system="linux", root=tmp_path, environ=environ)
    assert parts["loader"] == str(tmp_path / "mine/libze_loader.so.1")
    assert parts["driver"] == str(tmp_path / "elsewhere/libze_intel_vpu.so.1")


class Registry(types.ModuleType):
    """As much of `winreg` as is read: one setup class with a key that is closed to us, and devices."""

    HKEY_LOCAL_MACHINE = object()

    class Key:
        def __init__(self, content: object) -> None:
            self.content = content

        def __enter__(self) -> Registry.Key:
            return self

        def __exit__(self, *_: object) -> None: ...

    def __init__(self, classes: dict[str, list[dict[str, str]]]) -> None:
        super().__init__("winreg")
        self.classes = classes

    def OpenKey(self, key: object, name: str) -> Registry.Key:  # noqa: N802 - winreg's names
        if key is self.HKEY_LOCAL_MACHINE:
            try:
                return self.Key(self.classes[name.rpartition("\\")[2]])
            except KeyError as error:
                raise FileNotFoundError(name) from error
        if name == "Properties":
            raise PermissionError(name)
        return self.Key(list(key.content[int(name)].items()))  # type: ignore[attr-defined]

    def QueryInfoKey(self, key: Registry.Key) -> tuple[int, int]:  # noqa: N802
        count = len(key.content)  # type: ignore[arg-type]
        return count + 1, count

    def EnumKey(self, _: Registry.Key, index: int) -> str:  # noqa: N802
        return "Properties" if index == 0 else f"{index - 1:04}"

    def EnumValue(self, key: Registry.Key, index: int) -> tuple[str, str, int]:  # noqa: N802
        return (*key.content[index], 1)  # type: ignore[index]


NVIDIA = {"ProviderName": "NVIDIA", "DriverDesc": "GeForce", "DriverVersion": "1"}
BOOST = {"DriverDesc": "Intel(R) AI Boost", "ProviderName": "Intel Corporation", "DriverVersion": "32.0.100.4723"}
ARC = {"DriverDesc": "Intel(R) Arc(TM)", "ProviderName": "Intel Corporation", "DriverVersion": "32.0.101.6913"}
CLASSES = {
    "{f01a9d53-3ff6-48d2-9f97-c8a7004be10c}": [BOOST],
    "{4d36e968-e325-11ce-bfc1-08002be10318}": [NVIDIA, ARC],
}


class TestWindows:
    @pytest.mark.parametrize(
        ("kind", "files", "driver"),
        [
            (
                "NPU",
                [
                    "openvino/openvino_intel_npu_plugin.dll",
                    "openvino/openvino_intel_npu_compiler.dll",
                    "System32/ze_loader.dll",
                ],
                "Intel(R) AI Boost 32.0.100.4723",
            ),
            (
                "GPU",
                ["openvino/openvino_intel_gpu_plugin.dll", "System32/OpenCL.dll"],
                "Intel(R) Arc(TM) 32.0.101.6913",
            ),
        ],
    )
    def test_a_machine_that_has_all(
        self, kind: str, files: list[str], driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "winreg", Registry(CLASSES))
        environ = {"SystemRoot": str(make(tmp_path, *files))}
        parts = look_for(kind, tmp_path / "openvino", system="win32", environ=environ)
        assert find_missing("win32", kind, parts) == ()
        assert parts["driver"] == driver

    @pytest.mark.parametrize(("kind", "count"), [("NPU", 4), ("GPU", 3)])
    @pytest.mark.parametrize("classes", [{}, {name: [NVIDIA] for name in CLASSES}, {name: [] for name in CLASSES}])
    def test_a_machine_that_has_nothing(
        self,
        kind: str,
        count: int,
        classes: dict[str, list[dict[str, str]]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, "winreg", Registry(classes))
        environ = {"SystemRoot": str(make(tmp_path))}
        parts = look_for(kind, tmp_path / "openvino", system="win32", environ=environ)
        missing = find_missing("win32", kind, parts)
        assert len(missing) == count
        assert all("Windows Update" in each.advice for each in missing if each.part == "driver")


def test_a_system_that_has_no_such_devices(tmp_path: Path) -> None:
    parts = look_for("NPU", make(tmp_path) / "openvino", system="darwin")
    assert [each.part for each in find_missing("darwin", "NPU", parts)] == ["plugin"]


def test_an_error_names_all_and_tells_what_comes_first() -> None:
    parts = {"plugin": "here", "device": "here", "access": None, "loader": "here", "driver": None, "compiler": None}
    text = say_missing("linux", "NPU", parts)
    assert text.startswith("Missing for it: the permission to use the NPU's device node, the NPU's driver (")
    assert "usermod -a -G render" in text
    assert "intel-level-zero-npu" not in text


def test_advice_names_packages_and_no_addresses() -> None:
    texts = [text for parts in _PARTS.values() for part in parts.values() for text in part]
    assert all(text for text in texts)
    assert not [text for text in texts if "://" in text or "www." in text]


def test_this_machine() -> None:
    by_kind = {diagnosis.kind: diagnosis for diagnosis in diagnose()}
    assert list(by_kind)[:3] == ["CPU", "GPU", "NPU"]
    cpu = by_kind["CPU"]
    assert ([device.name for device in cpu.devices], cpu.missing) == (["CPU"], ())
    assert cpu.parts["plugin"] == str(next(find_libraries().glob("*openvino_intel_cpu_plugin.*")))
    for diagnosis in by_kind.values():
        assert diagnosis.devices or diagnosis.missing or all(diagnosis.parts.values())


def test_a_device_of_another_plugin_needs_nothing_that_is_known(second_device: ov.Core) -> None:
    del second_device
    (diagnosis,) = [each for each in diagnose() if each.kind == SECOND]
    assert (len(diagnosis.devices), diagnosis.parts, diagnosis.missing) == (1, {}, ())
