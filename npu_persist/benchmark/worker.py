"""The measured process: it loads one bundle, calls it once, and runs it for a given time.

Each configuration has a separate process, because what a process loaded before changes the cost of the next load:
libraries and their plugins stay, freed memory is used again. Before the first output it does what a user's process
would, `npu_persist.load` and a call, and nothing else that takes time.

What it sends meanwhile are `Message`s.
"""

from __future__ import annotations

import atexit
import time
import warnings
from array import array
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from npu_persist.compilation.process.memory import read_memory
from npu_persist.errors import DeviceWarning, StateCapacityError
from npu_persist.runtime.report import LayerTime  # noqa: TC001 (msgspec evaluates the annotations of a message)

if TYPE_CHECKING:
    from collections.abc import Callable

    Send = Callable[["Message"], None]

_WARM_UP, _MAX_WARM_UP = 0.1, 1.0
_CALLS = 100
"""How many calls a conversation has, where each call makes its state longer."""
"""Share of a run's seconds that is run before and not counted, and the most seconds of it."""

_MAX_LINGER = 5.0
"""Seconds to wait for the compile cache after the last device is ready."""

_POLL = 0.05

_LATENCIES = 50_000
"""Latencies in a message, which may not be long."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured, and how.

    Attributes:
        reference: The bundle.
        device: OpenVINO's device string.
        hint: The performance hint.
        config: OpenVINO properties.
        store: The directory of the store, with the compile cache.
        graph: Name of the graph, where the bundle has several.
        inputs: The `.npy` file of each input; None for the golden sample, or random ones where there is none.
        random: Random inputs although there is a golden sample.
        seed: Of the random inputs.
        requests: Inferences at a time; None for 1 with LATENCY, else what the device calls optimal.
        seconds: How long to run; 0 for not at all.
        interval: Seconds between two reports.
        runs: Inferences to time layer by layer; 0 for none.
        lingers: Whether to wait until what was compiled is in the compile cache.
    """

    reference: str
    device: str
    hint: str | None
    config: dict[str, str | int | float | bool]
    store: str
    graph: str | None = None
    inputs: dict[str, bytes] | None = None
    random: bool = False
    seed: int = 0
    requests: int | None = None
    seconds: float = 0
    interval: float = 1
    runs: int = 0
    lingers: bool = False


class Place(msgspec.Struct, frozen=True):
    """Where a model runs; AUTO may move it.

    Attributes:
        execution_devices: OpenVINO's names of the devices.
        execution_precisions: What each of them computes in, where it says so.
        full_names: What these are.
        peak_memory: The most bytes that the process has held; None where the system does not tell.
    """

    execution_devices: tuple[str, ...]
    execution_precisions: dict[str, str]
    full_names: tuple[str, ...]
    peak_memory: int | None


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """How loading and the first call went. Times are in seconds.

    Attributes:
        overhead: Time that only the measuring took, before `load`.
        load: Time of `load`.
        make_inputs: Time to make the inputs.
        first_inference: Time of the first call.
        answered: When that ended, by `time.perf_counter`, which all processes of a machine share.
        load_memory: Bytes that loading and the first call added; None where the system does not tell.
        requests: How many inferences run at a time.
        input_source: "golden sample", "random" or "given".
        shapes: The inputs' types and shapes by name.
        phases: Time of the parts of loading and the first call.
        from_cache: Whether the compile cache had it.
        openvino: The version.
        place: Where it runs.
    """

    overhead: float
    load: float
    make_inputs: float
    first_inference: float
    answered: float
    load_memory: int | None
    requests: int
    input_source: str
    shapes: dict[str, str]
    phases: dict[str, float]
    from_cache: bool
    openvino: str
    place: Place


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is sent meanwhile: one of these.

    Attributes:
        warning: A DeviceWarning of `load`.
        loaded: How loading went, after the first call.
        latencies: Float64: seconds of inferences, since the last message.
        interval: How many seconds those latencies took.
        layer: One layer, with `runs`.
        inference: Mean seconds of an inference meanwhile.
    """

    warning: str | None = None
    loaded: Loaded | None = None
    latencies: bytes = b""
    interval: Annotated[float, msgspec.Meta(gt=0)] | None = None
    layer: LayerTime | None = None
    inference: float | None = None

    def __post_init__(self) -> None:
        """Refuse half a number."""
        if len(self.latencies) % array("d").itemsize:
            raise ValueError("expected latencies of 8 bytes each")


def measure(request: Request, send: Send, *, overhead: float = 0.0) -> Place:
    """Load, call once and run as requested; the process's one job. The overhead is in `Loaded`."""
    warnings.showwarning = _make_showwarning(send)
    model = _LoadedModel(request, overhead)
    if request.lingers:
        model.linger()
    send(Message(loaded=model.loaded))
    if request.runs:
        model.profile(send)
    elif request.seconds:
        model.run(send)
    place = model.find_place()
    # The process is ended by force: what would be tidied at its exit is tidied now.
    atexit._run_exitfuncs()  # noqa: SLF001
    return place


