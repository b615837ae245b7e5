from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest

import npu_persist
from npu_persist.device import core as process_core
from npu_persist.device.devices import (
    can_export,
    check_device,
    get_kind,
    identify,
    list_candidates,
    named_devices,
    read_instruction_sets,
    resolve_auto,
)
from npu_persist.errors import DeviceNotFoundError, UsageError
from tests.support.fake_core import LAPTOP, FakeCore
from tests.support.second_device import SECOND

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("device", "kind"), [("AUTO:NPU,CPU", "AUTO"), ("GPU.1", "GPU"), ("CPU", "CPU"), ("HETERO:GPU.1", "HETERO")]
)
def test_the_kind_of_a_device_string(device: str, kind: str) -> None:
    assert get_kind(device) == kind


class TestCandidates:
    @pytest.mark.parametrize(
        ("device", "real"),
        [
            ("AUTO", ["GPU.1", "GPU.0", "CPU"]),
            ("AUTO:", ["GPU.1", "GPU.0", "CPU"]),
            ("AUTO:-GPU", ["CPU"]),
            ("AUTO:-GPU.1,-CPU", ["GPU.0"]),
            ("AUTO:NPU,CPU", ["NPU", "CPU"]),
            ("AUTO:CPU,TPU", ["CPU"]),
            ("AUTO:GPU,CPU", ["GPU.0", "GPU.1", "CPU"]),
            ("MULTI:GPU.1(4),CPU(2)", ["GPU.1", "CPU"]),
            ("HETERO:GPU.0,CPU", ["GPU.0", "CPU"]),
            ("BATCH:GPU.0(8)", ["GPU.0"]),
            ("HETERO", []),
            ("NPU", ["NPU"]),
            ("TPU", ["TPU"]),
        ],
    )
    def test_of_a_laptop(self, device: str, real: list[str]) -> None:
        assert list_candidates(LAPTOP, device) == real

    @pytest.mark.parametrize("device", ["AUTO", f"AUTO:{SECOND},CPU", f"AUTO:CPU,{SECOND}", f"AUTO:{SECOND}"])
    def test_the_first_is_the_one_that_openvino_takes(
        self, device: str, second_device: ov.Core, model: ov.Model
    ) -> None:
        compiled = second_device.compile_model(model, device)
        compiled(np.zeros((1, 4), np.float32))
        assert compiled.get_property("EXECUTION_DEVICES") == list_candidates(second_device, device)[:1]


class TestResolveAuto:
    @pytest.mark.parametrize(
        ("device", "properties", "settled"),
        [
            ("AUTO", {}, "CPU"),
            ("AUTO:CPU", {"NUM_STREAMS": 1, "CACHE_MODE": "OPTIMIZE_SIZE"}, "CPU"),
            ("AUTO:-GPU", {"PERFORMANCE_HINT": "THROUGHPUT"}, "CPU"),
            ("AUTO:NPU,CPU", {}, "CPU"),
            ("AUTO:CPU(2)", {}, "AUTO:CPU(2)"),
            ("AUTO", {"PERFORMANCE_HINT": "CUMULATIVE_THROUGHPUT"}, "AUTO"),
            ("AUTO", {"PERFORMANCE_HINT": ov.properties.hint.PerformanceMode.CUMULATIVE_THROUGHPUT}, "AUTO"),
            ("AUTO", {"ENABLE_STARTUP_FALLBACK": False}, "AUTO"),
            ("AUTO", {"NPU_TURBO": True}, "AUTO"),
            ("HETERO:CPU", {}, "HETERO:CPU"),
            ("CPU", {}, "CPU"),
        ],
    )
    def test_takes_the_only_device(self, core: ov.Core, device: str, properties: dict[str, Any], settled: str) -> None:
        if core.available_devices != ["CPU"]:
            pytest.skip("this machine has more than a CPU")
        assert resolve_auto(core, device, properties) == settled

    def test_leaves_a_choice_to_openvino(self, second_device: ov.Core) -> None:
        assert resolve_auto(second_device, "AUTO", {}) == "AUTO"
        assert resolve_auto(second_device, f"AUTO:{SECOND}", {}) == SECOND

    def test_compiles_as_auto_would(self, core: ov.Core, model: ov.Model) -> None:
        auto = core.compile_model(model, "AUTO:CPU")
        alone = core.compile_model(model, resolve_auto(core, "AUTO:CPU", {}))
        for name in ("PERFORMANCE_HINT", "OPTIMAL_NUMBER_OF_INFER_REQUESTS"):
            assert str(auto.get_property(name)).endswith(str(alone.get_property(name)).rpartition(".")[2])


