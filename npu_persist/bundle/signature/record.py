"""The record that stands for a dataclass or ModelOutput where its class does not exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Record(Mapping[str, Any]):
    """A dataclass or ModelOutput of the traced module, whose class does not exist where the model is loaded.

    Fields are read as attributes, by key or by position, and cannot be set. A field that is None is an attribute but
    not a key, as in transformers' ModelOutput. A field named like one of a mapping's methods (`values`, `items`) is
    what its attribute gives, as it was in the module.

    >>> output = Record("Output", {"logits": 1.5, "loss": None})
    >>> output.logits, output["logits"], output[0], output.loss, list(output)
    (1.5, 1.5, 1.5, None, ['logits'])
    """

    __slots__ = ("_fields", "_type_name")

    def __init__(self, type_name: str, fields: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_type_name", type_name)
        object.__setattr__(self, "_fields", dict(fields))

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            fields = object.__getattribute__(self, "_fields")
            if name in fields:
                return fields[name]
        return object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> Any:
        # Reached for names with an underscore that are fields, and for those that are nothing.
        fields: dict[str, Any] = object.__getattribute__(self, "_fields")
        if name in fields:
            return fields[name]
        raise AttributeError(f"{self._type_name} has no field {name!r}; its fields are {', '.join(fields)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self._type_name} is read-only: cannot set {name!r}")

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return _present(self._fields)[key]
        if self._fields[key] is None:
            raise KeyError(key)
        return self._fields[key]

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in self._fields.items() if value is not None)

    def __len__(self) -> int:
        return len(_present(self._fields))

    def __reduce__(self) -> tuple[type[Record], tuple[str, dict[str, Any]]]:
        return (Record, (self._type_name, self._fields))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._fields})

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not None, in order."""
        return _present(self._fields)

    def __repr__(self) -> str:
        return f"{self._type_name}({', '.join(f'{name}={value!r}' for name, value in self._fields.items())})"


def _present(fields: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(value for value in fields.values() if value is not None)
