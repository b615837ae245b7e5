"""Frames per second and latency of configurations: in turn, or against each other.

The promise: each configuration has a process of its own, loads as its user's process would, and never runs while
another one does; what was measured before an error or Ctrl-C is kept.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from npu_persist.benchmark.results import Case, Latency, Measurement, Round, compare
from npu_persist.benchmark.subject import make_spec, started
from npu_persist.benchmark.wire import unpack_numbers
from npu_persist.device.properties import HINTS
from npu_persist.errors import UsageError
from npu_persist.hub.pulled import resolve
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np

    from npu_persist.benchmark.subject import Subject
    from npu_persist.store.api import AnyStore

    Arrays = Mapping[str, np.ndarray[Any, Any]]
    Listener = Callable[["Interval"], None]

ROUNDS = 5
"""Into how many rounds a comparison divides its seconds: enough for a median and for seeing how far rounds differ."""


@dataclass(frozen=True)
class Interval:
    """What happened in one configuration since the last report.

    Attributes:
        case: The configuration.
        elapsed: Seconds that it has been measured for.
        fps: Frames per second in this interval.
        latency: Milliseconds, the median of this interval.
        fraction: How much of all that is to be measured is done, 0 to 1.
    """

    case: Case
    elapsed: float
    fps: float
    latency: float
    fraction: float


@dataclass
class _Track:
    """What has been measured of one configuration so far."""

    case: Case
    facts: dict[str, Any] = field(default_factory=dict)
    latencies: array[float] = field(default_factory=lambda: array("d"))
    rounds: list[Round] = field(default_factory=list)
    elapsed: float = 0.0


class Benchmark:
    """Configurations that are measured; `run` does it, and `results` has what was found, also after an interruption."""

    def __init__(  # noqa: PLR0913 (what a benchmark has)
        self,
        references: Sequence[str],
        devices: Sequence[str] = ("AUTO",),
        hints: Sequence[str] = ("LATENCY", "THROUGHPUT"),
        *,
        seconds: float = 10,
        interval: float = 1,
        requests: int | None = None,
        compare: bool = False,
        inputs: Arrays | None = None,
        random: bool = False,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        store: AnyStore = None,
    ) -> None:
        """Choose the configurations: each reference on each device with each hint.

        Args:
            references: Bundles, as `load` takes them.
            devices: OpenVINO's device strings.
            hints: "LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT".
            seconds: For how long each configuration is measured, without loading and warming up.
            interval: Seconds between reports.
            requests: Inferences under way at a time; None for 1 with LATENCY, else what the device calls optimal. One
                is measured with calls of the model, several with `submit`.
            compare: Measure in rounds, one configuration after the other in each, and take ratios to the first. All are
                loaded at the same time.
            inputs: An array for each input; None for the golden sample, or random ones where there is none.
            random: Random inputs although there is a golden sample.
            seed: Of the random inputs.
            config: OpenVINO properties, as `load` takes them.
            store: A store, its directory, or None for the default one.

        Raises:
            BundleNotFoundError: A reference leads nowhere.
            UsageError: A number, or a combination of them, that makes no sense.
        """
        check_positive(seconds=seconds, interval=interval, requests=requests)
        if unknown := [hint for hint in hints if hint not in HINTS]:
            raise UsageError(f"hint: expected one of {', '.join(HINTS)}; got {unknown[0]!r}")
        opened = open_store(store)
        bundles = [resolve(opened, reference).reference for reference in references]
        cases = [Case(*parts) for parts in itertools.product(bundles, devices, hints)]
        if not cases or len(set(cases)) < len(cases):
            raise UsageError("expected at least one bundle, device and hint, and none of them twice")
        if compare and len(cases) < 2:  # noqa: PLR2004 (one has nothing to be compared with)
            raise UsageError(f"a comparison needs two configurations; there is only {cases[0]}")
        self._tracks = [_Track(case) for case in cases]
        self._seconds = seconds
        self._interval = interval
        self._rounds = ROUNDS if compare else 1
        self._compare = compare
        self._home = opened.home
        self._options: dict[str, Any] = {
            "requests": requests,
            "inputs": inputs,
            "random": random,
            "seed": seed,
            "config": config,
        }

    def run(self, listen: Listener | None = None) -> None:
        """Measure everything.

        Args:
            listen: Is given what happened, every interval.

        Raises:
            NpuPersistError: What loading or running one of them raised; `results` has what was measured before.
        """
        if not self._compare:
            for track in self._tracks:
                with self._load(track) as subject:
                    self._run_round(track, subject, listen)
            return
        with contextlib.ExitStack() as stack:
            subjects = [stack.enter_context(self._load(track)) for track in self._tracks]
            pairs = list(zip(self._tracks, subjects, strict=True))
            for number in range(self._rounds):
                # A B, B A, A B: where the machine gets slower all the time, neither is always the later one.
                for track, subject in pairs if number % 2 == 0 else reversed(pairs):
                    self._run_round(track, subject, listen)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The configurations."""
        return tuple(track.case for track in self._tracks)

    @property
    def results(self) -> tuple[Measurement, ...]:
        """What was found, in the order of the configurations; those that have run for no time are left out."""
        return tuple(self._summarize(track) for track in self._tracks if track.rounds)

    @contextlib.contextmanager
    def _load(self, track: _Track) -> Iterator[Subject]:
        case = track.case
        with started(str(case), make_spec(case, case.reference, self._home, **self._options)) as subject:
            track.facts.update(subject.ready)
            yield subject

    def _run_round(self, track: _Track, subject: Subject, listen: Listener | None) -> None:
        seconds = self._seconds / self._rounds
        total = self._seconds * len(self._tracks)
        inferences, elapsed = 0, 0.0
        number = len(track.rounds)
        for kind, content in subject.run(seconds, min(self._interval, seconds)):
            if kind == "done":
                track.facts.update(content)
                continue
            took, latencies = content[0], unpack_numbers(content[1])
            inferences += len(latencies)
            elapsed += took
            track.elapsed += took
            track.latencies.extend(latencies)
            # Replaced at each interval: a round that is cut short counts as far as it came.
            track.rounds[number:] = [Round(inferences, elapsed)]
            if listen is not None:
                done = sum(min(other.elapsed, self._seconds) for other in self._tracks)
                median = statistics.median(latencies) * 1000
                listen(Interval(track.case, track.elapsed, len(latencies) / took, median, done / total))

    def _summarize(self, track: _Track) -> Measurement:
        facts, first = track.facts, self._tracks[0]
        return Measurement(
            case=track.case,
            fps=statistics.median(found.fps for found in track.rounds),
            latency=Latency.of(track.latencies),
            rounds=tuple(track.rounds),
            ratio=compare([one.fps for one in track.rounds], [one.fps for one in first.rounds])
            if self._compare
            else None,
            requests=facts["requests"],
            shapes=facts["shapes"],
            input_source=facts["input_source"],
            first_inference=facts["first_inference"] * 1000,
            load=facts["load"],
            phases=facts["phases"],
            from_cache=facts["from_cache"],
            load_memory=facts["load_memory"],
            peak_memory=facts.get("peak_memory"),
            execution_devices=tuple(facts["execution_devices"]),
            full_names=tuple(facts["full_names"]),
            openvino=facts["openvino"],
        )


