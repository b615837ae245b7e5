"""The report of a load: the source of the model, the rejected sources with reasons, and the time of each step."""

from __future__ import annotations

import threading
import time
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from npu_persist.bundle.buckets import describe_shapes
from npu_persist.compilation.local import executing_devices, execution_precisions, is_settled
from npu_persist.device.core import forked
from npu_persist.device.devices import get_kind, named_devices
from npu_persist.device.precision import FULL
from npu_persist.errors import DeviceWarning, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import openvino as ov

Source = Literal["attached", "cache", "graph"]

_POLL = 0.05
"""Seconds between two looks at what AUTO executes on."""

_MICROSECOND = timedelta(microseconds=1)


class Attempt(msgspec.Struct, frozen=True):
    """One source that was tried for a compiled model.

    Attributes:
        source: "attached": an artifact that is attached to the bundle; "cache": the machine's compile cache; "graph": a
            compilation of the graph.
        device: The device that it was tried for.
        is_used: Whether the model came from it.
        reason: Why it was used or rejected.
        seconds: How long it took.
        shapes: The bucket that it is for; None for the graph as it is.
    """

    source: Source
    device: str
    is_used: bool
    reason: str
    seconds: float
    shapes: Mapping[str, tuple[int, ...]] | None = None

    def __str__(self) -> str:
        from npu_persist.progress import one_line

        bucket = "" if self.shapes is None else f", {describe_shapes(self.shapes)}"
        verdict = "used   " if self.is_used else "skipped"
        return one_line(f"{verdict}  {self.source} ({self.device}{bucket}): {self.reason}, {self.seconds:.3f} s")


class History(msgspec.Struct, frozen=True):
    """What happened on the way to a compiled model: attempts, notes, and seconds by phase."""

    attempts: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()
    phases: Mapping[str, float] = {}

    def __add__(self, later: History) -> History:
        phases = dict(self.phases)
        for name, seconds in later.phases.items():
            phases[name] = phases.get(name, 0.0) + seconds
        return History(self.attempts + later.attempts, merge_notes(self.notes, later.notes), phases)

    def __str__(self) -> str:
        from npu_persist.progress import one_line

        notes = (f"  note: {one_line(note)}" for note in self.notes)
        return "\n".join([*(f"  {attempt}" for attempt in self.attempts), *notes])


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How a model was loaded; `str` returns it as text, `to_dict` as JSON-compatible data.

    Attributes:
        reference: The bundle.
        graph: Name of the graph, if the bundle has several.
        device: The requested device string.
        loaded_device: The device string that the model was loaded for. It differs from `device` after a fallback, and
            for `AUTO` if there is only one device.
        execution_devices: The devices that executed the model when `Model.report` was read; AUTO may change them.
        execution_precisions: The precision that each of them computes in, if it reports one: "f32", "bf16", "f16";
            "dynamic" is the graph's own, float32. `persist` checked the bundle in float32.
        from_cache: Whether a compiled artifact saved the compilation; with buckets, all of them.
        key: The key of the compiled artifact; with buckets, the largest one's.
        attempts: The sources that were tried, in order.
        verification: "full", "stamp" or "none".
        verified_bytes: Number of bytes that were read and compared with their digests.
        phases: Seconds by phase: pull, import (of OpenVINO), read (the graph), compile or import_blob, keep (writing to
            the compile cache), verify (waiting for it after the other phases), load (the total), first_inference (after
            the first call).
        notes: Other remarks, for instance why nothing could be cached.
    """

    reference: str
    graph: str | None = None
    device: str
    loaded_device: str
    execution_devices: tuple[str, ...] = ()
    execution_precisions: Mapping[str, str] = {}
    from_cache: bool
    key: str | None
    attempts: tuple[Attempt, ...]
    verification: str
    verified_bytes: int
    phases: Mapping[str, float]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists, text and numbers."""
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return {**found, "phases": {name: round(seconds, 6) for name, seconds in self.phases.items()}}

    def __str__(self) -> str:
        from npu_persist.progress import one_line

        where = ", ".join(map(self._describe_device, self.execution_devices)) or "a device that OpenVINO does not name"
        how = "from a compiled artifact" if self.from_cache else "compiled"
        what = self.reference if self.graph is None else f"{self.reference} {self.graph}"
        lines = [one_line(f"{what} for {self.device}: {how} for {self.loaded_device}, runs on {where}")]
        lines += [f"  {attempt}" for attempt in self.attempts]
        lines.append("  " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self.phases.items()))
        lines.append(f"  verified: {self.verification}, {self.verified_bytes} bytes")
        if set(self.execution_precisions.values()) - {FULL, "dynamic"}:
            graph = "" if self.graph is None else f" --graph {self.graph}"
            command = f"npu-persist check {self.reference}{graph} --device {self.device}"
            lines.append(one_line(f"  checked in {FULL}; to compare: {command}"))
        return "\n".join([*lines, *(f"  note: {one_line(note)}" for note in self.notes)])

    def _describe_device(self, name: str) -> str:
        precision = self.execution_precisions.get(name)
        return name if precision is None else f"{name} in {precision}"


