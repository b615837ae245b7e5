"""Single values out of a parsed JSON document: objects, arrays, text, numbers, names, paths, digests.

The promise: each method gives a value of its type: a placeholder where the document has something else. The problem is
noted then, and whoever asks for the whole document raises before anybody sees the placeholder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from npu_persist.bundle.manifest.strict_json import key_location, show
from npu_persist.files.digest import is_digest
from npu_persist.files.filesystem import component_problem, path_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.bundle.manifest.strict_json import Problems

T = TypeVar("T")

MISSING: Any = object()
"""Stands for the value of a member that is not there; nothing more is said about it."""


class ValueReader:
    """Reads values, and notes what is wrong with them."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def members(self, value: Any, where: str, *names: str) -> dict[str, Any]:
        """Return an object's members: exactly those of `names`."""
        if not isinstance(value, dict):
            self.expected("an object", value, where)
            value = dict.fromkeys(names, MISSING)
        for name in names:
            if name not in value:
                self.problems.add(key_location(where, name), "expected it, got nothing")
        for name in value:
            if name not in names:
                self.problems.add(key_location(where, name), f"unknown; expected only {', '.join(names)}")
        return {name: value.get(name, MISSING) for name in names}

    def text(self, value: Any, where: str) -> str:
        """Return a string that is not empty."""
        if isinstance(value, str) and value:
            return value
        self.expected("text", value, where)
        return ""

    def any_text(self, value: Any, where: str) -> str:
        """Return a string, empty or not."""
        return "" if value == "" else self.text(value, where)

    def integer(self, value: Any, where: str) -> int:
        """Return an integer of at least 0."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        self.expected("an integer of at least 0", value, where)
        return 0

    def number(self, value: Any, where: str) -> float:
        """Return a number."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        self.expected("a number", value, where)
        return 0.0

    def choice(self, value: Any, where: str, choices: tuple[T, ...]) -> T:
        """Return one of `choices`."""
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        self.expected(f"one of {', '.join(map(str, choices))}", value, where)
        return choices[0]

    def array(self, value: Any, where: str, item: Callable[[Any, str], T]) -> tuple[T, ...]:
        """Return an array, each item read by `item`."""
        if isinstance(value, list):
            return tuple(item(entry, f"{where}[{index}]") for index, entry in enumerate(value))
        self.expected("an array", value, where)
        return ()

    def optional(self, value: Any, where: str, item: Callable[[Any, str], T]) -> T | None:
        """Return None for null, and what `item` reads otherwise."""
        return None if value is None else item(value, where)

    def bundle_name(self, value: Any, where: str) -> str:
        """Return the name of a bundle."""
        name = self.text(value, where)
        if name and (problem := component_problem(name)):
            self.problems.add(where, f"expected a bundle name, got {show(name)}, which {problem}")
        return name

    def path(self, value: Any, where: str) -> str:
        """Return a relative path that stays in its folder."""
        path = self.text(value, where)
        if path and (problem := path_problem(path)):
            self.problems.add(where, f"expected a relative path, got {show(path)}, which {problem}")
        return path

    def digest(self, value: Any, where: str) -> str:
        """Return a whole digest."""
        if isinstance(value, str) and is_digest(value):
            return value
        self.expected("a digest (blake3:<64 hex digits>)", value, where)
        return ""

    def expected(self, what: str, value: Any, where: str) -> None:
        """Note that a value is something else than was expected."""
        if value is not MISSING:  # that it is missing has been noted
            self.problems.add(where, f"expected {what}, got {show(value)}")
