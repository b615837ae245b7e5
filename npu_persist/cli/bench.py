"""The verb `bench`: throughput and latency of bundles on devices, first inferences, layers.

Measurements made before an error or Ctrl-C are shown and plotted; the exit code is the error's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli.arguments import add_config, add_inputs, add_reference, add_verb, parse_pairs, read_arrays
from npu_persist.cli.output import Heading, format_number, format_size, join_blocks, table
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from npu_persist.benchmark.measure import Setup
    from npu_persist.benchmark.plots import Bar, Chart
    from npu_persist.benchmark.results import Case, FirstInference, Latency, Measurement, Profile, Ratio
    from npu_persist.cli.output import Output
    from npu_persist.progress import Progress, ProgressCallback

_HINTS = ("LATENCY", "THROUGHPUT")
"""What is measured where no hint is given."""

_FIL_RUNS, _PROFILE_RUNS = 5, 20
"""Runs where none are given."""

_SHOWN_LAYERS = 30
"""Layers that people are shown; a large model has thousands, and most take no time."""

_NAMES = ["BUNDLE", "DEVICE", "HINT"]


def add_verbs(verbs: Any) -> None:
    """Add `bench`."""
    parser = add_verb(verbs, "bench", run_bench, "measure frames per second and latency of bundles on devices")
    add_reference(parser, nargs="+")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--compare", action="store_true", help="alternate the sides in rounds, and show ratios to the first"
    )
    kind.add_argument(
        "--fil", action="store_true", help="measure the first inference from process start, with cold and warm cache"
    )
    kind.add_argument("--profile", action="store_true", help="measure each layer")
    parser.add_argument(
        "--device", nargs="+", metavar="D", help="OpenVINO's device strings (default: AUTO; with --fil all devices)"
    )
    parser.add_argument(
        "--hint",
        nargs="+",
        metavar="H",
        help="LATENCY, THROUGHPUT, CUMULATIVE_THROUGHPUT (default: the first two; with --fil and --profile none)",
    )
    parser.add_argument(
        "--seconds", type=float, default=10, metavar="S", help="seconds to measure each configuration (default: 10)"
    )
    parser.add_argument("--interval", type=float, default=1, metavar="S", help="seconds between reports (default: 1)")
    parser.add_argument(
        "--requests",
        type=int,
        metavar="N",
        help="calls in flight at a time (default: 1 for LATENCY, else the device's optimal number)",
    )
    parser.add_argument(
        "--runs",
        type=int,
        metavar="N",
        help="with --fil: processes per cache state (default: 5); with --profile: inferences (default: 20)",
    )
    parser.add_argument("--graph", metavar="NAME", help="one of the bundles' graphs (default: all, one by one)")
    parser.add_argument("--plot", nargs="+", default=[], metavar="FILE", help="write bar charts to .png or .svg files")
    add_config(parser)
    add_inputs(parser)


def run_bench(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist bench REF...`."""
    from npu_persist.benchmark.measure import Setup
    from npu_persist.benchmark.plots import check_plots

    check_plots(arguments.plot)
    setup = Setup(
        inputs=read_arrays(arguments.inputs) if arguments.inputs else None,
        random=arguments.random,
        seed=arguments.seed,
        config=parse_pairs("--config", arguments.config),
        store=arguments.store,
        graph=arguments.graph,
    )
    run = _run_fil if arguments.fil else _run_profile if arguments.profile else _run_speed
    run(arguments, setup, output)


def _run_speed(arguments: argparse.Namespace, setup: Setup, output: Output) -> None:
    from npu_persist.benchmark.measure import Benchmark

    environment = _describe_environment()
    benchmark = Benchmark(
        arguments.reference,
        arguments.device or ["AUTO"],
        arguments.hint or _HINTS,
        setup,
        seconds=arguments.seconds,
        interval=arguments.interval,
        requests=arguments.requests,
        compare=arguments.compare,
    )
    try:
        benchmark.run(_find_progress(output))
    finally:
        if found := benchmark.results:
            data = {**environment, "seconds": arguments.seconds, "configurations": [one.to_dict() for one in found]}
            output.show(data, lambda: _speed_text(found))
            _plot_speed(arguments.plot, found, output)


def _run_fil(arguments: argparse.Namespace, setup: Setup, output: Output) -> None:
    from npu_persist.benchmark.measure import FirstInferences

    environment = _describe_environment()
    runs = _FIL_RUNS if arguments.runs is None else arguments.runs
    devices = arguments.device or ["AUTO", *(device.name for device in npu_persist.devices())]
    benchmark = FirstInferences(arguments.reference, devices, arguments.hint or [None], setup, runs=runs)
    try:
        benchmark.run(_find_progress(output))
    finally:
        if found := benchmark.results:
            data = {**environment, "runs": runs, "configurations": [one.to_dict() for one in found]}
            output.show(data, lambda: _fil_text(found))
            _plot_fil(arguments.plot, found, output)


