"""Nothing is left to compute from constants at load time."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops

import npu_persist
from npu_persist.conversion.rewrites.constant_folding import fold_constant_results
from tests.support.as_torch import assert_as_torch
from tests.support.modules import LearnedQuery


def test_learned_query_leaves_nothing_to_compute_from_constants() -> None:
    bundle = npu_persist.persist(LearnedQuery(), "query", (torch.randn(2, 9, 64),))
    root = ET.parse(bundle.path / "model.xml").getroot()  # noqa: S314 - our own file
    kinds = {layer.get("id"): layer.get("type") for layer in root.iter("layer")}
    sources: dict[str | None, list[str | None]] = {}
    for edge in root.iter("edge"):
        sources.setdefault(edge.get("to-layer"), []).append(edge.get("from-layer"))
    constant = {name for name, kind in kinds.items() if kind == "Const"}
    for name, kind in kinds.items():
        if sources.get(name) and constant.issuperset(sources[name]):
            constant.add(name)
            assert kind in {"Convert", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Broadcast", "Tile"}


def test_every_call_is_right_not_only_the_first() -> None:
    module = LearnedQuery().eval()
    npu_persist.persist(module, "query", (torch.randn(2, 9, 64),))
    model = npu_persist.load("query", device="CPU")
    for _ in range(3):
        x = torch.randn(2, 9, 64)
        with torch.no_grad():
            np.testing.assert_allclose(model(x), module(x), atol=5e-3)


class Tables(torch.nn.Module):
    """Tables that OpenVINO's own constant folding leaves: GatherElements, BitwiseOr, Inverse, and what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(8) * 2 + torch.randn(8, 8) * 0.1)
        self.mask: torch.Tensor
        self.register_buffer("mask", torch.ones(8, 8, dtype=torch.bool).tril())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        table = torch.gather(torch.sin(self.weight), 1, torch.arange(8).flip(0).expand(8, 8))
        mask = self.mask | (torch.arange(8) > 5)[None]
        return x @ (table + torch.inverse(self.weight)), x.masked_fill(~mask, -1.0)


class Loop(torch.nn.Module):
    """Computes from constants inside of a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 8) * 0.2)

    def forward(self, x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        for _ in range(int(count)):
            x = x @ torch.gather(torch.sin(self.weight), 1, torch.arange(8).flip(0).expand(8, 8))
        return x


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_openvino_does_not_fold_is_right_in_every_call(precision: str) -> None:
    calls = [(torch.randn(8, 8),) for _ in range(3)]
    model = assert_as_torch(Tables(), *calls, precision=precision, rtol=2e-2, atol=5e-3)
    kinds = {op.get_type_name() for op in model.compiled.get_runtime_model().get_ordered_ops()}
    assert "GatherElements" not in kinds


def test_inside_of_a_loop() -> None:
    module = torch.jit.script(Loop())
    assert_as_torch(module, (torch.randn(4, 8), torch.tensor(2)), (torch.randn(4, 8), torch.tensor(3)))


def test_random_numbers_are_not_folded() -> None:
    noise = ops.random_uniform(ops.constant([64]), ops.constant(np.float32(0)), ops.constant(np.float32(1)), "f32")
    parameter = ops.parameter([64], ov.Type.f32)
    model = ov.Model([ops.result(ops.add(parameter, ops.sin(noise)))], [parameter])
    fold_constant_results(model)
    assert {"RandomUniform", "Sin"} <= {op.get_type_name() for op in model.get_ordered_ops()}
