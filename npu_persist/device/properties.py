"""Properties for a compilation: what OpenVINO leaves unsaid about them.

The promise: a misspelt name is refused before anything is compiled, and by the devices made of others too, which pass
over it in silence. A name that is unlike any known one passes: a device takes more than it lists.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from npu_persist.device.names import head
from npu_persist.errors import PropertyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import openvino as ov

HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")
"""Values of OpenVINO's PERFORMANCE_HINT."""

_SIMILAR = 0.85
"""How alike, from 0 to 1, an unknown property must be to a known one to be taken for a slip of it."""


def merge_hint(properties: Mapping[str, Any], hint: str | None) -> dict[str, Any]:
    """Return the properties with `hint` as their PERFORMANCE_HINT.

    Raises:
        UsageError: OpenVINO has no such hint, or the properties have one already.

    """
    if hint is None:
        return dict(properties)
    if hint not in HINTS:
        raise UsageError(f"hint: expected one of {', '.join(HINTS)}, or None; got {hint!r}")
    if "PERFORMANCE_HINT" in properties:
        raise UsageError(
            f"hint={hint!r} and config's PERFORMANCE_HINT={properties['PERFORMANCE_HINT']!r} say the same thing twice. "
            "Give one of them."
        )
    return {**properties, "PERFORMANCE_HINT": hint}


def check_properties(core: ov.Core, device: str, properties: Mapping[str, Any]) -> None:
    """Refuse what looks like a slip of a known property's name.

    Raises:
        PropertyError: a name that no device knows is almost that of one that a device knows.

    """
    if not properties:
        return
    known: set[str] = set()
    for name in (head(device), *core.available_devices):
        try:
            known.update(core.get_property(name, "SUPPORTED_PROPERTIES"))
        except RuntimeError:  # its plugin does not load here; `explain_missing` says why when it is needed
            continue
    for key in properties:
        close = difflib.get_close_matches(key, known - {key}, n=1, cutoff=_SIMILAR)
        if key not in known and close:
            raise PropertyError(f"{device} has no property {key!r}; did you mean {close[0]!r}?")