def _run_profile(arguments: argparse.Namespace, setup: Setup, output: Output) -> None:
    from npu_persist.benchmark.measure import profile

    if arguments.plot:
        raise UsageError("--profile cannot be combined with --plot")
    environment = _describe_environment()
    runs = _PROFILE_RUNS if arguments.runs is None else arguments.runs
    profiles = profile(arguments.reference, arguments.device or ["AUTO"], arguments.hint or [None], setup, runs=runs)
    found: list[Profile] = []
    try:
        for one in profiles:
            found.append(one)
            output.note(f"{one.case}  profiled")
    finally:
        if found:
            data = {**environment, "runs": runs, "configurations": [one.to_dict() for one in found]}
            output.show(data, lambda: join_blocks(map(_profile_text, found)))


def _find_progress(output: Output) -> ProgressCallback:
    """Return the printer on a terminal; elsewhere a line for each report."""

    def note(event: Progress) -> None:
        if event.detail:
            output.note(event.detail)

    return output.progress or note


def _describe_environment() -> dict[str, Any]:
    """Return what numbers depend on beside what is measured, before anything is."""
    import platform

    return {
        "npu_persist": npu_persist.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        # Of the last minute: above the number of CPUs, other programs were using them.
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _speed_text(found: Sequence[Measurement]) -> list[str]:
    """Return the tables of frames per second and latency."""
    is_comparison = any(one.ratio is not None for one in found)
    numbers = [
        *("REQUESTS", "COUNT", "FPS", "MEAN ms", "MEDIAN ms", "P90 ms", "P99 ms", "FIRST ms", "LOAD s"),
        *("ADDED", "PEAK"),
    ]
    rows = [
        [
            *_names_of(one.case),
            str(one.requests),
            str(sum(part.inferences for part in one.rounds)),
            format_number(one.fps, 4),
            *map(format_number, (one.latency.mean, one.latency.median, one.latency.p90, one.latency.p99)),
            format_number(one.first_inference),
            format_number(one.load),
            _format_memory(one.load_memory),
            _format_memory(one.peak_memory),
            "hit" if one.from_cache else "-",
            *([_format_ratio(one.ratio)] if is_comparison else []),
        ]
        for one in found
    ]
    inputs = {}
    for one in found:
        shapes = ", ".join(f"{name} {shape}" for name, shape in one.shapes.items())
        inputs[one.case.what] = f"{one.case.what}: a frame is one inference of {shapes} ({one.input_source})"
    parts = [
        table([*_NAMES, *numbers, "CACHE", *(["RATIO"] if is_comparison else [])], rows, right=numbers),
        _phase_table(found, [], [[] for _ in found]),
        [*inputs.values(), *_device_lines(found)],
    ]
    if is_comparison:
        ratio = (
            f"ratio: frames per second to those of {found[0].case}, round by round: median (lowest to highest); "
            "~ if the rounds disagree on which is faster"
        )
        parts.append([ratio])
    return join_blocks(parts)


def _fil_text(found: Sequence[FirstInference]) -> list[str]:
    """Return the tables of first inferences."""
    import statistics

    is_comparison = any(one.ratio is not None for one in found)
    numbers = ["FROM START s", "LOWEST", "HIGHEST", "FROM LOAD s"]
    rows = [
        [
            *_names_of(one.case),
            one.cache,
            *(format_number(pick(one.from_start)) for pick in (statistics.median, min, max)),
            format_number(statistics.median(one.from_load)),
            "yes" if one.from_cache else "no",
            *([_format_ratio(one.ratio)] if is_comparison else []),
        ]
        for one in found
    ]
    columns = [*_NAMES, "CACHE", *numbers, "HIT", *(["RATIO"] if is_comparison else [])]
    parts = [
        table(columns, rows, right=numbers),
        _phase_table(found, ["CACHE"], [[one.cache] for one in found]),
        _device_lines(found),
    ]
    if is_comparison:
        ratio = (
            f"ratio: time from start to that of {found[0].case} with the same cache, run by run: median (lowest to "
            "highest); ~ if the runs disagree on which is faster"
        )
        parts.append([ratio])
    return join_blocks(parts)


def _profile_text(one: Profile) -> list[str]:
    """Return the tables of one profile: by operation, and the slowest layers."""
    shown, rest = one.layers[:_SHOWN_LAYERS], one.layers[_SHOWN_LAYERS:]
    right = ["ms", "SHARE", "LAYERS"]
    types = [[kind.type, str(kind.layers), f"{kind.milliseconds:.3f}", f"{kind.share:.1%}"] for kind in one.types]
    layers = [
        [f"{layer.milliseconds:.3f}", f"{layer.share:.1%}", layer.type, layer.exec_type, layer.name] for layer in shown
    ]
    parts: list[list[str]] = [
        [Heading(str(one.case))],
        table(["OPERATION", "LAYERS", "ms", "SHARE"], types, right=right),
        table(["ms", "SHARE", "OPERATION", "RUN AS", "LAYER"], layers, right=right),
    ]
    if rest:
        share = sum(layer.share for layer in rest)
        parts.append([f"{len(rest)} more layers take {share:.1%} of the time; --json has them all"])
    times = f"{len(one.layers)} layers take {format_number(one.total)} ms, an inference {format_number(one.inference)}"
    parts.append([f"{times} ms with the counters on", *_device_lines([one])])
    return join_blocks(parts)


def _names_of(case: Case) -> list[str]:
    return [case.what, case.device, case.hint or "-"]


def _phase_table(
    found: Sequence[Measurement | FirstInference],
    more: Sequence[str],
    cells: Sequence[Sequence[str]],
) -> list[str]:
    """Return the table of the phases of loading, in seconds."""
    names = list(dict.fromkeys(name for one in found for name in one.phases))
    columns = [f"{name} s" for name in names]
    rows = [
        [
            *_names_of(one.case),
            *extra,
            *(format_number(one.phases[name]) if name in one.phases else "-" for name in names),
        ]
        for one, extra in zip(found, cells, strict=True)
    ]
    return table([*_NAMES, *more, *columns], rows, right=columns)


def _device_lines(found: Sequence[Measurement | FirstInference | Profile]) -> list[str]:
    """Return where each bundle ran for each device string, in what precision, and with which OpenVINO."""
    lines: dict[str, None] = {}
    for one in found:
        ran = []
        for name, full in zip(one.execution_devices, one.full_names, strict=True):
            precision = f" in {one.execution_precisions[name]}" if name in one.execution_precisions else ""
            ran.append((f"{name} ({full})" if name != full else name) + precision)
        lines[f"{one.case.what} for {one.case.device}: ran on {', '.join(ran)}"] = None
    return [*lines, f"openvino {found[0].openvino}"]


def _format_ratio(ratio: Ratio | None) -> str:
    if ratio is None or ratio.lowest == ratio.highest == 1:
        return "-" if ratio is None else "1"
    sign = "" if ratio.is_clear else "~"
    return f"{sign}{ratio.median:.2f} ({ratio.lowest:.2f} to {ratio.highest:.2f})"


def _format_memory(size: int | None) -> str:
    return "unknown" if size is None else format_size(size)


def _plot_speed(paths: Sequence[str], found: Sequence[Measurement], output: Output) -> None:
    from npu_persist.benchmark.plots import Bar, Chart

    def bar(latency: Latency) -> Bar:
        text = f"{format_number(latency.median)} (p99 {format_number(latency.p99)})"
        return Bar(latency.median, text, latency.p99)

    charts = [
        Chart("frames per second", [Bar(one.fps, format_number(one.fps, 4)) for one in found]),
        Chart("latency in milliseconds: median, line to p99", [bar(one.latency) for one in found]),
    ]
    _plot(paths, "", found, [one.case.hint or "" for one in found], charts, output)


def _plot_fil(paths: Sequence[str], found: Sequence[FirstInference], output: Output) -> None:
    import statistics

    from npu_persist.benchmark.plots import Bar, Chart

    def bar(times: Sequence[float]) -> Bar:
        middle, slowest = statistics.median(times), max(times)
        return Bar(middle, f"{format_number(middle)} (to {format_number(slowest)})", slowest)

    charts = [
        Chart(f"seconds from {start}: median, line to slowest", list(map(bar, times)))
        for start, times in (
            ("the start of the process", [one.from_start for one in found]),
            ("load", [one.from_load for one in found]),
        )
    ]
    _plot(paths, "First output of ", found, [f"{one.cache} compile cache" for one in found], charts, output)


def _plot(  # noqa: PLR0913, PLR0917 (the parts of a picture)
    paths: Sequence[str],
    what: str,
    found: Sequence[Measurement | FirstInference],
    groups: Sequence[str],
    charts: Sequence[Chart],
    output: Output,
) -> None:
    """Draw the results into files, if there are any; the title has what all configurations share."""
    if not paths:
        return
    from npu_persist.benchmark.plots import Picture, draw

    names = [_names_of(one.case) for one in found]
    common = [len(set(values)) == 1 for values in zip(*names, strict=True)]
    labels = [" ".join(part for part, same in zip(name, common, strict=True) if not same) for name in names]
    if not any(labels):
        labels = [" ".join(name) for name in names]
    bundles = ", ".join(dict.fromkeys(one.case.what for one in found))
    devices = " + ".join(dict.fromkeys(name for one in found for name in one.full_names))
    title = f"{what}{bundles} on {devices}, OpenVINO {found[0].openvino.partition('-')[0]}"
    draw(paths, Picture(title, "\n".join(_device_lines(found)), labels, groups, charts))
    output.note(f"charts written to {', '.join(paths)}")
