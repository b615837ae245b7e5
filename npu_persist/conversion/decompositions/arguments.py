"""Calls with arguments that OpenVINO's frontend does not expect: masks of lower rank, negative dims, empty parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def set_masked(_: Any, self: torch.Tensor, key: Any, value: Any) -> Any:
    """`x[mask] = value`, for a mask of lower rank than x, behind any number of full slices."""
    keys = key if isinstance(key, tuple) else (key,)
    places = [index for index, part in enumerate(keys) if isinstance(part, torch.Tensor)]
    if len(places) != 1 or keys[places[0]].dtype is not torch.bool:
        return NotImplemented
    before, mask, after = keys[: places[0]], keys[places[0]], keys[places[0] + 1 :]
    if not all(_is_full(part) for part in before if part is not Ellipsis) or not all(map(_is_full, after)):
        return NotImplemented
    if Ellipsis in before and len(before) > 1:
        return NotImplemented
    skipped = self.dim() - mask.dim() - len(after) if Ellipsis in before else len(before)
    rest = self.dim() - skipped - mask.dim()
    if mask.dim() in {0, self.dim()} or rest < 0:  # OpenVINO has the one of full rank
        return NotImplemented
    mask = mask.reshape(*mask.shape, *[1] * rest)
    value = value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    value = value.to(self.dtype)
    if value.dim() <= rest:
        self.copy_(torch.where(mask, value, self))
    elif skipped == 0 and value.dim() == rest + 1:
        self.copy_(self.masked_scatter(mask.expand(self.shape), value))
    else:
        return NotImplemented
    return None


def _is_full(part: Any) -> bool:
    return part is Ellipsis or (isinstance(part, slice) and part == slice(None))


def rms_norm(
    _: Any, self: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, eps: float | None = None
) -> Any:
    """`rms_norm` of half precision without an epsilon: torch takes that of float32, in which it computes."""
    if eps is not None or self.dtype not in {torch.float16, torch.bfloat16}:
        return NotImplemented
    return torch.nn.functional.rms_norm(self, normalized_shape, weight, torch.finfo(torch.float32).eps)


def unfold(func: Any, self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """`x.unfold(-1, …)`, which has its name in common with the function for images."""
    return NotImplemented if func is torch.nn.functional.unfold else _unfold(self, *args, **kwargs)


def _unfold(self: torch.Tensor, dimension: int, size: int, step: int) -> Any:
    return self.unfold(dimension % self.dim(), size, step) if dimension < 0 and self.dim() else NotImplemented


def cat(_: Any, tensors: Sequence[torch.Tensor], dim: Any = 0, **kwargs: Any) -> Any:
    """`torch.cat([torch.tensor([]), x])`: torch takes an empty tensor of one axis beside any other."""
    if kwargs or not any(_is_legacy_empty(part) for part in tensors):
        return NotImplemented
    parts = [part for part in tensors if not _is_legacy_empty(part)]
    if not any(part.dim() > 1 for part in parts):
        return NotImplemented
    dtype = parts[0].dtype
    for part in tensors:
        dtype = torch.promote_types(dtype, part.dtype)
    parts = [part.to(dtype) for part in parts]
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0].clone()


def _is_legacy_empty(part: Any) -> bool:
    return isinstance(part, torch.Tensor) and part.dim() == 1 and int(part.shape[0]) == 0


def _extreme_of_bool(func: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    """`mask.max()`, `mask.max(dim)`, `mask.amax(…)`: of numbers, since OpenVINO has none of booleans."""
    if not isinstance(self, torch.Tensor) or self.dtype is not torch.bool or kwargs.get("out") is not None:
        return NotImplemented
    if args and isinstance(args[0], torch.Tensor):
        name = getattr(func, "__name__", "")
        return torch.logical_or(self, args[0]) if name == "max" else torch.logical_and(self, args[0])
    result = func(self.to(torch.int32), *args, **kwargs)
    if isinstance(result, torch.Tensor):
        return result.to(torch.bool)
    return type(result)((result[0].to(torch.bool), result[1]))


def attend(func: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """`F.scaled_dot_product_attention(q, k, v)`, for two axes."""
    if query.dim() == key.dim() == value.dim() == 2:  # noqa: PLR2004 - positions and features, without heads
        return func(query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0), *args, **kwargs).squeeze(0)
    return NotImplemented


REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "__setitem__": set_masked,
    "unfold": unfold,
    "scaled_dot_product_attention": attend,
    "rms_norm": rms_norm,
    "cat": cat,
    "concat": cat,
    "concatenate": cat,
    **dict.fromkeys(("max", "min", "amax", "amin"), _extreme_of_bool),
}
