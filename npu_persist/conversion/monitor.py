"""Monitors one forward: which inputs each result depends on, branches that a trace would freeze, changes in place.

A trace freezes each value that Python reads out of a tensor. A size is harmless, since shapes are fixed or checked
separately; a value that depends on the inputs is not, since another input could have taken another branch. The monitor
follows the inputs' values through all torch functions, by storage. It is a function mode, above torch's dispatcher,
since a mode below it makes the tracer lose operations such as convolutions.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import operator
import os
import random
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.conversion.state import Snapshot
from npu_persist.conversion.torch_calls import function_name, storage_of, tensors_of, untraced, written_by
from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from typing_extensions import Self

    from npu_persist.conversion.sizes import SizeFollower
    from npu_persist.conversion.state import Change

READS_VALUES = frozenset(
    {"__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "__array__", "item", "tolist"}
    | {"numpy", "equal", "allclose", "is_nonzero", "data", "__dlpack__", "from_dlpack", "__repr__", "__format__"}
)
"""Functions that read a tensor's values and give no tensor, or one that the tracer does not follow."""
SIZED_BY_VALUES = frozenset({"nonzero", "argwhere", "unique", "unique_consecutive", "masked_select"})
"""Functions whose result has a size that depends on values."""
_COPIES = frozenset({"tensor", "new_tensor", "as_tensor", "asarray"})
"""Functions that make a constant of the tensors in a list, the first two of a tensor, too."""
_SPLITS = frozenset({"unbind", "split", "tensor_split", "split_with_sizes"})
"""Functions that give as many tensors as an axis asks for."""
_REPLACES = frozenset({"copy_", "zero_", "fill_"})
"""Functions that overwrite a whole tensor."""
SIZES = frozenset({"size", "shape", "numel", "stride", "__len__"})
"""Functions whose result is a size; inside a trace that is a tensor."""
_SHAPE_ONLY = frozenset(
    {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"}
    | {"new_zeros", "new_ones", "new_empty", "new_full"}
)
"""Functions whose result depends on their arguments' shapes alone."""
_DRAWS = frozenset(
    {
        "rand",
        "randn",
        "randint",
        "randperm",
        "rand_like",
        "randn_like",
        "randint_like",
        "normal",
        "bernoulli",
        "poisson",
    }
    | {"multinomial", "binomial", "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "geometric_"}
    | {"log_normal_", "cauchy_", "dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"}
    | {"feature_alpha_dropout", "feature_dropout", "native_dropout", "gumbel_softmax", "rrelu", "rrelu_"}
    | {"scaled_dot_product_attention", "multi_head_attention_forward", "fractional_max_pool2d", "fractional_max_pool3d"}
    | {"fractional_max_pool2d_with_indices", "fractional_max_pool3d_with_indices", "pca_lowrank", "svd_lowrank"}
    | {"lobpcg", "lstm", "gru", "rnn_tanh", "rnn_relu", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"}
)
"""Functions that may draw random numbers; whether one does, the generator's state tells."""
_STATE, _RANDOM, _INPUTS = 1, 2, 2
"""Bits of what a value depends on: state that the forward has changed, random numbers, and, from bit 2 on, inputs."""
_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep
_STDLIB = sysconfig.get_path("stdlib") + os.sep
_PACKAGES = (sysconfig.get_path("purelib") + os.sep, sysconfig.get_path("platlib") + os.sep)
"""Where installed packages are: below the standard library, but not of it."""


class _Old(NamedTuple):
    """What a tensor held before it was changed, with its name and the line that changes it first."""

    storage: Any
    copy: Any
    text: str


class _Called(NamedTuple):
    """A function of torch's that the forward calls, by its bare name."""

    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self) -> Any:
        return self.function(*self.args, **self.kwargs)


@dataclass(frozen=True, eq=False)
class Effects:
    """What a forward did beside its results.

    Attributes:
        changes: Attributes, entries and variables that it replaced, since put back.
        written: What it wrote into in place, with the line, since undone.
        draws: Where it drew random numbers: module path, function and line.
    """

    changes: tuple[Change, ...] = ()
    written: tuple[str, ...] = ()
    draws: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self.changes or self.written or self.draws)


class ForwardMonitor(TorchFunctionMode):
    """A function mode for one forward of `module`; use as a context manager around the call.

    Attributes:
        sizes: Follows sizes, where they may vary.
        frozen: One line for each data-dependent value that reached Python: module path, function, source line.
        innermost: Path of the module that ran last, or of the one that raised; "" for the module itself.
        effects: What else the forward did, once the changes are undone.
    """

    def __init__(
        self, module: torch.nn.Module, inputs: Iterable[torch.Tensor], sizes: SizeFollower | None = None
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.frozen: list[str] = []
        self.innermost = ""
        self._names = {id(part): name for name, part in module.named_modules(remove_duplicate=False)}
        self._stack: list[str] = []
        self._masks: Any = WeakIdKeyDictionary()
        self._sizes: Any = WeakIdKeyDictionary()
        self.effects = Effects()
        self._snapshot = Snapshot(module)
        self._owned: dict[int, tuple[str, torch.Tensor]] = {}
        for name, tensor in self._snapshot.tensors.items():
            self._owned.setdefault(_storage_key(tensor), (name, tensor))
        self._versions = {key: tensor._version for key, (_, tensor) in self._owned.items()}
        self._old: dict[int, _Old] = {}
        self._draws: list[str] = []
        self._python_random = random.getstate(), _numpy_state()
        self._hooks: list[Any] = []
        for _, tensor in self._owned.values():
            self._mark(tensor, 0)
        for index, tensor in enumerate(inputs):
            self._mark(tensor, 1 << _INPUTS << index)

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

    @property
    def owned(self) -> Iterable[torch.Tensor]:
        """The tensors that the module held before the forward."""
        return self._snapshot.tensors.values()

    def depends_on(self, tensor: torch.Tensor) -> int:
        """Return which inputs the tensor's values depend on, as a bit for each."""
        return self._mask(tensor) >> _INPUTS

    def depends_on_state(self, tensor: torch.Tensor) -> bool:
        """Return whether the tensor's values depend on what the forward has changed in the module before."""
        return bool(self._mask(tensor) & _STATE)

    def depends_on_random(self, tensor: torch.Tensor) -> bool:
        """Return whether the tensor's values depend on random numbers."""
        return bool(self._mask(tensor) & _RANDOM)

    def is_size(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor is a size: inside a trace sizes are tensors that no torch function made."""
        return tensor.ndim == 0 and tensor.dtype is torch.int64 and storage_of(tensor) not in self._masks

    def undo_changes(self) -> None:
        """Put back what the forward replaced, and the old values of what it changed in place."""
        changes = self._snapshot.changes()
        self._snapshot.restore()
        lost = [
            name
            for key, (name, tensor) in self._owned.items()
            if key not in self._old and tensor._version != self._versions[key]
        ]
        for old in self._old.values():
            old.storage.copy_(old.copy)
        if (random.getstate(), _numpy_state()) != self._python_random:
            self._draws.append("Python's or numpy's random numbers, at an unknown line")
        self.effects = Effects(tuple(changes), tuple(old.text for old in self._old.values()), tuple(self._draws))
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
        name = function_name(func)
        given = tensors_of((args, kwargs))
        written = written_by(name, args, kwargs)
        for tensor in written:
            self._keep_old(tensor)
        mask = size_mask = 0
        for tensor in given:
            mask |= self._mask(tensor)
            size_mask |= int(self._sizes.get(storage_of(tensor), 0))
        before = _random_state() if name in _DRAWS else None
        result = func(*args, **kwargs)
        if before is not None and (kwargs.get("generator") is not None or not torch.equal(before, _random_state())):
            mask |= _RANDOM
            self._note_draw(name)
        read = tensors_of((args[name == "new_tensor" :], kwargs)) if _copies(name, args) else given
        reaches_python = name in READS_VALUES or read is not given
        if reaches_python and (reached := functools.reduce(operator.or_, map(self._mask, read), 0)):
            self._report(name, reached)
        if self.sizes is not None:
            self._follow_sizes(_Called(func, name, args, kwargs), result, read if reaches_python else ())
        if name in SIZES:
            self._follow_size(name, result, size_mask)
        elif not (given and all(map(self.is_size, given))):
            if name in SIZED_BY_VALUES or selects_by_mask(name, args):
                size_mask |= mask
            self._follow(name, tensors_of(result), written, mask, size_mask)
        return result

    def _follow_sizes(self, called: _Called, result: Any, read: Sequence[torch.Tensor]) -> None:
        """Follow what a function read, made or froze of sizes; `read` is what reached Python."""
        sizes, name = cast("SizeFollower", self.sizes), called.name
        if name in SIZES or name in _SPLITS:
            with untraced():
                values = pytree.tree_leaves(called.run()) if name in SIZES else [len(result)]
            leaves = pytree.tree_leaves(result) if name in SIZES else []
            storages = [storage_of(leaf) if isinstance(leaf, torch.Tensor) else None for leaf in leaves]
            found = sizes.read(self._path(), name, values, storages)
            if torch._C._get_tracing_state() is not None and (name in _SPLITS or name == "stride"):
                sizes.freeze(self._describe(name), name, found)
            return
        frozen = [storage for tensor in read if sizes.is_followed(storage := storage_of(tensor))]
        if frozen:
            sizes.freeze(self._describe(name), name, frozen)
            return
        given = tensors_of((called.args, called.kwargs))
        if any(sizes.is_followed(storage_of(tensor)) for tensor in given) and not any(map(self._mask, given)):
            made = [storage_of(tensor) for tensor in tensors_of(result)]
            sizes.compute(called.function, called.args, called.kwargs, made, storage_of)

    def _follow(
        self, name: str, results: list[torch.Tensor], written: list[torch.Tensor], mask: int, size_mask: int
    ) -> None:
        for tensor in results:
            self._mark(tensor, mask & _RANDOM if name in _SHAPE_ONLY else mask)
            if size_mask and tensor.ndim:
                self._sizes[storage_of(tensor)] = size_mask
        for tensor in written:
            is_state = _storage_key(tensor) in self._owned and name not in _REPLACES
            self._mark(tensor, mask | (_STATE if is_state else 0))

    def _follow_size(self, name: str, result: Any, size_mask: int) -> None:
        """Follow a size that depends on values: it is a value, too."""
        if not size_mask:
            return
        if name == "__len__":
            self._report(name, size_mask)
        for tensor in tensors_of(result):
            self._mark(tensor, size_mask)

    def _mask(self, tensor: torch.Tensor) -> int:
        return int(self._masks.get(storage_of(tensor), 0))

    def _mark(self, tensor: torch.Tensor, mask: int) -> None:
        storage = storage_of(tensor)
        self._masks[storage] = mask | int(self._masks.get(storage, 0))

    def _keep_old(self, tensor: torch.Tensor) -> None:
        key = _storage_key(tensor)
        if key in self._owned and key not in self._old:
            storage = storage_of(tensor)
            self._old[key] = _Old(storage, storage.clone(), f"{self._owned[key][0]} ({_source_line()})")

    def _note_draw(self, function: str) -> None:
        line = f"{self._path() or 'the module itself'}: {function}, at {_source_line()}"
        if line not in self._draws:
            self._draws.append(line)

    def _report(self, function: str, mask: int) -> None:
        what = "a value that depends on the inputs"
        if not mask >> _INPUTS:
            what = "a random number" if mask & _RANDOM else "what the forward has changed in the module"
        line = self._describe(function, what)
        if line not in self.frozen:
            self.frozen.append(line)

    def _path(self) -> str:
        return self._stack[-1] if self._stack else ""

    def _describe(self, function: str, what: str = "a size") -> str:
        return f"{self._path() or 'the module itself'}: {function} reads {what}, at {_source_line()}"


@contextlib.contextmanager
def watch_forward(
    module: torch.nn.Module,
    inputs: Iterable[torch.Tensor],
    sizes: SizeFollower | None = None,
    *,
    traced: bool = False,
    seed: int = 0,
) -> Iterator[ForwardMonitor]:
    """Monitor a forward; errors name the submodule that they came from, and what it changes is undone at the end.

    Random numbers are those of `seed`, so that a forward can be repeated.
    """
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global state is what modules draw from
    monitor = ForwardMonitor(module, inputs, sizes)
    try:
        with monitor:
            yield monitor
    except ConversionError:
        raise
    except Exception as error:
        where = f"{type(module).__name__}{'.' if monitor.innermost else ''}{monitor.innermost}"
        what = f"{type(error).__name__}: {first_lines(str(error), 300)}"
        if traced:
            text = f"torch.jit.trace could not follow {where}, which raised {what}."
        else:
            text = f"the forward of {where} raised {what}. "
            text += "Call the module with the same inputs outside persist; what fails there cannot be persisted."
        if "flex_attention" in str(error):
            text = f"{where} calls flex_attention, which cannot be captured. For a model of transformers, "
            text += "model.set_attn_implementation('sdpa') gives the same results."
        raise ConversionError(text, module_path=monitor.innermost) from error
    finally:
        monitor.undo_changes()


def _storage_key(tensor: torch.Tensor) -> int:
    storage = storage_of(tensor)
    return int(storage._cdata) if isinstance(storage, torch.UntypedStorage) else id(storage)


def _numpy_state() -> tuple[Any, ...]:
    state: Any = np.random.get_state()  # noqa: NPY002 - the global state
    return state[0], bytes(state[1]), *state[2:]


def _random_state() -> torch.Tensor:
    with untraced():
        return torch.default_generator.get_state()


def _copies(name: str, args: tuple[Any, ...]) -> bool:
    if name not in _COPIES:
        return False
    return name in {"tensor", "new_tensor"} or not isinstance(args[0] if args else None, torch.Tensor)


def selects_by_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Return whether the result of a call has a size that depends on a mask's values."""
    if name == "where":
        return len(args) == 1
    return name == "__getitem__" and any(index.dtype in {torch.bool, torch.uint8} for index in tensors_of(args[1:]))


def _source_line() -> str:
    """Return file, line and text of the innermost frame outside of torch, the standard library and this package."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        path = frame.f_code.co_filename
        if not is_foreign(path):
            return f"{Path(path).name}:{frame.f_lineno}: {linecache.getline(path, frame.f_lineno).strip()}"
        frame = frame.f_back
    return "an unknown line"


def is_foreign(path: str) -> bool:
    """Return whether a file is part of torch, the standard library or this package."""
    if path.startswith((_TORCH, _HERE, "<frozen", "<string>")):
        return True
    return path.startswith(_STDLIB) and not path.startswith(_PACKAGES)
