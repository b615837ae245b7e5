"""The verbs about compiled artifacts: `compile`, `compatibility`, `targets` and `toolchain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli.arguments import (
    add_config,
    add_group,
    add_reference,
    add_verb,
    parse_buckets,
    parse_image_size,
    parse_pairs,
)
from npu_persist.cli.output import format_seconds, format_size, join_blocks, pick, section, table
from npu_persist.errors import IncompatibleError, JobsError, NpuPersistError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.artifact.compatibility import Compatibility
    from npu_persist.cli.output import Output
    from npu_persist.compilation.jobs import CompileResult
    from npu_persist.compilation.toolchains.toolchain import Toolchain
    from npu_persist.device.machine import Machine


def add_verbs(verbs: Any) -> None:
    """Add them."""
    add_compile(verbs)
    add_compatibility(verbs)
    add_verb(verbs, "targets", run_targets, "list the targets that can be compiled for, and the toolchain for each")
    add_toolchain(verbs)


def add_compile(verbs: Any) -> None:
    """Add `compile`."""
    parser = add_verb(
        verbs, "compile", run_compile, "compile a bundle ahead of time, for other machines too, and attach the result"
    )
    add_reference(parser)
    parser.add_argument(
        "--target",
        metavar="T",
        action="append",
        required=True,
        help="NPU:4000 or a processor such as lunar-lake, present or not; or a device of this machine: NPU, GPU, CPU; "
        "may be repeated",
    )
    parser.add_argument("--graph", metavar="NAME", help="one of the bundle's graphs (default: all)")
    add_config(parser)
    parser.add_argument(
        "--bucket",
        metavar="INPUT=SHAPE",
        action="append",
        default=[],
        help="sizes for a graph whose axes vary, such as input_ids=1x128,attention_mask=1x128; may be repeated "
        "(default: the bundle's own)",
    )
    parser.add_argument(
        "--max-prompt",
        type=int,
        metavar="N",
        help="for generative models on an NPU: length of the longest prompt in tokens (default: 1024; for speech 4)",
    )
    parser.add_argument(
        "--min-response",
        type=int,
        metavar="M",
        help="number of tokens that can follow the longest prompt (default: 128; for speech 444)",
    )
    parser.add_argument(
        "--image-size",
        metavar="HxW",
        help="for text to image: height and width in pixels (default: for an NPU, as it was trained)",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--weightless",
        dest="weightless",
        action="store_const",
        const=True,
        help="leave the weights in the bundle's weights file (default: the smaller blob)",
    )
    weights.add_argument(
        "--full", dest="weightless", action="store_const", const=False, help="put the weights into the blob"
    )
    parser.add_argument("--toolchain", metavar="NAME", help="plugin, libraries or wine (default: the first usable one)")
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="time limit in seconds of each compilation (default: no limit)"
    )
    parser.add_argument(
        "--memory-limit", metavar="SIZE", help="memory limit of each compilation, for example 8G (default: no limit)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="compilations in parallel (default: 1)")


def run_compile(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist compile REF --target T`: a line for each compilation, done or failed."""
    from npu_persist.cache.amounts import parse_size

    limit = arguments.memory_limit
    failed = None
    try:
        results = npu_persist.compile(
            arguments.reference,
            arguments.target,
            graph=arguments.graph,
            config=parse_pairs("--config", arguments.config),
            buckets=parse_buckets(arguments.bucket),
            max_prompt=arguments.max_prompt,
            min_response=arguments.min_response,
            image_size=parse_image_size(arguments.image_size, "--image-size"),
            weightless=arguments.weightless,
            toolchain=arguments.toolchain,
            timeout=arguments.timeout,
            memory_limit=None if limit is None else parse_size(limit, "--memory-limit"),
            jobs=arguments.jobs,
            progress=output.progress,
            store=arguments.store,
        )
    except JobsError as error:
        failed, results = error, error.results
    output.show([_describe_result(result) for result in results], lambda: _compile_text(results))
    for result in results:
        for note in () if result.artifact is None else result.artifact.notes:
            output.note(f"{result.label}: {note}")
    if failed is None:
        return 0
    output.error(str(failed))
    return failed.exit_code


def _describe_result(result: CompileResult) -> dict[str, Any]:
    return {
        **pick(result, "label", "graph", "target", "shapes", "path"),
        **pick(result.artifact, "size", "weightless", "toolchain", "compiler", "requirements", "notes"),
        **_describe_generation(result.artifact),
        **pick(result, "seconds", "peak_memory"),
        "problem": None if result.error is None else str(result.error),
    }


def _describe_generation(artifact: Artifact | None) -> dict[str, Any]:
    lengths = None if artifact is None else artifact.lengths
    return {} if lengths is None else {"max_prompt": lengths.prompt, "min_response": lengths.response}


