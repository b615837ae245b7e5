"""`diff`: the second bundle's answers to the first one's golden inputs, and what can be said without them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino.opset13 as ops
import pytest

import npu_persist
from npu_persist import diff
from npu_persist.bundle.graph_records import Bounds, Dimension, Port
from npu_persist.errors import BundleNotFoundError, DeviceNotFoundError, FileIntegrityError, SignatureError, UsageError
from npu_persist.store import Store
from tests.support.graphs import constant, make_model, parameter, publish_affine, publish_graph
from tests.support.loads import spoil
from tests.support.pulls import put_folder

if TYPE_CHECKING:
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.progress import Progress
    from tests.support.hub_server import HubServer


def publish_factor(factor: float, port: Port, *, name: str = "factor", output: str = "y") -> Bundle:
    """Publish `x * factor` with x of one or more axes, and torch's answer to ones."""
    x, weight = parameter(port), constant([factor], port.dtype)
    y = ops.multiply(x, weight)
    weight.set_friendly_name("weight")  # without a name each has a number of its own
    y.set_friendly_name("product")
    model = make_model([x], [(output, y)])
    ones = np.ones([axis if isinstance(axis, int) else axis.min for axis in port.shape], port.dtype)
    sample = {f"input.{port.name}": ones, f"output.{output}": ones * np.array(factor, port.dtype)}
    return publish_graph(Store(), model, [port], [Port(output, port.dtype, port.shape)], name=name, sample=sample)


X = Port("x", "float32", (1, 4))


def test_the_drift_is_measured_as_check_does() -> None:
    publish_factor(2.0, X)
    publish_factor(3.0, X)
    result = diff("factor:1", "factor:2", "CPU")
    (output,) = result.drift.outputs
    assert (output.output, output.max_abs, output.max_relative, output.cosine) == ("y", 1.0, 0.5, 1.0)
    assert (result.drift.devices, result.drift.missing, result.drift.skipped) == (("CPU",), (), None)
    assert [(one.name, one.kind, one.change) for one in result.tensors] == [("constant.0", "changed", 0.5)]
    assert (result.first, result.second, result.is_same, result.same_tensors) == ("factor:1", "factor:2", False, 0)
    assert {one.field for one in result.fields} == {"files.weights.safetensors", "files.golden.safetensors"}


def test_the_same_is_the_same_whatever_its_name_and_version() -> None:
    publish_factor(2.0, X)
    publish_factor(2.0, X)
    publish_factor(2.0, X, name="other")
    for second in ("factor:2", "other:1", str(Store().resolve("other").path)):
        result = diff("factor:1", second, "CPU")
        assert result.is_same
        assert (result.fields, result.tensors, result.same_tensors) == ((), (), 1)
        assert result.drift.skipped == "graph and weights are the same"


def test_without_a_device_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npu_persist.runtime.diff.load", None)
    publish_factor(2.0, X)
    publish_factor(3.0, X)
    result = diff("factor:1", "factor:2", None)
    assert not result.is_same
    assert result.drift.skipped == "no device was given"


@pytest.mark.parametrize(
    ("port", "reason"),
    [
        (Port("z", "float32", (1, 4)), "takes other inputs: z, not x"),
        (Port("x", "float16", (1, 4)), r"takes float16\[1, 4\] as x; the golden sample has float32\[1, 4\]"),
        (Port("x", "float32", (1, 5)), r"takes float32\[1, 5\] as x; the golden sample has float32\[1, 4\]"),
        (Port("x", "float32", (Dimension("n", 2, 8), 4)), r"takes float32\[n:2..8, 4\] as x"),
    ],
)
def test_a_call_that_does_not_fit_is_skipped_with_its_reason(
    port: Port, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("npu_persist.runtime.diff.load", None)  # which would compile for nothing
    publish_factor(2.0, X)
    publish_factor(2.0, port)
    result = diff("factor:1", "factor:2", "CPU")
    assert re.search(reason, str(result.drift.skipped))


def test_open_axes_take_what_fits() -> None:
    publish_factor(2.0, X)
    publish_factor(3.0, Port("x", "float32", (Dimension("n", 1, 8), 4)))
    result = diff("factor:1", "factor:2", "CPU")
    assert result.drift.outputs[0].max_relative == 0.5
    assert [one.field for one in result.fields][:3] == ["call", "inputs.x", "outputs.y"]


def test_values_out_of_bounds_are_skipped_with_their_reason() -> None:
    for bounds in (None, Bounds(5, 9)):
        publish_factor(2, Port("x", "int64", (1, 4), bounds))
    result = diff("factor:1", "factor:2", "CPU")
    assert "factor:2 does not take the golden inputs: " in str(result.drift.skipped)


def test_outputs_that_are_not_there_are_named() -> None:
    publish_factor(2.0, X)
    publish_factor(2.0, X, output="z")
    result = diff("factor:1", "factor:2", "CPU")
    assert (result.drift.outputs, result.drift.missing) == ((), ("y",))


def test_without_a_golden_sample_there_is_a_reason() -> None:
    publish_affine(Store(), name="none")
    publish_factor(2.0, X)
    assert diff("none", "factor", "CPU").drift.skipped == "none:1 has no golden sample"


def test_infinity_is_text_in_json() -> None:
    publish_factor(0.0, X)
    publish_factor(3.0, X)
    result = diff("factor:1", "factor:2", "CPU")
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["tensors"][0]["change"] == "inf"
    assert data["drift"]["outputs"][0]["max_relative"] == "inf"


def test_progress_ends_with_all_bytes() -> None:
    publish_factor(2.0, X)
    publish_factor(3.0, X)
    events: list[Progress] = []
    diff("factor:1", "factor:2", None, progress=events.append)
    assert {event.stage for event in events} == {"compare"}
    assert events[-1].is_finished


def test_damaged_weights_are_an_error() -> None:
    publish_factor(2.0, X)
    second = publish_factor(3.0, X)
    spoil(second.path / "weights.safetensors")
    with pytest.raises(FileIntegrityError):
        diff("factor:1", "factor:2", None)


def test_what_load_refuses_is_refused() -> None:
    publish_factor(2.0, X)
    publish_factor(3.0, X)
    with pytest.raises(BundleNotFoundError):
        diff("factor:1", "factor:3")
    with pytest.raises(DeviceNotFoundError):
        diff("factor:1", "factor:2", "TPU")
    with pytest.raises(UsageError, match="hint"):
        diff("factor:1", "factor:2", "CPU", hint="FAST")
    with pytest.raises(SignatureError):
        diff("factor:1", "factor:2", None, require_signature=True)


def test_a_bundle_of_a_hub_is_pulled_first(hub: HubServer, tmp_path: Any) -> None:
    publish_factor(2.0, X)
    remote = Store(tmp_path / "remote")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPU_PERSIST_HOME", str(remote.home))
        put_folder(hub, publish_factor(3.0, X, name="pulled").path, repo="org/pulled", tag="v1")
    result = npu_persist.diff("factor:1", "hf://org/pulled@v1", "CPU")
    assert result.second == "pulled:1"
    assert result.drift.outputs[0].max_relative == 0.5
