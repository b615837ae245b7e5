"""The measuring loops: one call after another, or a number of requests in flight.

The promise: every inference between the start and the end of a run is counted and timed, from the moment it was asked
for to the moment its outputs could be read; the time that reporting takes is nobody's latency.
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
    """Is given the seconds since the last report, and the latencies in seconds of what ended in them."""


def run_calls(call: Callable[[], object], seconds: float, interval: float, report: Report) -> None:
    """Call again and again, the next when the last is done; at least once.

    Args:
        call: One inference.
        seconds: For how long; the call that is under way then is finished and counted.
        interval: Seconds between reports; the last one comes at the end.
        report: See `Report`. The clock stands still while it runs.
    """
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
    """Keep a number of requests in flight: each that ends is followed by the next; all that were begun are counted.

    Args:
        submit: Begins one inference.
        requests: How many at a time.
        seconds: For how long new ones are begun; then those in flight are waited for.
        interval: Seconds between reports; the last one comes at the end.
        report: See `Report`. It runs while requests are in flight, and must be quick.
    """
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
