"""Strict JSON documents: bytes to checked records, and records to canonical bytes.

A document may come from anybody. It is refused unless its size, depth and number of values are bounded, its keys are
unique, its numbers are finite and fit 64 bits, its text is Unicode, and it has exactly the members of its record. The
canonical form is UTF-8 with sorted keys, an indent of two spaces and a newline at the end.
"""

from __future__ import annotations

import json
import math
import re
import threading
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import msgspec

from npu_persist.errors import Problem
from npu_persist.files.digest import is_digest
from npu_persist.files.filesystem import component_problem, path_problem

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SIZE = 64 * 1024 * 1024
"""Largest document, in bytes."""

MAX_VALUES = 2_000_000
"""Most values in a document: an empty list is two bytes of text, but fifty of memory."""

MAX_DEPTH = 100
"""Deepest nesting of arrays and objects."""

MAX_PROBLEMS = 1000
"""Most problems that are collected."""

MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**63 - 1

FORMAT_VERSION = "1.0"
"""The version that every kind of document has today."""

Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
Integer: TypeAlias = Annotated[int, msgspec.Meta(ge=MIN_INTEGER, le=MAX_INTEGER)]

# What the schema says of these, `check_name`, `check_path` and `check_digest` check with better messages.
_DEVICE = r"([cC][oO][nN]|[pP][rR][nN]|[aA][uU][xX]|[nN][uU][lL]|[cC][oO][mM][0-9]|[lL][pP][tT][0-9])"
_COMPONENT = r"[A-Za-z0-9_]([A-Za-z0-9._+-]*[A-Za-z0-9_+-])?"
Name: TypeAlias = Annotated[
    str,
    msgspec.Meta(
        description="A file name that works on every platform; no name that Windows reserves for a device.",
        extra_json_schema={"maxLength": 100, "pattern": rf"^(?!{_DEVICE}(\.|$)){_COMPONENT}$"},
    ),
]
RelativePath: TypeAlias = Annotated[
    str,
    msgspec.Meta(
        description="A relative path whose components are such names, none longer than 100 characters.",
        extra_json_schema={
            "maxLength": 200,
            "pattern": rf"^(?!([^/]*/)*{_DEVICE}(\.|/|$))(?!.*[^/]{{101}}){_COMPONENT}(/{_COMPONENT})*$",
        },
    ),
]
Digest: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^blake3:[0-9a-f]{64}$"})]

T = TypeVar("T")
_analysing = threading.Lock()
_analysed: set[type[Any]] = set()
_Place: TypeAlias = "tuple[_Place, Any] | None"
_SHOWN = 60
_SHOWN_PROBLEMS = 20
_INTEGER_DIGITS = 20
_WHERE = re.compile(r" - at `\$\.?(.*)`$", re.DOTALL)
_TYPES = {
    "int": "an integer",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
}
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of records in a document."""


class Document(Part, frozen=True, tag_field="format_version", tag=FORMAT_VERSION):
    """Base of records that are a whole document: in JSON they have the member `format_version`."""


class DocumentError(ValueError):
    """A document that is damaged, hostile or not of its kind.

    Attributes:
        problems: What is wrong, each with its place.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))

    @property
    def listing(self) -> str:
        """The problems, one a line; the first twenty."""
        from npu_persist.progress import one_line

        lines = [f"\n  {one_line(str(problem))}" for problem in self.problems[:_SHOWN_PROBLEMS]]
        if len(self.problems) > _SHOWN_PROBLEMS:
            lines.append(f"\n  and {len(self.problems) - _SHOWN_PROBLEMS} more")
        return "".join(lines)


