"""Which devices are asked for float32, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openvino as ov
import pytest

from npu_persist.device.devices import list_devices, name_precision
from npu_persist.device.precision import ask_for_exact_cache, ask_for_f32, has_f32, list_without_f32
from tests.support.fake_core import FakeCore

if TYPE_CHECKING:
    from tests.support.bf16_cpu import Bf16Core

F32 = {"INFERENCE_PRECISION_HINT": "f32"}
_COMPUTES = {"OPTIMIZATION_CAPABILITIES": ["FP32", "BF16"], "SUPPORTED_PROPERTIES": ["INFERENCE_PRECISION_HINT"]}
SERVER: Any = FakeCore(
    CPU=_COMPUTES,
    GPU_0=_COMPUTES,
    GPU_1=_COMPUTES,
    NPU={"OPTIMIZATION_CAPABILITIES": ["FP16"], "SUPPORTED_PROPERTIES": ["INFERENCE_PRECISION_HINT"]},
)


@pytest.mark.parametrize(
    ("device", "given", "asked"),
    [
        ("CPU", {"NUM_STREAMS": 2}, {"NUM_STREAMS": 2, **F32}),
        ("GPU.1", {}, F32),
        ("NPU", {}, {}),
        ("missing", {}, {}),
        ("AUTO", {}, F32),
        ("AUTO:GPU,CPU", {}, F32),
        ("MULTI:GPU.0(4),CPU(2)", {}, F32),
        ("BATCH:CPU(4)", {}, F32),
        ("AUTO:NPU,CPU", {}, {"DEVICE_PROPERTIES": {"CPU": F32}}),
        ("HETERO:NPU,GPU.0,CPU", {}, {"DEVICE_PROPERTIES": {"CPU": F32, "GPU.0": F32}}),
    ],
)
def test_every_device_that_has_it_is_asked_and_no_other(
    device: str, given: dict[str, Any], asked: dict[str, Any]
) -> None:
    assert ask_for_f32(SERVER, device, given) == asked


@pytest.mark.parametrize(
    ("device", "given"),
    [
        ("CPU", {"INFERENCE_PRECISION_HINT": "bf16"}),
        ("CPU", {"EXECUTION_MODE_HINT": "PERFORMANCE"}),
        ("AUTO:NPU,CPU", {"INFERENCE_PRECISION_HINT": "f16"}),
        ("AUTO:NPU,CPU", {"DEVICE_PROPERTIES": {"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}}),
        ("AUTO:NPU,GPU.0", {"DEVICE_PROPERTIES": {"GPU": {"EXECUTION_MODE_HINT": "PERFORMANCE"}}}),
        ("AUTO", {"DEVICE_PROPERTIES": "no mapping"}),
    ],
)
def test_a_caller_who_decides_is_not_overruled(device: str, given: dict[str, Any]) -> None:
    assert ask_for_f32(SERVER, device, given) == given


def test_a_caller_who_decides_for_one_device_leaves_the_others_open() -> None:
    given = {"DEVICE_PROPERTIES": {"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}, "GPU.1": {"NUM_STREAMS": 2}}}
    assert ask_for_f32(SERVER, "AUTO:GPU.1,CPU", given) == {
        "DEVICE_PROPERTIES": {"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}, "GPU.1": {"NUM_STREAMS": 2, **F32}}
    }


def test_a_device_without_the_property_is_left_alone() -> None:
    old: Any = FakeCore(OLD={"OPTIMIZATION_CAPABILITIES": ["FP32"], "SUPPORTED_PROPERTIES": ["NUM_STREAMS"]})
    assert ask_for_f32(old, "OLD", {"NUM_STREAMS": 2}) == {"NUM_STREAMS": 2}


def test_a_decoders_cache_is_asked_for_where_there_is_one() -> None:
    asked = {"NUM_STREAMS": 2, "KV_CACHE_PRECISION": "f32"}
    assert ask_for_exact_cache(ov.Core(), "CPU", {"NUM_STREAMS": 2}) == asked
    assert ask_for_exact_cache(ov.Core(), "CPU", {"KV_CACHE_PRECISION": "u8"}) == {"KV_CACHE_PRECISION": "u8"}
    assert ask_for_exact_cache(SERVER, "GPU.0", {}) == {}


def test_which_devices_cannot() -> None:
    assert list_without_f32(SERVER, "AUTO:NPU,CPU") == ["NPU"]
    assert not has_f32(ov.Core(), "NPU")  # it says so without a driver, too
    assert has_f32(ov.Core(), "CPU")


def test_what_a_device_computes_in_by_default(bf16_cpu: Bf16Core) -> None:
    (cpu,) = (device for device in list_devices() if device.name == "CPU")
    assert cpu.default_precision == name_precision(bf16_cpu.get_property("CPU", "INFERENCE_PRECISION_HINT")) == "bf16"
    assert {"FP32", "BF16"} <= set(cpu.capabilities)


@pytest.mark.parametrize(
    ("value", "name"), [(ov.Type.f32, "f32"), (ov.Type.dynamic, "dynamic"), ("f16", "f16"), (None, None)]
)
def test_precisions_have_short_names(value: object, name: str | None) -> None:
    assert name_precision(value) == name
