"""The process that is measured: it loads one bundle, calls it once, and runs it when told to.

The promise: it does what its user's process would do, `npu_persist.load` and calls of the model, and nothing before the
first output that they would not; what OpenVINO or a driver prints goes to stderr; it ends with the process that
started it, also when that is killed.

A process for each configuration, because what a process has loaded before changes what the next load costs: libraries
and their plugins stay, freed memory is used again. `wire` has the messages.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import msgspec

from npu_persist.benchmark.wire import END, encode, pack_error, pack_numbers, unpack_arrays
from npu_persist.compilation.process.memory import read_memory
from npu_persist.errors import DeviceWarning
from npu_persist.runtime.load import is_compiled, load

if TYPE_CHECKING:
    from collections.abc import Callable

    Send = Callable[[dict[str, Any]], None]

WARM_UP = 0.1
"""Share of a run's seconds that is run before, and not counted."""

MAX_WARM_UP = 1.0
"""Seconds that warming up takes at most, if one inference does not take longer."""

MAX_LINGER = 5.0
"""Seconds to wait for the compile cache after the last device is ready."""

_POLL = 0.05


def main() -> None:
    """Serve the process at the other end of stdin and stdout until it goes away."""
    send = _take_stdout()
    orders: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_receive, args=(orders,), daemon=True).start()
    try:
        spec = json.loads(orders.get())["spec"]
        _send_warnings(send)
        subject = Subject(spec)
        if spec["linger"]:
            subject.linger()
        send({"ready": subject.ready})
        while "end" not in (message := json.loads(orders.get())):
            if "layers" in message:
                send({"profile": subject.profile(**message["layers"])})
            else:
                send({"done": subject.run(send, **message["run"])})
    except BaseException as error:  # noqa: BLE001 (whatever it is, the other side must hear of it)
        send({"error": pack_error(error)})
        # Not sys.exit: threads of OpenVINO may be in the middle of what failed.
        os._exit(1)


class Subject:
    """A loaded bundle with its inputs, called once."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        before = read_memory().now
        begun = time.perf_counter()
        self.model = load(
            spec["reference"], spec["device"], hint=spec["hint"], config=spec["config"], store=spec["store"]
        )
        loaded = time.perf_counter()
        source, (self.args, self.kwargs) = self._make_call(spec)
        called = time.perf_counter()
        self.call()
        answered = time.perf_counter()
        memory = read_memory()
        self.requests = spec["requests"] or self._optimal(spec["hint"])
        report: Any = self.model.report  # `load` gives one
        self.ready: dict[str, Any] = {
            "load": loaded - begun,
            "inputs": called - loaded,
            "first_inference": answered - called,
            # By the clock that all processes of a machine have in common.
            "answered": answered,
            "load_memory": None if before is None or memory.now is None else memory.now - before,
            "requests": self.requests,
            "input_source": source,
            "phases": dict(report.phases),
            "from_cache": report.from_cache,
            **self._describe(),
        }

    def call(self) -> Any:
        """Run one inference."""
        return self.model(*self.args, **self.kwargs)

    def submit(self) -> Any:
        """Begin one inference, and return its future."""
        return self.model.submit(*self.args, **self.kwargs)

    def run(self, send: Send, *, seconds: float, interval: float) -> dict[str, Any]:
        """Warm up, then measure, reporting every interval."""
        from npu_persist.benchmark.timing import run_calls, run_requests

        def ignore(*_: object) -> None:
            """Warming up is not reported."""

        def report(elapsed: float, latencies: Any) -> None:
            send({"interval": [elapsed, pack_numbers(latencies)]})

        for duration, every, to in (
            (min(seconds * WARM_UP, MAX_WARM_UP), seconds, ignore),
            (seconds, interval, report),
        ):
            if self.requests == 1:
                run_calls(self.call, duration, every, to)
            else:
                run_requests(self.submit, self.requests, duration, every, to)
        return {"peak_memory": read_memory().peak, **self._describe()}

    def profile(self, *, runs: int) -> dict[str, Any]:
        """Measure layer by layer."""
        begun = time.perf_counter()
        layers = self.model.profile(self.inputs, runs=runs)
        seconds = (time.perf_counter() - begun) / runs
        return {"inference": seconds, "layers": [msgspec.structs.asdict(layer) for layer in layers]}

    def linger(self) -> None:
        """Wait until what was compiled is in the compile cache: AUTO's devices compile beside the first inferences."""
        from npu_persist.compilation.local import is_settled

        spec = self._spec
        while not is_settled(self.model.compiled):
            time.sleep(_POLL)
        deadline = time.monotonic() + MAX_LINGER
        named = {name: spec[name] for name in ("reference", "device", "hint", "config", "store")}
        while not is_compiled(**named) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _make_call(self, spec: dict[str, Any]) -> tuple[str, tuple[list[Any], dict[str, Any]]]:
        from npu_persist.runtime.golden import make_call, make_random, read_golden_inputs

        model = self.model
        if spec["inputs"] is not None:
            source, inputs = "given", unpack_arrays(spec["inputs"])
        elif model.bundle.manifest.golden is None or spec["random"]:
            source, inputs = "random", make_random(model.inputs, spec["seed"])
        else:
            source, inputs = "golden sample", read_golden_inputs(model.bundle, model.inputs)
        self.inputs = inputs
        return source, make_call(model.signature, model.inputs, inputs)

    def _optimal(self, hint: str | None) -> int:
        if hint == "LATENCY" or self.model.has_state:
            return 1
        return int(self.model.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def _describe(self) -> dict[str, Any]:
        """Return where the model runs now: AUTO may have moved it since."""
        from npu_persist.device.core import get_core, get_version

        report: Any = self.model.report
        names = list(report.execution_devices)
        core = get_core()
        full_names = []
        for name in names:
            try:
                full_names.append(str(core.get_property(name, "FULL_DEVICE_NAME")))
            except RuntimeError:  # a device made for tests, or by a plugin that has no name for it
                full_names.append(name)
        return {
            "execution_devices": names,
            "full_names": full_names,
            "openvino": get_version(),
            "shapes": {name: f"{array.dtype.name}{list(array.shape)}" for name, array in self.inputs.items()},
        }


def _take_stdout() -> Send:
    """Keep stdout for messages, and let what anything else prints go to stderr."""
    wire = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def send(message: dict[str, Any]) -> None:
        wire.write(encode(message))
        wire.flush()

    return send


def _receive(orders: SimpleQueue[bytes]) -> None:
    with os.fdopen(os.dup(0), "rb") as wire:
        for line in wire:
            orders.put(line)
            if line == END:
                return
    os._exit(1)  # in the middle of whatever it is


def _send_warnings(send: Send) -> None:
    """Let the other side give this package's warnings, as if it had loaded the bundle itself."""
    show_others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, DeviceWarning):
            send({"warning": str(message)})
        else:
            show_others(message, category, *rest)

    warnings.showwarning = show  # type: ignore[assignment]  # its other arguments are passed on as they come
