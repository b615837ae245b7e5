"""What a module holds, before and after a forward: found, compared and put back.

That is the attributes of all its submodules, what their containers and helper objects hold, the attributes of their
classes, and the global variables that their forwards name. What code in C++ or a closure keeps is not seen.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import functools
import inspect
import random
import textwrap
import types
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

_ATOMS = (int, float, complex, str, bytes, bool, type(None), type, torch.dtype, torch.device, torch.Size)
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, functools.partial)
_MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
_SEQUENCES = (list, collections.deque)
_NUMBERS = (bool, int, float)
_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules"})
_DEEPEST = 20
_LARGEST_ARRAY = 1 << 20
"""Bytes; a larger numpy array is not copied, and so not put back."""
_ABSENT = object()


@dataclass(frozen=True, eq=False)
class Change:
    """An attribute or entry that a forward has changed.

    Attributes:
        path: Such as `encoder.cache['keys']`.
        old: Its value before; `is_new` tells whether it had one.
        new: Its value after.
        line: File, line and text of the code that changes it, where it was found; else "".
    """

    path: str
    old: Any
    new: Any
    line: str = ""

    @property
    def is_new(self) -> bool:
        """Return whether there was nothing before."""
        return self.old is _ABSENT

    @property
    def is_number(self) -> bool:
        """Return whether it is a number that became another number."""
        return type(self.old) in _NUMBERS and type(self.new) in _NUMBERS

    def __str__(self) -> str:
        return f"{self.path} ({self.line})" if self.line else self.path


class Snapshot:
    """What a module holds now.

    Attributes:
        tensors: The tensors among it, by path: parameters, buffers, and those in attributes, containers and helpers.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._kept: list[_Kept] = []
        self._seen: set[int] = set()
        classes: set[type] = set()
        for path, part in module.named_modules():
            self._walk_attributes(part, path, 0)
            if type(part) not in classes:
                classes.add(type(part))
                self._walk_code(type(part), classes)

    def changes(self) -> list[Change]:
        """Return what is no longer as it was; what was replaced by an equal value is as it was."""
        found: list[Change] = []
        for kept in self._kept:
            found += kept.changes()
        return found

    def restore(self) -> None:
        """Put back what changed, except for what was written into tensors in place."""
        for kept in self._kept:
            kept.restore()

    def _walk(self, value: Any, path: str, owner: type, depth: int) -> None:
        if type(value) in _ATOMS or isinstance(value, _CODE) or id(value) in self._seen or depth > _DEEPEST:
            return
        self._seen.add(id(value))
        if isinstance(value, torch.Tensor):
            if not is_lazy(value):
                self.tensors.setdefault(path, value)
                self._kept.append(_Data(path, owner, value))
        elif type(value) in _MAPPINGS:
            self._keep(_Entries(path, owner, value), depth)
        elif type(value) in _SEQUENCES:
            self._keep(_Items(path, owner, value), depth)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                self._walk(item, f"{path}[{index}]", owner, depth + 1)
        elif (leaf := _keep_leaf(path, owner, value)) is not None:
            self._kept.append(leaf)
        elif not _is_library(type(value)):
            self._walk_attributes(value, path, depth + 1)

    def _walk_attributes(self, value: Any, path: str, depth: int) -> None:
        entries = getattr(value, "__dict__", None)
        if type(entries) is dict:
            if id(entries) not in self._seen:
                self._seen.add(id(entries))
                self._keep(_Attributes(path, type(value), entries), depth)
            return
        slots = [
            name for base in type(value).__mro__ for name in getattr(base, "__slots__", ()) if hasattr(value, name)
        ]
        if slots:
            self._keep(_Slots(path, type(value), value, slots), depth)

    def _keep(self, kept: _Entries | _Items, depth: int) -> None:
        self._kept.append(kept)
        for key, item in kept.entries.items():
            if isinstance(kept, _Attributes) and key in _REGISTRIES:
                registry = _Attributes(kept.path, kept.owner, item)
                if key == "_modules":  # submodules are parts of their own
                    self._kept.append(registry)
                else:
                    self._keep(registry, depth + 1)
            else:
                self._walk(item, kept.name(key), kept.owner, depth + 1)

    def _walk_code(self, kind: type, classes: set[type]) -> None:
        """Walk the attributes of a class and its bases, and what the forward takes from its file."""
        for base in kind.__mro__:
            if _is_library(base) or (base is not kind and base in classes):
                continue
            classes.add(base)
            self._keep(_ClassAttributes(base.__name__, base, base, ()), 0)
            forward = vars(base).get("forward")
            if isinstance(forward, types.FunctionType):
                used = set(forward.__code__.co_names)
                names = [
                    name for name in used & forward.__globals__.keys() if _is_data(name, forward.__globals__[name])
                ]
                self._keep(_Variables(forward.__module__, base, forward.__globals__, names), 0)


