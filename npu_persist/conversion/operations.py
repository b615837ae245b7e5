"""The digest of the functions that a forward calls: where it is the same, the trace is, and `refresh` needs none.

A trace and a plain run of one forward give the same digest where sizes are fixed: both meet the same functions of
torch, with the same tensors and numbers. Where anything could happen unseen there is no digest, and the trace decides:
a tensor that no function made, one that was written into by something else, a value that reached Python, a function
that is not torch's own.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from npu_persist.conversion.monitor import READS_VALUES, SIZED_BY_VALUES, SIZES, selects_by_mask
from npu_persist.conversion.origins import digest_tensor
from npu_persist.conversion.torch_calls import function_name, storage_of, tensors_of, untraced, written_by
from npu_persist.conversion.weights_only import is_computed
from npu_persist.files.digest import Hasher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from npu_persist.conversion.call import Results

_PLAIN = (str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None), type(Ellipsis), complex)
_LIBRARIES = frozenset({"aten", "prim", "prims"})
"""Of operations that are called by their own names; others may do something else tomorrow."""
_UNFOLLOWED = (
    READS_VALUES
    | SIZED_BY_VALUES
    | {"repeat_interleave", "bincount"}  # sized by values, too
    | {"data_ptr", "untyped_storage", "storage", "_typed_storage", "set_", "share_memory_"}
)
"""Functions after which values, or a tensor's memory, can be read or written to unseen."""

_OF_TENSORS = frozenset(
    {"add", "sub", "mul", "div", "exp", "to", "__add__", "__sub__", "__mul__", "__truediv__"}
    | {"__radd__", "__rsub__", "__rmul__", "__rtruediv__"}
)
"""Functions that take two tensors, and no number in the place of either."""


class _UnseenError(Exception):
    """Something happens that the functions do not tell."""


