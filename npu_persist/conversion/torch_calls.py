"""Calls of torch's functions as function modes see them: name, tensors, what they write, and how to hide one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def function_name(func: Callable[..., Any]) -> str:
    """Return a function's bare name; a property's own name for its getter."""
    name: str = getattr(func, "__name__", "")
    if name in {"__get__", "__set__"}:
        attribute = getattr(getattr(func, "__self__", None), "__name__", name)
        return f"{attribute} =" if name == "__set__" else attribute
    return name


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a structure."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def storage_of(tensor: torch.Tensor) -> Any:
    """Return what is the same for all views of a tensor: its storage, one Python object as long as a tensor uses it.

    A tensor without storage (sparse, or a fake of torch.export) stands for itself, one of torch.vmap for what is in it.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    try:
        with torch._C.DisableTorchFunction():  # it is no call of the module's, that other modes should see
            return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):
        return tensor


def written_by(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """Return the tensors that a function is about to change: `add_`, `x[...] = y`, `x += y`, `out=`."""
    written = tensors_of(kwargs.get("out"))
    is_in_place = name == "__setitem__" or (
        name.startswith("__i") and name not in {"__int__", "__index__", "__invert__"}
    )
    if is_in_place or (name.endswith("_") and not name.endswith("__")):
        written += tensors_of(args[:1])
    if name in {"batch_norm", "instance_norm"} and any(value is True for value in (*args[5:6], *kwargs.values())):
        written += tensors_of([*args[1:3], kwargs.get("running_mean"), kwargs.get("running_var")])
    if name in {"embedding", "embedding_bag"} and (kwargs.get("max_norm") or any(args[3:4])):
        written += tensors_of(args[1:2])
    return written


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Pause the tracer, so that sizes are numbers."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]