def bench(  # noqa: PLR0913 (those of `Benchmark` that a caller decides)
    reference: str | Sequence[str],
    device: str | Sequence[str] = "AUTO",
    hint: str | Sequence[str] = ("LATENCY", "THROUGHPUT"),
    *,
    seconds: float = 10,
    requests: int | None = None,
    compare: bool = False,
    inputs: Arrays | None = None,
    config: Mapping[str, Any] | None = None,
    store: AnyStore = None,
) -> tuple[Measurement, ...]:
    """Measure frames per second and latency of bundles, on devices and with hints; every combination of them.

    A frame is one inference, whatever batch its inputs have. Each configuration is loaded and measured in a process of
    its own. `npu-persist bench` shows the same as tables and pictures, and measures more.

    Args:
        reference: A bundle, as `load` takes it, or several.
        device: OpenVINO's device string, or several.
        hint: "LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT", or several.
        seconds: For how long each configuration is measured.
        requests: Inferences under way at a time; None for 1 with LATENCY, else what the device calls optimal.
        compare: Measure in alternating rounds, and take ratios to the first.
        inputs: An array for each input; None for those of the golden sample, or random ones where there is none.
        config: OpenVINO properties, as `load` takes them.
        store: A store, its directory, or None for the default one.

    Returns:
        What was found about each configuration.

    Raises:
        BundleNotFoundError: A reference leads nowhere.
        DeviceNotFoundError: A device is not there.
        UsageError: An argument makes no sense.
        InferenceError: A process that was measured died.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-bench", (torch.zeros(1, 4),))
        >>> (found,) = npu_persist.bench("doc-bench", "CPU", "LATENCY", seconds=0.1)
        >>> found.fps > 0, found.latency.median <= found.latency.p99
        (True, True)
    """
    several = [[given] if isinstance(given, str) else list(given) for given in (reference, device, hint)]
    benchmark = Benchmark(
        *several, seconds=seconds, requests=requests, compare=compare, inputs=inputs, config=config, store=store
    )
    benchmark.run()
    return benchmark.results


def check_positive(**numbers: float | None) -> None:
    """Refuse what is not above 0; None passes.

    Raises:
        UsageError: Names the number.
    """
    for name, number in numbers.items():
        if number is not None and not 0 < number < math.inf:
            raise UsageError(f"{name}: expected a number above 0; got {number!r}")