class Problems:
    """Collects what is wrong with a document."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, location: str, message: str) -> None:
        """Note a problem; those after the first `MAX_PROBLEMS` are dropped."""
        if len(self._found) < MAX_PROBLEMS:
            self._found.append(Problem(location, message))

    def raise_if_any(self) -> None:
        """Raise a `DocumentError` if a problem was noted."""
        if self._found:
            raise DocumentError(self._found)

    def fail(self, location: str, message: str, cause: Exception | None = None) -> None:
        """Raise a `DocumentError` with this problem and those before it."""
        raise DocumentError([*self._found, Problem(location, message)]) from cause


def decode(data: bytes, kind: type[T]) -> T:
    """Read a document."""
    return convert(parse(data), kind)


def encode(value: Document) -> bytes:
    """Write a record in the canonical form."""
    document = plain(value)
    check_values(document)
    return dump(plain(convert(document, type(value))))


def parse(data: bytes) -> Any:
    """Return the plain JSON values of a document, whatever its kind."""
    problems = Problems()
    # Commas inside strings count too, which errs on the safe side.
    values = 1 + data.count(b",") + data.count(b"[") + data.count(b"{") if len(data) <= MAX_SIZE else 0
    if len(data) > MAX_SIZE:
        problems.fail("", f"expected at most {MAX_SIZE} bytes, got {len(data)}")
    elif values > MAX_VALUES:
        problems.fail("", f"expected at most {MAX_VALUES} values, got {values}")
    document = None
    try:
        document = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant
        )
    except RecursionError as error:
        problems.fail("", f"expected at most {MAX_DEPTH} levels of nesting, got more", error)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        problems.fail("", f"expected JSON in UTF-8, got {len(data)} bytes of something else ({error})", error)
    check_values(document)
    return document


def convert(document: Any, kind: type[T]) -> T:
    """Return a document's plain values as a record."""
    # Where nothing but one record can be, msgspec does not demand the tag.
    if issubclass(kind, Document) and isinstance(document, dict) and "format_version" not in document:
        raise DocumentError([Problem("format_version", "expected it, got nothing")])
    try:
        return to_record(document, kind)
    except msgspec.ValidationError as error:
        raise DocumentError([_problem(document, kind, str(error))]) from error


def to_record(value: Any, kind: type[T]) -> T:
    """Return plain values as a record, as `msgspec.convert` does, also where several threads are the first to do so."""
    if kind not in _analysed:
        # msgspec 0.22 crashes the process where two threads read the annotations of a record at once.
        with _analysing:
            with suppress(msgspec.ValidationError):
                msgspec.convert(None, kind)
            _analysed.add(kind)
    return msgspec.convert(value, kind)


def plain(value: object) -> Any:
    """Return a record as plain JSON values."""
    try:
        return msgspec.to_builtins(value, enc_hook=_builtin)
    except (TypeError, RecursionError) as error:
        raise DocumentError([Problem("", f"expected values that JSON can hold, got others ({error})")]) from error


def dump(document: Any) -> bytes:
    """Write plain JSON values in the canonical form; these are not checked."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{msgspec.json.format(text, indent=2)}\n".encode()  # as json's own indent, which is not written in C


def check_values(document: Any) -> None:
    """Check that JSON can hold every value without ambiguity."""
    problems = Problems()
    # Each value with its place: the place of what it is in, and its key or index there. Written out, the places of
    # millions of values at the end of long keys would fill the memory.
    left: list[tuple[Any, _Place, int]] = [(document, None, 1)]
    seen = 0
    while left:
        value, place, depth = left.pop()
        seen += 1
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            problems.fail(
                _location(place), f"expected at most {MAX_VALUES} values in {MAX_DEPTH} levels of nesting, got more"
            )
        if isinstance(value, dict):
            _check_keys(value, place, problems)
            if depth == MAX_DEPTH or seen + len(value) > MAX_VALUES:
                left += [(item, (place, key), depth + 1) for key, item in value.items()]
                continue
            before = len(left)  # most values are texts of ASCII, in which nothing can be wrong
            left += [
                (item, (place, key), depth + 1)
                for key, item in value.items()
                if type(item) is not str or not item.isascii()
            ]
            seen += len(value) - (len(left) - before)
        elif isinstance(value, (list, tuple)):
            left += [(item, (place, index), depth + 1) for index, item in enumerate(value)]
        elif problem := _scalar_problem(value):
            problems.add(_location(place), problem)
    problems.raise_if_any()


def check_name(name: str, where: str, problems: Problems) -> None:
    """Check the name of a bundle."""
    if problem := component_problem(name):
        problems.add(where, f"expected a bundle name, got {show(name)}, which {problem}")


def check_path(path: str, where: str, problems: Problems) -> None:
    """Check a relative path that stays in its folder on every platform."""
    if problem := path_problem(path):
        problems.add(where, f"expected a relative path, got {show(path)}, which {problem}")


def check_digest(digest: str, where: str, problems: Problems) -> None:
    """Check a whole digest."""
    if not is_digest(digest):
        problems.add(where, f"expected a digest (blake3:<64 hex digits>), got {show(digest)}")


def check_side_by_side(paths: Iterable[str], where: str, problems: Problems) -> None:
    """Check that files can stand side by side on every platform."""
    # On Windows `A/x` and `a/y` share a folder, and nowhere can `a` be a file and a folder.
    spellings: dict[str, tuple[str, bool]] = {}
    for path in paths:
        components = path.split("/")
        for length in range(1, len(components) + 1):
            place = "/".join(components[:length])
            is_file = length == len(components)
            other, other_is_file = spellings.setdefault(place.lower(), (place, is_file))
            location = key_location(where, path)
            if other != place:
                problems.add(location, f"expected names that differ in more than case, got {show(other)}")
            elif other_is_file != is_file:
                problems.add(location, f"expected {show(place)} to be a file or a folder, got both")


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


def _problem(document: Any, kind: type[Any], message: str) -> Problem:
    """Return msgspec's message as a problem that names the place and what is there."""
    found = _WHERE.search(message)
    steps = _steps(document, kind, message, "" if found is None else found[1])
    place: _Place = None
    value = document
    for step in steps:
        place, value = (place, step), value[step]
    what = message if found is None else message[: found.start()]
    if field := _FIELD.fullmatch(what):
        is_missing = field[1] == "missing required"
        return Problem(_location((place, field[2])), "expected it, got nothing" if is_missing else "unknown")
    what = (
        "Expected a known value" if what.startswith(("Invalid enum", "Invalid value")) else what.partition(", got ")[0]
    )
    what = re.sub(r"`(.*?)`", lambda types: " or ".join(_TYPES.get(name, name) for name in types[1].split(" | ")), what)
    what, is_too_long = re.subn(r"of length <= ([0-9]+)", r"of at most \1 members", what)
    got = str(len(value)) if is_too_long and isinstance(value, (dict, list)) else show(value)
    return Problem(_location(place), f"{what[:1].lower()}{what[1:]}, got {got}")


