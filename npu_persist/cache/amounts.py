"""Sizes and ages as people write them: `20GB`, `500 MB`, `30d`."""

from __future__ import annotations

import re

from npu_persist.errors import UsageError

_SIZES: dict[str, int] = {
    "": 1,
    "b": 1,
    **{f"{prefix}{b}": int(10 ** (3 * power)) for power, prefix in enumerate("kmgt", 1) for b in ("b", "")},
    **{f"{prefix}ib": int(2 ** (10 * power)) for power, prefix in enumerate("kmgt", 1)},
}
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_AMOUNT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?([A-Za-z]*)", re.ASCII)


def parse_size(text: str, where: str = "size") -> int:
    """Return a size in bytes; 1 kB or 1 k are 1000 B, 1 KiB is 1024 B. `where` names it in the UsageError.

    >>> parse_size("1.5 GB"), parse_size("4KiB"), parse_size("0")
    (1500000000, 4096, 0)
    """
    number, unit = _split(text)
    factor = _SIZES.get(unit.lower())
    if number is None or factor is None:
        raise UsageError(f"{where}: expected a size such as 20GB, 500 MB or 0; got {text!r}")
    return round(number * factor)


def parse_age(text: str, where: str = "age") -> float:
    """Return an age in seconds; units s, m (minutes), h, d, w. `where` names it in the UsageError.

    >>> parse_age("30d") == 30 * 24 * 3600
    True
    """
    number, unit = _split(text)
    factor = _AGES.get(unit)
    if number is None or factor is None:
        raise UsageError(f"{where}: expected an age such as 30d, 12h or 45m; got {text!r}")
    return number * factor


def _split(text: str) -> tuple[float | None, str]:
    found = _AMOUNT.fullmatch(text.strip())
    return (None, "") if found is None else (float(found[1]), found[2])
