"""The report of a load: which way was taken, which were passed over and why, and what each step cost.

The promise: nothing is hidden. Each rung of the ladder that was looked at is there with its reason, and the devices are
those that OpenVINO says it executes on, asked at the moment of reading.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from npu_persist.bundle.buckets import describe_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RungName = Literal["attached", "cache", "compile"]


@dataclass(frozen=True)
class Rung:
    """One way to a compiled model.

    Attributes:
        name: "attached": an artifact that came with the bundle; "cache": the machine's compile cache; "compile": from
            the graph.
        device: The device it was tried for.
        taken: Whether it led to the model.
        reason: Why it was taken or passed over.
        seconds: What it took.
        shapes: The bucket that it is for; None: the graph as it is.
    """

    name: RungName
    device: str
    taken: bool
    reason: str
    seconds: float
    shapes: Mapping[str, tuple[int, ...]] | None = None


@dataclass
class Report:
    """How a model was loaded; `str` gives it as a text, `to_dict` as what JSON can hold.

    Attributes:
        reference: The bundle.
        device: The device string that was asked for.
        loaded_device: The one that the model was loaded for: another one for `AUTO` where there is only one device,
            and when a fallback was taken.
        from_cache: Whether a compiled artifact spared the compilation; with buckets, of each of them.
        key: The key of the compiled artifact; with buckets, of the largest.
        rungs: What was tried, in order.
        verification: "full", "stamp" or "none".
        verified_bytes: Bytes that were read and compared with their digests.
        phases: Seconds by phase: import (of OpenVINO), read (the graph), compile or import_blob, keep (in the compile
            cache), verify (waiting for it beyond the others), load (all of it), first_inference (after the first call).
        notes: What else is worth knowing, for instance why nothing could be cached.
    """

    reference: str
    device: str
    verification: str
    loaded_device: str = ""
    from_cache: bool = False
    key: str | None = None
    rungs: list[Rung] = field(default_factory=list)
    verified_bytes: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _executing: Callable[[], tuple[str, ...]] | None = field(default=None, repr=False, compare=False)

    @property
    def execution_devices(self) -> tuple[str, ...]:
        """The devices that execute the model now: those of AUTO can change while it runs."""
        return () if self._executing is None else self._executing()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists, text and numbers."""
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__ if not name.startswith("_")}
        shown["rungs"] = [asdict(rung) for rung in self.rungs]
        shown["phases"] = {name: round(seconds, 6) for name, seconds in self.phases.items()}
        return {**shown, "notes": list(self.notes), "execution_devices": list(self.execution_devices)}

    def __str__(self) -> str:
        where = ", ".join(self.execution_devices) or "a device that OpenVINO does not name"
        how = "from a compiled artifact" if self.from_cache else "compiled"
        lines = [f"{self.reference} for {self.device}: {how} for {self.loaded_device}, runs on {where}"]
        lines += [
            f"  {'taken      ' if rung.taken else 'passed over'}  {rung.name} ({rung.device}{_bucket(rung)}): "
            f"{rung.reason}, {rung.seconds:.3f} s"
            for rung in self.rungs
        ]
        lines.append("  " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self.phases.items()))
        lines.append(f"  verified: {self.verification}, {self.verified_bytes} bytes")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def _bucket(rung: Rung) -> str:
    return "" if rung.shapes is None else f", {describe_shapes(rung.shapes)}"
