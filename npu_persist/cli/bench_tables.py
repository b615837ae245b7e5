"""The tables of the verb `bench`.

The promise: every number has its unit at the head of its column, and three digits, which is more than a machine that
does other things can vouch for; below the tables stands what the numbers depend on.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from npu_persist.benchmark.results import FirstInference
from npu_persist.cli.output import format_size, format_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npu_persist.benchmark.results import Case, Measurement, Profile, Ratio
    from npu_persist.cli.output import Output

SHOWN_LAYERS = 30
"""Layers that people are shown; a large model has thousands, and most take no time."""

_NAMES = ["BUNDLE", "DEVICE", "HINT"]


def speed_text(found: Sequence[Measurement], output: Output) -> str:
    """Return the tables of frames per second and latency."""
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
            *names_of(one.case),
            str(one.requests),
            str(sum(part.inferences for part in one.rounds)),
            format_number(one.fps, 4),
            *(
                format_number(value)
                for value in (one.latency.mean, one.latency.median, one.latency.p90, one.latency.p99)
            ),
            format_number(one.first_inference),
            format_number(one.load),
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
        "\n".join([*_input_lines(found), *device_lines(found)]),
    ]
    if is_comparison:
        parts.append(
            f"ratio: frames per second to those of {found[0].case}, round by round: median (lowest to highest); "
            "~ where rounds disagree about which is faster"
        )
    return "\n\n".join(parts)


def fil_text(found: Sequence[FirstInference], output: Output) -> str:
    """Return the tables of first inferences."""
    is_comparison = any(one.ratio is not None for one in found)
    numbers = ["FROM START s", "LOWEST", "HIGHEST", "FROM LOAD s"]
    columns = [*_NAMES, "CACHE", *numbers, "HIT", *(["RATIO"] if is_comparison else [])]
    rows = [
        [
            *names_of(one.case),
            one.cache,
            *(format_number(pick(one.from_start)) for pick in (statistics.median, min, max)),
            format_number(statistics.median(one.from_load)),
            "yes" if one.from_cache else "no",
            *([_ratio(one.ratio)] if is_comparison else []),
        ]
        for one in found
    ]
    parts = [_table(columns, rows, numbers, output), _phases(found, output), "\n".join(device_lines(found))]
    if is_comparison:
        parts.append(
            f"ratio: time from start to that of {found[0].case} with the same cache, run by run: median (lowest to "
            "highest); ~ where runs disagree about which is faster"
        )
    return "\n\n".join(parts)


def profile_text(one: Profile, output: Output) -> str:
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
    times = (
        f"{len(one.layers)} layers take {format_number(one.total)} ms, an inference {format_number(one.inference)} ms"
    )
    parts.append("\n".join([f"{times} with the counters on", *device_lines([one])]))
    return "\n\n".join(parts)


def names_of(case: Case) -> list[str]:
    """Return what tells a configuration from others, a cell each."""
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
            *names_of(one.case),
            *([one.cache] if isinstance(one, FirstInference) else []),
            *(format_number(one.phases[name]) if name in one.phases else "-" for name in names),
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


def device_lines(found: Sequence[Measurement | FirstInference | Profile]) -> list[str]:
    """Return where each device string ran, and with which OpenVINO."""
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


def format_number(value: float, digits: int = 3) -> str:
    """Return a number with so many digits, and never as 1.2e+03."""
    return f"{value:.{digits}g}" if value < 10**digits - 0.5 else f"{value:.0f}"


def _memory(size: int | None) -> str:
    return "unknown" if size is None else format_size(size)