class LiveReport:
    """The report of a model that is loaded: beside what the load found, what only later calls show.

    Args:
        report: What the load found.
        models: The compiled models.
    """

    def __init__(self, report: Report, models: Sequence[ov.CompiledModel]) -> None:
        self._report = report
        self._models = tuple(models)
        self._lock = threading.Lock()
        self._warn_of_other_device()

    def read(self) -> Report:
        """Return the report, with the devices that execute the model now."""
        if forked:  # which may not ask OpenVINO, and in which a thread that is not here may have the lock
            return self._report
        with self._lock:
            if self._models:
                executing = dict.fromkeys(name for model in self._models for name in executing_devices(model))
                precisions = {key: text for model in self._models for key, text in execution_precisions(model).items()}
                self._report = msgspec.structs.replace(
                    self._report, execution_devices=tuple(executing), execution_precisions=precisions
                )
            return self._report

    def note_first_inference(self, seconds: float) -> None:
        """Note the first inference of a request; AUTO may have settled by now."""
        self.note_phase("first_inference", seconds)
        self._warn_of_other_device()

    def note_phase(self, name: str, seconds: float) -> None:
        """Add the time of a phase, unless it has one."""
        with self._lock:
            if name not in self._report.phases:
                phases = {**self._report.phases, name: seconds}
                self._report = msgspec.structs.replace(self._report, phases=phases)

    def settle(self) -> None:
        """Wait until AUTO has chosen the device that executes the models from now on."""
        while not all(map(is_settled, self._models)):
            time.sleep(_POLL)

    def close(self) -> None:
        """Let go of the models; the devices that executed them stay in the report."""
        self.read()
        if not forked:
            self._models = ()

    def _warn_of_other_device(self) -> None:
        """Warn where AUTO settled on the CPU, although an accelerator was named."""
        report = self._report
        wanted = {get_kind(name) for name in named_devices(report.device)} - {"CPU"}
        if get_kind(report.device) not in {"AUTO", "MULTI"} or not wanted:
            return
        for model in self._models:
            executing = executing_devices(model) if is_settled(model) else ()
            if not executing or wanted & {get_kind(name) for name in executing}:
                continue
            text = (
                f"{report.reference}: {report.device} was requested, but only {', '.join(executing)} executes it. "
                "`npu-persist doctor` shows what the other devices lack"
            )
            if text not in self._report.notes:
                self._report = msgspec.structs.replace(self._report, notes=(*self._report.notes, text))
                warnings.warn(text, DeviceWarning, stacklevel=5)


class LayerTime(msgspec.Struct, frozen=True):
    """One layer of the compiled graph, which may combine several of the graph's operations.

    Attributes:
        name: Its name in the graph.
        type: Its operation, for instance `MatMul`.
        exec_type: What the device ran for it, for instance `brgemm_avx2_f32`.
        status: `executed`, `not_run` or `optimized_out`.
        real_us: Microseconds from its start to its end.
        cpu_us: Microseconds of that on the host's processor.
    """

    name: str
    type: str
    exec_type: str
    status: str
    real_us: int
    cpu_us: int


def read_layers(compiled: ov.CompiledModel, request: Any, reference: str) -> tuple[LayerTime, ...]:
    """Return the times that a request's last inference left in the device's counters; UsageError without counters."""
    try:
        is_counted = str(compiled.get_property("PERF_COUNT")).upper() in {"YES", "TRUE"}
    except RuntimeError:  # HETERO does not have the property, but passes it on: its numbers tell
        is_counted = any(info.real_time for info in request.get_profiling_info())
    layers = tuple(
        LayerTime(
            name=info.node_name,
            type=info.node_type,
            exec_type=info.exec_type,
            status=info.status.name.lower(),
            real_us=info.real_time // _MICROSECOND,
            cpu_us=info.cpu_time // _MICROSECOND,
        )
        for info in (request.get_profiling_info() if is_counted else ())
    )
    if not layers:
        raise UsageError(
            f"{reference} was loaded without layer counters. Write "
            f'load({reference!r}, device, config={{"PERF_COUNT": True}})'
        )
    return layers


def merge_notes(*notes: Iterable[str]) -> tuple[str, ...]:
    """Return notes in order, each once."""
    return tuple(dict.fromkeys(note for some in notes for note in some))
