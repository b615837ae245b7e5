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
from npu_persist.cli.output import format_seconds, format_size, format_table
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from npu_persist.benchmark.measure import Interval
    from npu_persist.benchmark.results import Case, Latency, Measurement, Profile, Ratio
    from npu_persist.cli.output import Output

HINTS = ("LATENCY", "THROUGHPUT")
"""What is measured where no hint is given."""

FIL_RUNS, PROFILE_RUNS = 5, 20
"""Runs where none are given."""

SHOWN_LAYERS = 30
"""Layers that people are shown; a large model has thousands, and most take no time."""


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
        output.note(f"{interval.case}  {interval.elapsed:6.1f} s  {interval.fps:9.4g} fps  {interval.latency:9.4g} ms")
        output.bar(interval.fraction, str(interval.case))

    try:
        benchmark.run(listen)
    finally:
        if found := benchmark.results:
            data = {**environment, "seconds": arguments.seconds, "configurations": [one.to_dict() for one in found]}
            output.show(data, lambda: _speed_text(found, output))
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
            output.show(data, lambda: _fil_text(found, output))
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
            output.show(data, lambda: "\n\n".join(_profile_text(one, output) for one in found))


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


def _speed_text(found: Sequence[Measurement], output: Output) -> str:
    is_comparison = any(one.ratio is not None for one in found)
    numbers = [
        "REQUESTS",
        "COUNT",
        "FPS",
        "MEAN ms",
        "MEDIAN ms",
        "P90 ms",
        "P99 ms",
        "FIRST ms",
        "LOAD s",
        "ADDED",
        "PEAK",
    ]
    columns = [*_NAMES, *numbers, "CACHE", *(["RATIO"] if is_comparison else [])]
    rows = [
        [
            *_names(one.case),
            str(one.requests),
            str(sum(part.inferences for part in one.rounds)),
            f"{one.fps:.4g}",
            *(_number(value) for value in (one.latency.mean, one.latency.median, one.latency.p90, one.latency.p99)),
            _number(one.first_inference),
            _number(one.load),
            _memory(one.load_memory),
            _memory(one.peak_memory),
            "hit" if one.from_cache else "-",
            *([_ratio(one.ratio)] if is_comparison else []),
        ]
        for one in found
    ]
    parts = [
        _table(columns, rows, numbers, output),
        _phases(found, output),
        "\n".join([*_input_lines(found), *_device_lines(found)]),
    ]
    if is_comparison:
        parts.append(
            f"ratio: frames per second to those of {found[0].case}, round by round: median (lowest to highest); "
            "~ where rounds disagree about which is faster"
        )
    return "\n\n".join(parts)


def _fil_text(found: Sequence[FirstInference], output: Output) -> str:
    is_comparison = any(one.ratio is not None for one in found)
    numbers = ["FROM START s", "LOWEST", "HIGHEST", "FROM LOAD s"]
    columns = [*_NAMES, "CACHE", *numbers, "HIT", *(["RATIO"] if is_comparison else [])]
    rows = [
        [
            *_names(one.case),
            one.cache,
            *(_number(pick(one.from_start)) for pick in (statistics.median, min, max)),
            _number(statistics.median(one.from_load)),
            "yes" if one.from_cache else "no",
            *([_ratio(one.ratio)] if is_comparison else []),
        ]
        for one in found
    ]
    parts = [_table(columns, rows, numbers, output), _phases(found, output), "\n".join(_device_lines(found))]
    if is_comparison:
        parts.append(
            f"ratio: time from start to that of {found[0].case} with the same cache, run by run: median (lowest to "
            "highest); ~ where runs disagree about which is faster"
        )
    return "\n\n".join(parts)


