"""The example call of a module as a function from tensors to tensors.

The tracer and `torch.export` lose structure (named tuples, None, plain numbers, a tensor passed twice), so they get
nothing but tensors, and the structure is kept beside them. bfloat16 passes as float32, since numpy has no bfloat16.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from npu_persist.bundle.manifest import DictNode, Tree
from npu_persist.conversion.monitor import watch_forward
from npu_persist.conversion.structure import Rebuild, flatten, forward_signature
from npu_persist.errors import ConversionError, UsageError

if TYPE_CHECKING:
    from npu_persist.conversion.monitor import ForwardMonitor

DTYPES = {
    torch.bool: "bool",
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.uint8: "uint8",
    torch.float16: "float16",
    torch.bfloat16: "float32",
    torch.float32: "float32",
    torch.float64: "float64",
}
"""torch dtype to the dtype that a caller of the loaded model sees."""


@dataclass(frozen=True, eq=False)
class Results:
    """What torch gave in one forward.

    Attributes:
        tree: Structure of the result.
        names: One for each tensor, unique, and different from the inputs'.
        tensors: In the order of the graph's outputs.
        depends_on: For each tensor, the inputs that its values depend on, a bit for each.
    """

    tree: Tree
    names: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]
    depends_on: tuple[int, ...] = ()

    def detached(self, monitor: ForwardMonitor) -> Results:
        """Return copies that outlive the forward, and what they depend on."""
        return replace(
            self,
            tensors=tuple(tensor.detach().clone() for tensor in self.tensors),
            depends_on=tuple(map(monitor.depends_on, self.tensors)),
        )


@dataclass(frozen=True, eq=False)
class Call:
    """A module and one way of calling it; `bind_call` makes it.

    Attributes:
        module: The module.
        arguments: Names and structure of the arguments.
        tensors: The example's tensors, on the CPU, detached, each with storage of its own, in the graph's order.
        input_names: One for each tensor, unique.
        dtypes: What the module takes each tensor as.
        rebuild: Builds the arguments by name from tensors.
    """

    module: torch.nn.Module
    arguments: tuple[tuple[str, Tree], ...]
    tensors: tuple[torch.Tensor, ...]
    input_names: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    rebuild: Rebuild

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of the module's forward."""
        return tuple(forward_signature(self.module.forward).parameters)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The example's shapes by the input's name."""
        return {name: tuple(tensor.shape) for name, tensor in zip(self.input_names, self.tensors, strict=True)}

    def forward(
        self, tensors: Sequence[torch.Tensor], is_size: Callable[[torch.Tensor], bool] | None = None
    ) -> Results:
        """Call the module with the example's structure around `tensors`."""
        typed = [t.to(dtype) if t.dtype != dtype else t for t, dtype in zip(tensors, self.dtypes, strict=True)]
        bound = inspect.BoundArguments(forward_signature(self.module.forward), self.rebuild(typed))
        result = self.module(*bound.args, **bound.kwargs)
        flat = flatten(result, "result", unique=True, is_number=is_size)
        if not flat.tensors:
            raise ConversionError(f"{type(self.module).__name__} returned no tensor but {type(result).__name__}.")
        for tensor, name in zip(flat.tensors, flat.names, strict=True):
            _check_tensor(tensor, name)
        names = _unique([_output_name(name.removeprefix("result")) for name in flat.names], taken=self.input_names)
        return Results(flat.tree, names, tuple(_to_graph(tensor) for tensor in flat.tensors))

    def run(self, tensors: Sequence[torch.Tensor]) -> Results:
        """Run the module once, outside of any trace; what it changes in place is undone."""
        copies = [tensor.clone() for tensor in tensors]
        with watch_forward(self.module, copies) as monitor:
            return self.forward(copies).detached(monitor)


def bind_call(module: torch.nn.Module, args: object, kwargs: object) -> Call:
    """Return the call of a module with these arguments."""
    if not isinstance(args, (tuple, list)):
        raise UsageError(f"args must be a tuple of positional arguments; got {type(args).__name__}. Write args=(x,).")
    if not isinstance(kwargs, Mapping):
        raise UsageError(f"kwargs must be a dict of keyword arguments; got {type(kwargs).__name__}.")
    signature = forward_signature(module.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(
            f"the example inputs do not fit {type(module).__name__}.forward{signature}: {error}. Pass args=(...) and "
            "kwargs={...} as you would call the module."
        ) from error
    flat = flatten(dict(bound.arguments), unique=False)
    if not flat.tensors:
        raise UsageError(f"{type(module).__name__} was called without any tensor: there is nothing to infer from.")
    for tensor, name in zip(flat.tensors, flat.names, strict=True):
        _check_tensor(tensor, name)
    assert isinstance(flat.tree, DictNode)  # noqa: S101 - it was a dict
    return Call(
        module,
        tuple((str(name), tree) for name, tree in flat.tree.items),
        tuple(_to_graph(tensor.detach().cpu()).clone() for tensor in flat.tensors),
        _unique([_clean(name) for name in flat.names], taken=()),
        tuple(tensor.dtype for tensor in flat.tensors),
        flat.rebuild,
    )


def _check_tensor(tensor: torch.Tensor, name: str) -> None:
    if tensor.device.type == "meta":
        raise ConversionError(f"{name} is on the meta device, which holds no values. Give real example inputs.")
    if tensor.dtype not in DTYPES or tensor.layout is not torch.strided:
        raise ConversionError(
            f"{name} is a {tensor.dtype} tensor of layout {tensor.layout}; an OpenVINO model takes and gives dense "
            f"tensors of {', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)}."
        )


def _to_graph(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float32) if tensor.dtype is torch.bfloat16 else tensor


def _clean(name: str) -> str:
    return re.sub(r"[^\w.]", "_", name.strip("."))


def _output_name(path: str) -> str:
    name = _clean(path)
    return f"output.{name}".rstrip(".") if not name or name[0].isdigit() else name


def _unique(names: Sequence[str], taken: Collection[str]) -> tuple[str, ...]:
    """Make names unique: an output that has an input's name gets `_output` after it, twins get a number."""
    chosen: list[str] = []
    for name in names:
        candidate = f"{name}_output" if name in taken else name
        number = 2
        while candidate in chosen or candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        chosen.append(candidate)
    return tuple(chosen)
