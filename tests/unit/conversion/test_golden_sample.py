"""`check` of what `persist` wrote: whatever a module gives, its golden sample says whether a device gives it too."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from npu_persist import check, persist
from npu_persist.errors import DeviceWarning, FileIntegrityError
from npu_persist.store import Store
from tests.support.graphs import GOLDEN
from tests.support.loads import spoil

if TYPE_CHECKING:
    from pathlib import Path

NPUW = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE"}


class Everything(torch.nn.Module):
    """Floats of several types, integers, flags, a scalar and a constant, in a structure."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, ids: torch.Tensor, *, scale: float = 1.0) -> dict[str, Any]:
        y = self.layer(x) * scale
        return {
            "values": [y, y.sum(), y.to(torch.float16)],
            "choice": y.argmax(-1),
            "flags": ids > 1,
            "ids": ids * 3,
            "number": 7,
            "nothing": None,
        }


class Pooled(torch.nn.Module):
    """A function of a sequence that ignores what the mask leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(20, 8)

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = self.table(ids) * attention_mask.unsqueeze(-1)
        return states, states.sum(1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    torch.manual_seed(0)
    return Store(tmp_path / "home")


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_every_kind_of_output(store: Store, precision: Any) -> None:
    example = (torch.randn(2, 4), torch.tensor([0, 1, 2]))
    bundle = persist(Everything(), "everything", example, {"scale": 2.0}, precision=precision, store=store)
    result = check("everything", "CPU", config={"INFERENCE_PRECISION_HINT": "f32"}, store=store)
    outputs = {output.output: output for output in result.runs[0].outputs}
    assert result.is_right
    dtypes = [output.dtype for output in outputs.values()]
    assert dtypes == ["float32", "float32", "float16", "int64", "bool", "int64"]
    assert bundle.manifest.golden is not None
    assert bundle.manifest.golden.differences == tuple(output.difference for output in outputs.values())
    assert [output.persisted for output in outputs.values()] == [output.difference for output in outputs.values()]


def test_each_bucket_through_the_npus_plugin(store: Store) -> None:
    example = (torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.int64))
    buckets = [{"ids": (1, size)} for size in (2, 4, 8)]
    persist(Pooled(), "pooled", example, buckets=buckets, precision="fp32", store=store)
    with pytest.warns(DeviceWarning, match="was persisted for float32"):
        result = check("pooled", "NPU", config=NPUW, store=store)
    assert result.is_right
    assert [run.shapes["ids"] for run in result.runs if run.shapes] == [(1, 4), (1, 8)]
    assert [shapes["ids"] for shapes in result.skipped] == [(1, 2)]


def test_a_bundle_that_was_not_checked(store: Store) -> None:
    """Its golden sample has torch's answers all the same."""
    persist(Everything(), "unchecked", (torch.randn(2, 4), torch.arange(3)), check=False, store=store)
    result = check("unchecked", "CPU", store=store)
    assert (result.is_right, result.tolerance_source) == (True, "default")
    assert all(output.persisted is None for output in result.runs[0].outputs)


def test_a_golden_sample_that_was_changed_is_no_answer(store: Store, tmp_path: Path) -> None:
    bundle = persist(Everything(), "changed", (torch.randn(2, 4), torch.arange(3)), store=store)
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy, copy_function=shutil.copyfile)
    spoil(copy / GOLDEN)
    with pytest.raises(FileIntegrityError, match=GOLDEN):
        check(copy, "CPU", store=store)