def _plot_speed(paths: Sequence[str], found: Sequence[Measurement], output: Output) -> None:
    charts = [
        Chart("frames per second", [Bar(one.fps, f"{one.fps:.4g}") for one in found]),
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
    return Bar(latency.median, f"{_number(latency.median)} (p99 {_number(latency.p99)})", latency.p99)


def _time_bar(times: Sequence[float]) -> Bar:
    middle, slowest = statistics.median(times), max(times)
    return Bar(middle, f"{_number(middle)} (to {_number(slowest)})", slowest)


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
    names = [_names(one.case) for one in found]
    common = [len(set(values)) == 1 for values in zip(*names, strict=True)]
    labels = [" ".join(part for part, same in zip(name, common, strict=True) if not same) for name in names]
    bundles = ", ".join(dict.fromkeys(one.case.reference for one in found))
    devices = " + ".join(dict.fromkeys(name for one in found for name in one.full_names))
    what = "First output of " if isinstance(found[0], FirstInference) else ""
    title = f"{what}{bundles} on {devices}, OpenVINO {found[0].openvino.partition('-')[0]}"
    if not any(labels):
        labels = [" ".join(name) for name in names]
    draw(paths, Picture(title, "\n".join(_device_lines(found)), labels, groups, charts))
    output.note(f"drawn into {', '.join(paths)}")


_NAMES = ["BUNDLE", "DEVICE", "HINT"]


def _profile_text(one: Profile, output: Output) -> str:
    """Return the tables of one profile: by operation, and the slowest layers."""
    shown, rest = one.layers[:SHOWN_LAYERS], one.layers[SHOWN_LAYERS:]
    right = ["ms", "SHARE", "LAYERS"]
    types = [[kind.type, str(kind.layers), f"{kind.milliseconds:.3f}", f"{kind.share:.1%}"] for kind in one.types]
    layers = [
        [f"{layer.milliseconds:.3f}", f"{layer.share:.1%}", layer.type, layer.exec_type, layer.name] for layer in shown
    ]
    parts = [
        output.heading(str(one.case)),
        _table(["OPERATION", "LAYERS", "ms", "SHARE"], types, right, output),
        _table(["ms", "SHARE", "OPERATION", "RUN AS", "LAYER"], layers, right, output),
    ]
    if rest:
        share = sum(layer.share for layer in rest)
        parts.append(f"{len(rest)} more layers take {share:.1%} of the time; --json has them all")
    times = f"{len(one.layers)} layers take {_number(one.total)} ms, an inference {_number(one.inference)} ms"
    parts.append("\n".join([f"{times} with the counters on", *_device_lines([one])]))
    return "\n\n".join(parts)


def _names(case: Case) -> list[str]:
    return [case.reference, case.device, case.hint or "-"]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], output: Output) -> str:
    header, *lines = format_table(columns, rows, right=right)
    return "\n".join([output.heading(header), *lines])


def _phases(found: Sequence[Measurement | FirstInference], output: Output) -> str:
    """Return the table of the phases of loading, in seconds."""
    names = list(dict.fromkeys(name for one in found for name in one.phases))
    columns = [f"{name} s" for name in names]
    rows = [
        [
            *_names(one.case),
            *([one.cache] if isinstance(one, FirstInference) else []),
            *(_number(one.phases[name]) if name in one.phases else "-" for name in names),
        ]
        for one in found
    ]
    extra = ["CACHE"] if len(rows[0]) > len(_NAMES) + len(names) else []
    return _table([*_NAMES, *extra, *columns], rows, columns, output)


def _input_lines(found: Sequence[Measurement]) -> list[str]:
    lines = {}
    for one in found:
        shapes = ", ".join(f"{name} {shape}" for name, shape in one.shapes.items())
        lines[one.case.reference] = f"{one.case.reference}: a frame is one inference of {shapes} ({one.input_source})"
    return list(lines.values())


def _device_lines(found: Sequence[Measurement | FirstInference | Profile]) -> list[str]:
    lines = dict.fromkeys(f"{one.case.device}: ran on {_device(one)}" for one in found)
    return [*lines, f"openvino {found[0].openvino}"]


def _device(one: Measurement | FirstInference | Profile) -> str:
    return ", ".join(
        f"{name} ({full})" if name != full else name
        for name, full in zip(one.execution_devices, one.full_names, strict=True)
    )


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None or ratio.lowest == ratio.highest == 1:
        return "-" if ratio is None else "1"
    sign = "" if ratio.is_clear else "~"
    return f"{sign}{ratio.median:.2f} ({ratio.lowest:.2f} to {ratio.highest:.2f})"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"  # noqa: PLR2004 (three digits, never 1.2e+03)


def _memory(size: int | None) -> str:
    return "unknown" if size is None else format_size(size)
