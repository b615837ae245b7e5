"""Keeping versions: a classifier is trained for a step, persisted again, and compared with what it was before."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch

import npu_persist
from npu_persist.cli.main import main
from npu_persist.store import Store

TOKENS = torch.arange(12).reshape(1, 12) % 10


class Classifier(torch.nn.Module):
    """Sorts texts into three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 32)
        layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = torch.nn.Linear(32, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.encoder(self.embedding(tokens)).mean(1))
        return result


def train(model: torch.nn.Module, rate: float = 0.05) -> None:
    """Train one step, without the embedding."""
    optimizer = torch.optim.SGD([w for name, w in model.named_parameters() if not name.startswith("embedding")], rate)
    loss = torch.nn.functional.cross_entropy(model(TOKENS), torch.tensor([1]))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@pytest.fixture
def model() -> Classifier:
    """Persist a model that was trained for a step, so that no weight is without effect, and give it back."""
    model = Classifier()
    train(model)
    npu_persist.persist(model, "texts", (TOKENS,), metadata={"step": 0}, alias="prod")
    return model


def norms(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return each tensor's relative change in half precision, in which matrices are stored."""
    found = {}
    for name, old in before.items():
        pair = [(one.half() if one.dim() > 1 else one).double() for one in (old, after[name])]
        found[name] = float((pair[1] - pair[0]).norm() / pair[0].norm()) if pair[0].norm() else float("inf")
    return found


def test_one_step_of_training_is_what_differs(model: Classifier, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    answer = model.eval()(TOKENS).detach().numpy()
    train(model)
    npu_persist.persist(model, "texts", (TOKENS,), metadata={"step": 1})
    expected = {name: change for name, change in norms(before, model.state_dict()).items() if change}

    result = npu_persist.diff("texts:1", "texts:2", "CPU")
    assert {one.name: one.change for one in result.tensors} == pytest.approx(expected, rel=0.01)
    assert {one.kind for one in result.tensors} == {"changed"}
    assert "embedding.weight" not in expected
    assert result.same_tensors >= 1
    changes = [one.change or 0.0 for one in result.tensors]
    assert changes == sorted(changes, reverse=True)
    assert {"metadata.step", "files.weights.safetensors"} <= {one.field for one in result.fields}
    assert not {"call", "precision", "files.model.xml"} & {one.field for one in result.fields}
    (drift,) = result.drift.outputs
    moved = np.abs(model.eval()(TOKENS).detach().numpy() - answer).max() / np.abs(answer).max()
    assert drift.max_relative == pytest.approx(moved, rel=0.1)

    first, second = npu_persist.history("texts")
    assert (first.changed, second.changed, first.aliases) == ("first", "weights", ("prod",))
    assert second.added < second.size
    assert main(["diff", "texts:1", "texts:2", "--device", "CPU", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["drift"]["outputs"][0]["max_relative"] == drift.max_relative


def test_what_did_not_change_is_no_new_version(model: Classifier, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        again = npu_persist.persist(model, "texts", (TOKENS,), metadata={"step": 0}, alias="tested")
    assert again.reference == "texts:1"
    assert "texts:1 already has the same content: no new version was made; the alias tested points to it" in caplog.text
    assert Store().aliases("texts") == {"prod": 1, "tested": 1}
    assert npu_persist.persist(model, "texts", (TOKENS,), metadata={"step": 0}, force=True).version == 2
    assert main(["diff", "texts:1", "texts:2"]) == 0
    assert npu_persist.history("texts")[1].changed == "nothing"


ASKED: dict[str, tuple[torch.Tensor, dict[str, Any]]] = {
    "example": (TOKENS + 1, {}),
    "metadata": (TOKENS, {"metadata": {"step": 1}}),
    "precision": (TOKENS, {"precision": "fp32"}),
    "tolerance": (TOKENS, {"tolerance": 0.05}),
    "check": (TOKENS, {"check": False}),
    "shapes": (TOKENS, {"dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=4)},)}),
}


@pytest.mark.parametrize("what", ASKED)
def test_whatever_else_was_asked_for_is_a_new_version(what: str, model: Classifier) -> None:
    tokens, options = ASKED[what]
    assert npu_persist.persist(model, "texts", (tokens,), **{"metadata": {"step": 0}, **options}).version == 2


def test_targets_are_compiled_for_the_version_that_is_there(model: Classifier) -> None:
    stages: list[tuple[str, str]] = []
    bundle = npu_persist.persist(
        model,
        "texts",
        (TOKENS,),
        metadata={"step": 0},
        targets=["CPU"],
        progress=lambda event: stages.append((event.stage, event.detail)),
    )
    assert bundle.version == 1
    assert (bundle.path / "compiled" / "cpu").is_dir()
    assert ("publish", "texts:1 already has the same content") in stages
