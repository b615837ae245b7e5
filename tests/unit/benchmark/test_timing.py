from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from npu_persist.benchmark.timing import run_calls, run_requests

if TYPE_CHECKING:
    from array import array


class Reports:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.latencies: list[float] = []
        self.counts: list[int] = []

    def __call__(self, seconds: float, latencies: array[float]) -> None:
        self.seconds.append(seconds)
        self.latencies += latencies
        self.counts.append(len(latencies))


def test_every_call_is_counted_and_lies_within_the_time() -> None:
    reports, calls = Reports(), itertools.count()

    def call() -> None:
        next(calls)
        time.sleep(0.001)

    run_calls(call, 0.05, 0.01, reports)
    assert next(calls) == len(reports.latencies) == sum(reports.counts)
    assert len(reports.counts) > 1
    assert min(reports.counts) > 0
    assert min(reports.latencies) >= 0.001
    assert sum(reports.latencies) <= sum(reports.seconds)


def test_one_call_is_made_however_short_the_time() -> None:
    reports = Reports()
    run_calls(lambda: time.sleep(0.01), 1e-9, 1e-9, reports)
    assert reports.counts == [1]


def test_reporting_takes_none_of_the_time() -> None:
    reports = Reports()

    def report(seconds: float, latencies: array[float]) -> None:
        reports(seconds, latencies)
        time.sleep(0.05)

    begun = time.perf_counter()
    run_calls(lambda: time.sleep(0.001), 0.03, 0.005, report)
    took = time.perf_counter() - begun
    assert sum(reports.seconds) <= took - 0.05 * len(reports.counts)


def test_an_error_of_a_call_ends_the_run() -> None:
    def fail() -> None:
        raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="gone"):
        run_calls(fail, 1, 1, Reports())


@pytest.mark.parametrize("requests", [2, 5])
def test_as_many_requests_as_asked_for_are_in_flight(requests: int) -> None:
    reports, lock, highest, now = Reports(), threading.Lock(), [0], [0]

    def work() -> None:
        with lock:
            now[0] += 1
            highest[0] = max(highest[0], now[0])
        time.sleep(0.002)
        with lock:
            now[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        begun: list[Future[None]] = []

        def submit() -> Future[None]:
            begun.append(pool.submit(work))
            return begun[-1]

        run_requests(submit, requests, 0.05, 0.01, reports)
        assert all(future.done() for future in begun)
    assert highest[0] == requests
    assert len(begun) == sum(reports.counts) == len(reports.latencies)
    assert min(reports.counts) > 0
    assert min(reports.latencies) >= 0.002
    assert max(reports.latencies) <= sum(reports.seconds)


def test_an_error_of_a_request_ends_the_run() -> None:
    def submit() -> Future[None]:
        future: Future[None] = Future()
        future.set_exception(RuntimeError("the device is gone"))
        return future

    with pytest.raises(RuntimeError, match="gone"):
        run_requests(submit, 2, 0.01, 1, Reports())
