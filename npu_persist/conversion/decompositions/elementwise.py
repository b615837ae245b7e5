"""Functions of each element by itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def nan_to_num(
    self: torch.Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> torch.Tensor:
    """Replace NaN and the infinities, by default with 0 and the dtype's limits."""
    if not self.is_floating_point():
        return self.clone()
    limits = torch.finfo(self.dtype)
    value = self.masked_fill(self == float("inf"), limits.max if posinf is None else posinf)
    value = value.masked_fill(self == float("-inf"), limits.min if neginf is None else neginf)
    return value.masked_fill(self != self, 0.0 if nan is None else nan)


def trunc(self: torch.Tensor) -> torch.Tensor:
    """Round towards zero."""
    return torch.where(self < 0, self.ceil(), self.floor()) if self.is_floating_point() else self.clone()


def sgn(self: torch.Tensor) -> torch.Tensor:
    """Return the sign of real numbers."""
    return self.clone() if self.dtype is torch.bool else torch.sign(self)


def signbit(self: torch.Tensor) -> torch.Tensor:
    """Return where the sign is negative, that of -0.0 too."""
    if not self.is_floating_point():
        return self < 0 if self.dtype is not torch.bool else torch.zeros_like(self)
    return (self < 0) | ((self == 0) & (1 / self < 0))


def copysign(self: torch.Tensor, other: torch.Tensor | float) -> torch.Tensor:
    """Return one's magnitude with the other's sign."""
    sign = torch.as_tensor(other, dtype=torch.float32) if not isinstance(other, torch.Tensor) else other
    magnitude = (self if self.is_floating_point() else self.to(torch.float32)).abs()
    return torch.where(signbit(sign), -magnitude, magnitude)


def heaviside(self: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return 0 below zero, 1 above and `values` at it."""
    step = torch.where(self > 0, torch.ones_like(self), torch.zeros_like(self))
    step = torch.where(self == 0, values, step)
    return torch.where(self != self, torch.zeros_like(self), step) if self.is_floating_point() else step


def fmax(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the larger one; a number rather than NaN."""
    return _extreme_number(self, other, torch.maximum)


def fmin(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the smaller one; a number rather than NaN."""
    return _extreme_number(self, other, torch.minimum)


def _extreme_number(left: torch.Tensor, right: torch.Tensor, choose: Callable[..., torch.Tensor]) -> torch.Tensor:
    chosen = choose(left, right)
    if not chosen.is_floating_point():
        return chosen
    chosen = torch.where(left != left, right.to(chosen.dtype), chosen)
    return torch.where(right != right, left.to(chosen.dtype), chosen)


def hypot(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the hypotenuse, without overflow in the squares."""
    left, right = self.abs(), other.abs()
    scale = torch.maximum(left, right)
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    return scale * torch.sqrt((left / safe) ** 2 + (right / safe) ** 2)


def exp2(self: torch.Tensor) -> torch.Tensor:
    """Return powers of two."""
    return torch.pow(2.0, self if self.is_floating_point() else self.to(torch.float32))


def ldexp(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Multiply by powers of two."""
    return self * torch.pow(2.0, other.to(torch.float32))


def logaddexp2(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Add powers of two, in logarithms."""
    two = math.log(2)
    return torch.logaddexp(self * two, other * two) / two


def isin(
    elements: torch.Tensor | float,
    test_elements: torch.Tensor | float,
    *,
    assume_unique: bool = False,
    invert: bool = False,
) -> torch.Tensor:
    """Return which elements are among others."""
    del assume_unique
    left, right = torch.as_tensor(elements), torch.as_tensor(test_elements)
    found = (left.unsqueeze(-1) == right.reshape(-1)).any(-1)
    return ~found if invert else found


def shift_right(self: torch.Tensor, other: torch.Tensor | int) -> torch.Tensor:
    """Shift integers to the right: a division by a power of two that rounds down."""
    return torch.floor_divide(self, _power_of_two(self, other))


def shift_left(self: torch.Tensor, other: torch.Tensor | int) -> torch.Tensor:
    """Shift integers to the left: a product with a power of two."""
    return self * _power_of_two(self, other)


def _power_of_two(value: torch.Tensor, exponent: torch.Tensor | int) -> torch.Tensor | int:
    return torch.pow(2, exponent.to(value.dtype)) if isinstance(exponent, torch.Tensor) else 2 ** int(exponent)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "nan_to_num": nan_to_num,
    "trunc": trunc,
    "fix": trunc,
    "sgn": sgn,
    "signbit": signbit,
    "copysign.Tensor": copysign,
    "copysign.Scalar": copysign,
    "heaviside": heaviside,
    "fmax": fmax,
    "fmin": fmin,
    "hypot": hypot,
    "exp2": exp2,
    "special_exp2": exp2,
    "ldexp.Tensor": ldexp,
    "logaddexp2": logaddexp2,
    "isin.Tensor_Tensor": isin,
    "isin.Tensor_Scalar": isin,
    "isin.Scalar_Tensor": isin,
    "bitwise_right_shift.Tensor": shift_right,
    "bitwise_right_shift.Tensor_Scalar": shift_right,
    "__rshift__.Tensor": shift_right,
    "__rshift__.Scalar": shift_right,
    "bitwise_left_shift.Tensor": shift_left,
    "bitwise_left_shift.Tensor_Scalar": shift_left,
    "__lshift__.Tensor": shift_left,
    "__lshift__.Scalar": shift_left,
}
