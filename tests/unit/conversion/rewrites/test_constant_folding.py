"""Nothing is left to compute from constants at load time."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import torch

import npu_persist
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