class _LoadedModel:
    """A loaded bundle with its inputs, called once."""

    def __init__(self, request: Request, overhead: float) -> None:
        from npu_persist.runtime.load import load

        self._request = request
        before = read_memory().now
        began = time.perf_counter()
        self._model = load(
            request.reference,
            request.device,
            graph=request.graph,
            hint=request.hint,
            config=request.config,
            store=request.store,
        )
        loaded = time.perf_counter()
        source, inputs = self._make_inputs()
        self._inputs = inputs
        self._args, self._kwargs = self._make_call(inputs)
        self._grows, self._left = any(state.growth for state in self._model.states), _CALLS
        called = time.perf_counter()
        self.call()
        answered = time.perf_counter()
        memory = read_memory()
        self.requests = 1 if self._model.has_state else request.requests or self._find_optimal_requests()
        report: Any = self._model.report
        from npu_persist.device.core import get_version

        self.loaded = Loaded(
            overhead=overhead,
            load=loaded - began,
            make_inputs=called - loaded,
            first_inference=answered - called,
            answered=answered,
            load_memory=None if before is None or memory.now is None else memory.now - before,
            requests=self.requests,
            input_source=source,
            shapes={name: f"{value.dtype.name}{list(value.shape)}" for name, value in inputs.items()},
            phases=dict(report.phases),
            from_cache=report.from_cache,
            openvino=get_version(),
            place=self.find_place(),
        )

    def call(self) -> Any:
        """Run one inference; what grows with each begins anew now and then."""
        if self._grows:
            self._left -= 1
            if self._left < 0:
                self._left = _CALLS
                self._model.reset()
            try:
                return self._model(*self._args, **self._kwargs)
            except StateCapacityError:
                self._left = _CALLS
                self._model.reset()
        return self._model(*self._args, **self._kwargs)

    def submit(self) -> Any:
        """Begin one inference, and return its future."""
        return self._model.submit(*self._args, **self._kwargs)

    def run(self, send: Send) -> None:
        """Warm up, then measure, reporting every interval."""
        from npu_persist.benchmark.timing import run_calls, run_requests

        def report(elapsed: float, latencies: array[float]) -> None:
            for start in range(0, len(latencies), _LATENCIES):
                piece = latencies[start : start + _LATENCIES]
                send(Message(latencies=piece.tobytes()))
            send(Message(interval=elapsed))

        def ignore(_elapsed: float, _latencies: array[float]) -> None:
            """Warming up is not reported."""

        seconds = self._request.seconds
        for duration, interval, to in (
            (min(seconds * _WARM_UP, _MAX_WARM_UP), seconds, ignore),
            (seconds, self._request.interval, report),
        ):
            if self.requests == 1:
                run_calls(self.call, duration, interval, to)
            else:
                run_requests(self.submit, self.requests, duration, interval, to)

    def profile(self, send: Send) -> None:
        """Time layer by layer."""
        began = time.perf_counter()
        layers = self._model.profile(self._inputs, runs=self._request.runs)
        send(Message(inference=(time.perf_counter() - began) / self._request.runs))
        for layer in layers:
            send(Message(layer=layer))

    def linger(self) -> None:
        """Wait until compiled models are in the compile cache: AUTO's devices compile during the first inferences."""
        from npu_persist.compilation.local import is_settled
        from npu_persist.runtime.load import is_compiled

        while not is_settled(self._model.compiled):
            time.sleep(_POLL)
        request = self._request
        deadline = time.monotonic() + _MAX_LINGER
        while time.monotonic() < deadline and not is_compiled(
            request.reference,
            request.device,
            graph=request.graph,
            hint=request.hint,
            config=request.config,
            store=request.store,
        ):
            time.sleep(_POLL)

    def find_place(self) -> Place:
        from npu_persist.device.core import get_core

        report: Any = self._model.report
        names = tuple(report.execution_devices)
        full_names = []
        for name in names:
            try:
                full_names.append(str(get_core().get_property(name, "FULL_DEVICE_NAME")))
            except RuntimeError:  # a device for tests, or one whose plugin has no name for it
                full_names.append(name)
        return Place(names, dict(report.execution_precisions), tuple(full_names), read_memory().peak)

    def _make_inputs(self) -> tuple[str, Any]:
        from npu_persist.runtime.golden import make_random, read_golden_inputs

        request, model = self._request, self._model
        if request.inputs is not None:
            return "given", unpack_arrays(request.inputs)
        if model.bundle.manifest.golden_of(model.graph) is None or request.random:
            return "random", make_random(model.inputs, request.seed)
        return "golden sample", read_golden_inputs(model.bundle, model.graph)

    def _make_call(self, inputs: Any) -> Any:
        from npu_persist.runtime.golden import make_call

        return make_call(self._model.signature, self._model.inputs, inputs)

    def _find_optimal_requests(self) -> int:
        if self._request.hint == "LATENCY" or self._model.has_state:
            return 1
        return int(self._model.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))


def unpack_arrays(packed: dict[str, bytes]) -> dict[str, Any]:
    """Return the arrays of `.npy` files."""
    import io

    import numpy as np

    return {name: np.lib.format.read_array(io.BytesIO(data), allow_pickle=False) for name, data in packed.items()}


def _make_showwarning(send: Send) -> Any:
    """Return a `warnings.showwarning` that sends this package's warnings to the process that measures."""
    show_others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, DeviceWarning):
            send(Message(warning=str(message)))
        else:
            show_others(message, category, *rest)

    return show


if __name__ == "__main__":
    import npu_persist.runtime.load  # noqa: F401 (first, as in a user's process: what it imports is not our overhead)

    _began = time.perf_counter()
    from npu_persist.compilation.process.python import serve

    serve(partial(measure, overhead=time.perf_counter() - _began), Request)