class OperationLog(TorchFunctionMode):
    """Follows one forward; use as a context manager around it. It has to be the innermost mode.

    Args:
        module: The module.
        inputs: The tensors that the forward is called with.
        others: Tensors that the module holds beside its parameters and buffers.
    """

    def __init__(
        self, module: torch.nn.Module, inputs: Sequence[torch.Tensor], others: Iterable[torch.Tensor] = ()
    ) -> None:
        super().__init__()
        self._hasher: Hasher | None = Hasher()
        self._numbers: Any = WeakIdKeyDictionary()
        self._sizes: Any = WeakIdKeyDictionary()
        self._integers: Any = WeakIdKeyDictionary()
        self._versions: Any = WeakIdKeyDictionary()
        self._count = 0
        self._add(f"torch {torch.__version__} {torch.get_default_dtype()}")
        self._attempt(lambda: self._begin(module, inputs, others))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if self._hasher is None:
            return func(*args, **kwargs)
        name = function_name(func)
        given = tensors_of((args, kwargs))
        writes = bool(written_by(name, args, kwargs))
        text = self._attempt(lambda: self._describe_call(func, name, args, kwargs))
        result = func(*args, **kwargs)
        if text is not None:
            self._attempt(lambda: self._follow(text, given, result, writes=writes))
        return result

    def finish(self, results: Results) -> str | None:
        """Return the digest; None where something was not seen."""

        def add_results() -> None:
            self._add(repr((results.names, [self._describe(tensor) for tensor in results.tensors])))

        self._attempt(add_results)
        return None if self._hasher is None else self._hasher.digest()

    def _attempt(self, step: Callable[[], Any]) -> Any:
        if self._hasher is None:
            return None
        try:
            with untraced(), torch._C.DisableTorchFunction():
                return step()
        except _UnseenError:
            self._hasher = None
            return None

    def _add(self, text: str) -> None:
        if self._hasher is not None:
            self._hasher.update(f"{text}\n".encode())

    def _begin(self, module: torch.nn.Module, inputs: Sequence[torch.Tensor], others: Iterable[torch.Tensor]) -> None:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            self._own(tensor, name)
            if not (tensor.is_floating_point() or tensor.is_complex()):
                self._integers[tensor] = True
        for tensor in others:
            if tensor not in self._numbers:
                self._own(tensor, f"constant {digest_tensor(tensor)}")
        for index, tensor in enumerate(inputs):
            self._own(tensor, f"input {index}")

    def _own(self, tensor: torch.Tensor, what: str) -> None:
        self._add(f"{what}: {_describe_layout(tensor)}")
        self._number(tensor)
        self._note_version(tensor)

    def _number(self, tensor: torch.Tensor) -> int:
        if tensor not in self._numbers:
            self._numbers[tensor] = self._count
            self._count += 1
        return int(self._numbers[tensor])

    def _describe_call(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> str:
        given = tensors_of((args, kwargs))
        is_of_sizes = self._are_sizes(given)
        if name in SIZES or (is_of_sizes and name in READS_VALUES):
            return ""
        if name in _UNFOLLOWED or is_computed(name) or name.endswith(" =") or selects_by_mask(name, args):
            raise _UnseenError
        text = f"{_describe_function(func, name)}{self._describe(args)}{self._describe(dict(kwargs))}"
        if name in _OF_TENSORS and len(args) <= 2 and not kwargs:  # noqa: PLR2004 - a sum may have a factor, a number
            return text
        # Where torch wants a number it takes the value of such a tensor, and the trace has that.
        numbers = [tensor.item() for tensor in given if not tensor.ndim and tensor not in self._sizes]
        return f"{text}{numbers}" if numbers else text

    def _are_sizes(self, given: Sequence[torch.Tensor]) -> bool:
        return bool(given) and all(tensor in self._sizes for tensor in given)

    def _describe(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return self._describe_tensor(value)
        if isinstance(value, _PLAIN):
            return repr(value)
        for kind in (bool, int, float):
            if isinstance(value, kind):
                return repr(kind(value))
        if isinstance(value, (tuple, list)):
            return f"[{','.join(map(self._describe, value))}]"
        if isinstance(value, dict):
            return f"{{{','.join(f'{key!r}:{self._describe(part)}' for key, part in value.items())}}}"
        if isinstance(value, slice):
            return f"slice{self._describe((value.start, value.stop, value.step))}"
        raise _UnseenError

    def _describe_tensor(self, tensor: torch.Tensor) -> str:
        if tensor in self._sizes:
            return repr(tensor.item())
        number = self._numbers.get(tensor)
        if number is None or self._versions.get(storage_of(tensor)) != tensor._version:
            raise _UnseenError
        if tensor in self._integers:  # sizes, indices and masks, which torch may read where no mode sees it
            return f"%{number} {digest_tensor(tensor)}"
        return f"%{number}"

    def _follow(self, text: str, given: list[torch.Tensor], result: Any, *, writes: bool) -> None:
        made = tensors_of(result)
        if not text or (self._are_sizes(given) and not any(tensor.ndim for tensor in made)):  # numbers, in a plain run
            for tensor in made:
                self._sizes[tensor] = True
        elif made or writes:  # otherwise it is an answer about a tensor, such as its dtype; what is done by it is seen
            layouts = [*map(_describe_layout, made)]
            self._add(f"{text} -> {[*zip(map(self._number, made), layouts, strict=True)]}")
            for tensor in (*given, *made):
                if tensor not in self._sizes:
                    self._note_version(tensor)

    def _note_version(self, tensor: torch.Tensor) -> None:
        storage = storage_of(tensor)
        if storage is tensor:
            raise _UnseenError
        self._versions[storage] = tensor._version


@contextlib.contextmanager
def as_if_traced() -> Iterator[None]:
    """Let modules that ask whether they are traced do what they do in a trace."""
    modules: tuple[Any, ...] = (torch.jit, torch.jit._trace)
    kept = [module.is_tracing for module in modules]
    try:
        for module in modules:
            module.is_tracing = lambda: True
        yield
    finally:
        for module, function in zip(modules, kept, strict=True):
            module.is_tracing = function


def _describe_layout(tensor: torch.Tensor) -> str:
    is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    if type(tensor) not in {torch.Tensor, torch.nn.Parameter} or tensor.layout is not torch.strided or is_wrapped:
        raise _UnseenError
    if tensor.is_nested or tensor.is_inference():  # which count no writes
        raise _UnseenError
    return f"{tensor.dtype}{list(tensor.shape)}{list(tensor.stride())}{tensor.storage_offset()}{tensor.device}"


def _describe_function(func: Callable[..., Any], name: str) -> str:
    """Return what a function is called, if torch has it."""
    if isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        full = str(func)
        if full.partition(".")[0] not in _LIBRARIES:
            raise _UnseenError
        return full
    place = getattr(func, "__module__", None) or "torch"
    if place.partition(".")[0] != "torch":
        raise _UnseenError
    return f"{type(func).__name__} {place} {getattr(func, '__qualname__', '')} {name}"
