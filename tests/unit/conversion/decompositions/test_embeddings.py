"""`embedding_bag` with all its arguments, and `F.unfold` beside `Tensor.unfold`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls

TABLE = torch.randn(9, 4)
INDICES = torch.tensor([3, 1, 4, 1, 5, 8, 2, 6])


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_by_offsets(mode: str) -> None:
    module = Calls(lambda x, offsets: F.embedding_bag(x, TABLE, offsets, mode=mode, padding_idx=2))
    other = torch.tensor([2, 2, 2, 0, 1, 2, 7, 7])
    assert_as_torch(
        module, (INDICES, torch.tensor([0, 3, 5])), (other, torch.tensor([0, 3, 3])), (other, torch.tensor([0, 1, 8]))
    )


def test_bags_of_one_size() -> None:
    def bags(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weights = torch.arange(8.0).reshape(2, 4)
        return (
            *(F.embedding_bag(x, TABLE, mode=mode, padding_idx=-1) for mode in ("sum", "mean", "max")),
            F.embedding_bag(x, TABLE, mode="sum", per_sample_weights=weights, padding_idx=0),
            F.embedding_bag(x, TABLE, mode="max"),
        )

    assert_as_torch(Calls(bags), (INDICES.reshape(2, 4),), (torch.tensor([[8, 8, 8, 8], [0, 8, 0, 1]]),))


def test_the_last_offset() -> None:
    module = Calls(lambda x, offsets: F.embedding_bag(x, TABLE, offsets, include_last_offset=True))
    assert_as_torch(module, (INDICES, torch.tensor([0, 3, 8])), (INDICES, torch.tensor([0, 0, 8])))


def test_unfolding_images() -> None:
    x = torch.randn(1, 2, 6, 7)
    assert_as_torch(Calls(lambda x: (F.unfold(x, 3, padding=1), x.unfold(-1, 3, 2))), (x,), (x * 2,))
