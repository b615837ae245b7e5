"""Matrix products and decompositions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_CHOLESKY = 64
"""The largest matrix whose decomposition is written out, a column after the other."""


def addbmm(
    self: torch.Tensor, batch1: torch.Tensor, batch2: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """Add the sum of a batch's matrix products."""
    product = torch.bmm(batch1, batch2).sum(0)
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else (self if beta == 1 else self * beta) + product


def linalg_solve_ex(
    A: torch.Tensor,
    B: torch.Tensor,
    *,
    left: bool = True,
    check_errors: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve by the inverse."""
    del check_errors
    inverse: torch.Tensor = torch.linalg.inv(A)
    is_vector = B.dim() == 1 or (B.dim() == A.dim() - 1 and B.shape == A.shape[:-1])
    right = B.unsqueeze(-1) if is_vector else B
    solved = inverse @ right if left else right @ inverse
    return solved.squeeze(-1) if is_vector else solved, torch.zeros(A.shape[:-2], dtype=torch.int32)


def linalg_inv_ex(A: torch.Tensor, *, check_errors: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inverse, and that it worked."""
    del check_errors
    return torch.linalg.inv(A), torch.zeros(A.shape[:-2], dtype=torch.int32)


def linalg_solve_triangular(
    self: torch.Tensor,
    B: torch.Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> torch.Tensor:
    """Solve by the inverse of the triangle."""
    triangle = self.triu() if upper else self.tril()
    if unitriangular:
        triangle = triangle - torch.diag_embed(torch.diagonal(triangle, 0, -2, -1)) + torch.eye(self.shape[-1])
    inverse: torch.Tensor = torch.linalg.inv(triangle)
    return inverse @ B if left else B @ inverse


def cholesky(self: torch.Tensor, upper: bool = False) -> torch.Tensor:
    """Return the Cholesky factor, a column after the other."""
    size = int(self.shape[-1])
    if size > LARGEST_CHOLESKY:
        raise NotImplementedError(
            f"aten::cholesky of a matrix of {size} rows: only up to {LARGEST_CHOLESKY} are supported. Compute the "
            "factor outside of the module and pass it as an input"
        )
    if size == 0:
        return self.clone()
    columns: list[torch.Tensor] = []
    for index in range(size):
        column = self[..., index:, index]
        for earlier in columns:
            column = column - earlier[..., index:] * earlier[..., index : index + 1]
        column = column / torch.sqrt(column[..., :1])
        columns.append(torch.cat([torch.zeros_like(self[..., :index, index]), column], -1))
    return torch.stack(columns, -2 if upper else -1)


def linalg_cholesky_ex(
    self: torch.Tensor, *, upper: bool = False, check_errors: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the Cholesky factor, and that it worked."""
    del check_errors
    return cholesky(self, upper), torch.zeros(self.shape[:-2], dtype=torch.int32)


def cholesky_solve(self: torch.Tensor, input2: torch.Tensor, upper: bool = False) -> torch.Tensor:
    """Solve with a matrix that is given as its Cholesky factor."""
    inverse: torch.Tensor = torch.linalg.inv(input2.triu() if upper else input2.tril())
    return inverse @ (inverse.mT @ self) if upper else inverse.mT @ (inverse @ self)


def cholesky_inverse(self: torch.Tensor, upper: bool = False) -> torch.Tensor:
    """Return the inverse of a matrix that is given as its Cholesky factor."""
    inverse: torch.Tensor = torch.linalg.inv(self.triu() if upper else self.tril())
    return inverse @ inverse.mT if upper else inverse.mT @ inverse


def pdist(self: torch.Tensor, p: float = 2) -> torch.Tensor:
    """Return the distances of all pairs of rows."""
    rows, columns = torch.ones(self.shape[0], self.shape[0]).triu(1).nonzero().unbind(1)
    distances: torch.Tensor = torch.cdist(self, self, p)
    return distances[rows, columns]


OPERATIONS: dict[str, Callable[..., Any]] = {
    "pdist": pdist,
    "addbmm": addbmm,
    "linalg_solve_ex": linalg_solve_ex,
    "linalg_inv_ex": linalg_inv_ex,
    "linalg_solve_triangular": linalg_solve_triangular,
    "cholesky": cholesky,
    "linalg_cholesky_ex": linalg_cholesky_ex,
    "cholesky_solve": cholesky_solve,
    "cholesky_inverse": cholesky_inverse,
}
