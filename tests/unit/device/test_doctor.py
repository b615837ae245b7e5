from __future__ import annotations

import os
import sys
import types
from typing import TYPE_CHECKING

import pytest

from npu_persist.device.doctor import (
    _TEXTS,
    describe_missing,
    diagnose,
    explain_missing_device,
    find_libraries,
    find_parts,
    list_missing,
)
from npu_persist.errors import CompilationError
from tests.support.fake_core import LAPTOP, FakeCore
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
    parts = find_parts(kind, root / "openvino", system="linux", root=root, environ={})
    return [each.part for each in list_missing("linux", kind, parts)]


@pytest.mark.parametrize(("kind", "files"), [("NPU", LINUX_NPU), ("GPU", LINUX_GPU)])
class TestLinux:
    def test_a_machine_that_has_all(self, kind: str, files: tuple[str, ...], tmp_path: Path) -> None:
        parts = find_parts(kind, tmp_path / "openvino", system="linux", root=make(tmp_path, *files), environ={})
        assert all(parts.values())
        assert list_missing("linux", kind, parts) == ()
        assert f"but not the {kind} itself" in describe_missing("linux", kind, parts)

    def test_a_machine_that_has_nothing(self, kind: str, files: tuple[str, ...], tmp_path: Path) -> None:
        assert len(missing_on_linux(kind, make(tmp_path))) == len(files)

    def test_a_node_that_this_user_may_not_use(
        self, kind: str, files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(tmp_path, *files)
        monkeypatch.setattr(os, "access", lambda path, _: "dev" not in path.parts)
        assert missing_on_linux(kind, tmp_path) == ["access"]

    def test_an_openvino_that_is_not_pips(self, kind: str, files: tuple[str, ...], tmp_path: Path) -> None:
        parts = find_parts(kind, tmp_path / "none", system="linux", root=make(tmp_path, *files[1:]), environ={})
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
    parts = find_parts("GPU", tmp_path / "openvino", system="linux", root=tmp_path, environ={})
    assert parts["device"] == str(tmp_path / "dev/dri/renderD129")
    (tmp_path / "dev/dri/renderD129").unlink()
    assert missing_on_linux("GPU", tmp_path) == ["device"]


def test_a_gpu_under_windows_subsystem_for_linux(tmp_path: Path) -> None:
    make(tmp_path, "dev/dxg", *LINUX_GPU[2:])
    assert missing_on_linux("GPU", tmp_path) == ["plugin"]


@pytest.mark.skipif(sys.platform == "win32", reason="the loader is Linux'")
def test_libraries_are_found_where_the_loader_finds_them(tmp_path: Path) -> None:
    make(tmp_path, "mine/libze_loader.so.1", "elsewhere/libze_intel_vpu.so.1", "etc/none")
    listed = f"\0ld.so\0{tmp_path}/elsewhere/libze_intel_vpu.so.1\0{tmp_path}/gone/libze_intel_npu.so.1\0"
    (tmp_path / "etc/ld.so.cache").write_bytes(listed.encode())
    environ = {"LD_LIBRARY_PATH": f":{tmp_path / 'mine'}"}
    parts = find_parts("NPU", tmp_path / "openvino", system="linux", root=tmp_path, environ=environ)
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
        parts = find_parts(kind, tmp_path / "openvino", system="win32", environ=environ)
        assert list_missing("win32", kind, parts) == ()
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
        parts = find_parts(kind, tmp_path / "openvino", system="win32", environ=environ)
        missing = list_missing("win32", kind, parts)
        assert len(missing) == count
        assert all("Windows Update" in each.advice for each in missing if each.part == "driver")


def test_a_system_that_has_no_such_devices(tmp_path: Path) -> None:
    parts = find_parts("NPU", make(tmp_path) / "openvino", system="darwin")
    assert [each.part for each in list_missing("darwin", "NPU", parts)] == ["plugin"]


def test_an_error_names_all_and_tells_what_comes_first() -> None:
    parts = {"plugin": "here", "device": "here", "access": None, "loader": "here", "driver": None, "compiler": None}
    text = describe_missing("linux", "NPU", parts)
    assert text.startswith("Missing for it: the permission to use the NPU's device node, the NPU's driver (")
    assert "usermod -a -G render" in text
    assert "intel-level-zero-npu" not in text


def test_advice_names_packages_and_no_addresses() -> None:
    texts = [text for parts in _TEXTS.values() for part in parts.values() for text in part]
    assert all(text for text in texts)
    assert not [text for text in texts if "://" in text or "www." in text]


@pytest.mark.parametrize(
    ("system", "file"), [("linux", "libopenvino_arm_cpu_plugin.so"), ("darwin", "libopenvino_arm_cpu_plugin.so")]
)
def test_the_cpu_plugin_of_arm(system: str, file: str, tmp_path: Path) -> None:
    root = make(tmp_path, f"openvino/{file}")
    assert find_parts("CPU", root / "openvino", system=system, root=root, environ={}) == {
        "plugin": str(root / "openvino" / file)
    }
    assert find_parts("GPU", root / "openvino", system="darwin", root=root, environ={}) == {"plugin": None}


def test_this_machine() -> None:
    by_kind = {diagnosis.kind: diagnosis for diagnosis in diagnose()}
    assert list(by_kind)[:3] == ["CPU", "GPU", "NPU"]
    cpu = by_kind["CPU"]
    assert ([device.name for device in cpu.devices], cpu.missing) == (["CPU"], ())
    assert cpu.parts["plugin"] == str(next(find_libraries().glob("*openvino_*_cpu_plugin.*")))
    for diagnosis in by_kind.values():
        assert diagnosis.devices or diagnosis.missing or all(diagnosis.parts.values())


def test_a_device_of_another_plugin_needs_nothing_that_is_known(second_device: ov.Core) -> None:
    del second_device
    (diagnosis,) = [each for each in diagnose() if each.kind == SECOND]
    assert (len(diagnosis.devices), diagnosis.parts, diagnosis.missing) == (1, {}, ())


class TestExplainMissingDevice:
    @pytest.mark.parametrize(
        ("device", "absent", "instead"),
        [
            ("NPU", "NPU", "Or write device='CPU', or device='AUTO:NPU,CPU', which uses the CPU if there is no NPU."),
            ("GPU.7", "GPU.7", "Or write device='CPU'."),
            ("CPU.0", "CPU.0", "Or write device='CPU'."),
            ("AUTO:NPU", "NPU", "Or write device='AUTO:CPU'."),
            ("HETERO:GPU.7,CPU", "GPU.7", "Or write device='HETERO:CPU'."),
        ],
    )
    def test_a_device_that_is_not_here(self, core: ov.Core, device: str, absent: str, instead: str) -> None:
        if core.available_devices != ["CPU"]:
            pytest.skip("this machine has more than a CPU")
        message = str(explain_missing_device(core, device, RuntimeError("why")))
        assert message.startswith(f"device {device!r}: OpenVINO has no {absent} on this machine, only CPU. ")
        assert message.endswith(f"{instead} OpenVINO said: why")

    @pytest.mark.skipif(sys.platform != "linux", reason="the parts are Linux'")
    def test_what_an_npu_lacks_here(self, core: ov.Core, monkeypatch: pytest.MonkeyPatch) -> None:
        nothing = dict.fromkeys(["plugin", "device", "loader", "driver", "compiler"])
        monkeypatch.setattr("npu_persist.device.doctor.find_parts", lambda *_: {**nothing, "plugin": "here"})
        message = str(explain_missing_device(core, "NPU", RuntimeError("why")))
        for part in ("/dev/accel/accel0", "libze_loader.so.1", "libze_intel_npu.so.1", "npu_compiler.so"):
            assert part in message
        assert "An NPU is part of Intel's Core Ultra processors." in message

    @pytest.mark.parametrize("device", ["AUTO:-CPU", "MULTI", "HETERO", "BATCH:"])
    def test_a_device_string_that_leaves_no_device(self, core: ov.Core, device: str) -> None:
        if core.available_devices != ["CPU"]:
            pytest.skip("this machine has more than a CPU")
        message = str(explain_missing_device(core, device, RuntimeError("why")))
        assert "names no device of this machine; it has CPU" in message

    @pytest.mark.parametrize("device", ["CPU", "AUTO", "AUTO:CPU", "AUTO:-GPU", "HETERO:CPU", "BATCH:CPU(4)"])
    def test_a_device_that_is_here(self, core: ov.Core, device: str) -> None:
        assert explain_missing_device(core, device, RuntimeError("why")) is None

    @pytest.mark.parametrize(
        ("device", "is_missing"),
        [("GPU", False), ("GPU.1", False), ("GPU.2", True), ("NPU.3720", True), ("AUTO:-NPU", False)],
    )
    def test_a_device_is_there_under_its_names(self, device: str, is_missing: bool) -> None:  # noqa: FBT001
        assert (explain_missing_device(LAPTOP, device, RuntimeError("why")) is not None) == is_missing

    @pytest.mark.skipif(sys.platform != "linux", reason="what is said is Linux'")
    def test_an_npu_without_a_compiler(self, core: ov.Core, model: ov.Model) -> None:
        if "NPU" in core.available_devices:
            pytest.skip("this machine has an NPU")
        with pytest.raises(RuntimeError) as caught:
            core.compile_model(model, "NPU")
        error = explain_missing_device(LAPTOP, "NPU", caught.value)
        assert isinstance(error, CompilationError)
        assert "the NPU was found, but no compiler for it. Install the package intel-driver-compiler-npu" in str(error)

    def test_the_only_gpu_has_a_number_too(self) -> None:
        machine = FakeCore(CPU={}, GPU={})
        assert explain_missing_device(machine, "GPU.0", RuntimeError("why")) is None
        assert explain_missing_device(machine, "GPU.1", RuntimeError("why")) is not None
