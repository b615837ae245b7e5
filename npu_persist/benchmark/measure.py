"""Measures configurations one at a time, each in a separate process: throughput, first inferences, layers.

On a machine that does other things too, a number means little without its spread. A comparison therefore takes
turns in short rounds, divides within a round, and reports the lowest and highest ratio beside the median. Where they
lie on both sides of 1, no difference was found: run longer, or on a quieter machine. Every second round goes through
the configurations backwards, because a device that throttles is slower for those that come later.
"""

from __future__ import annotations

import io
import itertools
import math
import statistics
import tempfile
import time
import warnings
from array import array
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from npu_persist.benchmark.results import (
    Case,
    FirstInference,
    Latency,
    Layer,
    Measurement,
    Profile,
    Round,
    TypeSum,
    compare,
)
from npu_persist.benchmark.worker import Loaded, Message, Place, Request
from npu_persist.compilation.process.python import run_module
from npu_persist.device.properties import HINTS
from npu_persist.errors import CompilationError, DeviceWarning, UsageError
from npu_persist.hub.pulled import resolve_offline
from npu_persist.progress import Reporter
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.progress import ProgressCallback, Stage
    from npu_persist.store.api import AnyStore

    Arrays = Mapping[str, np.ndarray[Any, Any]]

T = TypeVar("T")

ROUNDS = 5
"""Into how many rounds a comparison divides its seconds: enough for a median and to see how far rounds differ."""

CACHES = ("cold", "warm")


@dataclass(frozen=True)
class Setup:
    """What configurations have in common.

    Attributes:
        inputs: An array for each input; None for the golden sample, or random ones where there is none.
        random: Random inputs although there is a golden sample.
        seed: Of the random inputs.
        config: OpenVINO properties, as `load` takes them.
        store: A store, its directory, or None for the default one.
        graph: Name of a graph; None: all that a bundle has, one by one.
    """

    inputs: Arrays | None = None
    random: bool = False
    seed: int = 0
    config: Mapping[str, Any] | None = None
    store: AnyStore = None
    graph: str | None = None

    def make_request(self, case: Case, *, reference: str | None = None, store: str | None = None) -> Request:
        """Return the request to load a configuration; by another reference and from another store, if given."""
        config = dict(self.config or {})
        if not all(isinstance(value, (str, int, float, bool)) for value in config.values()):
            raise UsageError(
                "config: values must be strings, numbers or booleans, because they are sent to another "
                f"process; got {config}"
            )
        return Request(
            reference=case.reference if reference is None else reference,
            device=case.device,
            graph=case.graph,
            hint=case.hint,
            config=config,
            store=str(open_store(self.store).home) if store is None else store,
            inputs=None if self.inputs is None else pack_arrays(self.inputs),
            random=self.random,
            seed=self.seed,
        )

    def resolve(self, references: Sequence[str]) -> list[Bundle]:
        """Return the bundles."""
        store = open_store(self.store)
        return [resolve_offline(store, reference) for reference in references]

    def list_cases(self, bundles: Sequence[Bundle], devices: Sequence[str], hints: Sequence[str | None]) -> list[Case]:
        """Return every combination of the bundles' graphs, the devices and the hints."""
        graphs = [(bundle.reference, graph) for bundle in bundles for graph in self._list_graphs(bundle)]
        return [
            Case(reference, device, hint, graph)
            for (reference, graph), device, hint in itertools.product(graphs, devices, hints)
        ]

    def _list_graphs(self, bundle: Bundle) -> Sequence[str | None]:
        if self.graph is not None:
            bundle.graph(self.graph)
        names = [graph.name for graph in bundle.manifest.graphs]
        if len(names) == 1:
            return (None,)
        if self.graph is None and self.inputs is not None:
            raise UsageError(f"inputs: {bundle.reference} has several graphs, {', '.join(names)}: give one with graph")
        return names if self.graph is None else (self.graph,)


