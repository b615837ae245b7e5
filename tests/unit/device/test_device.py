from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import npu_persist
from npu_persist.device import (
    can_export,
    candidates,
    check_device,
    check_properties,
    explain_missing,
    explain_refused,
    head,
    identify,
    merge_hint,
    named_devices,
    settle,
)
from npu_persist.device import core as process_core
from npu_persist.device.identity import read_instruction_sets
from npu_persist.errors import CompilationError, DeviceNotFoundError, PropertyError, UsageError
from tests.support.second_device import SECOND

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def core() -> ov.Core:
    return process_core.get_core()


@pytest.fixture(scope="module")
def model() -> ov.Model:
    x = ops.parameter([1, 4], np.float32, name="x")
    return ov.Model([ops.result(ops.relu(x))], [x], "relu")


class Machine:
    """A core of another machine: its devices and what they answer."""

    def __init__(self, **devices: dict[str, Any]) -> None:
        self.devices = {name.replace("_", "."): answers for name, answers in devices.items()}

    @property
    def available_devices(self) -> list[str]:
        return sorted(self.devices)

    def get_property(self, device: str, name: str) -> Any:
        try:
            return self.devices[device][name]
        except KeyError as error:
            raise RuntimeError(f"{device} does not answer {name}") from error


LAPTOP = Machine(
    CPU={"SUPPORTED_PROPERTIES": {"PERFORMANCE_HINT": "RW"}},
    GPU_0={"DEVICE_TYPE": "Type.INTEGRATED"},
    GPU_1={"DEVICE_TYPE": "Type.DISCRETE"},
    NPU={"OPTIMIZATION_CAPABILITIES": ["FP16", "EXPORT_IMPORT"], "NPU_DRIVER_VERSION": 1688, "NPU_MAX_TILES": 4},
)


@pytest.mark.parametrize(
    ("device", "first"), [("AUTO:NPU,CPU", "AUTO"), ("GPU.1", "GPU"), ("CPU", "CPU"), ("HETERO:GPU.1", "HETERO")]
)
def test_the_head_of_a_device_string(device: str, first: str) -> None:
    assert head(device) == first


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
        assert candidates(LAPTOP, device) == real

    @pytest.mark.parametrize("device", ["AUTO", f"AUTO:{SECOND},CPU", f"AUTO:CPU,{SECOND}", f"AUTO:{SECOND}"])
    def test_the_first_is_the_one_that_openvino_takes(
        self, device: str, second_device: ov.Core, model: ov.Model
    ) -> None:
        compiled = second_device.compile_model(model, device)
        compiled(np.zeros((1, 4), np.float32))
        assert compiled.get_property("EXECUTION_DEVICES") == candidates(second_device, device)[:1]


class TestSettle:
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
        assert settle(core, device, properties) == settled

    def test_leaves_a_choice_to_openvino(self, second_device: ov.Core) -> None:
        assert settle(second_device, "AUTO", {}) == "AUTO"
        assert settle(second_device, f"AUTO:{SECOND}", {}) == SECOND

    def test_compiles_as_auto_would(self, core: ov.Core, model: ov.Model) -> None:
        auto = core.compile_model(model, "AUTO:CPU")
        alone = core.compile_model(model, settle(core, "AUTO:CPU", {}))
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