def _steps(document: Any, kind: type[Any], message: str, where: str) -> list[Any]:
    """Return the keys and indices of the place that msgspec names, which leaves out the keys of mappings."""
    value = document
    steps: list[Any] = []
    for name, index in re.findall(r"([^.\[\]]+)|\[([0-9]+|\.\.\.)\]", where):
        if name and (not isinstance(value, dict) or name not in value):
            break
        step = name or (_guilty_key(document, steps, value, kind, message) if index == "..." else int(index))
        steps.append(step)
        value = value[step]
    return steps


def _guilty_key(document: Any, steps: list[Any], mapping: dict[str, Any], kind: type[Any], message: str) -> str:
    keys = list(mapping)
    while len(keys) > 1:
        half = keys[: len(keys) // 2]
        try:
            msgspec.convert(_replaced(document, steps, {key: mapping[key] for key in half}), kind)
        except msgspec.ValidationError as error:
            if str(error) == message:
                keys = half
                continue
        keys = keys[len(half) :]
    return keys[0]


def _replaced(value: Any, steps: list[Any], new: Any) -> Any:
    """Return a copy of nested values with another one at a place."""
    if not steps:
        return new
    changed = value.copy()
    changed[steps[0]] = _replaced(value[steps[0]], steps[1:], new)
    return changed


def _builtin(value: Any) -> float | str:
    """Return the builtin behind a subclass or a number of numpy."""
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"{type(value).__name__} is no value of JSON")


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


def _check_keys(value: dict[Any, Any], place: _Place, problems: Problems) -> None:
    for key in value:
        if isinstance(key, str) and key.isascii():
            continue
        if not isinstance(key, str):
            problems.add(_location(place), f"expected keys that are strings, got {show(key)}")
        elif not _is_unicode(key):
            problems.add(_location(place), f"expected Unicode keys, got a lone surrogate in {show(key)}")
    if isinstance(value, _Repeated):
        for key in value.repeated:
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


class _Repeated(dict[str, Any]):
    """An object that had a key more than once."""

    repeated: list[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    marked = _Repeated(value)
    keys = sorted(key for key, _ in pairs)
    marked.repeated = list(dict.fromkeys(key for key, following in pairwise(keys) if key == following))[:MAX_PROBLEMS]
    return marked


def _integer(digits: str) -> int:
    # Python refuses, or takes quadratic time for, thousands of digits; `check_values` refuses anything beyond 64 bits.
    return int(digits) if len(digits) <= _INTEGER_DIGITS else MAX_INTEGER + 1


def _constant(name: str) -> float:
    return float(name)  # NaN, Infinity, -Infinity: `check_values` refuses them with their location