class _Kept(ABC):
    """One thing that can change, and how it was."""

    def __init__(self, path: str, owner: type) -> None:
        self.path = path
        self.owner = owner

    @abstractmethod
    def changes(self) -> Iterator[Change]:
        """Yield what is different now."""

    @abstractmethod
    def restore(self) -> None:
        """Make it as it was."""


class _Entries(_Kept):
    """A dict."""

    def __init__(self, path: str, owner: type, value: Any) -> None:
        super().__init__(path, owner)
        self._value = value
        self.entries = self._read()

    def _read(self) -> dict[Any, Any]:
        return dict(self._value)

    def name(self, key: Any) -> str:
        return f"{self.path}[{key!r}]"

    def changes(self) -> Iterator[Change]:
        now = self._read()
        for key in {**self.entries, **now}:
            old, new = self.entries.get(key, _ABSENT), now.get(key, _ABSENT)
            if old is not new and not _are_equal(old, new):
                yield Change(self.name(key), old, new, find_line(self.owner, str(key), self.path))

    def restore(self) -> None:
        now = self._read()
        if [*now] != [*self.entries] or any(now[key] is not value for key, value in self.entries.items()):
            self._value.clear()
            self._value.update(self.entries)


class _Attributes(_Entries):
    """The attributes of an object, or what a module has registered."""

    def name(self, key: Any) -> str:
        return f"{self.path}.{key}" if self.path else str(key)


class _Names(_Attributes):
    """Some names of something: each is put back by itself."""

    def __init__(self, path: str, owner: type, value: Any, names: Collection[str]) -> None:
        self._names = names
        super().__init__(path, owner, value)

    def restore(self) -> None:
        now = self._read()
        for name in {**self.entries, **now}:
            if name not in self.entries:
                self._delete(name)
            elif now.get(name, _ABSENT) is not self.entries[name]:
                self._set(name, self.entries[name])

    def _set(self, name: str, value: Any) -> None:
        setattr(self._value, name, value)

    def _delete(self, name: str) -> None:
        delattr(self._value, name)


class _Slots(_Names):
    """The attributes of an object without a dict."""

    def _read(self) -> dict[Any, Any]:
        return {name: getattr(self._value, name) for name in self._names if hasattr(self._value, name)}


class _ClassAttributes(_Names):
    """Attributes of a class that are data, those that come later included."""

    def _read(self) -> dict[Any, Any]:
        return {name: value for name, value in vars(self._value).items() if _is_data(name, value)}


class _Variables(_Names):
    """Global variables."""

    def _read(self) -> dict[Any, Any]:
        return {name: self._value[name] for name in self._names if name in self._value}

    def _set(self, name: str, value: Any) -> None:
        self._value[name] = value

    def _delete(self, name: str) -> None:
        del self._value[name]


class _Items(_Kept):
    """A list or a deque."""

    def __init__(self, path: str, owner: type, value: Any) -> None:
        super().__init__(path, owner)
        self._value = value
        self.entries = dict(enumerate(value))

    def name(self, key: Any) -> str:
        return f"{self.path}[{key}]"

    def changes(self) -> Iterator[Change]:
        old, new = [*self.entries.values()], [*self._value]
        if len(old) != len(new) or not all(map(_are_equal, old, new)):
            yield Change(self.path, old, new, find_line(self.owner, _last_name(self.path), ""))

    def restore(self) -> None:
        old = [*self.entries.values()]
        if len(old) != len(self._value) or any(one is not other for one, other in zip(old, self._value, strict=True)):
            self._value.clear()
            self._value.extend(old)


class _Members(_Kept):
    """A set."""

    def __init__(self, path: str, owner: type, value: set[Any]) -> None:
        super().__init__(path, owner)
        self._value, self._old = value, set(value)

    def changes(self) -> Iterator[Change]:
        if self._value != self._old:
            yield Change(self.path, self._old, set(self._value), find_line(self.owner, _last_name(self.path), ""))

    def restore(self) -> None:
        if self._value != self._old:
            self._value.clear()
            self._value.update(self._old)


class _Data(_Kept):
    """Which memory a tensor shows, and how: what `tensor.data = …`, `set_`, `resize_` and `t_` change."""

    def __init__(self, path: str, owner: type, value: torch.Tensor) -> None:
        super().__init__(path, owner)
        self._value, self._old = value, value.detach()

    def _is_moved(self) -> bool:
        one, other = self._value, self._old
        return one.shape != other.shape or one.stride() != other.stride() or one.data_ptr() != other.data_ptr()

    def changes(self) -> Iterator[Change]:
        with contextlib.suppress(RuntimeError, NotImplementedError):  # no memory to look at: of torch.func or a fake
            if self._is_moved() and not _are_equal(self._value.detach(), self._old):
                line = find_line(self.owner, _last_name(self.path), "")
                yield Change(self.path, self._old, self._value.detach(), line)

    def restore(self) -> None:
        with contextlib.suppress(RuntimeError, NotImplementedError):
            if self._is_moved():
                self._value.data = self._old