class TestIdentity:
    def test_of_the_cpu(self, core: ov.Core) -> None:
        identity = identify(core, "CPU")
        assert identity["FULL_DEVICE_NAME"] == core.get_property("CPU", "FULL_DEVICE_NAME")
        assert {"DEVICE_ARCHITECTURE", "OPTIMIZATION_CAPABILITIES", "INSTRUCTION_SETS"} <= set(identity)
        assert all(isinstance(value, str) for value in identity.values())
        assert identity == identify(ov.Core(), "CPU")

    def test_of_a_limited_cpu(self, core: ov.Core, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = identify(core, "CPU")
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "sse41")
        assert identify(core, "CPU") == {**plain, "ONEDNN_MAX_CPU_ISA": "SSE41"}

    def test_of_an_npu(self) -> None:
        assert identify(LAPTOP, "NPU") == {
            "OPTIMIZATION_CAPABILITIES": "EXPORT_IMPORT,FP16",
            "NPU_DRIVER_VERSION": "1688",
            "NPU_MAX_TILES": "4",
        }

    def test_of_devices_made_of_others(self, second_device: ov.Core) -> None:
        identity = identify(second_device, f"HETERO:{SECOND},CPU")
        assert {key.partition(".")[0] for key in identity} == {SECOND, "CPU"}
        assert identity["CPU.FULL_DEVICE_NAME"] == identify(second_device, "CPU")["FULL_DEVICE_NAME"]

    @pytest.mark.parametrize("device", ["TPU", "", "GPU.7", "CPU\0"])
    def test_of_what_is_not_there(self, core: ov.Core, device: str) -> None:
        assert identify(core, device) == {}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("processor\t: 0\nflags\t\t: fpu sse2 sse4_2 avx avx2 amx_bf16 avx512f\nbugs\t: avx9\n", None),
            ("processor\t: 0\nmodel name\t: avx9\nflags\t\t: fma\n", "fma"),
            (
                "processor\t: 0\nFeatures\t: fp asimd crc32 asimdhp sve bf16\nCPU part\t: sve2\n",
                "asimd,asimdhp,bf16,sve",
            ),
        ],
    )
    def test_instruction_sets_on_linux(self, text: str, expected: str | None, tmp_path: Path) -> None:
        (tmp_path / "cpuinfo").write_text(text)
        assert read_instruction_sets(tmp_path / "cpuinfo") == (expected or "amx_bf16,avx,avx2,avx512f,sse4_2")

    def test_instruction_sets_elsewhere(self, tmp_path: Path) -> None:
        found = read_instruction_sets(tmp_path / "none")
        assert found == ",".join(sorted(np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])))

    @pytest.mark.parametrize(
        ("device", "can"),
        [("CPU", True), ("HETERO:CPU", True), ("AUTO", False), ("MULTI:CPU", False), ("BATCH:CPU", False)],
    )
    def test_what_can_be_exported(self, core: ov.Core, model: ov.Model, device: str, can: bool) -> None:  # noqa: FBT001
        assert can_export(core, device) == can
        compiled = core.compile_model(model, device)
        if can:
            assert compiled.export_model()
        else:
            with pytest.raises(RuntimeError):
                compiled.export_model()

    @pytest.mark.parametrize("device", ["TPU", "GPU.7", "HETERO:GPU.7,CPU"])
    def test_what_is_not_there_cannot_be_exported(self, core: ov.Core, device: str) -> None:
        assert not can_export(core, device)