class Benchmark:
    """Configurations whose throughput and latency are measured; `results` has what was found, also after Ctrl-C.

    Args:
        references: Bundles, as `load` takes them.
        devices: OpenVINO's device strings.
        hints: "LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT". Each bundle is measured on each device with each hint.
        setup: What they have in common.
        seconds: For how long each configuration is measured, without loading and warming up.
        interval: Seconds between reports.
        requests: Inferences under way at a time; None for 1 with LATENCY, else what the device calls optimal. One is
            measured with calls of the model, several with `submit`.
        compare: Measure in rounds, one configuration after the other in each, and take ratios to the first.

    Raises:
        BundleNotFoundError: A reference leads nowhere.
        UsageError: A number, or a combination of them, that makes no sense.
    """

    def __init__(  # noqa: PLR0913 (what a benchmark has)
        self,
        references: Sequence[str],
        devices: Sequence[str] = ("AUTO",),
        hints: Sequence[str] = ("LATENCY", "THROUGHPUT"),
        setup: Setup | None = None,
        *,
        seconds: float = 10,
        interval: float = 1,
        requests: int | None = None,
        compare: bool = False,
    ) -> None:
        _check_positive(seconds=seconds, interval=interval, requests=requests)
        if unknown := [hint for hint in hints if hint not in HINTS]:
            raise UsageError(f"hint: expected one of {', '.join(HINTS)}; got {unknown[0]!r}")
        setup = setup or Setup()
        cases = setup.list_cases(setup.resolve(references), devices, hints)
        if not cases or len(set(cases)) < len(cases):
            raise UsageError("expected at least one bundle, device and hint, each only once")
        if compare and len(cases) < 2:  # noqa: PLR2004 (one has nothing to be compared with)
            raise UsageError(f"a comparison needs two configurations; there is only {cases[0]}")
        self._rounds = ROUNDS if compare else 1
        self._seconds = seconds
        self._compare = compare
        duration = seconds / self._rounds
        self._tracks = [
            _Track(
                case,
                msgspec.structs.replace(
                    setup.make_request(case), requests=requests, seconds=duration, interval=min(interval, duration)
                ),
            )
            for case in cases
        ]

    def run(self, progress: ProgressCallback | None = None) -> None:
        """Measure everything."""
        total = round(self._seconds * len(self._tracks), 3)
        with Reporter(progress).stage("measure", total=total, unit="s") as stage:
            for number in range(self._rounds):
                for track in self._tracks if number % 2 == 0 else reversed(self._tracks):
                    track.rounds.append(Round(0, 0.0))
                    track.place = _run(track.case, track.request, partial(self._add, track, stage))

    def _add(self, track: _Track, stage: Stage, message: Message) -> None:
        if track.loaded is None:
            track.loaded = message.loaded
        track.unreported.frombytes(message.latencies)
        if message.interval is not None and track.unreported:
            seconds, latencies = message.interval, track.unreported
            track.unreported = array("d")
            track.latencies.extend(latencies)
            track.seconds += seconds
            # Replaced at each interval: a round that is interrupted counts as far as it came.
            last = track.rounds[-1]
            track.rounds[-1] = Round(last.inferences + len(latencies), last.seconds + seconds)
            done = sum(min(other.seconds, self._seconds) for other in self._tracks)
            fps, median = len(latencies) / seconds, statistics.median(latencies) * 1000
            detail = f"{track.case}  {track.seconds:6.1f} s  {fps:9.1f} fps  {median:9.3f} ms"
            stage.update(round(done, 3), detail=detail)

    @property
    def results(self) -> tuple[Measurement, ...]:
        """What was found, in the order of the configurations; without those that have not run."""
        first = self._tracks[0].get_rounds()
        found = []
        for track in self._tracks:
            rounds, loaded = track.get_rounds(), track.loaded
            if loaded is None or not rounds:
                continue
            place = track.place or loaded.place
            found.append(
                Measurement(
                    case=track.case,
                    fps=statistics.median(one.fps for one in rounds),
                    latency=Latency.of(track.latencies),
                    rounds=rounds,
                    ratio=compare([one.fps for one in rounds], [one.fps for one in first]) if self._compare else None,
                    requests=loaded.requests,
                    shapes=loaded.shapes,
                    input_source=loaded.input_source,
                    first_inference=loaded.first_inference * 1000,
                    load=loaded.load,
                    phases=loaded.phases,
                    from_cache=loaded.from_cache,
                    load_memory=loaded.load_memory,
                    peak_memory=None if track.place is None else track.place.peak_memory,
                    execution_devices=place.execution_devices,
                    execution_precisions=place.execution_precisions,
                    full_names=place.full_names,
                    openvino=loaded.openvino,
                )
            )
        return tuple(found)


@dataclass
class _Track:
    """What has been measured of one configuration so far."""

    case: Case
    request: Request
    loaded: Loaded | None = None
    place: Place | None = None
    unreported: array[float] = field(default_factory=lambda: array("d"))
    latencies: array[float] = field(default_factory=lambda: array("d"))
    rounds: list[Round] = field(default_factory=list)
    seconds: float = 0.0

    def get_rounds(self) -> tuple[Round, ...]:
        return tuple(one for one in self.rounds if one.inferences)


