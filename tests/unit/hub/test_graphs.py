"""A bundle of several graphs over a hub: its files, its card, its artifacts, and the answers on the other side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import npu_persist
from npu_persist import Store
from tests.support.graphs import GRID
from tests.support.two_graphs import ANSWERS, publish_two

pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.hub_server import HubServer

REPO = "org/two"


def test_what_was_pushed_answers_where_it_was_pulled(hub: HubServer, tmp_path: Path) -> None:
    bundle = publish_two(Store())
    npu_persist.compile("two", "CPU")
    npu_persist.push("two", REPO)
    files = {f"{graph}.{end}" for graph in ("scale", "shift") for end in ("xml", "golden.safetensors")}
    tree = set(hub.repos[REPO].tree)
    assert tree >= files | {"weights.safetensors", "manifest.json"}
    assert {path.split("/")[1] for path in tree if path.startswith("compiled/")} == {"cpu-scale", "cpu-shift"}
    card = hub.read(REPO, "README.md").decode()
    for said in ("## Graph scale", "## Graph shift", "### shift", '# model.graphs["scale"], model.graphs["shift"]'):
        assert said in card
    elsewhere = Store(tmp_path / "elsewhere")
    with npu_persist.load(f"hf://{REPO}@v1", "CPU", trust=True, store=elsewhere) as model:
        assert model.bundle.digest == bundle.digest
        for name, one in model.graphs.items():
            assert np.array_equal(one(GRID), ANSWERS[name])
            assert [attempt.source for attempt in one.report.attempts if attempt.is_used] == ["attached"]


def test_graphs_of_a_stranger_are_tried_in_a_process_first(hub: HubServer, tmp_path: Path) -> None:
    publish_two(Store())
    npu_persist.push("two", REPO)
    assert hub.repos
    elsewhere = Store(tmp_path / "elsewhere")
    with npu_persist.load(f"hf://{REPO}@v1", "CPU", store=elsewhere) as model:
        for name, one in model.graphs.items():
            assert np.array_equal(one(GRID), ANSWERS[name])
