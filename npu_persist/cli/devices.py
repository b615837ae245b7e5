"""The verbs about this machine, `devices` and `doctor`; they change and compile nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli.arguments import add_verb
from npu_persist.cli.compile import describe_toolchains
from npu_persist.cli.output import format_fields, format_size, join_blocks, section, table
from npu_persist.errors import NpuPersistError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from npu_persist.cli.output import Output
    from npu_persist.device.devices import Device
    from npu_persist.device.doctor import Diagnosis

_WIDTH = 96
"""Characters of a line of advice."""


def add_verbs(verbs: Any) -> None:
    """Add them."""
    add_verb(verbs, "devices", run_devices, "list the devices of this machine")
    add_verb(
        verbs, "doctor", run_doctor, "find problems with devices, store, cache and toolchains, and how to fix them"
    )


def run_devices(_arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist devices`."""
    found = npu_persist.devices()
    rows = [
        [
            device.name,
            device.full_name,
            device.kind,
            device.architecture or "-",
            ", ".join(device.capabilities) or "-",
            device.default_precision or "-",
            device.driver or "-",
            device.compiler or "-",
        ]
        for device in found
    ]
    header = ["NAME", "DEVICE", "KIND", "ARCHITECTURE", "CAPABILITIES", "PRECISION", "DRIVER", "COMPILER"]
    output.show(found, lambda: table(header, rows))


def run_doctor(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist doctor`: what is broken is shown, and does not end it."""
    from npu_persist.compilation.toolchains.wine import find_home
    from npu_persist.device.core import get_version
    from npu_persist.device.doctor import diagnose

    store = npu_persist.Store(arguments.store)
    diagnoses = diagnose()
    works = any(diagnosis.devices for diagnosis in diagnoses)
    data = {
        "works": works,
        "openvino": get_version(),
        "kinds": diagnoses,
        "store": _examine_store(store),
        "cache": _examine_cache(store.home),
        "toolchains": describe_toolchains(find_home(store.home)),
    }
    output.show(data, lambda: _doctor_text(data))
    if not works:
        output.error("OpenVINO finds no usable device on this machine, not even the CPU")
    return 0 if works else NpuPersistError.exit_code


def _examine_store(store: npu_persist.Store) -> dict[str, Any]:
    bundles = {"path": store.home, "writable": _is_writable(store.home)}
    try:
        return {**bundles, "bundles": len(store.list()), "problem": None}
    except (NpuPersistError, OSError) as error:
        return {**bundles, "problem": str(error)}


def _examine_cache(home: Path) -> dict[str, Any]:
    try:
        cache = npu_persist.CompileCache(home)
        entries = cache.entries()
        return {
            "path": cache.path,
            "writable": _is_writable(cache.path),
            "entries": len(entries),
            "damaged": sum(entry.problem is not None for entry in entries),
            "size": sum(entry.size for entry in entries),
            "quota": cache.quota,
            "problem": cache.find_distrust(),
        }
    except (NpuPersistError, OSError) as error:
        return {"problem": str(error)}


def _is_writable(folder: Path) -> bool:
    """Try to write to a folder, or to the one that it would be made in: permissions alone are not enough."""
    import tempfile

    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False


def _doctor_text(data: Mapping[str, Any]) -> list[str]:
    sections = {"openvino": [data["openvino"]]}
    for diagnosis in data["kinds"]:
        sections[f"{diagnosis.kind}: {'works' if diagnosis.devices else 'not found'}"] = _diagnosis_lines(diagnosis)
    sections["store"] = _state_lines(data["store"])
    sections["compile cache"] = _state_lines(data["cache"])
    sections["toolchains for the NPU"] = _toolchain_lines(data["toolchains"])
    return join_blocks(section(title, lines) for title, lines in sections.items())


def _diagnosis_lines(diagnosis: Diagnosis) -> list[str]:
    import textwrap

    fields = {device.name: _describe_device(device) for device in diagnosis.devices}
    lines = format_fields(fields | {part: where or "missing" for part, where in diagnosis.parts.items()})
    for missing in diagnosis.missing:
        lines += ["", f"{missing.what}:", *(f"  {line}" for line in textwrap.wrap(missing.advice, _WIDTH))]
    return lines


def _describe_device(device: Device) -> str:
    texts = [device.full_name, ", ".join(device.capabilities)]
    if device.default_precision:
        texts.append(f"computes in {device.default_precision} by default")
    for part, version in (("driver", device.driver), ("compiler", device.compiler)):
        texts += [f"{part} {version}"] if version else []
    return "; ".join(filter(None, texts))


def _toolchain_lines(toolchains: Sequence[Mapping[str, Any]]) -> list[str]:
    import textwrap

    lines = format_fields({each["name"]: "usable" if each["usable"] else "cannot be used" for each in toolchains})
    for each in toolchains:
        text = f"{each['name']}: {each['reason']}." + (f" Run: {each['advice']}" if each["advice"] else "")
        lines += ["", *textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)]
    return lines


def _state_lines(state: Mapping[str, Any]) -> list[str]:
    def show(name: str, value: object) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return format_size(value) if isinstance(value, int) and name in {"size", "quota"} else str(value)

    return format_fields({name: show(name, value) for name, value in state.items() if value is not None})
