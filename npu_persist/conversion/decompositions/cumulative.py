"""What accumulates along an axis: cumprod, cummax, cummin, logcumsumexp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from npu_persist.conversion.decompositions.sizes import fixed_size

if TYPE_CHECKING:
    from collections.abc import Callable

Parts = tuple[torch.Tensor, ...]


def cumprod(self: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Multiply up to each element; integers in int64, as torch does."""
    if dtype is None and not self.is_floating_point() and not self.is_complex():
        dtype = torch.int64
    value = self if dtype is None else self.to(dtype)
    return _scan((value,), dim, (1,), lambda left, right: (left[0] * right[0],))[0]


def logcumsumexp(self: torch.Tensor, dim: int) -> torch.Tensor:
    """Sum exponentials up to each element, in logarithms."""
    return _scan((self,), dim, (float("-inf"),), lambda left, right: (torch.logaddexp(left[0], right[0]),))[0]


def cummax(self: torch.Tensor, dim: int) -> Parts:
    """Return the largest up to each element and where it is: the last of equals."""
    return _cumulative_extreme(self, dim, lambda later, earlier: later >= earlier)


def cummin(self: torch.Tensor, dim: int) -> Parts:
    """Return the smallest up to each element and where it is: the last of equals."""
    return _cumulative_extreme(self, dim, lambda later, earlier: later <= earlier)


def _cumulative_extreme(value: torch.Tensor, dim: int, wins: Callable[[torch.Tensor, torch.Tensor], Any]) -> Parts:
    if value.dim() == 0:
        return value.clone(), torch.zeros_like(value, dtype=torch.int64)
    is_bool = value.dtype is torch.bool
    value = value.to(torch.uint8) if is_bool else value
    where = torch.cumsum(torch.ones_like(value, dtype=torch.int64), dim) - 1

    def choose(left: Parts, right: Parts) -> Parts:
        # An index of -1 stands in front of the first element, where there is nothing.
        is_right = (left[1] < 0) | wins(right[0], left[0])
        if value.is_floating_point():
            is_right = is_right | torch.isnan(right[0])
            is_right = is_right & ((left[1] < 0) | ~torch.isnan(left[0]) | torch.isnan(right[0]))
        return torch.where(is_right, right[0], left[0]), torch.where(is_right, right[1], left[1])

    values, indices = _scan((value, where), dim, (0, -1), choose)
    return values.to(torch.bool) if is_bool else values, indices


def _scan(parts: Parts, dim: int, neutral: tuple[float, ...], combine: Callable[[Parts, Parts], Parts]) -> Parts:
    """Combine each element with all before it, in as many steps as the size has binary digits.

    Each step combines with what is 1, 2, 4, … places before. Where the size may vary, the steps are enough for any.
    """
    if parts[0].dim() == 0:
        return tuple(part.clone() for part in parts)
    size = fixed_size(parts[0].shape[dim])
    step, limit = 1, size if size is not None else _LONGEST
    while step < limit:
        shifted = tuple(_shift(part, dim, step, fill) for part, fill in zip(parts, neutral, strict=True))
        parts = combine(shifted, parts)
        step *= 2
    return parts


_LONGEST = 1 << 16
"""The longest axis whose size may vary."""


def _shift(value: torch.Tensor, dim: int, step: int, fill: float) -> torch.Tensor:
    size = value.shape[dim]
    repeats = [step if axis == dim % value.dim() else 1 for axis in range(value.dim())]
    head = torch.full_like(value.narrow(dim, 0, 1), fill).repeat(repeats)
    return torch.cat([head, value], dim).narrow(dim, 0, size)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "cumprod": cumprod,
    "logcumsumexp": logcumsumexp,
    "cummax": cummax,
    "cummin": cummin,
}
