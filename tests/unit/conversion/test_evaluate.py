"""Other calls that persist compares with torch, and layers that cost most."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import npu_persist
from npu_persist.bundle.manifest import Manifest
from npu_persist.errors import ParityError, PrecisionWarning, UsageError


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, scale: float = 1.0, *, y: torch.Tensor | None = None) -> Any:
        return self.linear(x * scale + (0 if y is None else y)), x.argmax(-1)


def call() -> torch.Tensor:
    return torch.randn(2, 8)


def test_the_worst_of_all_calls_is_in_the_manifest() -> None:
    calls = [{"x": call(), "y": call()}, {"x": call() * 100, "y": call()}, {"x": call(), "y": call()}]
    example = {"x": call(), "y": call()}
    bundle = npu_persist.persist(Sum().eval(), "sum", kwargs=example, evaluate=iter(calls))
    assert bundle.manifest.golden is not None
    found = bundle.manifest.golden.evaluation
    assert found is not None
    assert found.calls == 3
    by_output = {one.output: one for one in found.differences}
    with npu_persist.load(bundle.path, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"}) as model:
        module = Sum()
        module.load_state_dict(
            {name: torch.from_numpy(t.copy()) for name, t in npu_persist.weights(bundle.path).items()}
        )
        largest = max(float(np.abs(model(**{k: v.numpy() for k, v in one.items()})[0]).max()) for one in calls)
    floats, integers = by_output.values()
    assert 0 < floats.max_abs < 0.01 * largest
    assert (integers.mismatched, floats.mismatched) == (0.0, None)
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest


def test_a_call_beyond_tolerance_publishes_nothing() -> None:
    module = nn.Linear(8, 8, bias=False)
    with torch.no_grad():
        module.weight[:, 0] = 1000
        module.weight[:, 1:] = 0.1  # erased by int8, which the example does not show
    shown, hidden = torch.zeros(1, 8), torch.ones(1, 8)
    shown[0, 0], hidden[0, 0] = 1, 0
    options: dict[str, Any] = {"precision": "int8"}
    npu_persist.persist(module.eval(), "hidden", (shown,), **options)
    with pytest.raises(ParityError, match=r"evaluate: call 1, output output: .*Nothing was published"):
        npu_persist.persist(module.eval(), "erased", (shown,), evaluate=[(shown,), (hidden,)], **options)
    assert [bundle.name for bundle in npu_persist.list()] == ["hidden"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluate": []}, "evaluate has no calls"),
        ({"evaluate": [(call(), 2.0)]}, "call 0 has different arguments than the example"),
        ({"evaluate": [(call(),), {"x": call(), "y": call()}]}, "call 1 has different arguments"),
        ({"evaluate": [(call().double(),)]}, "call 0 has different arguments"),
        ({"evaluate": [(torch.randn(3, 8),)]}, "call 0 does not run: .*dynamic_shapes"),
        ({"evaluate": [(call(),)], "check": False}, "pass only one of them"),
        ({"metrics": {"m": len}}, "pass evaluate= too"),
        ({"metrics": {"m": 1.0}, "evaluate": [(call(),)]}, "metrics must be functions by name"),
        ({"metrics": len, "evaluate": [(call(),)]}, "metrics must be functions by name"),
        ({"by_layer": True}, "by_layer measures compressed weights"),
        ({"by_layer": True, "precision": "int8", "check": False}, "and the check"),
    ],
)
def test_wrong_calls(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        npu_persist.persist(Sum().eval(), "sum", (call(),), **options)


def test_metrics_are_measured_on_the_answers_to_all_calls() -> None:
    seen: list[Any] = []

    def share_of_first(answers: list[Any]) -> float:
        seen.append(answers)
        return float(np.mean([places == 0 for _, places in answers]))

    calls = [(torch.randn(2, 8),) for _ in range(3)]
    metrics = {"share of 0": share_of_first, "count": len, "largest": lambda answers: answers[0][0].max()}
    module = Sum().eval()
    bundle = npu_persist.persist(module, "sum", (call(),), evaluate=iter(calls), metrics=metrics)
    assert bundle.manifest.golden is not None
    assert bundle.manifest.golden.evaluation is not None
    found = {one.name: one for one in bundle.manifest.golden.evaluation.metrics}
    expected = np.mean([torch.argmax(one, -1).numpy() == 0 for (one,) in calls])
    assert (found["share of 0"].torch, found["share of 0"].model) == (expected, expected)
    assert (found["count"].torch, found["count"].model) == (3, 3)
    assert 0 < abs(found["largest"].torch - found["largest"].model) < 0.01
    of_torch, of_model = seen
    for (one,), answer in zip(calls, of_torch, strict=True):
        assert np.array_equal(answer[0], module(one)[0].detach().numpy())
    with npu_persist.load(bundle.path, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"}) as model:
        for (one,), answer in zip(calls, of_model, strict=True):
            np.testing.assert_allclose(answer[0], model(one.numpy())[0], rtol=1e-5)
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest
    assert npu_persist.history("sum")[0].metrics == bundle.manifest.golden.evaluation.metrics


def test_metrics_that_differ_are_fields_of_diff() -> None:
    module = Sum().eval()
    for offset in (0.0, 1.0):
        metrics: dict[str, Any] = {"mean": lambda answers, offset=offset: answers[0][0].mean() * 0 + offset}
        npu_persist.persist(module, "sum", (torch.ones(2, 8),), evaluate=[(torch.ones(2, 8),)], metrics=metrics)
    [change] = npu_persist.diff("sum:1", "sum:2", None).fields
    assert (change.field, change.before) == ("metrics.mean", {"torch": 0.0, "model": 0.0})
    assert change.after == {"torch": 1.0, "model": 1.0}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda answers: answers[5], "metric 'm' raised IndexError for the answers of torch.*Nothing was published"),
        (lambda _: "0.9", "metric 'm' gave '0.9' for the answers of torch"),
        (lambda _: float("nan"), "has to give a finite number. Nothing was published"),
        (lambda answers: answers[0][0], "metric 'm' gave array"),
        (lambda _: None, "metric 'm' gave None"),
    ],
)
def test_metrics_that_fail(metric: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        npu_persist.persist(Sum().eval(), "sum", (call(),), evaluate=[(call(),)], metrics={"m": metric})
    assert npu_persist.list() == []


def test_dynamic_axes_may_have_other_sizes() -> None:
    shapes = {"x": {0: torch.export.Dim("n", min=1)}}
    calls = [(torch.randn(n, 8),) for n in (1, 5, 9)]
    bundle = npu_persist.persist(Sum().eval(), "sum", (call(),), dynamic_shapes=shapes, evaluate=calls)
    assert bundle.manifest.golden is not None
    assert bundle.manifest.golden.evaluation is not None


def test_the_layers_that_cost_most_are_named_and_the_module_is_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    with torch.no_grad():
        for index in (0, 2):
            module.get_parameter(f"{index}.weight")[:, 0] = 0.1
        module.get_parameter("2.weight")[:, 0] = 2.0  # which leaves a step to the others
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PrecisionWarning)
        bundle = npu_persist.persist(module.eval(), "layers", (torch.randn(8, 32),), precision="int4", by_layer=True)
    [text] = [str(one.message) for one in caught if "compression costs" in str(one.message)]
    assert text in "".join(f"Sequential: {note}" for note in bundle.manifest.warnings)
    found = re.search(r"costs (\S+) of .*layer uncompressed: 2\.weight (\S+), 0\.weight (\S+), 4\.weight (\S+);", text)
    assert found is not None, text
    base, second, first, last = map(float, found.groups())
    assert second < 0.5 * base
    assert second < first <= last
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    with pytest.raises(ParityError, match=r"Nothing was published.*layer uncompressed: 2\.weight"):
        npu_persist.persist(module, "layers", (torch.randn(8, 32),), precision="int4", by_layer=True, tolerance=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