def _describe_sizes(result: CompileResult) -> str:
    from npu_persist.bundle.buckets import describe_shapes

    if result.shapes:
        return describe_shapes(result.shapes)
    lengths = None if result.artifact is None else result.artifact.lengths
    return "-" if lengths is None else str(lengths)


def _compile_text(results: Sequence[CompileResult]) -> list[str]:
    numbers = ["SIZE", "TIME", "MEMORY"]
    rows = [
        [
            result.target,
            result.graph,
            _describe_sizes(result),
            format_size(result.artifact.size) if result.artifact else "-",
            format_seconds(result.seconds),
            "-" if result.peak_memory is None else format_size(result.peak_memory),
            "-" if result.artifact is None else "in the bundle" if result.artifact.weightless else "inside",
            "FAILED" if result.path is None else result.path.name,
        ]
        for result in results
    ]
    return table(["TARGET", "GRAPH", "SIZES", *numbers, "WEIGHTS", "RESULT"], rows, right=numbers)


def add_compatibility(verbs: Any) -> None:
    """Add `compatibility`."""
    parser = add_verb(
        verbs,
        "compatibility",
        run_compatibility,
        "show which attached artifacts run on a device, and why others do not",
    )
    add_reference(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", default="NPU", help="a device of this machine (default: NPU)")
    where.add_argument("--target", metavar="T", help="another machine's NPU: NPU:4000, lunar-lake")
    parser.add_argument(
        "--elf", metavar="V", help="with --target: newest ELF version that its driver accepts, for example 1.2"
    )
    parser.add_argument(
        "--mi",
        metavar="V",
        help="with --target: newest mapped-inference version that its driver accepts, for example 11.4",
    )
    parser.add_argument("--openvino", metavar="V", help="with --target: version of its OpenVINO, for example 2026.4.1")


def run_compatibility(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist compatibility REF`: exit code 0 if `load` may take one of the artifacts, else 5."""
    store = npu_persist.Store(arguments.store)
    found = npu_persist.compatibility(arguments.reference, _find_machine(arguments), store=store)
    output.show(
        [
            {
                **pick(entry, "folder", "target"),
                **pick(entry.verdict, "status", "reasons"),
                **pick(entry.artifact, "graph", "shapes", "properties", "size", "requirements", "openvino"),
            }
            for entry in found
        ],
        lambda: join_blocks(map(_compatibility_text, found)),
    )
    if not found:
        output.note(f"no compiled artifact is attached to {store.resolve(arguments.reference).reference}")
    is_usable = any(entry.verdict.status != "unsupported" for entry in found)
    return 0 if is_usable else IncompatibleError.exit_code


def _find_machine(arguments: argparse.Namespace) -> str | Machine:
    known = {name: getattr(arguments, name) for name in ("elf", "mi", "openvino")}
    if arguments.target is None:
        if given := [f"--{name}" for name, value in known.items() if value is not None]:
            raise UsageError(f"{', '.join(given)}: only with --target, such as --target NPU:4000")
        device: str = arguments.device
        return device
    from npu_persist.artifact.target import parse_target
    from npu_persist.device.machine import describe_other

    target = parse_target(arguments.target)
    if target.platform is None:
        raise UsageError(
            f"--target {arguments.target}: expected an NPU's platform, such as NPU:4000; for a device of this machine "
            "use --device"
        )
    return describe_other(target.device, target.platform, **known)


def _compatibility_text(entry: Compatibility) -> list[str]:
    from npu_persist.bundle.buckets import describe_shapes

    about = ["damaged"]
    if entry.artifact is not None:
        sizes = [describe_shapes(entry.artifact.shapes)] if entry.artifact.shapes else []
        about = [entry.artifact.target, *sizes, format_size(entry.artifact.size)]
    title = f"{entry.folder.name} ({', '.join(about)}): {entry.verdict.status}"
    return section(title, entry.verdict.reasons)


def run_targets(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist targets`."""
    from npu_persist.compilation.toolchains.available import choose_toolchain
    from npu_persist.device.devices import list_devices
    from npu_persist.device.platforms import PLATFORMS

    states = describe_toolchains(_find_home(arguments))
    usable = next((state["name"] for state in states if state["usable"]), None)
    targets: list[dict[str, Any]] = [
        {"target": f"NPU:{number}", "names": list(platform.names), "tiles": platform.tiles, "toolchain": usable}
        for number, platform in PLATFORMS.items()
    ]
    targets += [
        {"target": device.name, "names": [device.full_name], "tiles": None, "toolchain": "plugin"}
        for device in list_devices()
        if device.kind in {"CPU", "GPU"}
    ]
    rows = [
        [one["target"], ", ".join(one["names"]) or "-", str(one["tiles"] or "-"), one["toolchain"] or "none"]
        for one in targets
    ]
    output.show(targets, lambda: table(["TARGET", "NAMES", "TILES", "TOOLCHAIN"], rows, right=["TILES"]))
    if usable is None:
        try:
            choose_toolchain(home=_find_home(arguments))
        except NpuPersistError as error:
            output.note(str(error))


def add_toolchain(verbs: Any) -> None:
    """Add `toolchain` and its verbs."""
    verbs = add_group(verbs, "toolchain", "manage the toolchains that compile for other machines' NPUs")
    add_verb(
        verbs,
        "install",
        run_toolchain_install,
        "install the NPU compiler of OpenVINO's Windows wheel under wine (in NPU_PERSIST_TOOLCHAINS or the store)",
    )
    add_verb(verbs, "list", run_toolchain_list, "list the toolchains, and what is missing for each")
    parser = add_verb(
        verbs, "remove", run_toolchain_remove, "remove what was installed, and what interrupted runs left behind"
    )
    parser.add_argument("version", metavar="VERSION", nargs="?", help="OpenVINO's version (default: all)")
    parser = add_verb(verbs, "check", run_toolchain_check, "compare every byte, and compile one operation")
    parser.add_argument("name", metavar="NAME", nargs="?", help="plugin, libraries or wine (default: all usable ones)")


def run_toolchain_install(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist toolchain install`."""
    from npu_persist.compilation.toolchains.install import install
    from npu_persist.compilation.toolchains.wine import read_record

    path = install(_find_home(arguments), output.note)
    record = read_record(path)
    data = {"path": path, "openvino": record.build, "compiler": record.compiler, "wheels": record.wheels}
    output.show(data, f"{path}: OpenVINO {record.build}, NPU compiler {record.compiler}")
    for name, wheel in record.wheels.items():
        if not wheel.tested:
            output.warning(f"{name}: this package was not tested with this wheel")


def run_toolchain_list(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist toolchain list`."""
    from npu_persist.compilation.toolchains.wine import list_installed

    home = _find_home(arguments)
    found = describe_toolchains(home)
    installed = [{"openvino": version, "path": path} for version, path in list_installed(home)]
    rows = [
        [each["name"], "yes" if each["usable"] else "no", each["openvino"] or "-", each["reason"]] for each in found
    ]
    output.show(
        {"toolchains": found, "home": home, "installed": installed},
        lambda: table(["TOOLCHAIN", "USABLE", "OPENVINO", "REASON"], rows),
    )
    for each in found:
        if each["advice"] is not None:
            output.note(f"for {each['name']}: {each['advice']}")
    for each in installed:
        output.note(f"installed for OpenVINO {each['openvino']}: {each['path']}")


def run_toolchain_remove(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist toolchain remove [VERSION]`."""
    from npu_persist.compilation.toolchains.install import uninstall

    removed = uninstall(_find_home(arguments), arguments.version)
    output.show({"removed": removed}, lambda: [f"removed {path}" for path in removed] or ["nothing to remove"])


def run_toolchain_check(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist toolchain check [NAME]`: all that are usable, or the one of that name."""
    from npu_persist.compilation.toolchains.available import PROBED, choose_toolchain, find_toolchains

    home = _find_home(arguments)
    chosen = choose_toolchain(arguments.name, home)
    toolchains = [chosen] if arguments.name else [each for each in find_toolchains(home) if each.examine().usable]
    results = [_check(toolchain, platform) for toolchain in toolchains for platform in PROBED]
    rows = [
        [
            each["toolchain"],
            f"NPU:{each['platform']}",
            "ok" if each["problem"] is None else "failed",
            "-" if each["seconds"] is None else format_seconds(each["seconds"]),
            each["compiler"] or "-",
        ]
        for each in results
    ]
    output.show(results, lambda: table(["TOOLCHAIN", "TARGET", "RESULT", "TIME", "COMPILER"], rows))
    failed = [each for each in results if each["problem"] is not None]
    for each in failed:
        output.error(f"{each['toolchain']} for NPU:{each['platform']}: {each['problem']}")
    return NpuPersistError.exit_code if failed else 0


def _check(toolchain: Toolchain, platform: str) -> dict[str, Any]:
    from npu_persist.compilation.toolchains.available import probe

    result = {"toolchain": toolchain.name, "platform": platform, "compiler": None, "seconds": None, "problem": None}
    try:
        return {**result, **pick(probe(toolchain.compile, platform), "compiler", "seconds")}
    except NpuPersistError as error:
        return {**result, "problem": str(error)}


def describe_toolchains(home: Path) -> list[dict[str, Any]]:
    """Return each toolchain's name and state, in the order in which they are tried."""
    from npu_persist.compilation.toolchains.available import find_toolchains

    return [
        {"name": each.name, **pick(each.examine(), "usable", "reason", "openvino", "compiler", "advice")}
        for each in find_toolchains(home)
    ]


def _find_home(arguments: argparse.Namespace) -> Path:
    from pathlib import Path

    from npu_persist.compilation.toolchains.wine import find_home

    return find_home(None if arguments.store is None else Path(arguments.store))