class FirstInferences:
    """Configurations whose first inference is timed; `results` has what was found, also after Ctrl-C.

    Each run is a separate process; the cold cache is a temporary one, never the user's; configurations alternate, so
    that a busy minute affects all of them. Cold means this package's compile cache, and OpenVINO's below it: the
    bundle's files stay in the system's page cache, and what a driver caches itself (the NPU's on Linux, in
    ~/.cache/ze_intel_npu_cache) is not touched.

    Args:
        references: Bundles, as `load` takes them.
        devices: OpenVINO's device strings.
        hints: None is OpenVINO's own default.
        setup: What they have in common; the time to make inputs is not counted.
        runs: How often each is measured, with a cold cache and then with the warm one that this leaves.

    Raises:
        BundleNotFoundError: A reference leads nowhere.
        UsageError: `runs` is not above 0.
    """

    def __init__(
        self,
        references: Sequence[str],
        devices: Sequence[str],
        hints: Sequence[str | None] = (None,),
        setup: Setup | None = None,
        *,
        runs: int = 5,
    ) -> None:
        _check_positive(runs=runs)
        self._setup = setup or Setup()
        # Loaded by their paths: the store's directory is where the compile cache is, and must be a temporary one.
        bundles = {bundle.reference: bundle for bundle in self._setup.resolve(references)}
        self._paths = {reference: str(bundle.path) for reference, bundle in bundles.items()}
        self._cases = self._setup.list_cases([*bundles.values()], devices, hints)
        self._runs = runs
        self._found: dict[tuple[str, Case], list[tuple[float, Loaded]]] = {
            key: [] for key in itertools.product(CACHES, self._cases)
        }

    def run(self, progress: ProgressCallback | None = None) -> None:
        """Measure everything."""
        total = self._runs * len(self._found)
        with Reporter(progress).stage("measure", total=total, unit="processes") as stage:
            done = itertools.count(1)
            for _, case in itertools.product(range(self._runs), self._cases):
                with tempfile.TemporaryDirectory(prefix="npu-persist-bench-", ignore_cleanup_errors=True) as home:
                    for cache in CACHES:
                        seconds = self._measure(case, cache, home)
                        stage.update(next(done), detail=f"{case}  {cache}  {seconds:.2f} s")

    def _measure(self, case: Case, cache: str, home: str) -> float:
        request = self._setup.make_request(case, reference=self._paths[case.reference], store=home)
        request = msgspec.structs.replace(request, lingers=cache == "cold")
        messages: list[Message] = []
        began = time.perf_counter()
        _run(case, request, messages.append)
        loaded = _first(case, (one.loaded for one in messages))
        from_start = loaded.answered - began - loaded.make_inputs - loaded.overhead
        self._found[cache, case].append((from_start, loaded))
        return from_start

    @property
    def results(self) -> tuple[FirstInference, ...]:
        """What was found: cold caches first, in the order of the configurations."""
        return tuple(self._summarize(*key) for key, found in self._found.items() if found)

    def _summarize(self, cache: str, case: Case) -> FirstInference:
        found = self._found[cache, case]
        from_start = tuple(seconds for seconds, _ in found)
        first = [seconds for seconds, _ in self._found[cache, self._cases[0]]]
        loads = [loaded for _, loaded in found]
        return FirstInference(
            case=case,
            cache=cache,
            from_start=from_start,
            from_load=tuple(loaded.load + loaded.first_inference for loaded in loads),
            phases={
                name: statistics.median(loaded.phases.get(name, 0.0) for loaded in loads) for name in loads[0].phases
            },
            from_cache=all(loaded.from_cache for loaded in loads),
            ratio=compare(from_start, first) if len(self._cases) > 1 else None,
            execution_devices=loads[-1].place.execution_devices,
            execution_precisions=loads[-1].place.execution_precisions,
            full_names=loads[-1].place.full_names,
            openvino=loads[-1].openvino,
        )


def profile(
    references: Sequence[str],
    devices: Sequence[str] = ("AUTO",),
    hints: Sequence[str | None] = (None,),
    setup: Setup | None = None,
    *,
    runs: int = 20,
) -> Iterator[Profile]:
    """Yield the profile of each bundle on each device with each hint: time by layer and by operation.

    The times are the device's own counters, which cost time themselves; rely on the shares, and measure speed without
    them. The CPU's are means over all inferences since the load, the slow first one included; other devices' may be
    those of the last inference alone.
    """
    if runs < 1:
        raise UsageError(f"runs: expected 1 or more, got {runs}")
    setup = setup or Setup()
    for case in setup.list_cases(setup.resolve(references), devices, hints):
        request = setup.make_request(case)
        request = msgspec.structs.replace(request, config={**request.config, "PERF_COUNT": "YES"}, runs=runs)
        messages: list[Message] = []
        _run(case, request, messages.append)
        yield _summarize_profile(case, messages)


