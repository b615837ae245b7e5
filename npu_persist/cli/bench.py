"""The verb `bench`: how fast bundles are, on devices and with hints; their first inference; their layers.

The promise: the table, or the JSON document, is all that goes to stdout; what happens meanwhile goes to stderr. What
was measured before an error or Ctrl-C is shown and drawn, and the exit code is the error's.
"""

from __future__ import annotations

import os
import platform
import statistics
from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.benchmark.plots import Bar, Chart, Picture, check_plots, draw
from npu_persist.benchmark.results import FirstInference
from npu_persist.cli.arrays import read_arrays
from npu_persist.cli.bench_tables import device_lines, fil_text, format_number, names_of, profile_text, speed_text
from npu_persist.cli.output import format_seconds
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from npu_persist.benchmark.measure import Interval
    from npu_persist.benchmark.results import Case, Latency, Measurement, Profile
    from npu_persist.cli.output import Output

HINTS = ("LATENCY", "THROUGHPUT")
"""What is measured where no hint is given."""

FIL_RUNS, PROFILE_RUNS = 5, 20
"""Runs where none are given."""


def run_bench(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist bench REF...`."""
    check_plots(arguments.plot)
    options = {
        "inputs": read_arrays(arguments.inputs) if arguments.inputs else None,
        "random": arguments.random,
        "seed": arguments.seed,
        "config": parse_config(arguments.config),
        "store": arguments.store,
    }
    if arguments.fil:
        _run_fil(arguments, options, output)
    elif arguments.profile:
        _run_profile(arguments, options, output)
    else:
        _run_speed(arguments, options, output)


def _run_speed(arguments: argparse.Namespace, options: dict[str, Any], output: Output) -> None:
    from npu_persist.benchmark.measure import Benchmark

    environment = describe_environment()
    benchmark = Benchmark(
        arguments.reference,
        arguments.device or ["AUTO"],
        arguments.hint or HINTS,
        seconds=arguments.seconds,
        interval=arguments.interval,
        requests=arguments.requests,
        compare=arguments.compare,
        **options,
    )

    def listen(interval: Interval) -> None:
        fps, latency = format_number(interval.fps, 4), format_number(interval.latency, 4)
        output.note(f"{interval.case}  {interval.elapsed:6.1f} s  {fps:>9} fps  {latency:>9} ms")
        output.bar(interval.fraction, str(interval.case))

    try:
        benchmark.run(listen)
    finally:
        if found := benchmark.results:
            data = {**environment, "seconds": arguments.seconds, "configurations": [one.to_dict() for one in found]}
            output.show(data, lambda: speed_text(found, output))
            _plot_speed(arguments.plot, found, output)


def _run_fil(arguments: argparse.Namespace, options: dict[str, Any], output: Output) -> None:
    from npu_persist.benchmark.first import FirstInferences

    environment = describe_environment()
    runs = FIL_RUNS if arguments.runs is None else arguments.runs
    benchmark = FirstInferences(
        arguments.reference,
        arguments.device or ["AUTO", *(device.name for device in npu_persist.devices())],
        arguments.hint or [None],
        runs=runs,
        **options,
    )

    def listen(case: Case, cache: str, seconds: float, fraction: float) -> None:
        output.note(f"{case}  {cache}  {format_seconds(seconds)}")
        output.bar(fraction, str(case))

    try:
        benchmark.run(listen)
    finally:
        if found := benchmark.results:
            data = {
                **environment,
                "runs": runs,
                "configurations": [one.to_dict() for one in found],
            }
            output.show(data, lambda: fil_text(found, output))
            _plot_fil(arguments.plot, found, output)


def _run_profile(arguments: argparse.Namespace, options: dict[str, Any], output: Output) -> None:
    from npu_persist.benchmark.layers import profile

    if arguments.plot:
        raise UsageError("--profile gives tables, and has nothing to --plot")
    environment = describe_environment()
    runs = PROFILE_RUNS if arguments.runs is None else arguments.runs
    profiles = profile(
        arguments.reference, arguments.device or ["AUTO"], arguments.hint or [None], runs=runs, **options
    )
    found: list[Profile] = []
    try:
        for one in profiles:
            found.append(one)
            output.note(f"{one.case}  profiled")
    finally:
        if found:
            data = {**environment, "runs": runs, "configurations": [one.to_dict() for one in found]}
            output.show(data, lambda: "\n\n".join(profile_text(one, output) for one in found))


def parse_config(pairs: Sequence[str]) -> dict[str, str]:
    """Return `KEY=VALUE` texts as OpenVINO properties, which it takes as text.

    Raises:
        UsageError: A text has no `=`.
    """
    config: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"--config: expected KEY=VALUE, such as NUM_STREAMS=2; got {pair!r}")
        config[key] = value
    return config


def describe_environment() -> dict[str, Any]:
    """Return what numbers depend on beside what was measured, as it is before anything is."""
    return {
        "npu_persist": npu_persist.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        # Of the last minute, before the first run: above the count of CPUs, somebody else was using them.
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _plot_speed(paths: Sequence[str], found: Sequence[Measurement], output: Output) -> None:
    charts = [
        Chart("frames per second", [Bar(one.fps, format_number(one.fps, 4)) for one in found]),
        Chart(
            "latency in milliseconds: median, line to p99",
            [_latency_bar(one.latency) for one in found],
        ),
    ]
    _plot(paths, found, [one.case.hint or "" for one in found], charts, output)


def _plot_fil(paths: Sequence[str], found: Sequence[FirstInference], output: Output) -> None:
    charts = [
        Chart(f"seconds from {start}: median, line to slowest", list(map(_time_bar, times)))
        for start, times in (
            ("the start of the process", [one.from_start for one in found]),
            ("load", [one.from_load for one in found]),
        )
    ]
    _plot(paths, found, [f"{one.cache} compile cache" for one in found], charts, output)


def _latency_bar(latency: Latency) -> Bar:
    return Bar(latency.median, f"{format_number(latency.median)} (p99 {format_number(latency.p99)})", latency.p99)


def _time_bar(times: Sequence[float]) -> Bar:
    middle, slowest = statistics.median(times), max(times)
    return Bar(middle, f"{format_number(middle)} (to {format_number(slowest)})", slowest)


def _plot(
    paths: Sequence[str],
    found: Sequence[Measurement | FirstInference],
    groups: Sequence[str],
    charts: Sequence[Chart],
    output: Output,
) -> None:
    """Draw what was found, if it is to be drawn; what all have in common stands in the title, the rest at the bars."""
    if not paths:
        return
    names = [names_of(one.case) for one in found]
    common = [len(set(values)) == 1 for values in zip(*names, strict=True)]
    labels = [" ".join(part for part, same in zip(name, common, strict=True) if not same) for name in names]
    bundles = ", ".join(dict.fromkeys(one.case.reference for one in found))
    devices = " + ".join(dict.fromkeys(name for one in found for name in one.full_names))
    what = "First output of " if isinstance(found[0], FirstInference) else ""
    title = f"{what}{bundles} on {devices}, OpenVINO {found[0].openvino.partition('-')[0]}"
    if not any(labels):
        labels = [" ".join(name) for name in names]
    draw(paths, Picture(title, "\n".join(device_lines(found)), labels, groups, charts))
    output.note(f"drawn into {', '.join(paths)}")
