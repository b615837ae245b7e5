"""Monitors one forward: which inputs each result depends on, branches that a trace would freeze, changes in place.

A trace freezes each value that Python reads out of a tensor. A size is harmless, since shapes are fixed or checked
separately; a value that depends on the inputs is not, since another input could have taken another branch. The monitor
follows the inputs' values through all torch functions, by storage. It is a function mode, above torch's dispatcher,
since a mode below it makes the tracer lose operations such as convolutions.
"""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from typing_extensions import Self

_TO_PYTHON = frozenset(
    {"__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "__array__", "item", "tolist"}
    | {"numpy", "equal", "allclose", "is_nonzero", "data", "__dlpack__", "from_dlpack", "__repr__", "__format__"}
)
"""Functions that read a tensor's values and give no tensor, or one that the tracer does not follow."""
_SIZED_BY_VALUES = frozenset({"nonzero", "argwhere", "unique", "unique_consecutive", "masked_select"})
"""Functions whose result has a size that depends on values."""
_REPLACES = frozenset({"copy_", "zero_", "fill_"})
"""Functions that overwrite a whole tensor."""
_SIZES = frozenset({"size", "shape", "numel", "stride", "__len__"})
"""Functions whose result is a size; inside a trace that is a tensor."""
_SHAPE_ONLY = frozenset(
    {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"}
    | {"new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"}
)
"""Functions whose result depends on their arguments' shapes alone."""
_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)


class ForwardMonitor(TorchFunctionMode):
    """A function mode for one forward of `module`; use as a context manager around the call.

    Attributes:
        frozen: One line for each data-dependent value that reached Python: module path, function, source line.
        innermost: Path of the module that ran last, or of the one that raised; "" for the module itself.
    """

    def __init__(self, module: torch.nn.Module, inputs: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.frozen: list[str] = []
        self.innermost = ""
        self._names = {id(part): name for name, part in module.named_modules(remove_duplicate=False)}
        self._stack: list[str] = []
        self._masks: Any = WeakIdKeyDictionary()
        self._sizes: Any = WeakIdKeyDictionary()
        self._owned = {_storage_key(tensor): (name, tensor) for name, tensor in _owned_tensors(module)}
        self._versions = {key: tensor._version for key, (_, tensor) in self._owned.items()}
        self._old: dict[int | None, torch.UntypedStorage] = {}
        self._hooks: list[Any] = []
        for _, tensor in self._owned.values():
            self._mark(tensor, 0)
        for index, tensor in enumerate(inputs):
            self._mark(tensor, 2 << index)

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
        return self._mask(tensor) >> 1

    def depends_on_state(self, tensor: torch.Tensor) -> bool:
        """Return whether the tensor's values depend on what the forward has changed in the module before."""
        return bool(self._mask(tensor) & 1)

    @property
    def changed(self) -> list[str]:
        """Names of the module's tensors that the forward has changed in place, until the changes are undone."""
        return [self._owned[key][0] for key in self._old]

    def is_size(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor is a size: inside a trace sizes are tensors that no torch function made."""
        storage = _storage_of(tensor)
        return tensor.ndim == 0 and tensor.dtype is torch.int64 and storage is not None and storage not in self._masks

    def undo_changes(self) -> None:
        """Write the old values back into parameters, buffers and attributes that the forward changed in place."""
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
        mask = size_mask = 0
        for tensor in given:
            mask |= self._mask(tensor)
            size_mask |= int(self._sizes.get(_storage_of(tensor), 0))
        result = func(*args, **kwargs)
        if mask and name in _TO_PYTHON:
            self._report(name)
        if name in _SIZES:
            self._follow_size(name, result, size_mask)
        elif not (given and all(map(self.is_size, given))):
            if name in _SIZED_BY_VALUES or _selects_by_mask(name, args):
                size_mask |= mask
            self._follow(name, _tensors_of(result), written, mask, size_mask)
        return result

    def _follow(
        self, name: str, results: list[torch.Tensor], written: list[torch.Tensor], mask: int, size_mask: int
    ) -> None:
        for tensor in results:
            self._mark(tensor, 0 if name in _SHAPE_ONLY else mask)
            if size_mask and tensor.ndim:
                self._sizes[_storage_of(tensor)] = size_mask
        for tensor in written:
            is_state = _storage_key(tensor) in self._owned and name not in _REPLACES
            self._mark(tensor, mask | is_state)

    def _follow_size(self, name: str, result: Any, size_mask: int) -> None:
        """Follow a size that depends on values: it is a value, too."""
        if not size_mask:
            return
        if name == "__len__":
            self._report(name)
        for tensor in _tensors_of(result):
            self._mark(tensor, size_mask)

    def _mask(self, tensor: torch.Tensor) -> int:
        storage = _storage_of(tensor)
        return 0 if storage is None else int(self._masks.get(storage, 0))

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


@contextlib.contextmanager
def watch_forward(module: torch.nn.Module, inputs: Iterable[torch.Tensor]) -> Iterator[ForwardMonitor]:
    """Monitor a forward; errors name the submodule that they came from, and changes in place are undone at the end."""
    monitor = ForwardMonitor(module, inputs)
    try:
        with monitor:
            yield monitor
    except ConversionError:
        raise
    except Exception as error:
        where = f"{type(module).__name__}{'.' if monitor.innermost else ''}{monitor.innermost}"
        raise ConversionError(
            f"the forward of {where} raised {type(error).__name__}: {error}. Call the module with the same inputs "
            "outside persist; what fails there cannot be persisted.",
            module_path=monitor.innermost,
        ) from error
    finally:
        monitor.undo_changes()


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


def _selects_by_mask(name: str, args: tuple[Any, ...]) -> bool:
    if name == "where":
        return len(args) == 1
    return name == "__getitem__" and any(index.dtype in {torch.bool, torch.uint8} for index in _tensors_of(args[1:]))


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
    """Return file, line and text of the innermost frame outside of torch and this package."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith((_TORCH, _HERE)):
            return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"
    return "an unknown line"
