"""What was checked in float32 is computed in float32, and no artifact of another precision answers for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest

import npu_persist
from npu_persist import is_compiled, load
from npu_persist.bundle.golden_records import Tolerance
from npu_persist.compilation.local import execution_precisions
from npu_persist.compilation.recipe import make_recipe
from npu_persist.errors import DeviceWarning
from npu_persist.runtime.report import Report
from tests.support.graphs import PRODUCT_INPUT, PRODUCT_WEIGHT, publish_affine, publish_product
from tests.support.loads import attempts, entries
from tests.support.second_device import SECOND

if TYPE_CHECKING:
    from npu_persist.store import Store
    from tests.support.bf16_cpu import Bf16Core

F32 = {"INFERENCE_PRECISION_HINT": "f32"}
BF16 = {"INFERENCE_PRECISION_HINT": "bf16"}
NPUW = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU"}
RIGHT = PRODUCT_INPUT @ PRODUCT_WEIGHT


def error_of(model: npu_persist.Model) -> float:
    return float(np.abs(model(PRODUCT_INPUT) - RIGHT).max() / np.abs(RIGHT).max())


class TestOnACpuWithBf16:
    @pytest.mark.parametrize(
        ("options", "is_exact"),
        [
            ({"precision": "fp32"}, True),
            ({"precision": "fp16"}, False),
            ({"precision": "fp16", "tolerance": Tolerance(0.1, 0.999)}, False),
            ({"precision": "fp16", "tolerance": Tolerance(0.2, 0.995)}, False),
            ({"precision": "fp16", "tolerance": Tolerance(0.01, 0.999)}, True),
            ({"precision": "fp16", "tolerance": Tolerance(0.1, 0.9999)}, True),
        ],
    )
    def test_precision_and_tolerance_decide(
        self, store: Store, bf16_cpu: Bf16Core, options: dict[str, Any], *, is_exact: bool
    ) -> None:
        publish_product(store, **options)
        first, second = load("product", "CPU", store=store), load("product", "CPU", store=store)
        assert second.report.from_cache
        assert [error_of(model) < 1e-5 for model in (first, second)] == [is_exact] * 2
        asked = [properties.get("INFERENCE_PRECISION_HINT") for properties in (*bf16_cpu.compiled, *bf16_cpu.imported)]
        assert asked == ["f32" if is_exact else None] * 2

    @pytest.mark.parametrize("config", [BF16, {"EXECUTION_MODE_HINT": "PERFORMANCE"}])
    def test_a_caller_decides(self, store: Store, bf16_cpu: Bf16Core, config: dict[str, str]) -> None:
        publish_product(store, precision="fp32")
        load("product", "CPU", config=config, store=store)
        assert {name: bf16_cpu.compiled[0].get(name) for name in config} == config
        assert bf16_cpu.compiled[0].get("INFERENCE_PRECISION_HINT") == config.get("INFERENCE_PRECISION_HINT")


class TestNoArtifactOfAnotherPrecision:
    def test_in_the_cache(self, store: Store) -> None:
        publish_product(store, precision="fp32")
        assert not load("product", "CPU", config=BF16, store=store).report.from_cache
        assert is_compiled("product", "CPU", config=BF16, store=store)
        assert not is_compiled("product", "CPU", store=store)
        assert not load("product", "CPU", store=store).report.from_cache
        assert len(entries(store)) == 2
        for config in (BF16, None, F32):  # what is asked for by default is what could be asked for
            assert is_compiled("product", "CPU", config=config, store=store)
            assert load("product", "CPU", config=config, store=store).report.from_cache
        assert len(entries(store)) == 2

    def test_attached_to_the_bundle(self, store: Store) -> None:
        publish_product(store, precision="fp32")
        (other,) = npu_persist.compile("product", ["CPU"], config=BF16, store=store)
        assert other.artifact is not None
        assert other.artifact.properties == BF16
        model = load("product", "CPU", store=store)
        assert attempts(model) == [("attached", "CPU", False), ("cache", "CPU", False), ("graph", "CPU", True)]
        assert "It was compiled with the properties {'INFERENCE_PRECISION_HINT': 'bf16'}" in str(model.report)
        (own,) = npu_persist.compile("product", ["CPU"], store=store)
        assert own.artifact is not None
        assert own.artifact.properties == F32
        assert attempts(load("product", "CPU", cache=False, store=store))[-1] == ("attached", "CPU", True)

    def test_from_a_process_of_its_own(self, store: Store) -> None:
        publish_product(store, precision="fp32")
        model = load("product", "CPU", compile_timeout=120, store=store)
        assert model.report.key == load("product", "CPU", store=store).report.key
        (entry,) = npu_persist.CompileCache(store.home).entries()
        assert entry.artifact is not None
        assert entry.artifact.properties == F32


class TestVirtualDevices:
    @pytest.mark.parametrize(
        "device", [f"AUTO:{SECOND},CPU", f"MULTI:{SECOND},CPU", f"HETERO:{SECOND},CPU", "BATCH:CPU"]
    )
    def test_pass_it_on(self, store: Store, second_device: ov.Core, device: str) -> None:
        bundle = publish_product(store, precision="fp32")
        properties = make_recipe(bundle, bundle.graph(), device, {}).properties
        assert properties == F32
        # The CPU here computes in float32 anyway: that it arrives is seen by another value.
        graph = second_device.read_model(bundle.file("model.xml"), bundle.file("weights.safetensors"))
        model = second_device.compile_model(graph, device, dict.fromkeys(properties, "dynamic"))
        assert set(execution_precisions(model).values()) == {"dynamic"}

    def test_by_device_where_one_has_none(self, second_device: ov.Core) -> None:
        """As for AUTO:NPU,CPU, whose NPU refuses what it does not have."""
        by_device = {"DEVICE_PROPERTIES": {"CPU": {"INFERENCE_PRECISION_HINT": "dynamic"}}}
        x = ops.parameter([4], np.float32)
        model = ov.Model([ops.relu(x)], [x], "relu")
        compiled = second_device.compile_model(model, "AUTO:CPU", by_device)
        assert execution_precisions(compiled) == {"CPU": "dynamic"}


class TestTheReport:
    @pytest.mark.parametrize("device", ["CPU", f"AUTO:{SECOND},CPU", f"HETERO:{SECOND},CPU"])
    def test_says_what_each_device_computes_in(self, store: Store, second_device: ov.Core, device: str) -> None:
        publish_product(store, precision="fp32")
        assert second_device.available_devices
        model = load("product", device, store=store)
        error_of(model)
        report = model.report
        assert report.execution_precisions == dict.fromkeys(report.execution_devices, "f32")
        assert f"runs on {report.execution_devices[0]} in f32" in str(report)
        assert report.to_dict()["execution_precisions"] == report.execution_precisions
        assert "npu-persist check" not in str(report)
        model.close()
        assert model.report.execution_precisions == report.execution_precisions

    def test_says_how_to_compare_where_it_is_not_what_was_checked(self, store: Store) -> None:
        publish_affine(store)
        report = load("affine", "CPU", config={"EXECUTION_MODE_HINT": "ACCURACY"}, store=store).report
        assert report.execution_precisions == {"CPU": "dynamic"}
        assert "npu-persist check" not in str(report)
        given = {name: getattr(report, name) for name in Report.__struct_fields__}
        other = Report(**{**given, "execution_precisions": {"CPU": "bf16"}})
        assert "runs on CPU in bf16\n" in str(other)
        assert "checked in f32; to compare: npu-persist check affine:1 --device CPU" in str(other)


class TestTheNpu:
    def test_has_no_float32_and_says_so(self, store: Store) -> None:
        publish_product(store, precision="fp32")
        with pytest.warns(
            DeviceWarning, match=r"product:1 was persisted for float32, which NPU does not have"
        ) as caught:
            model = load("product", "NPU", config=NPUW, store=store)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert "npu-persist check product:1 --device NPU" in model.report.notes[0]
        assert model.report.execution_precisions in ({}, {"NPU": "f16"})  # the plugin for Windows has its compiler

    def test_says_nothing_of_what_was_persisted_for_fp16(self, store: Store) -> None:
        publish_product(store, precision="fp16")
        assert not load("product", "NPU", config=NPUW, store=store).report.notes

    def test_nor_where_the_caller_decided(self, store: Store) -> None:
        publish_product(store, precision="fp32")
        assert not load(
            "product", "NPU", config={**NPUW, "EXECUTION_MODE_HINT": "PERFORMANCE"}, store=store
        ).report.notes
