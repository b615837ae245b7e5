from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.device.properties import check_properties, explain_rejected_property, merge_hint
from npu_persist.errors import PropertyError, UsageError

if TYPE_CHECKING:
    import openvino as ov


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
        error = explain_rejected_property(core, device, properties, caught.value)
        assert isinstance(error, PropertyError)
        assert f"rejects the value {value!r} of the property {key!r}: " in str(error)

    def test_an_unknown_name_is_named(self, core: ov.Core, model: ov.Model) -> None:
        with pytest.raises(RuntimeError) as caught:
            core.compile_model(model, "CPU", {"OF_A_LATER_OPENVINO": 1})
        error = explain_rejected_property(core, "CPU", {"OF_A_LATER_OPENVINO": 1}, caught.value)
        assert str(error).startswith("CPU rejects the value 1 of the property 'OF_A_LATER_OPENVINO'")

    def test_another_failure_is_not_put_down_to_a_property(self, core: ov.Core) -> None:
        properties = {"NUM_STREAMS": "abc", "OF_A_LATER_OPENVINO": 1}
        assert explain_rejected_property(core, "CPU", properties, RuntimeError("Cannot compile the node")) is None
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
