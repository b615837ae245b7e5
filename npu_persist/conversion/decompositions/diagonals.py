"""Diagonals and triangles of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def diagonal(self: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> torch.Tensor:
    """Return a diagonal as the last axis."""
    value = torch.movedim(self, (dim1, dim2), (-2, -1))
    rows, columns = value.shape[-2], value.shape[-1]
    down, right = max(-offset, 0), max(offset, 0)
    if int(rows) - down <= 0 or int(columns) - right <= 0:
        return value[..., 0:0, 0]
    length = rows - down if int(rows) - down <= int(columns) - right else columns - right
    places = torch.arange(length) * (columns + 1) + (down * columns + right)
    return value.flatten(-2).index_select(-1, places)


def trace(self: torch.Tensor) -> torch.Tensor:
    """Sum a matrix's diagonal."""
    return diagonal(self).sum()


def diagonal_scatter(
    self: torch.Tensor, src: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> torch.Tensor:
    """Return a copy with another diagonal."""
    value = torch.movedim(self, (dim1, dim2), (-2, -1))
    down, right = max(-offset, 0), max(offset, 0)
    rows = torch.arange(value.shape[-2]).unsqueeze(-1) - down
    columns = torch.arange(value.shape[-1]).unsqueeze(0) - right
    # Each row takes the element of its own place; rows that the diagonal misses take any.
    spread = src.index_select(-1, rows.squeeze(-1).clamp(0, int(src.shape[-1]) - 1)).unsqueeze(-1)
    is_on = (rows == columns) & (rows >= 0) & (columns >= 0)
    return torch.movedim(torch.where(is_on, spread, value), (-2, -1), (dim1, dim2))


def tril_indices(row: int, col: int, offset: int = 0, **_: Any) -> torch.Tensor:
    """Return rows and columns of a lower triangle."""
    return torch.ones(row, col).tril(offset).nonzero().transpose(0, 1)


def triu_indices(row: int, col: int, offset: int = 0, **_: Any) -> torch.Tensor:
    """Return rows and columns of an upper triangle."""
    return torch.ones(row, col).triu(offset).nonzero().transpose(0, 1)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "diagonal": diagonal,
    "diagonal_copy": diagonal,
    "linalg_diagonal": lambda A, *, offset=0, dim1=-2, dim2=-1: diagonal(A, offset, dim1, dim2),
    "trace": trace,
    "diagonal_scatter": diagonal_scatter,
    "tril_indices": tril_indices,
    "triu_indices": triu_indices,
}
