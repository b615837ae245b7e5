"""Make the frozen bundles of a format: `python -m tests.support.freeze`, once for each version of the format.

They go to tests/data/bundles/<format version>/<name>/, each with <name>.npz beside it: inputs that the example did not
show, and what torch answered. What is there is never made again: every later version has to load it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils import _pytree as pytree

import npu_persist as npup
from npu_persist.bundle.document import FORMAT_VERSION

FOLDER = Path(__file__).parents[1] / "data" / "bundles"


class Affine(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)
        return result


class Pair(NamedTuple):
    first: torch.Tensor
    second: list[torch.Tensor]


class Nested(torch.nn.Module):
    def forward(
        self, x: torch.Tensor, others: dict[str, torch.Tensor], *, scale: float = 2.0, flag: bool = True
    ) -> dict[str, Any]:
        both = x * scale + others["y"]
        return {"pair": Pair(both, [x, others["y"]]), "nothing": None, "flag": flag, "half": (both / 2,)}


class Integers(torch.nn.Module):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.where(mask, ids, -ids).sum(-1), mask.any(-1)


class Pool(torch.nn.Module):
    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        kept = attention_mask[..., None].float()
        return (torch.nn.functional.one_hot(ids, 8).float() * kept).sum(1) / kept.sum(1)


class Branch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if bool(x.sum() > 0) else x - 1


class Lookup(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(8, 3)

    def forward(self, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.table(ids)[rows, rows - 1]
        return result


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.GRUCell(4, 3)

    def forward(self, x: torch.Tensor, state: torch.Tensor, past: torch.Tensor) -> Any:
        state, past = self.cell(x, state), torch.cat([past, x[:, None]], 1)
        return state + past.sum((1, 2))[:, None], state, past


def main() -> None:
    """Make what is missing."""
    torch.manual_seed(20261128)
    row, ids = torch.randn(2, 4), torch.randint(0, 8, (1, 16))
    batch = torch.export.Dim("batch", min=1, max=8)
    _freeze("affine", Affine(), (row,), (row * -3,))
    _freeze("affine-fp32", Affine(), (row,), (row * -3,), precision="fp32")
    _freeze("convolution", torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.GELU()),
            (torch.randn(1, 1, 6, 6),), (torch.randn(1, 1, 6, 6),))  # fmt: skip
    _freeze("nested", Nested(), (row, {"y": row}), (row - 1, {"y": row * 5}))
    mask = torch.tensor([[True, False, True]])
    _freeze("integers", Integers(), (torch.tensor([[1, 2, 3]]), mask), (torch.tensor([[-70000, 5, 9]]), ~mask))
    _freeze("dynamic", Affine(), (row,), (torch.randn(7, 4),), dynamic_shapes=({0: batch},))
    _freeze("buckets", Pool(), (ids, torch.ones_like(ids)), (ids[:, :5], torch.ones_like(ids[:, :5])),
            buckets=[{"ids": (1, 16)}, {"ids": (1, 64)}])  # fmt: skip
    _freeze("warned", Branch(), (row.abs(),), (row.abs() + 1,))
    _freeze("bounds", Lookup(), (torch.randint(0, 8, (4, 3)), torch.tensor([0, 1, 2])),
            (torch.randint(0, 8, (4, 3)), torch.tensor([3, -1, 0])))  # fmt: skip
    states, past = {"state": "output.1", "past": "output.2"}, torch.export.Dim("past", min=0, max=8)
    _freeze("states", Recurrent(), (row, torch.zeros(2, 3), torch.zeros(2, 2, 4)),
            (row * 3, torch.zeros(2, 3), torch.zeros(2, 0, 4)),
            states=states, dynamic_shapes={"x": None, "state": None, "past": {1: past}})  # fmt: skip
    _freeze_graphs("graphs", row, row * -3)
    _freeze("attached", Affine(), (row,), (row * 7,), targets=["CPU"], metadata={"owner": "tests", "epochs": [1, 2]})


def _freeze(
    name: str, module: torch.nn.Module, example: tuple[Any, ...], call: tuple[Any, ...], **options: Any
) -> None:
    folder = FOLDER / FORMAT_VERSION / name
    if folder.exists():
        return
    with tempfile.TemporaryDirectory() as store:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bundle = npup.persist(module.eval(), name, example, store=store, **options)
        shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("*.bin", "used", ".*"))
    with torch.no_grad():
        answer = module(*call)
    if "states" in options:  # the first call of a conversation
        call, answer = call[:1], answer[0]
    arrays = {f"input{index}": leaf.numpy() for index, leaf in enumerate(pytree.tree_leaves(call))}
    leaves = [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, torch.Tensor)]
    arrays |= {f"output{index}": leaf.numpy() for index, leaf in enumerate(leaves)}
    np.savez(folder.parent / f"{name}.npz", digest=bundle.digest, **arrays)
    sys.stdout.write(f"{folder}\n")


def _freeze_graphs(name: str, example: torch.Tensor, call: torch.Tensor) -> None:
    """Freeze a bundle of two graphs that take the same input; one tensor is of both."""
    folder = FOLDER / FORMAT_VERSION / name
    if folder.exists():
        return
    first, second = Affine().eval(), torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(4, 3)).eval()
    second[1].weight = first.layer.weight
    examples = {"first": npup.Example(first, (example,)), "second": npup.Example(second, (example,))}
    with tempfile.TemporaryDirectory() as store:
        bundle = npup.persist(examples, name, store=store)
        shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("*.bin", ".*"))
    with torch.no_grad():
        answers = {"output0": first(call).numpy(), "output1": second(call).numpy()}
    np.savez(folder.parent / f"{name}.npz", digest=bundle.digest, input0=call.numpy(), **answers)
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