def _summarize_profile(case: Case, messages: Sequence[Message]) -> Profile:
    layers = [one.layer for one in messages if one.layer is not None]
    loaded = _first(case, (one.loaded for one in messages))
    # Other layers were folded into their neighbours.
    executed = sorted((one for one in layers if one.status == "executed"), key=lambda one: -one.real_us)
    total = sum(one.real_us for one in executed)

    def share(microseconds: float) -> float:
        return microseconds / total if total else 0.0

    times: dict[str, list[int]] = {}
    for one in executed:
        times.setdefault(one.type, []).append(one.real_us)
    types = [TypeSum(name, len(found), sum(found) / 1000, share(sum(found))) for name, found in times.items()]
    return Profile(
        case=case,
        inference=_first(case, (one.inference for one in messages)) * 1000,
        total=total / 1000,
        layers=tuple(
            Layer(one.name, one.type, one.exec_type, one.real_us / 1000, share(one.real_us)) for one in executed
        ),
        types=tuple(sorted(types, key=lambda one: -one.milliseconds)),
        execution_devices=loaded.place.execution_devices,
        execution_precisions=loaded.place.execution_precisions,
        full_names=loaded.place.full_names,
        openvino=loaded.openvino,
    )


def _run(case: Case, request: Request, receive: Callable[[Message], object]) -> Place:
    """Run the process of one configuration, and pass its messages on."""

    def on_message(message: Message) -> None:
        if message.warning is not None:
            warnings.warn(message.warning, DeviceWarning, stacklevel=2)
        else:
            receive(message)

    return run_module(
        "npu_persist.benchmark.worker",
        request,
        Place,
        name=f"the measurement of {case}",
        on_message=on_message,
        message=Message,
    ).result


def _first(case: Case, found: Iterable[T | None]) -> T:
    for one in found:
        if one is not None:
            return one
    raise CompilationError(f"the measurement of {case}: its process did not return all results")


def pack_arrays(arrays: Arrays) -> dict[str, bytes]:
    """Return the `.npy` file of each array."""
    import numpy as np

    packed = {}
    for name, value in arrays.items():
        buffer = io.BytesIO()
        try:
            np.lib.format.write_array(buffer, np.asarray(value), allow_pickle=False)
        except ValueError as error:
            raise UsageError(f"inputs: {name} is not an array of numbers: {error}") from error
        packed[name] = buffer.getvalue()
    return packed


def bench(  # noqa: PLR0913 (those of `Benchmark` and `Setup` that a caller decides)
    reference: str | Sequence[str],
    device: str | Sequence[str] = "AUTO",
    hint: str | Sequence[str] = ("LATENCY", "THROUGHPUT"),
    *,
    seconds: float = 10,
    requests: int | None = None,
    compare: bool = False,
    graph: str | None = None,
    inputs: Arrays | None = None,
    config: Mapping[str, Any] | None = None,
    store: AnyStore = None,
    progress: ProgressCallback | None = None,
) -> tuple[Measurement, ...]:
    """Measure frames per second and latency of every combination of bundles, devices and hints.

    A frame is one inference, whatever the batch size of its inputs. Each configuration is loaded and measured in a
    separate process. `npu-persist bench` shows the same as tables and plots, and measures more.

    Args:
        reference: A bundle, as `load` takes it, or several.
        device: OpenVINO's device string, or several.
        hint: "LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT", or several.
        seconds: Duration of the measurement of each configuration.
        requests: Inferences in flight at a time; None for 1 with LATENCY, else the device's optimal number.
        compare: Measure in alternating rounds, and compute ratios to the first.
        graph: Name of a graph; None: all graphs of a bundle, one by one.
        inputs: An array for each input; None for those of the golden sample, or random ones if there is none.
        config: OpenVINO properties, as `load` takes them.
        store: A store, its directory, or None for the default one.
        progress: Called every second with the stage "measure", in seconds.

    Returns:
        The measurement of each configuration.

    Raises:
        BundleNotFoundError: There is no bundle at a reference.
        DeviceNotFoundError: A device does not exist.
        UsageError: An argument is invalid.
        CompilationError: The compilation failed, or the measured process crashed.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-bench", (torch.zeros(1, 4),))
        >>> (found,) = npu_persist.bench("doc-bench", "CPU", "LATENCY", seconds=0.1)
        >>> found.fps > 0, found.latency.median <= found.latency.p99
        (True, True)
    """
    references, devices, hints = (
        [given] if isinstance(given, str) else list(given) for given in (reference, device, hint)
    )
    setup = Setup(inputs=inputs, config=config, store=store, graph=graph)
    benchmark = Benchmark(references, devices, hints, setup, seconds=seconds, requests=requests, compare=compare)
    benchmark.run(progress)
    return benchmark.results


def _check_positive(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not 0 < number < math.inf:
            raise UsageError(f"{name}: expected a number above 0; got {number!r}")