class TestDeviceStrings:
    @pytest.mark.parametrize(
        "device",
        [
            "AUTO", "AUTO:", "AUTO:NPU,CPU", "AUTO:-GPU", "NPU", "GPU.1", "HETERO:GPU,CPU", "MULTI:CPU(2),GPU(4)",
            "BATCH:CPU(4)", "BATCH:AUTO", "NPU.3720",
        ],
    )  # fmt: skip
    def test_that_mean_something(self, core: ov.Core, device: str) -> None:
        check_device(core, device)

    def test_with_a_device_of_another_plugin(self, second_device: ov.Core) -> None:
        check_device(second_device, f"AUTO:{SECOND},CPU")

    @pytest.mark.parametrize(
        ("device", "wrong", "meant"),
        [
            ("cpu", "cpu", "CPU"),
            ("npu", "npu", "NPU"),
            ("gpu.1", "gpu.1", "GPU"),
            ("auto:CPU", "auto:CPU", "AUTO"),
            ("AUTO:npu,CPU", "npu", "NPU"),
            ("AUTO: CPU", " CPU", "CPU"),
            ("HETRO:CPU", "HETRO:CPU", None),
            ("AUTO:-gpu", "gpu", "GPU"),
            ("TENSORUNIT", "TENSORUNIT", None),
            ("BATCH:TENSORUNIT(4)", "TENSORUNIT", None),
            ("AUTO:CPU,TENSORUNIT", "TENSORUNIT", None),
            ("CPU,GPU", "CPU,GPU", "GPU"),
            ("", "", None),
            ("CPU\0", "CPU\0", "CPU"),
        ],
    )
    def test_with_a_name_of_no_device(self, core: ov.Core, device: str, wrong: str, meant: str | None) -> None:
        with pytest.raises(DeviceNotFoundError) as caught:
            check_device(core, device)
        message = str(caught.value)
        assert message.startswith(f"device {device!r}: OpenVINO has no device called {wrong!r}")
        assert meant is None or f"; did you mean {meant!r}?" in message
        assert isinstance(pickle.loads(pickle.dumps(caught.value)), FileNotFoundError)  # noqa: S301 - our own bytes

    @pytest.mark.parametrize("device", ["BATCH:CPU(x)", "BATCH:CPU(4", "AUTO:CPU(0)", "MULTI:CPU()", "BATCH:CPU(-1)"])
    def test_with_brackets_around_no_number(self, core: ov.Core, device: str) -> None:
        with pytest.raises(UsageError, match=r"expected a number from 1 on in brackets, as in CPU\(4\)"):
            check_device(core, device)

    @pytest.mark.parametrize(
        ("device", "names"),
        [
            ("AUTO", []),
            ("AUTO:", []),
            ("AUTO: NPU , CPU", ["NPU", "CPU"]),
            ("AUTO:-GPU", []),
            ("AUTO:CPU(3),-GPU", ["CPU"]),
            ("HETERO:GPU.1,CPU", ["GPU.1", "CPU"]),
            ("BATCH:GPU(4)", ["GPU"]),
            ("GPU.1", ["GPU.1"]),
            ("AUTOMATIC:CPU", ["AUTOMATIC:CPU"]),
        ],
    )
    def test_name_devices(self, device: str, names: list[str]) -> None:
        assert named_devices(device) == names


def test_the_devices_of_this_machine() -> None:
    found = {device.name: device for device in npu_persist.devices()}
    cpu = found["CPU"]
    assert (cpu.kind, cpu.can_export, cpu.driver, cpu.compiler) == ("CPU", True, None, None)
    assert {"FP32", "EXPORT_IMPORT"} <= set(cpu.capabilities)
    assert cpu.full_name


def test_a_second_device_is_listed(second_device: ov.Core) -> None:
    assert [device.name for device in npu_persist.devices()] == second_device.available_devices


def test_the_version_of_a_compiler_reads_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {**LAPTOP.devices["NPU"], "NPU_COMPILER_VERSION": 8 << 16 | 4, "FULL_DEVICE_NAME": "Intel(R) AI Boost"}
    monkeypatch.setattr(process_core, "_cores", [FakeCore(NPU=answers)])
    (npu,) = npu_persist.devices()
    assert (npu.compiler, npu.driver, npu.architecture) == ("8.4", "1688", None)
    assert (npu.full_name, npu.capabilities, npu.can_export) == ("Intel(R) AI Boost", ("FP16", "EXPORT_IMPORT"), True)
