"""Functions of complex tensors, as functions of their parts: OpenVINO's frontend knows only a few."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Callable


def _is_complex(value: Any) -> bool:
    return isinstance(value, complex) or (isinstance(value, torch.Tensor) and value.is_complex())


def _any_complex(*values: Any) -> bool:
    with torch._C.DisableTorchFunction():  # a look at every call: other modes need not see it
        return _holds_complex(values)


def _holds_complex(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_complex, value))
    return any(map(_holds_complex, value.values())) if isinstance(value, dict) else _is_complex(value)


def _parts(value: Any) -> tuple[Any, Any]:
    """Return real and imaginary part of a tensor or a number, complex or not."""
    if isinstance(value, torch.Tensor):
        return (torch.real(value), torch.imag(value)) if value.is_complex() else (value, torch.zeros_like(value))
    return (value.real, value.imag) if isinstance(value, complex) else (value, 0.0)


def _of_one(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Make a replacement from a function of one complex tensor's parts."""

    @functools.wraps(compute)
    def replace(_: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_complex(self) or args or kwargs:
            return NotImplemented
        return compute(*_parts(self))

    return replace


def _conjugate(real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
    return torch.complex(real, -imag)


def _adjoint(real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
    return torch.complex(real.transpose(-2, -1), -imag.transpose(-2, -1))


def _magnitude(real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
    return torch.sqrt(real * real + imag * imag)


def _angle(real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
    return torch.atan2(imag, real)


def _polar(magnitude: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    return torch.complex(magnitude * torch.cos(angle), magnitude * torch.sin(angle))


def _exponential(real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
    return _polar(torch.exp(real), imag)


def _logarithm(real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
    return torch.complex(torch.log(_magnitude(real, imag)), _angle(real, imag))


def _root(real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
    return _polar(torch.sqrt(_magnitude(real, imag)), _angle(real, imag) * 0.5)


def _sign(real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
    size = _magnitude(real, imag)
    size = torch.where(size == 0, torch.ones_like(size), size)
    return torch.complex(real / size, imag / size)


def _reciprocal(real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
    square = real * real + imag * imag
    return torch.complex(real / square, -imag / square)


def _negative(real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
    return torch.complex(-real, -imag)


def _square(real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
    return torch.complex(real * real - imag * imag, 2 * real * imag)


def _divide(_: Any, self: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
    if not _any_complex(self, other) or args or kwargs:
        return NotImplemented
    real, imag = _parts(self)
    if not _is_complex(other):
        return torch.complex(real / other, imag / other)
    below_real, below_imag = _parts(other)
    square = below_real * below_real + below_imag * below_imag
    upper, lower = real * below_real + imag * below_imag, imag * below_real - real * below_imag
    return torch.complex(upper / square, lower / square)


def _divide_reversed(func: Any, self: Any, other: Any) -> Any:
    return _divide(func, other, self)


def _power(_: Any, self: Any, exponent: Any, *args: Any, **kwargs: Any) -> Any:
    if not _is_complex(self) or not isinstance(exponent, (int, float)) or args or kwargs:
        return NotImplemented
    real, imag = _parts(self)
    if exponent == 2:  # noqa: PLR2004
        return _square(real, imag)
    return _polar(torch.pow(_magnitude(real, imag), exponent), _angle(real, imag) * exponent)


def _each_part(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function that does to both parts what it does to numbers, for each part by itself."""
    if not _any_complex(args, kwargs) or kwargs.get("dtype") is not None or kwargs.get("out") is not None:
        return NotImplemented
    results = []
    for part in (0, 1):
        choose = functools.partial(_choose, part=part)
        results.append(func(*pytree.tree_map(choose, args), **pytree.tree_map(choose, kwargs)))
    return pytree.tree_map(torch.complex, *results)


def _choose(value: Any, part: int) -> Any:
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return _parts(value)[part] if _is_complex(value) or (is_float and part == 1) else value


def _bilinear(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a product of two tensors for their parts."""
    places = [index for index, value in enumerate(args) if isinstance(value, torch.Tensor)]
    if not _any_complex(args) or len(places) != 2 or kwargs:  # noqa: PLR2004
        return NotImplemented

    def product(left: torch.Tensor, right: torch.Tensor) -> Any:
        values = list(args)
        values[places[0]], values[places[1]] = left, right
        return func(*values)

    (real, imag), (other_real, other_imag) = _parts(args[places[0]]), _parts(args[places[1]])
    if not _is_complex(args[places[0]]):
        return torch.complex(product(real, other_real), product(real, other_imag))
    if not _is_complex(args[places[1]]):
        return torch.complex(product(real, other_real), product(imag, other_real))
    return torch.complex(
        product(real, other_real) - product(imag, other_imag), product(real, other_imag) + product(imag, other_real)
    )


def _to_complex(_: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    kinds = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
    if not isinstance(self, torch.Tensor) or self.is_complex() or not kinds or not kinds[0].is_complex:
        return NotImplemented
    real = self.to(torch.float64 if kinds[0] is torch.complex128 else torch.float32)
    return torch.complex(real, torch.zeros_like(real))


_ONE = {
    "conj": _conjugate,
    "conj_physical": _conjugate,
    "adjoint": _adjoint,
    "mH": _adjoint,
    "H": _adjoint,
    "angle": _angle,
    "exp": _exponential,
    "log": _logarithm,
    "sqrt": _root,
    "sgn": _sign,
    "reciprocal": _reciprocal,
    "neg": _negative,
    "negative": _negative,
    "__neg__": _negative,
    "square": _square,
}
_EACH_PART = (
    "pad",
    "__getitem__",
    "cumsum",
    "sum",
    "mean",
    "flip",
    "fliplr",
    "flipud",
    "roll",
    "gather",
    "index_select",
    "where",
    "masked_fill",
    "masked_select",
    "repeat",
    "tile",
    "expand",
    "expand_as",
    "unfold",
    "stack",
    "cat",
    "concat",
    "concatenate",
    "hstack",
    "vstack",
    "dstack",
    "movedim",
    "moveaxis",
    "swapaxes",
    "diagonal",
    "diag",
    "transpose",
    "mT",
    "T",
    "t",
    "swapdims",
    "diag_embed",
    "tril",
    "triu",
    "narrow",
    "take",
    "take_along_dim",
    "repeat_interleave",
    "rot",
    "chunk",
    "split",
    "unbind",
    "select",
    "diff",
    "clone",
    "contiguous",
    "broadcast_to",
    "squeeze",
    "unsqueeze",
    "detach",
    "nansum",
    "trace",
    "index_add",
    "index_fill",
    "scatter",
    "scatter_add",
)
_BILINEAR = ("matmul", "__matmul__", "mm", "bmm", "einsum", "outer", "ger", "dot", "mv", "tensordot", "kron", "inner")

REPLACEMENTS: dict[str, Callable[..., Any]] = {
    **{name: _of_one(compute) for name, compute in _ONE.items()},
    **dict.fromkeys(_EACH_PART, _each_part),
    **dict.fromkeys(_BILINEAR, _bilinear),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__"), _divide),
    "__rtruediv__": _divide_reversed,
    "__rdiv__": _divide_reversed,
    **dict.fromkeys(("pow", "__pow__"), _power),
    "to": _to_complex,
}
