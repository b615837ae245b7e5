"""`check`: a device's answers are compared with torch's, for what `load` with the same arguments would run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino.opset13 as ops
import pytest

import npu_persist
from npu_persist import check
from npu_persist.bundle.golden_records import Tolerance
from npu_persist.bundle.graph_records import Buckets, Dimension, Padding, Port
from npu_persist.errors import DeviceNotFoundError, DeviceWarning, UsageError
from tests.support.graphs import (
    PRODUCT_INPUT,
    PRODUCT_WEIGHT,
    constant,
    make_model,
    parameter,
    publish_affine,
    publish_graph,
    publish_product,
)
from tests.support.second_device import SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import openvino as ov

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store
    from tests.support.bf16_cpu import Bf16Core

RIGHT = PRODUCT_INPUT @ PRODUCT_WEIGHT
TIGHT, WIDE = Tolerance(0.001, 0.99999), Tolerance(0.1, 0.999, 0.01)
NPUW = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU"}
LENGTH = Dimension("length", 1, 8)


def publish_steps(store: Store, sample: Sequence[float], answer: Sequence[float], *lengths: int) -> Bundle:
    """Publish `x[length] -> (x + 1, sum of x)` with buckets of these lengths, and a golden sample."""
    port = Port("x", "float32", (LENGTH,))
    x = parameter(port)
    total = ops.reduce_sum(x, constant([0], "int64"), keep_dims=False)
    model = make_model([x], [("y", ops.add(x, constant([1]))), ("total", total)])
    values = {
        "input.x": np.array(sample, np.float32),
        "output.y": np.array(answer, np.float32),
        "output.total": np.array(sum(sample), np.float32),
    }
    buckets = Buckets(tuple({"x": (length,)} for length in lengths), {"x": Padding()}) if lengths else None
    outputs = [Port("y", "float32", (LENGTH,)), Port("total", "float32", ())]
    return publish_graph(store, model, [port], outputs, name="steps", sample=values, buckets=buckets)


class TestVerdict:
    def test_right(self, store: Store) -> None:
        publish_product(store, precision="fp32", tolerance=TIGHT)
        result = check("product", "CPU", store=store)
        (run,) = result.runs
        (output,) = run.outputs
        assert result.is_right
        assert output.is_right
        assert (output.output, output.dtype, output.shape) == ("y", "float32", (4, 64))
        assert 0 <= output.difference.max_relative < 1e-6
        assert (output.persisted, output.problem, run.shapes, result.skipped) == (None, None, None, ())
        assert (result.tolerance, result.tolerance_source) == (TIGHT, "manifest")
        assert result.report.execution_precisions == {"CPU": "f32"}
        assert 0 < run.seconds < 60

    @pytest.mark.parametrize(
        ("spoil", "problem"),
        [
            (lambda right: right * 1.002, None),
            (lambda right: np.where(np.arange(64) == 3, np.nan, right), "torch's output is NaN in 4 of 256"),
            (lambda right: np.where(np.arange(64) == 3, np.inf, right), "infinities differ in 4 of 256"),
            (lambda right: right[:2], "torch's has the shape [2, 64]"),
        ],
    )
    def test_wrong(self, store: Store, spoil: Any, problem: str | None) -> None:
        publish_product(store, output=spoil(RIGHT).astype(np.float32), tolerance=TIGHT)
        result = check("product", "CPU", store=store)
        (output,) = result.runs[0].outputs
        assert not result.is_right
        assert not output.is_right
        assert output.problem == problem
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["is_right"] is False

    def test_one_wrong_output_of_several_is_enough(self, store: Store) -> None:
        publish_steps(store, [1, 2], [2, 4])
        result = check("steps", "CPU", store=store)
        assert [output.is_right for output in result.runs[0].outputs] == [False, True]
        assert not result.is_right

    def test_what_no_rounding_can_change_has_to_be_equal(self, store: Store) -> None:
        port = Port("x", "int64", (4,))
        x = parameter(port)
        model = make_model([x], [("y", ops.add(x, x))])
        sample = {"input.x": np.arange(4, dtype=np.int64), "output.y": np.array([0, 2, 4, 7], np.int64)}
        publish_graph(
            store, model, [port], [Port("y", "int64", (4,))], sample=sample, tolerance=Tolerance(1.0, -1.0, 1.0)
        )
        result = check("graph", "CPU", store=store)
        assert not result.is_right
        assert result.runs[0].outputs[0].problem == "1 of 4 differ"

    def test_integers_are_counted(self, store: Store) -> None:
        port, out = Port("x", "float32", (4,)), Port("y", "bool", (4,))
        x = parameter(port)
        model = make_model([x], [("y", ops.greater(x, constant([1])))])
        sample = {"input.x": np.arange(4, dtype=np.float32), "output.y": np.array([False, False, False, True])}
        publish_graph(store, model, [port], [out], sample=sample, tolerance=Tolerance(0.1, 0.1, 0.2))
        result = check("graph", "CPU", store=store)
        assert not result.is_right
        assert result.runs[0].outputs[0].problem == "1 of 4 differ"
        assert result.runs[0].outputs[0].difference.mismatched == 0.25
        assert check("graph", "CPU", tolerance=Tolerance(0.1, 0.1, 0.25), store=store).is_right


class TestTolerance:
    def test_without_a_check_it_is_that_of_the_precision(self, store: Store) -> None:
        publish_product(store, output=(RIGHT * 1.01).astype(np.float32), precision="fp16")
        publish_product(store, output=(RIGHT * 1.01).astype(np.float32), precision="fp32")
        first, second = check("product:1", "CPU", store=store), check("product:2", "CPU", store=store)
        assert (first.tolerance, first.is_right) == (WIDE, True)
        assert (second.tolerance, second.is_right) == (TIGHT, False)
        assert first.tolerance_source == second.tolerance_source == "default"

    @pytest.mark.parametrize(("given", "is_right"), [(0.02, True), (0.005, False), (Tolerance(0.02, 0.9), True)])
    def test_is_given(self, store: Store, given: Any, *, is_right: bool) -> None:
        publish_product(store, output=(RIGHT * 1.01).astype(np.float32), tolerance=TIGHT)
        result = check("product", "CPU", tolerance=given, store=store)
        assert (result.is_right, result.tolerance_source) == (is_right, "given")

    def test_must_be_one(self, store: Store) -> None:
        publish_product(store)
        with pytest.raises(UsageError, match="tolerance must be a positive number"):
            check("product", "CPU", tolerance=-1, store=store)


class TestAsLoad:
    def test_a_cpu_with_bf16_is_seen(self, store: Store, bf16_cpu: Bf16Core) -> None:
        """What such a CPU answers by default is further from torch than what was checked in float32."""
        publish_product(store, precision="fp16")
        publish_product(store, precision="fp32", tolerance=TIGHT)
        half, full = (check(f"product:{version}", "CPU", store=store) for version in (1, 2))
        assert 1e-3 < half.runs[0].outputs[0].difference.max_relative < 1e-2
        assert full.runs[0].outputs[0].difference.max_relative < 1e-6
        assert half.is_right
        assert full.is_right
        fast = check("product:2", "CPU", config={"EXECUTION_MODE_HINT": "PERFORMANCE"}, store=store)
        assert [properties.get("INFERENCE_PRECISION_HINT") for properties in bf16_cpu.compiled] == [None, "f32", None]
        assert fast.report.key not in {half.report.key, full.report.key}

    def test_from_the_same_sources(self, store: Store) -> None:
        publish_product(store)
        used = []
        for _ in range(2):
            report = check("product", "CPU", store=store).report
            used.append([attempt.source for attempt in report.attempts if attempt.is_used])
        npu_persist.compile("product", ["CPU"], store=store)
        report = check("product", "CPU", store=store).report
        used.append([attempt.source for attempt in report.attempts if attempt.is_used])
        assert used == [["graph"], ["cache"], ["attached"]]
        assert npu_persist.load("product", "CPU", store=store).report.key == report.key

    def test_of_a_directory(self, store: Store, tmp_path: Path) -> None:
        bundle = publish_product(store)
        result = check(bundle.path, "CPU", store=tmp_path / "elsewhere")
        assert result.is_right
        assert result.reference == str(bundle.path)

    def test_on_the_npus_plugin(self, store: Store) -> None:
        publish_product(store, precision="fp32", tolerance=WIDE)  # the plugin runs on this CPU, which may have bf16
        with pytest.warns(DeviceWarning, match="was persisted for float32"):
            result = check("product", "NPU", config=NPUW, store=store)
        assert result.is_right
        assert result.report.execution_devices == ("NPU",)

    def test_waits_for_the_device_that_auto_prefers(self, store: Store, second_device: ov.Core) -> None:
        assert SECOND in second_device.available_devices
        publish_product(store)
        result = check("product", f"AUTO:{SECOND},CPU", store=store)
        assert result.is_right
        assert result.report.execution_devices == (SECOND,)

    def test_a_device_that_is_not_there_is_an_error(self, store: Store) -> None:
        publish_product(store)
        with pytest.raises(DeviceNotFoundError):
            check("product", "GPU.7", store=store)

    def test_a_bundle_without_a_golden_sample(self, store: Store) -> None:
        publish_affine(store)
        with pytest.raises(UsageError, match=r"affine:1 has no golden sample to compare with"):
            check("affine", "CPU", store=store)


class TestBuckets:
    def test_each_that_the_sample_fits_into(self, store: Store) -> None:
        publish_steps(store, [1, 2, 3], [2, 3, 4], 2, 4, 8)
        result = check("steps", "CPU", store=store)
        assert result.is_right
        assert [run.shapes for run in result.runs] == [{"x": (4,)}, {"x": (8,)}]
        assert [run.outputs[0].shape for run in result.runs] == [(3,)] * 2
        assert result.skipped == ({"x": (2,)},)

    def test_one_that_answers_wrong_is_seen(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        publish_steps(store, [1, 2, 3], [2, 3, 4], 4, 8)
        from npu_persist.runtime.padding import Fit

        cut = Fit.cut

        def spoil(self: Fit, outputs: Any, *, share_outputs: bool) -> Any:
            found = cut(self, outputs, share_outputs=share_outputs)
            return [output + (outputs[0].shape == (8,)) for output in found]

        monkeypatch.setattr(Fit, "cut", spoil)
        result = check("steps", "CPU", store=store)
        assert [[output.is_right for output in run.outputs] for run in result.runs] == [[True, True], [False, False]]

    def test_of_its_own_size_and_none_at_all(self, store: Store) -> None:
        publish_steps(store, [1, 2, 3, 4], [2, 3, 4, 5], 4)
        assert check("steps", "CPU", store=store).is_right
        plain = check("steps", "CPU", buckets=(), store=store)
        assert plain.is_right
        assert [run.shapes for run in plain.runs] == [None]

    def test_none_that_fits(self, store: Store) -> None:
        publish_steps(store, [1, 2, 3], [2, 3, 4])
        with pytest.raises(UsageError, match=r"golden sample, x=3, fits into none of the sizes .* x=2\. Give buckets"):
            check("steps", "CPU", buckets=[{"x": (2,)}], store=store)
