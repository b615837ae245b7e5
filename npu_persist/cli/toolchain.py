"""The verbs of compiling for an NPU that is not here: `toolchain install`, `list`, `remove`, `check`; `targets`.

The promise: `list` and `targets` run nothing and say what each lacks; `check` says that one works only if it compiled.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_persist.cli.errors import EXIT_FAILED
from npu_persist.cli.output import format_seconds, format_table
from npu_persist.compilation.toolchains import choose_toolchain, find_toolchains
from npu_persist.compilation.toolchains.install import install, uninstall
from npu_persist.compilation.toolchains.probe import PROBED, probe
from npu_persist.compilation.toolchains.record import read_record
from npu_persist.compilation.toolchains.wine import find_home, list_installed
from npu_persist.device.platforms import PLATFORMS
from npu_persist.errors import NpuPersistError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from npu_persist.cli.output import Output
    from npu_persist.compilation.toolchains import Toolchain


def run_install(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist toolchain install`."""
    path = install(_find_home(arguments), output.note)
    record = read_record(path)
    data = {"path": str(path), "openvino": record.build, "compiler": record.compiler, "wheels": record.wheels}
    output.show(data, f"{path}: OpenVINO {record.build}, NPU compiler {record.compiler}")
    for name in (name for name, wheel in record.wheels.items() if not wheel["tested"]):
        output.warning(f"{name} is none of the wheels that this package was tested with")


def run_list(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist toolchain list`."""
    home = _find_home(arguments)
    found = describe_toolchains(home)
    installed = [{"openvino": version, "path": str(path)} for version, path in list_installed(home)]
    output.show({"toolchains": found, "home": str(home), "installed": installed}, lambda: _list_text(found, output))
    for each in found:
        if each["advice"] is not None:
            output.note(f"for {each['name']}: {each['advice']}")
    for each in installed:
        output.note(f"installed for OpenVINO {each['openvino']}: {each['path']}")


def run_remove(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist toolchain remove [VERSION]`."""
    removed = uninstall(_find_home(arguments), arguments.version)
    lines = [f"removed {path}" for path in removed]
    output.show({"removed": [str(path) for path in removed]}, "\n".join(lines) or "nothing to remove")


def run_check(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist toolchain check [NAME]`: those that can be used, or the one of that name."""
    home = _find_home(arguments)
    chosen = choose_toolchain(arguments.name, home)
    toolchains = [chosen] if arguments.name else [each for each in find_toolchains(home) if each.examine().usable]
    results = [_check(toolchain, platform) for toolchain in toolchains for platform in PROBED]
    output.show(results, lambda: _check_text(results, output))
    for each in results:
        if each["problem"] is not None:
            output.error(f"{each['toolchain']} for NPU:{each['platform']}: {each['problem']}")
    return 0 if all(each["problem"] is None for each in results) else EXIT_FAILED


def run_targets(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist targets`."""
    states = describe_toolchains(_find_home(arguments))
    serving = next((state["name"] for state in states if state["usable"]), None)
    targets: list[dict[str, Any]] = [
        {"target": f"NPU:{number}", "names": list(platform.names), "tiles": platform.tiles, "toolchain": serving}
        for number, platform in PLATFORMS.items()
    ]
    from npu_persist.device.devices import list_devices

    targets += [
        {"target": device.name, "names": [device.full_name], "tiles": None, "toolchain": "plugin"}
        for device in list_devices()
        if device.kind in {"CPU", "GPU"}
    ]
    output.show(targets, lambda: _targets_text(targets, output))
    if serving is None:
        try:
            choose_toolchain(home=_find_home(arguments))
        except NpuPersistError as error:
            output.note(str(error))


def describe_toolchains(home: Path) -> list[dict[str, Any]]:
    """Return what JSON can hold of each toolchain's name and state, in the order in which they are tried."""
    return [{"name": each.name, **dataclasses.asdict(each.examine())} for each in find_toolchains(home)]


def _find_home(arguments: argparse.Namespace) -> Path:
    return find_home(None if arguments.store is None else Path(arguments.store))


def _check(toolchain: Toolchain, platform: str) -> dict[str, Any]:
    result = {"toolchain": toolchain.name, "platform": platform, "compiler": None, "seconds": None, "problem": None}
    try:
        outcome = probe(toolchain.compile, platform)
    except NpuPersistError as error:
        return {**result, "problem": str(error)}
    return {**result, "compiler": outcome.compiler, "seconds": outcome.seconds}


def _list_text(found: Sequence[dict[str, Any]], output: Output) -> str:
    header, *rows = format_table(
        ("TOOLCHAIN", "USABLE", "OPENVINO", "REASON"),
        [(each["name"], "yes" if each["usable"] else "no", each["openvino"] or "-", each["reason"]) for each in found],
    )
    return "\n".join([output.heading(header), *rows])


def _check_text(results: Sequence[dict[str, Any]], output: Output) -> str:
    header, *rows = format_table(
        ("TOOLCHAIN", "TARGET", "RESULT", "TIME", "COMPILER"),
        [
            (
                each["toolchain"],
                f"NPU:{each['platform']}",
                "ok" if each["problem"] is None else "failed",
                "-" if each["seconds"] is None else format_seconds(each["seconds"]),
                each["compiler"] or "-",
            )
            for each in results
        ],
    )
    return "\n".join([output.heading(header), *rows])


def _targets_text(targets: Sequence[dict[str, Any]], output: Output) -> str:
    header, *rows = format_table(
        ("TARGET", "NAMES", "TILES", "TOOLCHAIN"),
        [
            (
                each["target"],
                ", ".join(each["names"]) or "-",
                "-" if each["tiles"] is None else str(each["tiles"]),
                each["toolchain"] or "none",
            )
            for each in targets
        ],
        right=("TILES",),
    )
    return "\n".join([output.heading(header), *rows])
