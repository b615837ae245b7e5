"""Watches one forward: which inputs each result depends on, branches that a trace would freeze, changes in place.

Tracing freezes each value that Python reads out of a tensor. A size is harmless, since shapes are fixed or checked
apart; a value that depends on the inputs is not: another input could have gone another way. `Watch` follows the
inputs' values through all torch functions, by storage, and reports each place where one of them reaches Python. It
stands above torch's dispatcher (a function mode), for below it the tracer loses operations such as convolutions.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary
from typing_extensions import Self

from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_TO_PYTHON = frozenset(
    {"__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "__array__", "item", "tolist"}
    | {"numpy", "equal", "allclose", "is_nonzero"}
)
"""Functions whose result is no tensor but follows from a tensor's values."""
_SIZES = frozenset({"size", "shape", "numel", "stride", "__len__"})
"""Functions whose result is a size; inside of a trace that is a tensor."""
_SHAPE_ONLY = frozenset(
    {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"}
    | {"new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"}
)
"""Functions whose result follows from their arguments' shapes alone."""
_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)


class Watch(TorchFunctionMode):
    """A function mode for one forward of `module`; use as a context manager around the call.

    Attributes:
        frozen: one line for each data-dependent value that reached Python: module path, function, source line.
        innermost: path of the module that ran last, or of the one that raised; "" for the module itself.

    """

    def __init__(self, module: torch.nn.Module, inputs: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.frozen: list[str] = []
        self.innermost = ""
        self._names = {id(part): name for name, part in module.named_modules(remove_duplicate=False)}
        self._stack: list[str] = []
        self._masks: Any = WeakIdKeyDictionary()
        self._owned = {_storage_key(tensor): (name, tensor) for name, tensor in _owned_tensors(module)}
        self._versions = {key: tensor._version for key, (_, tensor) in self._owned.items()}
        self._old: dict[int | None, torch.UntypedStorage] = {}
        self._hooks: list[Any] = []
        for _, tensor in self._owned.values():
            self._mark(tensor, 0)
        for index, tensor in enumerate(inputs):
            self._mark(tensor, 1 << index)

    def __enter__(self) -> Self:
        self._hooks = [
            module_hooks.register_module_forward_pre_hook(self._enter_module),
            module_hooks.register_module_forward_hook(self._leave_module, always_call=True),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def depends_on(self, tensor: torch.Tensor) -> int:
        """Return which inputs the tensor's values depend on, as a bit for each."""
        storage = _storage_of(tensor)
        return 0 if storage is None else int(self._masks.get(storage, 0))

    def is_size(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor is a size: inside of a trace these are tensors, which no torch function made."""
        storage = _storage_of(tensor)
        return tensor.ndim == 0 and tensor.dtype is torch.int64 and storage is not None and storage not in self._masks

    def undo_changes(self) -> None:
        """Write the old values back into parameters, buffers and attributes that the forward changed in place.

        Raises:
            ConversionError: one was changed in a way that was not seen coming, so its old values are lost.

        """
        lost = [
            name
            for key, (name, tensor) in self._owned.items()
            if key not in self._old and tensor._version != self._versions[key]
        ]
        for key, old in self._old.items():
            self._owned[key][1].untyped_storage().copy_(old)
        self._old.clear()
        if lost:
            raise ConversionError(
                f"the forward writes into {', '.join(lost)} in a way that could not be undone: those tensors of the "
                "module have changed. Make the forward free of side effects in evaluation mode."
            )

    def _enter_module(self, module: torch.nn.Module, _: Any) -> None:
        self.innermost = self._names.get(id(module), self.innermost)
        self._stack.append(self.innermost)

    def _leave_module(self, _module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        if self._stack:
            self._stack.pop()
        if output is not None:  # None when the forward raised: then the innermost module is the one to name
            self.innermost = self._stack[-1] if self._stack else ""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs = kwargs or {}
        name = _name(func)
        given = _tensors_of((args, kwargs))
        written = _written(name, args, kwargs)
        for tensor in written:
            self._keep_old(tensor)
        mask = 0
        for tensor in given:
            mask |= self.depends_on(tensor)
        result = func(*args, **kwargs)
        if name in _TO_PYTHON:
            if mask:
                self._report(name)
        elif name not in _SIZES and not (given and all(map(self.is_size, given))):
            for tensor in (*_tensors_of(result), *written):
                self._mark(tensor, 0 if name in _SHAPE_ONLY else mask)
        return result

    def _mark(self, tensor: torch.Tensor, mask: int) -> None:
        storage = _storage_of(tensor)
        if storage is not None:
            self._masks[storage] = mask | int(self._masks.get(storage, 0))

    def _keep_old(self, tensor: torch.Tensor) -> None:
        key = _storage_key(tensor)
        if key in self._owned and key not in self._old:
            self._old[key] = tensor.untyped_storage().clone()  # type: ignore[no-untyped-call]

    def _report(self, function: str) -> None:
        path = self._stack[-1] if self._stack else ""
        path = path or "the module itself"
        line = f"{path}: {function} reads a value that depends on the inputs, at {_source_line()}"
        if line not in self.frozen:
            self.frozen.append(line)


def _storage_of(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """Return a tensor's storage: one Python object for as long as any tensor uses it."""
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):  # a tensor without storage: sparse, or a fake of torch.export
        return None


def _storage_key(tensor: torch.Tensor) -> int | None:
    storage = _storage_of(tensor)
    return None if storage is None else int(storage._cdata)


def _owned_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, part in module.named_modules():
        for registry in (part._parameters, part._buffers, part.__dict__):  # attributes beside the registered ones
            for name, value in registry.items():
                if isinstance(value, torch.Tensor):
                    yield f"{path}.{name}" if path else name, value


def _tensors_of(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _name(func: Callable[..., Any]) -> str:
    """Return a function's bare name; a property's own name for its getter."""
    name = getattr(func, "__name__", "")
    if name in {"__get__", "__set__"}:
        return getattr(getattr(func, "__self__", None), "__name__", name)
    return name


def _written(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """Return the tensors that a function is about to change: `add_`, `x[...] = y`, `x += y`, `out=`."""
    written = _tensors_of(kwargs.get("out"))
    is_in_place = name == "__setitem__" or (
        name.startswith("__i") and name not in {"__int__", "__index__", "__invert__"}
    )
    if is_in_place or (name.endswith("_") and not name.endswith("__")):
        written += _tensors_of(args[:1])
    return written


def _source_line() -> str:
    """Return file, line and text of the innermost frame that is neither torch's nor ours."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith((_TORCH, _HERE)):
            return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"
    return "an unknown line"
