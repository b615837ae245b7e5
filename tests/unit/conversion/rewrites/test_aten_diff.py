"""`torch.diff`, with everything that it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import npu_persist

X = torch.tensor([[1.0, 4.0, 9.0, 16.0], [2.0, 3.0, 5.0, 7.0]])


@pytest.mark.parametrize(
    "arguments",
    [{}, {"n": 2}, {"dim": 0}, {"prepend": X[:, :1] * 3, "append": X[:, 1:2] * 5}],
    ids="-".join,
)
def test_differences_are_torchs(arguments: dict[str, Any]) -> None:
    class Diff(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.diff(x, **arguments)

    bundle = npu_persist.persist(Diff(), "diff", (X,), precision="fp32")
    assert bundle.graph().conversion == "trace"
    np.testing.assert_allclose(npu_persist.load("diff", "CPU")(X * 2), torch.diff(X * 2, **arguments))
