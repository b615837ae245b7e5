"""JSON that comes from strangers: bytes to plain values and back, with every ambiguity of the format refused.

The promise: `load` gives a document of bounded size and depth whose objects have unique keys, whose numbers are finite
and fit 64 bits, and whose strings are Unicode; or it raises `ManifestError`, and nothing but that. `dump` writes the
same document to the same bytes, always, and never writes what `load` would refuse.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

from npu_persist.errors import ManifestError, Problem

MAX_SIZE = 64 * 1024 * 1024
"""Largest document, in bytes."""

MAX_VALUES = 2_000_000
"""Most values in a document: an empty list is two bytes of text, but fifty of memory."""

MAX_DEPTH = 100
"""Deepest nesting of arrays and objects."""

MAX_PROBLEMS = 1000
"""Most problems that are collected."""

MIN_INTEGER = -(2**63)
"""Smallest integer."""

MAX_INTEGER = 2**63 - 1
"""Largest integer."""

_Place: TypeAlias = "tuple[_Place, Any] | None"
_SHOWN = 60
_SHOWN_PROBLEMS = 20
_INTEGER_DIGITS = 20


class Problems:
    """What is wrong with a document, collected until someone asks."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._found: list[Problem] = []

    def add(self, location: str, message: str) -> None:
        """Note a problem; those after the first `MAX_PROBLEMS` are dropped."""
        if len(self._found) < MAX_PROBLEMS:
            self._found.append(Problem(location, message))

    def raise_if_any(self) -> None:
        """Raise `ManifestError` with every problem, if there is one."""
        if self._found:
            raise self.error()

    def error(self) -> ManifestError:
        """Return the error that names every problem."""
        lines = [f"\n  {problem}" for problem in self._found[:_SHOWN_PROBLEMS]]
        if len(self._found) > _SHOWN_PROBLEMS:
            lines.append(f"\n  and {len(self._found) - _SHOWN_PROBLEMS} more")
        return ManifestError(
            f"{self._source} is not a valid manifest:{''.join(lines)}\n"
            "It is damaged or npu_persist did not write it. Persist the model again, or get another copy of the bundle",
            problems=tuple(self._found),
        )


class _Repeated(dict[str, Any]):
    """An object that had a key more than once."""

    def __init__(self, value: dict[str, Any]) -> None:
        super().__init__(value)
        self.repeated: set[str] = set()


def load(data: bytes, problems: Problems) -> Any:
    """Read a document.

    Args:
        data: UTF-8 text without a byte order mark.
        problems: Where to note what is wrong with single values.

    Raises:
        ManifestError: There is no way to go on: no JSON, or too much of it.
    """
    # Quotes and backslashes are not looked at: commas inside strings count too, which errs on the safe side.
    values = 1 + data.count(b",") + data.count(b"[") + data.count(b"{") if len(data) <= MAX_SIZE else 0
    if len(data) > MAX_SIZE:
        problems.add("", f"expected at most {MAX_SIZE} bytes, got {len(data)}")
    elif values > MAX_VALUES:
        problems.add("", f"expected at most {MAX_VALUES} values, got {values}")
    problems.raise_if_any()
    try:
        document = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant
        )
    except RecursionError as error:
        problems.add("", f"expected at most {MAX_DEPTH} levels of nesting, got more")
        raise problems.error() from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        problems.add("", f"expected JSON in UTF-8, got {len(data)} bytes that are not ({error})")
        raise problems.error() from error
    inspect(document, problems)
    return document


def dump(document: Any) -> bytes:
    """Write a document that `inspect` has no problem with: sorted keys, two spaces, UTF-8, a newline at the end."""
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def inspect(document: Any, problems: Problems) -> None:
    """Note every value in a document that JSON cannot hold without doubt.

    Raises:
        ManifestError: The document is too deep or too large to go on.
    """
    # Each value with its place: the place of what it is in, and its key or index there. Written out, the places of
    # millions of values at the end of long keys would fill the memory.
    left: list[tuple[Any, _Place, int]] = [(document, None, 1)]
    seen = 0
    while left:
        value, place, depth = left.pop()
        seen += 1
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            problems.add(
                _location(place), f"expected at most {MAX_VALUES} values in {MAX_DEPTH} levels of nesting, got more"
            )
            problems.raise_if_any()
        if isinstance(value, dict):
            _inspect_keys(value, place, problems)
            left += [(item, (place, key), depth + 1) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            left += [(item, (place, index), depth + 1) for index, item in enumerate(value)]
        elif problem := _scalar_problem(value):
            problems.add(_location(place), problem)


def key_location(location: str, key: object) -> str:
    """Return the location of an object's member."""
    if not isinstance(key, str) or not key.isidentifier() or len(key) > _SHOWN:
        return f"{location}[{show(key)}]"
    return f"{location}.{key}" if location else key


def show(value: object) -> str:
    """Describe a value in a few words, however large it is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}… ({len(value)} characters)"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "an array"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if MIN_INTEGER <= value <= MAX_INTEGER else "an integer beyond 64 bits"
    return repr(value) if isinstance(value, float) else f"a {type(value).__module__}.{type(value).__qualname__}"


def _scalar_problem(value: object) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return None if _is_unicode(value) else f"expected Unicode text, got a lone surrogate in {show(value)}"
    if isinstance(value, int):
        return None if MIN_INTEGER <= value <= MAX_INTEGER else f"expected an integer of 64 bits, got {show(value)}"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"expected a finite number, got {show(value)}"
    return f"expected a value that JSON can hold, got {show(value)}"


def _inspect_keys(value: dict[Any, Any], place: _Place, problems: Problems) -> None:
    for key in value:
        if not isinstance(key, str):
            problems.add(_location(place), f"expected keys that are strings, got {show(key)}")
        elif not _is_unicode(key):
            problems.add(_location(place), f"expected Unicode keys, got a lone surrogate in {show(key)}")
    if isinstance(value, _Repeated):
        for key in sorted(value.repeated)[:MAX_PROBLEMS]:
            problems.add(_location((place, key)), "expected every key once, got it more than once")


def _location(place: _Place) -> str:
    steps: list[Any] = []
    while place is not None:
        place, step = place
        steps.append(step)
    location = ""
    for step in reversed(steps):
        location = f"{location}[{step}]" if isinstance(step, int) else key_location(location, step)
    return location


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    marked = _Repeated(value)
    left = set(value)
    for key, _ in pairs:
        if key in left:
            left.remove(key)
        else:
            marked.repeated.add(key)
    return marked


def _integer(digits: str) -> int:
    # Python refuses, or takes quadratic time for, thousands of digits; `inspect` refuses anything beyond 64 bits.
    return int(digits) if len(digits) <= _INTEGER_DIGITS else MAX_INTEGER + 1


def _constant(name: str) -> float:
    return float(name)  # NaN, Infinity, -Infinity: `inspect` refuses them with their location
