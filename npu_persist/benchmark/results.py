"""The results of benchmarks, and the arithmetic on them.

A frame is one inference, whatever batch the inputs have: their shapes stand beside the numbers. Frames per second are
the inferences of a run divided by the time from its start to the end of its last inference. A latency is the time from
the request of an inference to its outputs, also for requests in flight.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Case:
    """One configuration that is measured."""

    reference: str
    device: str
    hint: str | None
    graph: str | None = None

    @property
    def what(self) -> str:
        """The bundle, and the graph where it has several."""
        return self.reference if self.graph is None else f"{self.reference} {self.graph}"

    def __str__(self) -> str:
        return " ".join(filter(None, (self.what, self.device, self.hint)))


@dataclass(frozen=True)
class Latency:
    """Latencies in milliseconds.

    Percentiles interpolate linearly between the two closest ranks: definition 7 of Hyndman and Fan, "Sample Quantiles
    in Statistical Packages", 1996, which is numpy's default.
    """

    mean: float
    median: float
    p90: float
    p99: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Return the figures of latencies in seconds.

        >>> Latency.of([0.001, 0.002, 0.003, 0.004, 0.005]).p90
        4.6
        """
        import numpy as np

        milliseconds = np.asarray(seconds) * 1000
        median, p90, p99 = np.percentile(milliseconds, [50, 90, 99])
        found = (milliseconds.mean(), median, p90, p99, milliseconds.min(), milliseconds.max())
        return cls(*(round(float(value), 6) for value in found))


@dataclass(frozen=True)
class Round:
    """One run without a break."""

    inferences: int
    seconds: float

    @property
    def fps(self) -> float:
        """Inferences per second."""
        return self.inferences / self.seconds


@dataclass(frozen=True)
class Ratio:
    """A configuration's numbers divided by those of the first one, round by round."""

    median: float
    lowest: float
    highest: float

    @property
    def is_clear(self) -> bool:
        """Whether every round agrees about which of the two is larger."""
        return not self.lowest <= 1 <= self.highest


def compare(numbers: Sequence[float], first: Sequence[float]) -> Ratio | None:
    """Return the ratio to the first configuration, from the rounds that both have; None if there are none.

    Each number is divided by the first's of the same round, which was measured next to it: what else the machine does
    changes more slowly than that, and falls out of the quotient. The ratio of two medians would keep it.

    >>> compare([20, 10], [10, 4])
    Ratio(median=2.25, lowest=2.0, highest=2.5)
    """
    ratios = [mine / its for mine, its in zip(numbers, first, strict=False)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


@dataclass(frozen=True)
class _Found:
    """Results of one configuration."""

    case: Case

    def to_dict(self) -> dict[str, Any]:
        """Return it as `--json` shows it."""
        found = dataclasses.asdict(self)
        return {**found.pop("case"), **found}


@dataclass(frozen=True)
class Measurement(_Found):
    """Throughput and latency of one configuration.

    Attributes:
        case: The configuration.
        fps: Frames per second: the median of the rounds.
        latency: Over the inferences of all rounds.
        rounds: The runs, in the order of time.
        ratio: To the first configuration; None without comparison.
        requests: Number of inferences in flight at a time.
        shapes: The inputs' types and shapes by name.
        input_source: "golden sample", "random" or "given".
        first_inference: Milliseconds of the first call, which includes any remaining warm-up.
        load: Seconds of `load`, in a process that had imported nothing yet.
        phases: Seconds of its parts.
        from_cache: Whether the model came from the compile cache.
        load_memory: Bytes that loading and the first call added to the process; None if the system does not report it.
        peak_memory: Peak memory of the process in bytes.
        execution_devices: The devices that it ran on at the end.
        execution_precisions: The precision of each of these, if reported: "f32", "bf16", "f16".
        full_names: Their full names.
        openvino: OpenVINO's version.
    """

    fps: float
    latency: Latency
    rounds: tuple[Round, ...]
    ratio: Ratio | None
    requests: int
    shapes: dict[str, str]
    input_source: str
    first_inference: float
    load: float
    phases: dict[str, float]
    from_cache: bool
    load_memory: int | None
    peak_memory: int | None
    execution_devices: tuple[str, ...]
    execution_precisions: dict[str, str]
    full_names: tuple[str, ...]
    openvino: str


@dataclass(frozen=True)
class FirstInference(_Found):
    """How long one configuration takes to its first output.

    Attributes:
        case: The configuration.
        cache: "cold": the compile cache was empty; "warm": the same bundle had been loaded once before.
        from_start: Seconds from the start of the process to the first output, of each run.
        from_load: Seconds from calling `load` to the first output, of each run.
        phases: Seconds of the parts of loading and the first call: medians.
        from_cache: Whether the compile cache had it, in every run.
        ratio: Of `from_start` to the first configuration with the same cache.
        execution_devices: Where it ran when the first output came.
        execution_precisions: What each of these computed in, where it says so: "f32", "bf16", "f16".
        full_names: Their full names.
        openvino: The version.
    """

    cache: str
    from_start: tuple[float, ...]
    from_load: tuple[float, ...]
    phases: dict[str, float]
    from_cache: bool
    ratio: Ratio | None
    execution_devices: tuple[str, ...]
    execution_precisions: dict[str, str]
    full_names: tuple[str, ...]
    openvino: str


@dataclass(frozen=True)
class Layer:
    """One layer of the compiled graph: what the device counted for it, per inference.

    Attributes:
        name: Its name in the graph.
        type: Its operation.
        exec_type: What the device ran for it.
        milliseconds: Its time.
        share: Of the time of all layers, 0 to 1.
    """

    name: str
    type: str
    exec_type: str
    milliseconds: float
    share: float


@dataclass(frozen=True)
class TypeSum:
    """All layers of one operation."""

    type: str
    layers: int
    milliseconds: float
    share: float


@dataclass(frozen=True)
class Profile(_Found):
    """Where one configuration spends the time of an inference.

    Attributes:
        case: The configuration.
        inference: Milliseconds of one inference, counters and copies of inputs included: the mean.
        total: Milliseconds of all layers together. More than `inference` where layers run side by side.
        layers: Those that were executed, the slowest first.
        types: Sums by operation, the slowest first.
        execution_devices: Where it ran.
        execution_precisions: What each of these computed in, where it says so: "f32", "bf16", "f16".
        full_names: Their full names.
        openvino: The version.
    """

    inference: float
    total: float
    layers: tuple[Layer, ...]
    types: tuple[TypeSum, ...]
    execution_devices: tuple[str, ...]
    execution_precisions: dict[str, str]
    full_names: tuple[str, ...]
    openvino: str
