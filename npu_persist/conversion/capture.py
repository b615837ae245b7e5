"""One call of a module, made into a traceable function of tensors, with the results that torch gave for it.

The tracer and `torch.export` lose structure (named tuples, None, plain numbers, a tensor passed twice), so the module
is
wrapped: the wrapper takes and gives nothing but tensors, and the structure is kept beside it, in the signature.
bfloat16 crosses the wrapper as float32, for numpy has no bfloat16.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.jit._trace import TracerWarning

from npu_persist.bundle.manifest import Signature, Tree
from npu_persist.conversion.structure import Leaves, Rebuild, describe_parameters, forward_signature, take_apart
from npu_persist.conversion.watch import Watch
from npu_persist.errors import ConversionError, UsageError

if TYPE_CHECKING:
    import inspect

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


class _Flat(torch.nn.Module):
    """What is traced: the module behind a forward that takes and gives nothing but tensors."""

    def __init__(self, module: torch.nn.Module, call: Call) -> None:
        super().__init__()
        self.module = module
        self.training = False
        self._call = (call,)  # in a tuple, for the tracer looks into every attribute that is an object

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._call[0].forward(tensors)


class Call:
    """A module and one way of calling it, as a function from tensors to tensors.

    Attributes:
        module: the module.
        tensors: the example's tensors, on the CPU, detached, each with storage of its own, in the graph's order.
        input_names: one for each tensor, unique.
        results: what torch gave at the last forward, in the order of the graph's outputs.
        output_names: one for each result, unique, and different from the inputs'.
        arguments: names and structure of the arguments.
        depends_on: for each result of the last trace, the inputs that its values depend on, a bit for each.
        frozen: data-dependent branches that the trace froze, see `Watch`.

    """

    def __init__(self, module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.module = module
        self._bound = _bind(module, args, kwargs)
        leaves = Leaves(unique=False)
        parts = {name: take_apart(value, name, leaves) for name, value in self._bound.arguments.items()}
        if not leaves.tensors:
            raise UsageError(f"{type(module).__name__} was called without any tensor: there is nothing to infer from.")
        self._rebuilds: dict[str, Rebuild] = {name: rebuild for name, (_, rebuild) in parts.items()}
        self.arguments: tuple[tuple[str, Tree], ...] = tuple((name, tree) for name, (tree, _) in parts.items())
        self._dtypes = [_check_tensor(t, name).dtype for t, name in zip(leaves.tensors, leaves.names, strict=True)]
        self.tensors = [_to_graph(tensor.detach().cpu()).clone() for tensor in leaves.tensors]
        self.input_names = _unique([_clean(name) for name in leaves.names], taken=())
        self._result: Tree | None = None
        self._is_size: Callable[[torch.Tensor], bool] | None = None
        self.results: list[torch.Tensor] = []
        self.output_names: list[str] = []
        self.depends_on: list[int] = []
        self.frozen: list[str] = []

    @property
    def signature(self) -> Signature:
        """How the module is called and what it gives; known after the first forward."""
        if self._result is None:
            raise RuntimeError("the signature is known only after a forward")
        return Signature(describe_parameters(self.module.forward), self.arguments, self._result)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of the module's forward."""
        return tuple(forward_signature(self.module.forward).parameters)

    @property
    def has_bfloat16(self) -> bool:
        """Whether any parameter or buffer of the module is bfloat16."""
        return any(t.dtype is torch.bfloat16 for t in (*self.module.parameters(), *self.module.buffers()))

    def forward(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Call the module with the example's structure around `tensors` and return the tensors of its result."""
        typed = [t.to(dtype) if t.dtype != dtype else t for t, dtype in zip(tensors, self._dtypes, strict=True)]
        for name, rebuild in self._rebuilds.items():
            self._bound.arguments[name] = rebuild(typed)
        result = self.module(*self._bound.args, **self._bound.kwargs)
        leaves = Leaves(unique=True, is_number=self._is_size)
        tree, _ = take_apart(result, "", leaves)
        if not leaves.tensors:
            raise ConversionError(f"{type(self.module).__name__} returned no tensor but {type(result).__name__}.")
        for tensor, name in zip(leaves.tensors, leaves.names, strict=True):
            _check_tensor(tensor, f"result{name}")
        outputs = [_to_graph(tensor) for tensor in leaves.tensors]
        self._result, self.results = tree, outputs
        self.output_names = _unique([_output_name(name) for name in leaves.names], taken=self.input_names)
        return tuple(outputs)

    def trace(self, *, fix_sizes: bool) -> torch.jit.ScriptModule:
        """Trace the call with `torch.jit.trace` in a single forward.

        Args:
            fix_sizes: whether sizes that the module returns are plain numbers, as they are outside of a trace.

        Raises:
            ConversionError: the forward raised; the message names the submodule it was in.

        """
        copies = [tensor.clone() for tensor in self.tensors]
        watch = Watch(self.module, copies)
        self._is_size = watch.is_size if fix_sizes else None
        try:
            with warnings.catch_warnings(), watch:
                warnings.simplefilter("ignore", TracerWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", FutureWarning)
                flat = _Flat(self.module, self)
                traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
                    flat, tuple(copies), check_trace=False, strict=False
                )
        except ConversionError:
            raise
        except Exception as error:
            raise _forward_error(self.module, watch, error) from error
        finally:
            self._is_size = None
            stateful = [
                f"output {name} depends on what the forward writes into {', '.join(watch.changed)}; each call of the "
                "loaded model starts from what was there when it was persisted"
                for name, result in zip(self.output_names, self.results, strict=False)
                if watch.depends_on_state(result)
            ]
            watch.undo_changes()
            for name in self._rebuilds:
                self._bound.arguments[name] = None
        self.depends_on = [watch.depends_on(result) for result in self.results]
        self.results = [result.detach().clone() for result in self.results]
        self.frozen = watch.frozen + stateful
        return traced

    def export(self, dynamic_shapes: Any) -> torch.export.ExportedProgram:
        """Capture the call with `torch.export`; the results stay those of an earlier `evaluate` or `trace`."""
        kept = self._result, self.results, self.output_names
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", FutureWarning)
                return torch.export.export(
                    _Flat(self.module, self), tuple(self.tensors), dynamic_shapes=dynamic_shapes, strict=False
                )
        finally:
            self._result, self.results, self.output_names = kept

    def evaluate(self) -> None:
        """Run the example outside of any trace, for its results and their structure."""
        self.run(self.tensors, keep=True)

    def run(self, tensors: Sequence[torch.Tensor], *, keep: bool = False) -> list[torch.Tensor]:
        """Run the module once, outside of any trace, and return its results; in-place changes are undone.

        Args:
            tensors: one for each input.
            keep: whether this run's results become the call's own.

        """
        kept = self._result, self.results, self.output_names
        watch = Watch(self.module, [])
        try:
            with watch:
                return list(self.forward([tensor.clone() for tensor in tensors]))
        except ConversionError:
            raise
        except Exception as error:
            raise _forward_error(self.module, watch, error) from error
        finally:
            watch.undo_changes()
            if not keep:
                self._result, self.results, self.output_names = kept


def _bind(module: torch.nn.Module, args: object, kwargs: object) -> inspect.BoundArguments:
    if not isinstance(args, (tuple, list)):
        raise UsageError(f"args must be a tuple of positional arguments; got {type(args).__name__}. Write args=(x,).")
    if not isinstance(kwargs, Mapping):
        raise UsageError(f"kwargs must be a dict of keyword arguments; got {type(kwargs).__name__}.")
    signature = forward_signature(module.forward)
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(
            f"the example inputs do not fit {type(module).__name__}.forward{signature}: {error}. Pass args=(...) and "
            "kwargs={...} as you would call the module."
        ) from error


def _forward_error(module: torch.nn.Module, watch: Watch, error: Exception) -> ConversionError:
    where = f"{type(module).__name__}{'.' if watch.innermost else ''}{watch.innermost}"
    return ConversionError(
        f"the forward of {where} raised {type(error).__name__}: {error}. Call the module with the same inputs outside "
        "of persist; what fails there cannot be persisted.",
        module_path=watch.innermost,
    )


def _check_tensor(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if tensor.device.type == "meta":
        raise ConversionError(f"{name} is on the meta device, which holds no values. Give real example inputs.")
    if tensor.dtype not in DTYPES or tensor.layout is not torch.strided:
        raise ConversionError(
            f"{name} is a {tensor.dtype} tensor of layout {tensor.layout}; an OpenVINO model takes and gives dense "
            f"tensors of {', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)}."
        )
    return tensor


def _to_graph(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float32) if tensor.dtype is torch.bfloat16 else tensor


def _clean(name: str) -> str:
    return re.sub(r"[^\w.]", "_", name.strip("."))


def _output_name(path: str) -> str:
    name = _clean(path)
    return f"output.{name}".rstrip(".") if not name or name[0].isdigit() else name


def _unique(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Make names unique: an output that has an input's name gets `_output` after it, twins get a number."""
    chosen: list[str] = []
    for name in names:
        candidate = f"{name}_output" if name in taken else name
        number = 2
        while candidate in chosen or candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        chosen.append(candidate)
    return chosen
