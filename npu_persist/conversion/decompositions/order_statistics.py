"""Medians and modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

Pair = tuple[torch.Tensor, torch.Tensor]


def median(self: torch.Tensor) -> torch.Tensor:
    """Return the lower median of all elements; NaN if one is."""
    return median_dim(self.reshape(-1), 0)[0]


def nanmedian(self: torch.Tensor) -> torch.Tensor:
    """Return the lower median of the elements that are numbers."""
    return nanmedian_dim(self.reshape(-1), 0)[0]


def median_dim(self: torch.Tensor, dim: int, keepdim: bool = False) -> Pair:
    """Return the lower median along an axis and where it is; NaN, and the first one, if one is."""
    if self.dim() == 0:
        return self.clone(), torch.zeros((), dtype=torch.int64)
    values, places = torch.sort(self, stable=True, dim=dim)
    middle = (values.shape[dim] - 1) // 2
    value, place = values.narrow(dim, middle, 1), places.narrow(dim, middle, 1)
    if self.is_floating_point():
        is_nan = self != self
        has_nan = is_nan.any(dim, keepdim=True)
        value = value.masked_fill(has_nan, float("nan"))
        place = torch.where(has_nan, is_nan.to(torch.int32).argmax(dim, keepdim=True), place)
    return _keep(value, place, dim, keepdim=keepdim)


def nanmedian_dim(self: torch.Tensor, dim: int, keepdim: bool = False) -> Pair:
    """Return the lower median of an axis's numbers and where it is."""
    if self.dim() == 0 or not self.is_floating_point():
        return median_dim(self, dim, keepdim)
    is_nan = self != self
    values, places = torch.sort(self.masked_fill(is_nan, float("inf")), stable=True, dim=dim)
    count = (~is_nan).to(torch.int64).sum(dim, keepdim=True)
    middle = ((count - 1).clamp(min=0).to(torch.float32) * 0.5).floor().to(torch.int64)
    value, place = values.gather(dim, middle), places.gather(dim, middle)
    return _keep(value.masked_fill(count == 0, float("nan")), place, dim, keepdim=keepdim)


def mode(self: torch.Tensor, dim: int = -1, keepdim: bool = False) -> Pair:
    """Return the most frequent value along an axis, the smallest of equally frequent ones, and where it is last."""
    if self.dim() == 0:
        return self.clone(), torch.zeros((), dtype=torch.int64)
    last = self.transpose(dim, -1)
    values, _ = torch.sort(last, -1)
    counts = (values.unsqueeze(-1) == values.unsqueeze(-2)).to(torch.int32).sum(-1)
    is_most = counts == counts.amax(-1, keepdim=True)
    value = values.gather(-1, is_most.to(torch.int32).argmax(-1, keepdim=True))
    where = torch.cumsum(torch.ones_like(last, dtype=torch.int64), -1) - 1
    place = torch.where(last == value, where, -1).amax(-1, keepdim=True)
    return _keep(value.transpose(dim, -1), place.transpose(dim, -1), dim, keepdim=keepdim)


def _keep(value: torch.Tensor, place: torch.Tensor, dim: int, *, keepdim: bool) -> Pair:
    return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "median": median,
    "median.dim": median_dim,
    "nanmedian": nanmedian,
    "nanmedian.dim": nanmedian_dim,
    "mode": mode,
}