class TestProperties:
    @pytest.mark.parametrize("device", ["CPU", "AUTO", "AUTO:NPU,CPU", "HETERO:CPU", "MULTI:CPU", "BATCH:CPU", "NPU"])
    @pytest.mark.parametrize(
        ("key", "meant"),
        [
            ("PERFORMANCE_HNT", "PERFORMANCE_HINT"),
            ("performance_hint", "PERFORMANCE_HINT"),
            ("NUM_STREAM", "NUM_STREAMS"),
            ("CACHE_DIRR", "CACHE_DIR"),
            ("NPU_TRUBO", "NPU_TURBO"),
        ],
    )
    def test_a_slip_is_refused(self, core: ov.Core, device: str, key: str, meant: str) -> None:
        with pytest.raises(PropertyError, match=rf"{device} has no property '{key}'; did you mean '{meant}'\?"):
            check_properties(core, device, {key: 1})

    def test_a_slip_in_the_properties_of_one_device(self, core: ov.Core) -> None:
        nested = {"DEVICE_PROPERTIES": {"CPU": {"NUM_STREAM": 1}}}
        with pytest.raises(PropertyError, match="CPU has no property 'NUM_STREAM'"):
            check_properties(core, "AUTO", nested)

    @pytest.mark.parametrize("device", ["CPU", "AUTO", "NPU", "GPU", "TPU"])
    def test_known_and_unlike_names_pass(self, core: ov.Core, device: str) -> None:
        names = [
            "PERFORMANCE_HINT",
            "NPU_COMPILATION_MODE_PARAMS",
            "NPU_QDQ_OPTIMIZATION_AGGRESSIVE",
            "NPU_USE_NPUW",
            "NPUW_DEVICES",
            "CACHE_ENCRYPTION_CALLBACKS",
            "GPU_QUEUE_PRIORITY",
            "OF_A_LATER_OPENVINO",
        ]
        check_properties(core, device, dict.fromkeys(names, 1))

    @pytest.mark.parametrize("device", ["CPU", "AUTO", "AUTO:CPU", "HETERO:CPU", "BATCH:CPU"])
    @pytest.mark.parametrize(
        ("key", "value"), [("PERFORMANCE_HINT", "FAST"), ("NUM_STREAMS", "abc"), ("INFERENCE_NUM_THREADS", -5)]
    )
    def test_a_wrong_value_is_named(self, core: ov.Core, model: ov.Model, device: str, key: str, value: object) -> None:
        properties = {"PERF_COUNT": True, key: value}
        if device == "AUTO":
            properties = {"PERF_COUNT": True, "DEVICE_PROPERTIES": {"CPU": {key: value}}}
        with pytest.raises(RuntimeError) as caught:
            core.compile_model(model, device, properties)
        error = explain_refused(core, device, properties, caught.value)
        assert isinstance(error, PropertyError)
        assert f"refuses the property {key!r} with the value {value!r}: " in str(error)

    def test_an_unknown_name_is_named(self, core: ov.Core, model: ov.Model) -> None:
        with pytest.raises(RuntimeError) as caught:
            core.compile_model(model, "CPU", {"OF_A_LATER_OPENVINO": 1})
        error = explain_refused(core, "CPU", {"OF_A_LATER_OPENVINO": 1}, caught.value)
        assert str(error).startswith("CPU refuses the property 'OF_A_LATER_OPENVINO'")

    def test_another_failure_is_not_put_down_to_a_property(self, core: ov.Core) -> None:
        properties = {"NUM_STREAMS": "abc", "OF_A_LATER_OPENVINO": 1}
        assert explain_refused(core, "CPU", properties, RuntimeError("Cannot compile the node")) is None
        assert core.get_property("CPU", "NUM_STREAMS") != "abc"

    def test_a_hint_is_a_property(self) -> None:
        given = {"NUM_STREAMS": 1}
        assert merge_hint(given, "LATENCY") == {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        assert merge_hint(given, None) == given == {"NUM_STREAMS": 1}

    @pytest.mark.parametrize("hint", ["FAST", "latency", "", 3, ["LATENCY"]])
    def test_a_wrong_hint(self, hint: Any) -> None:
        with pytest.raises(UsageError, match="hint: expected one of LATENCY, THROUGHPUT, CUMULATIVE_THROUGHPUT"):
            merge_hint({}, hint)

    def test_a_hint_given_twice(self) -> None:
        with pytest.raises(UsageError, match="hint='LATENCY' and config's PERFORMANCE_HINT='LATENCY'"):
            merge_hint({"PERFORMANCE_HINT": "LATENCY"}, "LATENCY")


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


class TestMissing:
    @pytest.mark.parametrize(
        ("device", "absent", "instead"),
        [
            ("NPU", "NPU", "Or write device='CPU', or device='AUTO:NPU,CPU', which takes the CPU where no NPU is."),
            ("GPU.7", "GPU.7", "Or write device='CPU'."),
            ("CPU.0", "CPU.0", "Or write device='CPU'."),
            ("AUTO:NPU", "NPU", "Or write device='AUTO:CPU'."),
            ("HETERO:GPU.7,CPU", "GPU.7", "Or write device='HETERO:CPU'."),
        ],
    )
    def test_a_device_that_is_not_here(self, core: ov.Core, device: str, absent: str, instead: str) -> None:
        if core.available_devices != ["CPU"]:
            pytest.skip("this machine has more than a CPU")
        message = str(explain_missing(core, device, RuntimeError("why")))
        assert message.startswith(f"device {device!r}: OpenVINO has no {absent} on this machine, only CPU. ")
        assert message.endswith(f"{instead} OpenVINO said: why")

    @pytest.mark.skipif(sys.platform != "linux", reason="the parts are Linux'")
    def test_what_an_npu_lacks_here(self, core: ov.Core, monkeypatch: pytest.MonkeyPatch) -> None:
        nothing = dict.fromkeys(["plugin", "device", "loader", "driver", "compiler"])
        monkeypatch.setattr("npu_persist.device.host.look_for", lambda *_: {**nothing, "plugin": "here"})
        message = str(explain_missing(core, "NPU", RuntimeError("why")))
        for part in ("/dev/accel/accel0", "libze_loader.so.1", "libze_intel_npu.so.1", "npu_compiler.so"):
            assert part in message
        assert "An NPU is part of Intel's Core Ultra processors." in message

    @pytest.mark.parametrize("device", ["AUTO:-CPU", "MULTI", "HETERO", "BATCH:"])
    def test_a_device_string_that_leaves_no_device(self, core: ov.Core, device: str) -> None:
        if core.available_devices != ["CPU"]:
            pytest.skip("this machine has more than a CPU")
        message = str(explain_missing(core, device, RuntimeError("why")))
        assert "names no device that is on this machine; it has CPU" in message

    @pytest.mark.parametrize("device", ["CPU", "AUTO", "AUTO:CPU", "AUTO:-GPU", "HETERO:CPU", "BATCH:CPU(4)"])
    def test_a_device_that_is_here(self, core: ov.Core, device: str) -> None:
        assert explain_missing(core, device, RuntimeError("why")) is None

    @pytest.mark.parametrize(
        ("device", "is_missing"),
        [("GPU", False), ("GPU.1", False), ("GPU.2", True), ("NPU.3720", True), ("AUTO:-NPU", False)],
    )
    def test_a_device_is_there_under_its_names(self, device: str, is_missing: bool) -> None:  # noqa: FBT001
        assert (explain_missing(LAPTOP, device, RuntimeError("why")) is not None) == is_missing

    @pytest.mark.skipif(sys.platform != "linux", reason="what is said is Linux'")
    def test_an_npu_without_a_compiler(self, core: ov.Core, model: ov.Model) -> None:
        if "NPU" in core.available_devices:
            pytest.skip("this machine has an NPU")
        with pytest.raises(RuntimeError) as caught:
            core.compile_model(model, "NPU")
        error = explain_missing(LAPTOP, "NPU", caught.value)
        assert isinstance(error, CompilationError)
        assert "the NPU is here, but no compiler for it. Install the package intel-driver-compiler-npu" in str(error)

    def test_the_only_gpu_has_a_number_too(self) -> None:
        machine = Machine(CPU={}, GPU={})
        assert explain_missing(machine, "GPU.0", RuntimeError("why")) is None
        assert explain_missing(machine, "GPU.1", RuntimeError("why")) is not None


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
    monkeypatch.setattr(process_core, "_cores", [Machine(NPU=answers)])
    (npu,) = npu_persist.devices()
    assert (npu.compiler, npu.driver, npu.architecture) == ("8.4", "1688", None)
    assert (npu.full_name, npu.capabilities, npu.can_export) == ("Intel(R) AI Boost", ("FP16", "EXPORT_IMPORT"), True)
