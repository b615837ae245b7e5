"""The measuring loops: one call after another, or several requests in flight.

Every inference of a run is counted, and timed from its request to its outputs; the time of reporting is not included.
"""

from __future__ import annotations

import time
from array import array
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    Report = Callable[[float, "array[float]"], object]
    """Called with the seconds since the last report, and the latencies in seconds of what ended meanwhile."""


def run_calls(call: Callable[[], object], seconds: float, interval: float, report: Report) -> None:
    """Make one call after another, at least one."""
    clock = time.perf_counter
    latencies = array("d")
    mark = now = clock()
    deadline, due = mark + seconds, mark + interval
    while now < deadline or not latencies:
        begun = clock()
        call()
        now = clock()
        latencies.append(now - begun)
        if due <= now < deadline:
            report(now - mark, latencies)
            latencies = array("d")
            paused, mark = now, clock()
            deadline += mark - paused
            # The call after a report is counted, whatever is left of the time: no report is empty.
            due = mark + interval
            now = mark
    report(now - mark, latencies)


def run_requests(
    submit: Callable[[], Future[Any]], requests: int, seconds: float, interval: float, report: Report
) -> None:
    """Keep several requests in flight; all that were begun are counted."""
    clock = time.perf_counter
    ended: SimpleQueue[tuple[float, float, Future[Any]]] = SimpleQueue()

    def begin() -> None:
        begun = clock()
        submit().add_done_callback(lambda future: ended.put((begun, clock(), future)))

    latencies = array("d")
    mark = clock()
    deadline, due = mark + seconds, mark + interval
    for _ in range(requests):
        begin()
    in_flight = requests
    end = mark
    while in_flight:
        begun, now, future = ended.get()
        end = max(end, now)  # two threads may put theirs in the other order
        in_flight -= 1
        if end < deadline:
            begin()
            in_flight += 1
        future.result()  # an error of the device ends the run
        latencies.append(now - begun)
        if due <= end < deadline:
            report(end - mark, latencies)
            latencies, mark, due = array("d"), end, end + interval
    report(end - mark, latencies)