class _Array(_Kept):
    """A numpy array."""

    def __init__(self, path: str, owner: type, value: np.ndarray[Any, Any]) -> None:
        super().__init__(path, owner)
        self._value, self._old = value, value.copy()

    def _is_changed(self) -> bool:
        return self._value.dtype != object and not np.array_equal(self._value, self._old)

    def changes(self) -> Iterator[Change]:
        if self._is_changed():
            yield Change(self.path, self._old, self._value.copy(), find_line(self.owner, _last_name(self.path), ""))

    def restore(self) -> None:
        if self._is_changed():
            self._value[...] = self._old


class _RandomState(_Kept):
    """A source of random numbers: to be put back, and no state that an answer should depend on."""

    def __init__(self, path: str, owner: type, value: Any) -> None:
        super().__init__(path, owner)
        self._restore = _keep_random_state(value)

    def changes(self) -> Iterator[Change]:
        yield from ()

    def restore(self) -> None:
        self._restore()


def _keep_leaf(path: str, owner: type, value: Any) -> _Kept | None:
    """Return how a value without parts is kept; None for another kind of value."""
    if type(value) is set:
        return _Members(path, owner, value)
    if isinstance(value, np.ndarray) and value.nbytes <= _LARGEST_ARRAY:
        return _Array(path, owner, value)
    if isinstance(value, (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)):
        return _RandomState(path, owner, value)
    return None


def _keep_random_state(value: Any) -> Callable[[], Any]:
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    return functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)


def _is_library(kind: type) -> bool:
    """Return whether a class is of torch or the standard library, whose inner state is theirs."""
    root = kind.__module__.partition(".")[0]
    return root in {"torch", "builtins", "collections", "threading", "_thread", "logging", "weakref", "_weakref"}


def _is_data(name: str, value: Any) -> bool:
    if name.startswith("__") or isinstance(value, _CODE):
        return False
    return type(value) in {*_NUMBERS, *_MAPPINGS, *_SEQUENCES, set} or isinstance(value, (torch.Tensor, np.ndarray))


def _last_name(path: str) -> str:
    return path.partition("[")[0].rpartition(".")[2]


def _are_equal(old: Any, new: Any) -> bool:
    if old is new:
        return True
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        if old.shape != new.shape or old.dtype != new.dtype or old.layout != new.layout:
            return False
        try:
            return torch.equal(old, new)
        except (RuntimeError, NotImplementedError):
            return False
    if type(old) is not type(new):
        return False
    if isinstance(old, tuple):
        return len(old) == len(new) and all(map(_are_equal, old, new))
    return isinstance(old, _ATOMS) and bool(old == new)


def find_line(owner: type, name: str, path: str) -> str:
    """Return where the code of a class changes an attribute outside of `__init__`: file, line, text; "" if unknown."""
    for base in owner.__mro__:
        if not _is_library(base):
            for attribute in (name, _last_name(path)):
                if attribute and (found := _changing_lines(base).get(attribute)):
                    return found
    return ""


_CHANGING = frozenset({"append", "appendleft", "extend", "update", "setdefault", "add", "pop", "popleft", "insert"})


@functools.lru_cache(maxsize=256)
def _changing_lines(kind: type) -> Mapping[str, str]:
    """Return the first line that changes each attribute, by the attribute's name."""
    try:
        lines, start = inspect.getsourcelines(kind)
        tree = ast.parse(textwrap.dedent("".join(lines)))
        file = Path(inspect.getsourcefile(kind) or "").name
    except (OSError, TypeError, SyntaxError):
        return {}
    found: dict[str, str] = {}
    for method in ast.walk(tree):
        if isinstance(method, ast.FunctionDef) and method.name not in {"__init__", "__post_init__"}:
            for node in ast.walk(method):
                for name in _changed_names(node):
                    text = lines[node.lineno - 1].strip()  # type: ignore[attr-defined]
                    found.setdefault(name, f"{file}:{start + node.lineno - 1}: {text}")  # type: ignore[attr-defined]
    return found


def _changed_names(node: ast.AST) -> Iterator[str]:
    """Yield the attributes that a node of code changes: `self.h = …`, `self.h[0] += …`, `self.h.append(…)`."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        targets = [node.target]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGING:
        targets = [node.func.value]
    while targets:
        target = targets.pop()
        if isinstance(target, (ast.Tuple, ast.List)):
            targets += target.elts
        elif isinstance(target, ast.Subscript):
            targets.append(target.value)
        elif isinstance(target, ast.Attribute):
            yield target.attr
            if target.attr == "data":
                targets.append(target.value)
        elif isinstance(target, ast.Name):
            yield target.id
