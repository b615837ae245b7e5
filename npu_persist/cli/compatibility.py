"""The verb `compatibility`: which attached artifacts run on a device, here or on another machine, and why.

The promise: nothing is compiled or imported, and no payload is read. It ends with 0 if a load may take one of the
artifacts, and with 5 if there is none that it could take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import npu_persist
from npu_persist.bundle.buckets import describe_shapes
from npu_persist.cli.output import format_section, format_size
from npu_persist.errors import IncompatibleError, UsageError

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from npu_persist.artifact.compatibility import Compatibility
    from npu_persist.cli.output import Output
    from npu_persist.device.machine import Machine


def run_compatibility(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist compatibility REF [--device D | --target T [--elf V --mi V --openvino V]]`."""
    store = npu_persist.Store(arguments.store)
    found = npu_persist.compatibility(arguments.reference, _machine(arguments), store=store)
    output.show(
        [_describe(entry) for entry in found],
        lambda: "\n\n".join(_section(entry, output) for entry in found),
    )
    if not found:
        output.note(f"no compiled artifact is attached to {store.resolve(arguments.reference).reference}")
    is_usable = any(entry.verdict.status != "unsupported" for entry in found)
    return 0 if is_usable else IncompatibleError.exit_code


def _machine(arguments: argparse.Namespace) -> str | Machine:
    known = {name: getattr(arguments, name) for name in ("elf", "mi", "openvino")}
    if arguments.target is None:
        if given := [f"--{name}" for name, value in known.items() if value is not None]:
            raise UsageError(f"{', '.join(given)}: said of another machine, which --target names: --target NPU:4000")
        device: str = arguments.device
        return device
    from npu_persist.artifact.target import parse_target
    from npu_persist.device.machine import describe_other

    target = parse_target(arguments.target)
    if target.platform is None:
        raise UsageError(f"--target {arguments.target}: expected an NPU's platform, such as NPU:4000; --device names "
                         "a device of this machine")  # fmt: skip
    return describe_other(target.device, target.platform, **known)


def _describe(entry: Compatibility) -> dict[str, Any]:
    artifact = entry.artifact
    return {
        "folder": str(entry.folder),
        "target": entry.target,
        "status": entry.verdict.status,
        "reasons": list(entry.verdict.reasons),
        "graph": artifact and artifact.graph,
        "shapes": artifact and artifact.shapes and {name: list(shape) for name, shape in artifact.shapes.items()},
        "properties": artifact and dict(artifact.properties),
        "size": artifact and artifact.size,
        "requirements": artifact and artifact.requirements,
        "openvino": artifact and artifact.openvino,
    }


def _section(entry: Compatibility, output: Output) -> str:
    about = ["damaged"]
    if entry.artifact is not None:
        sizes = [describe_shapes(entry.artifact.shapes)] if entry.artifact.shapes else []
        about = [entry.artifact.target, *sizes, format_size(entry.artifact.size)]
    title = f"{entry.folder.name} ({', '.join(about)}): {entry.verdict.status}"
    return format_section(output.heading(title), list(entry.verdict.reasons))
