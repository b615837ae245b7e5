"""`embedding_bag`: OpenVINO's frontend ignores `padding_idx` and lacks `max`; its plugin fails with offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable


def embedding_bag(
    _: Any,
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Reduce the rows of each bag, without those of the padding."""
    del norm_type, scale_grad_by_freq, sparse
    if max_norm is not None or (offsets is None and mode != "max" and padding_idx is None):
        return NotImplemented
    rows, bags = functional.embedding(input, weight), _bags(input, offsets)
    count = input.shape[0] if offsets is None else offsets.shape[0] - int(include_last_offset)
    is_real = (
        torch.ones_like(input) if padding_idx is None else (input != padding_idx % weight.shape[0]).to(input.dtype)
    )
    rows, bags, is_real = rows.reshape(-1, weight.shape[1]), bags.reshape(-1), is_real.reshape(-1)
    kept = is_real[:, None].to(rows.dtype)
    result = torch.zeros(count, weight.shape[1], dtype=rows.dtype)
    if mode == "max":
        rows = torch.where(kept > 0, rows, torch.full_like(rows, torch.finfo(rows.dtype).min))
        index = bags[:, None].expand(rows.shape)
        largest = result.scatter_reduce(0, index, rows, "amax", include_self=False)
        return torch.where(largest > torch.finfo(rows.dtype).min, largest, torch.zeros_like(largest))
    if per_sample_weights is not None:
        kept = kept * per_sample_weights.reshape(-1, 1)
    result = result.index_add(0, bags, rows * kept)
    if mode == "sum":
        return result
    sizes = torch.zeros(count, dtype=rows.dtype).index_add(0, bags, is_real.to(rows.dtype))
    return result / sizes.clamp(min=1)[:, None]


def _bags(input: torch.Tensor, offsets: torch.Tensor | None) -> torch.Tensor:
    """Return the number of each index's bag."""
    if offsets is None:
        return torch.arange(input.shape[0])[:, None].expand(input.shape)
    return (torch.arange(input.shape[0])[:, None] >= offsets[None]).to(torch.int64).sum(1) - 1


REPLACEMENTS: dict[str, Callable[..., Any]] = {"embedding_bag": embedding_bag}
