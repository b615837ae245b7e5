"""Bundles that earlier versions wrote load, and answer as torch did."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npu_persist
from npu_persist.bundle.bundle import Bundle

FOLDER = Path(__file__).parents[1] / "data" / "bundles"
FROZEN = sorted(path.parent for path in FOLDER.glob("*/*/manifest.json"))
KINDS = 12
F32 = {"INFERENCE_PRECISION_HINT": "f32"}  # these are tests of the format; the machine may have bf16


def frozen_id(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name}"


def leaves(value: Any) -> list[np.ndarray[Any, Any]]:
    if isinstance(value, np.ndarray | np.generic):
        return [np.asarray(value)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return []


def test_one_of_each_kind_is_there() -> None:
    assert len(FROZEN) >= KINDS


@pytest.mark.parametrize("folder", FROZEN, ids=frozen_id)
def test_it_is_what_it_was(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / folder.name)
    kept = np.load(folder.parent / f"{folder.name}.npz")
    bundle = Bundle.open(tmp_path / folder.name)
    bundle.verify()
    assert bundle.digest == kept["digest"]


@pytest.mark.parametrize("folder", FROZEN, ids=frozen_id)
def test_it_answers_as_torch_did(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / folder.name)
    kept = np.load(folder.parent / f"{folder.name}.npz")
    inputs = [kept[f"input{index}"] for index in range(sum(name.startswith("input") for name in kept))]
    with npu_persist.load(tmp_path / folder.name, device="CPU", config=F32) as model:
        call = (inputs[0], {"y": inputs[1]}) if folder.name == "nested" else inputs
        found = [leaf for one in model.graphs.values() for leaf in leaves(one(*call))]
    expected = [kept[f"output{index}"] for index in range(sum(name.startswith("output") for name in kept))]
    assert [one.dtype for one in found] == [one.dtype for one in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def test_a_conversation_goes_as_torchs_did(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "1.0" / "states", tmp_path / "states")
    result = npu_persist.check(tmp_path / "states", "CPU", config=F32)
    assert result.is_right
    with npu_persist.load(tmp_path / "states", "CPU", config=F32) as model, model.session() as session:
        x = np.ones((2, 4), np.float32)
        assert [session(x).shape for _ in range(8)] == [(2, 3)] * 8
        with pytest.raises(npu_persist.errors.StateCapacityError, match="holds 8 of at most 8"):
            session(x)
