"""Restores a module after it was traced.

Training flags, parameters, buffers, gradients, hooks, attributes, device and random state are the same before and
after. In-place changes that the forward makes (a counter, a running mean) are undone by `ForwardMonitor`, which keeps
the old values of just those tensors that are about to change.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from npu_persist.conversion.state import Snapshot
from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator


_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def restoring(module: torch.nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode, on the CPU, without gradients, and restore it at the end.

    Parameters and buffers on another device are replaced by copies on the CPU for the time being; the originals stay
    where they are and come back as the same objects. One module at a time in a process, since torch's hooks and its
    tracer are global.
    """
    with _ONE_AT_A_TIME:
        yield from _restore_after(module)


def _restore_after(module: torch.nn.Module) -> Iterator[None]:
    snapshot = Snapshot(module)
    devices = {tensor.device for tensor in _tensors(module) if tensor.device.type != "cpu"}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the caller's global state
    with contextlib.ExitStack() as stack:
        stack.enter_context(_torch_random_state(devices))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(_without_compiling())
        try:
            for part in module.modules():
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
            snapshot.restore()
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002 - as above


@contextlib.contextmanager
def _without_compiling() -> Iterator[None]:
    """Run what torch.compile has compiled as it was written, and do not warn of our hooks around it."""
    with contextlib.ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # nothing is compiled otherwise, and importing it takes a second
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", r"Using `torch.compile\(module\)` when there are global hooks")
        yield


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
