"""A module that indexes in every way; run as a script, it is called with indices out of range.

What that does to a process cannot be tested in the one that tests: `python -m tests.support.indexing` ends with 0.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

import npu_persist

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EXTREMES = (-1, -6, 5, 6, 1000, -1000, 10**9, -(10**9), 2**31 - 1, -(2**31))


class Case(NamedTuple):
    """A function of data and indices, and the smallest and largest of each index that torch takes."""

    function: Callable[..., Any]
    low: tuple[int, ...]
    high: tuple[int, ...]


class Indexing(torch.nn.Module):
    """Calls each case with its own indices: all that follow the data, in the order of the cases."""

    def __init__(self, cases: Mapping[str, Case]) -> None:
        super().__init__()
        self.cases = dict(cases)
        self.table = torch.nn.Embedding(5, 3)
        self.bag = torch.nn.EmbeddingBag(5, 3, mode="sum")
        self.register_buffer("numbers", torch.tensor([10, 20, 30, 40, 50]))

    def forward(self, x: torch.Tensor, *indices: torch.Tensor) -> dict[str, torch.Tensor]:
        rest = list(indices)
        results: dict[str, torch.Tensor] = {}
        for name, case in self.cases.items():
            results[name] = case.function(self, x, *rest[: len(case.high)])
            del rest[: len(case.high)]
        return results


def _put(x: torch.Tensor, index: Any, value: float, *, accumulate: bool = False) -> torch.Tensor:
    return x.index_put(index, torch.tensor(value), accumulate=accumulate)


def _assign(x: torch.Tensor, index: Any, value: float) -> torch.Tensor:
    copy = x.clone()
    copy[index] = value
    return copy


CASES = {
    "x[i]": Case(lambda _, x, i: x[i], (-5,), (4,)),
    "x[:, i]": Case(lambda _, x, i: x[:, i], (-4,), (3,)),
    "x[i, j]": Case(lambda _, x, i, j: x[i, j], (-5, -4), (4, 3)),
    "x[i, j, k]": Case(lambda _, x, i, j, k: x[i, j, k], (-5, -4, -3), (4, 3, 2)),
    "x[i, :, k]": Case(lambda _, x, i, k: x[i, :, k], (-5, -3), (4, 2)),
    "x[:, j, k]": Case(lambda _, x, j, k: x[:, j, k], (-4, -3), (3, 2)),
    "x[i[:, None], j]": Case(lambda _, x, i, j: x[i[:, None], j], (-5, -4), (4, 3)),
    "x[arange, j]": Case(lambda _, x, j: x[torch.arange(3), j], (-4,), (3,)),
    "x[i + 1, j - 1]": Case(lambda _, x, i, j: x[i + 1, j - 1], (-6, -3), (3, 4)),
    "take": Case(lambda _, x, i: x.take(i), (-60,), (59,)),
    "index_put": Case(lambda _, x, i, j: _put(x, (i, j), 9.0), (-5, -4), (4, 3)),
    "index_put accumulate": Case(lambda _, x, i, j: _put(x, (i, j), 9.0, accumulate=True), (-5, -4), (4, 3)),
    "index_put one": Case(lambda _, x, i: _put(x, (i,), 9.0), (-5,), (4,)),
    "x[i, j] = v": Case(lambda _, x, i, j: _assign(x, (i, j), 9.0), (-5, -4), (4, 3)),
    "x[i] = v": Case(lambda _, x, i: _assign(x, i, 9.0), (-5,), (4,)),
    "index_fill": Case(lambda _, x, i: x.index_fill(1, i, 9.0), (-4,), (3,)),
    "embedding": Case(lambda self, _, i: self.table(i), (0,), (4,)),
    "embedding_bag": Case(lambda self, _, i: self.bag(i[None]), (0,), (4,)),
    "list of integers": Case(lambda self, _, i: self.numbers[i], (-5,), (4,)),
    "gather": Case(lambda _, x, i: x[:, :, 0].gather(0, i[:, None].expand(3, 4)), (0,), (4,)),
    "index_select": Case(lambda _, x, i: x.index_select(1, i), (0,), (3,)),
    "scatter": Case(lambda _, x, i: x[:, :, 0].scatter(0, i[:, None].expand(3, 4), 9.0), (0,), (4,)),
    "scatter_add": Case(lambda _, x, i: x.scatter_add(0, i[:, None, None].expand(3, 4, 3), x), (0,), (4,)),
    "scatter_reduce": Case(
        lambda _, x, i: x.scatter_reduce(0, i[:, None, None].expand(3, 4, 3), x, "amax"), (0,), (4,)
    ),
    "index_add": Case(lambda _, x, i: x.index_add(0, i, x[:3]), (0,), (4,)),
    "one_hot": Case(lambda _, _x, i: torch.nn.functional.one_hot(i, 5), (0,), (4,)),
}
"""Ways to index with what a model is given; a value out of range can be told before it runs."""

FREE = {
    "index_copy": Case(lambda _, x, i: x.index_copy(0, i, x[:3] * 2), (), (4,)),
    "take_along_dim": Case(lambda _, x, i: torch.take_along_dim(x, i[:, None, None], 0), (), (4,)),
    "computed": Case(lambda _, x, i, j: x[i * j, j * 1], (), (4, 3)),
    "computed gather": Case(lambda _, x, i: x[:, :, 0].gather(0, (i * 2)[:, None].expand(3, 4)), (), (4,)),
    "computed scatter": Case(lambda _, x, i: x[:, :, 0].scatter(0, (i * 2)[:, None].expand(3, 4), 9.0), (), (4,)),
    "part of an input": Case(lambda self, _x, i: self.table(i[:2]) + self.numbers[i[2]], (), (4,)),
    "element of an input": Case(lambda _, x, i: x[i[0]], (), (4,)),
    "floats": Case(lambda _, x, i: x[(x[:3, 0, 0] / 12 * i).long(), i * 1], (), (3,)),
    "narrow": Case(lambda _, x, i: x.narrow(0, i[0], 2), (), (3,)),
    "slice": Case(lambda _, x, i: x[i[0] : i[1] + 1], (), (3,)),
    "mask": Case(lambda _, x, i: x[:3][i > 1], (), (4,)),
}
"""Ways to index of which nothing can be said before they run."""

EXPORTED = frozenset({"index_put", "index_put accumulate", "index_put one", "index_fill"})
"""What only torch.export makes into operations that OpenVINO has; it cannot do some of the others."""


def split(cases: Mapping[str, Case]) -> list[dict[str, Case]]:
    """Return the cases for a trace, and those for torch.export."""
    return [
        {name: case for name, case in cases.items() if (name in EXPORTED) == exported} for exported in (False, True)
    ]


def data() -> torch.Tensor:
    """Return what the cases index."""
    return torch.arange(60.0).reshape(5, 4, 3)


def indices(cases: Mapping[str, Case], choose: Callable[[int, int], list[int]]) -> list[torch.Tensor]:
    """Return the indices of all cases, three numbers each, chosen by the smallest and the largest."""
    return [
        torch.tensor(choose(low, high))
        for case in cases.values()
        for low, high in zip(case.low or (0,) * len(case.high), case.high, strict=True)
    ]


def run_out_of_range() -> None:
    """Call each case with indices far out of range, with fixed and with open sizes."""
    warnings.simplefilter("ignore")
    rows = torch.export.Dim("rows", min=3, max=9)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as store:
        for cases, is_open in itertools.product(split({**CASES, **FREE}), (False, True)):
            example = indices(cases, lambda _low, _high: [0, 1, 0])
            module = Indexing(cases).eval()
            shapes = ({0: rows}, (None,) * len(example)) if is_open else None
            options: dict[str, Any] = {"store": store, "check": False, "dynamic_shapes": shapes}
            bundle = npu_persist.persist(module, "indexing", (data(), *example), **options)
            sys.stdout.write(f"{bundle.reference} {bundle.graph().conversion}\n")
            with npu_persist.load(bundle.path, "CPU", check_values=False, cache=False) as model:
                for value in EXTREMES:
                    for _ in range(3):
                        model(data().numpy(), *[np.full(3, value)] * len(example))


if __name__ == "__main__":
    run_out_of_range()
