"""What counts: histc, unique_consecutive, nonzero_static."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def histc(self: torch.Tensor, bins: int = 100, min: float = 0, max: float = 0) -> torch.Tensor:
    """Count elements in equal bins; those outside are left out, and `max` itself is in the last bin."""
    value = self.reshape(-1)
    if min == max:
        low, high = value.amin(), value.amax()
        is_flat = low == high
        low, high = torch.where(is_flat, low - 1, low), torch.where(is_flat, high + 1, high)
    else:
        low, high = torch.full((), min, dtype=value.dtype), torch.full((), max, dtype=value.dtype)
    place = ((value - low) * bins / (high - low)).floor().clamp(0, bins - 1).to(torch.int64)
    is_inside = ((value >= low) & (value <= high)).to(value.dtype)
    return torch.zeros(bins, dtype=value.dtype).scatter_add(0, place, is_inside)


def unique_consecutive(
    self: torch.Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> tuple[torch.Tensor, ...]:
    """Return the elements that differ from the one before, the place of each element among them, and their counts."""
    value = self.reshape(-1) if dim is None else self.transpose(0, dim)
    differs = value[1:] != value[:-1]
    while differs.dim() > 1:
        differs = differs.any(-1)
    is_first = torch.cat([torch.ones_like(value[:1].reshape(1, -1)[:, 0], dtype=torch.bool), differs])
    places = is_first.nonzero()[:, 0]
    found = value.index_select(0, places)
    found = found if dim is None else found.transpose(0, dim)
    none = torch.zeros(0, dtype=torch.int64)
    inverse = torch.cumsum(is_first.to(torch.int64), 0) - 1 if return_inverse else none
    if return_inverse and dim is None:
        inverse = inverse.reshape(self.shape)
    ends = torch.cat([places[1:], torch.ones_like(is_first, dtype=torch.int64).sum(0, keepdim=True)])
    return found, inverse, ends - places if return_counts else none


def nonzero_static(self: torch.Tensor, *, size: int, fill_value: int = -1) -> torch.Tensor:
    """Return the indices of what is not zero, cut or filled to `size` of them."""
    found = self.nonzero()
    return torch.cat([found, torch.full((size, self.dim()), fill_value, dtype=torch.int64)])[:size]


OPERATIONS: dict[str, Callable[..., Any]] = {
    "histc": histc,
    "unique_consecutive": unique_consecutive,
    "nonzero_static": nonzero_static,
}
