"""The example call of a module as a function from tensors to tensors.

The tracer and `torch.export` lose structure (named tuples, None, plain numbers, a tensor passed twice), so they get
nothing but tensors, and the structure is kept beside them. bfloat16 passes as float32, since numpy has no bfloat16.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch._subclasses import FakeTensor

from npu_persist.bundle.graph_records import DictNode, Tree
from npu_persist.conversion.encoder_layers import as_in_inference
from npu_persist.conversion.monitor import Effects, watch_forward
from npu_persist.conversion.structure import Rebuild, flatten, forward_signature
from npu_persist.errors import ConversionError, UsageError

if TYPE_CHECKING:
    from npu_persist.conversion.monitor import ForwardMonitor
    from npu_persist.conversion.sizes import Reads, SizeFollower

log = logging.getLogger(__name__)

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
        paths: For each tensor, where it is in the result.
        sizes: The sizes that each line read, where they were followed.
        on_state: For each tensor, whether its values depend on what the forward has written in place before.
        on_random: For each tensor, whether its values depend on random numbers.
        effects: What the forward did beside.
    """

    tree: Tree
    names: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]
    depends_on: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()
    sizes: Reads = field(default_factory=dict)
    on_state: tuple[bool, ...] = ()
    on_random: tuple[bool, ...] = ()
    effects: Effects = field(default_factory=Effects)

    def detached(self, monitor: ForwardMonitor) -> Results:
        """Return copies that outlive the forward, and what they depend on."""
        return replace(
            self,
            tensors=tuple(tensor.detach().clone() for tensor in self.tensors),
            depends_on=tuple(map(monitor.depends_on, self.tensors)),
            sizes={} if monitor.sizes is None else monitor.sizes.reads,
            on_state=tuple(map(monitor.depends_on_state, self.tensors)),
            on_random=tuple(map(monitor.depends_on_random, self.tensors)),
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
        sizes: Paths of results that are sizes and vary: numbers of torch's, tensors of the graph's.
        in_float: Whether half precision passes as float32, as bfloat16 always does.
    """

    module: torch.nn.Module
    arguments: tuple[tuple[str, Tree], ...]
    tensors: tuple[torch.Tensor, ...]
    input_names: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    rebuild: Rebuild
    sizes: frozenset[str] = frozenset()
    in_float: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of the module's forward."""
        return tuple(forward_signature(self.module.forward).parameters)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The example's shapes by the input's name."""
        return {name: tuple(tensor.shape) for name, tensor in zip(self.input_names, self.tensors, strict=True)}

    def without_cache(self) -> Call | None:
        """Return the call with `use_cache=False`; None where the caller said otherwise, or the module takes no such."""
        if "use_cache" not in self.parameters or "use_cache" in dict(self.arguments):
            return None
        return replace(self, rebuild=lambda tensors: {**self.rebuild(tensors), "use_cache": False})

    def forward(
        self, tensors: Sequence[torch.Tensor], is_size: Callable[[torch.Tensor], bool] | None = None
    ) -> Results:
        """Call the module with the example's structure around `tensors`."""
        typed = [t.to(dtype) if t.dtype != dtype else t for t, dtype in zip(tensors, self.dtypes, strict=True)]
        bound = inspect.BoundArguments(forward_signature(self.module.forward), self.rebuild(typed))
        with as_in_inference(self.module):
            result = self.module(*bound.args, **bound.kwargs)
        flat = flatten(result, "result", unique=True, is_number=is_size, sizes=self.sizes)
        if not flat.tensors:
            kind = "None" if result is None else f"a {type(result).__name__} without any tensor"
            raise ConversionError(f"{type(self.module).__name__} returned {kind}: a graph needs at least one output.")
        for tensor, name in zip(flat.tensors, flat.names, strict=True):
            _check_tensor(tensor, name)
        names = _unique([_output_name(name.removeprefix("result")) for name in flat.names], taken=self.input_names)
        return Results(flat.tree, names, self.to_graph(flat.tensors), paths=flat.names)

    def to_graph(self, tensors: Iterable[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return tensors in the types that the graph takes and gives them in."""
        return tuple(
            tensor.float()
            if tensor.dtype is torch.bfloat16 or (self.in_float and tensor.dtype is torch.float16)
            else tensor
            for tensor in tensors
        )

    def run(
        self,
        tensors: Sequence[torch.Tensor],
        sizes: SizeFollower | None = None,
        *,
        after: Sequence[torch.Tensor] | None = None,
        seed: int = 0,
    ) -> Results:
        """Run the module once, outside of any trace; what it changes is undone.

        Args:
            tensors: The call's tensors.
            sizes: Notes the sizes that each line reads.
            after: Tensors of a call that comes before, whose changes are undone at the end only.
            seed: For random numbers.
        """
        copies = [tensor.clone() for tensor in tensors]
        with watch_forward(self.module, copies, sizes, seed=seed) as monitor:
            if after is not None:
                self.forward([tensor.clone() for tensor in after])
            results = self.forward(copies).detached(monitor)
        return replace(results, effects=monitor.effects)

    def run_again(self, tensors: Sequence[torch.Tensor], earlier: Results) -> Results:
        """Run the module as `run` does; without watching it where an earlier forward left nothing behind."""
        if earlier.effects.any:
            return self.run(tensors)
        try:
            return self.forward([tensor.clone() for tensor in tensors])
        except Exception:
            log.debug("a forward failed; it runs again, to name what fails", exc_info=True)
            return self.run(tensors)


def bind_call(module: torch.nn.Module, args: object, kwargs: object, *, in_float: bool = False) -> Call:
    """Return the call of a module with these arguments; `in_float` is as in `Call`."""
    if not isinstance(args, (tuple, list)):
        advice = "kwargs=dict(x)" if isinstance(args, Mapping) else "args=(x,)"
        raise UsageError(f"args must be a tuple of positional arguments; got {type(args).__name__}. Write {advice}.")
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
        raise UsageError(f"{type(module).__name__} was called without any tensor: there is nothing to trace.")
    for tensor, name in zip(flat.tensors, flat.names, strict=True):
        if isinstance(tensor, FakeTensor):  # in the forward of torch.export all tensors are
            raise ConversionError(f"{name} is a FakeTensor, which has no values. Give real example inputs.")
        _check_tensor(tensor, name)
    assert isinstance(flat.tree, DictNode)  # noqa: S101 - it was a dict
    call = Call(
        module,
        tuple((str(name), tree) for name, tree in flat.tree.items),
        tuple(tensor.detach().cpu().clone() for tensor in flat.tensors),
        _unique([_clean(name) for name in flat.names], taken=()),
        tuple(tensor.dtype for tensor in flat.tensors),
        flat.rebuild,
        in_float=in_float,
    )
    return replace(call, tensors=call.to_graph(call.tensors))


def _check_tensor(tensor: torch.Tensor, name: str) -> None:
    if tensor.device.type == "meta":
        raise ConversionError(f"{name} is on the meta device, which has no values. Give real example inputs.")
    if tensor.is_nested:
        raise ConversionError(
            f"{name} is a nested tensor, which OpenVINO does not support: pass a padded one and a mask."
        )
    if tensor.dtype not in DTYPES or tensor.layout is not torch.strided:
        raise ConversionError(
            f"{name} is a {tensor.dtype} tensor of layout {tensor.layout}; an OpenVINO model takes and returns dense "
            f"tensors of {', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)}."
        )


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
