"""Lends a module to the tracer and gives it back as it was.

Training flags, parameters, buffers, gradients, hooks, attributes, device and random state are the same before and
after. In-place changes that the forward makes (a counter, a running mean) are undone by `Watch`, which keeps the old
value of just those tensors that are about to change.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def lend(module: torch.nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode, on the CPU, without gradients, and undo all of it at the end.

    Parameters and buffers on another device are replaced by copies on the CPU for the time being; the originals stay
    where they are and come back as the same objects.
    """
    saved = [(part, {key: _shallow(value) for key, value in part.__dict__.items()}) for part in module.modules()]
    devices = {tensor.device for tensor in _tensors(module) if tensor.device.type != "cpu"}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the caller's global state
    with contextlib.ExitStack() as stack:
        stack.enter_context(_torch_random_state(devices))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        try:
            for part, _ in saved:
                part.training = False
            if any(device.type == "meta" for device in devices):
                raise ConversionError(
                    "the module has tensors on the meta device, which have no values. Load its weights before "
                    "persisting it."
                )
            if devices:
                _replace_by_cpu_copies(module)
            yield
        finally:
            for part, state in saved:
                _restore(part.__dict__, state)
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002 - as above


def _shallow(value: Any) -> tuple[Any, Any]:
    copied = value.copy() if type(value) in {dict, list, set} or type(value).__name__ == "OrderedDict" else None
    return value, copied


def _restore(attributes: dict[str, Any], state: dict[str, tuple[Any, Any]]) -> None:
    for key in [key for key in attributes if key not in state]:
        del attributes[key]
    for key, (value, copied) in state.items():
        if copied is not None:
            if isinstance(value, list):
                value[:] = copied
            else:
                value.clear()
                value.update(copied)
        attributes[key] = value


@contextlib.contextmanager
def _torch_random_state(devices: set[torch.device]) -> Iterator[None]:
    state = torch.random.get_rng_state()
    others = []
    for device in devices:
        backend: Any = getattr(torch, device.type, None)
        if hasattr(backend, "get_rng_state"):
            others.append((backend, device, backend.get_rng_state(device)))
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
        for backend, device, old in others:
            backend.set_rng_state(old, device)


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
    for part in module.modules():
        yield from (value for value in part.__dict__.values() if isinstance(value, torch.Tensor))


def _replace_by_cpu_copies(module: torch.nn.Module) -> None:
    copies: dict[int, torch.Tensor] = {}

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in copies:
            moved = tensor.detach().to("cpu")
            copies[id(tensor)] = (
                torch.nn.Parameter(moved, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else moved
            )
        return copies[id(tensor)]

    for part in module.modules():
        registries: tuple[dict[str, Any], ...] = (part._parameters, part._buffers, part.__dict__)
        for registry in registries:
            for key, value in registry.items():
                if isinstance(value, torch.Tensor):
                    registry[key] = copy(value)
