"""Frozen dataclasses that cost next to nothing to define.

`dataclasses.dataclass(frozen=True)` writes and compiles six methods for each class: half a millisecond, and a load
defines thirty classes before it can begin. Here the methods are written once, for all.

The promise: what is made with `dataclass` here is a dataclass (`fields`, `replace`, `asdict`, `match`), compares,
hashes and prints like one, and cannot be changed. Type checkers are told that it is the standard library's:

    if TYPE_CHECKING:
        from dataclasses import dataclass
    else:
        from npu_persist.frozen import dataclass
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def dataclass(*, frozen: bool, slots: bool) -> Callable[[type[T]], type[T]]:
    """Return a class decorator; the arguments are those of the standard library's, and have to be true."""
    if not (frozen and slots):
        raise TypeError("expected frozen=True and slots=True; use dataclasses.dataclass for others")
    return _make


def _make(cls: type[T]) -> type[T]:
    made = dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    for method in (_init, _eq, _hash, _repr, _set, _delete):
        name = f"__{method.__name__.strip('_')}__"
        name = {"__set__": "__setattr__", "__delete__": "__delattr__"}.get(name, name)
        if name not in cls.__dict__ or name == "__hash__":
            setattr(made, name, method)
    return made


def _init(self: Any, /, *args: Any, **kwargs: Any) -> None:
    values: dict[str, Any] = {}
    given = iter(args)
    for field in dataclasses.fields(self):
        name = field.name
        # The next positional argument, the keyword argument, or the default, in that order.
        for value in given:
            values[name] = value
            break
        else:
            if name in kwargs:
                values[name] = kwargs.pop(name)
            elif field.default is not dataclasses.MISSING:
                values[name] = field.default
            else:
                raise TypeError(f"{type(self).__name__}() misses {name!r}")
    if kwargs or next(given, values) is not values:
        raise TypeError(f"{type(self).__name__}() takes {', '.join(values)}; got more: {', '.join(kwargs) or args!r}")
    self.__dict__.update(values)


def _eq(self: Any, other: object) -> bool:
    return bool(self.__dict__ == other.__dict__) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(tuple(self.__dict__.values()))


def _repr(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"


def _set(self: Any, name: str, _: Any) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r} of {type(self).__name__}")


def _delete(self: Any, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r} of {type(self).__name__}")
