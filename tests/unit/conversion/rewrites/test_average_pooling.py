"""Windows at the border are divided as torch divides them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls


def test_windows_beyond_the_padding() -> None:
    x = torch.randn(1, 2, 6, 7)
    arguments = [(3, 2, 1), (2, 2, 0), (3, 3, 1), (3, 2, 0), (4, 3, 2), (2, 3, 1)]
    pools = Calls(lambda x: tuple(F.avg_pool2d(x, *given, True, True) for given in arguments))  # noqa: FBT003
    assert_as_torch(pools, (x,), (x * 3 + 1,))


def test_other_numbers_of_axes() -> None:
    one = Calls(lambda x: F.avg_pool1d(x, 4, 3, 2, ceil_mode=True))
    assert_as_torch(one, (torch.randn(1, 2, 10),), (torch.randn(1, 2, 10) + 1,))
    three = Calls(lambda x: F.avg_pool3d(x, 2, 2, 1, ceil_mode=True))
    assert_as_torch(three, (torch.randn(1, 1, 4, 5, 6),), (torch.randn(1, 1, 4, 5, 6) + 1,))
