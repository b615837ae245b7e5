"""The verbs about this machine: `devices`, `doctor`.

The promise: they change nothing, and compile nothing. `doctor` goes on after what it finds broken, and says what to do.
"""

from __future__ import annotations

import tempfile
import textwrap
from typing import TYPE_CHECKING, Any

import msgspec

import npu_persist
from npu_persist.cache import CompileCache
from npu_persist.cli.errors import EXIT_FAILED
from npu_persist.cli.output import format_fields, format_section, format_size, format_table
from npu_persist.cli.toolchain import describe_toolchains
from npu_persist.compilation.toolchains.wine import find_home
from npu_persist.device.core import get_version
from npu_persist.device.doctor import diagnose
from npu_persist.errors import NpuPersistError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from npu_persist.cli.output import Output
    from npu_persist.device.devices import Device
    from npu_persist.device.doctor import Diagnosis

_MISSING = "missing"
_WIDTH = 96
"""Characters of a line of advice."""


def run_devices(_arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist devices`."""
    found = npu_persist.devices()
    output.show(msgspec.to_builtins(found), lambda: _devices_text(found, output))


def run_doctor(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist doctor`."""
    diagnoses = diagnose()
    store = npu_persist.Store(arguments.store)
    version, bundles, cache = get_version(), _examine_store(store), _examine_cache(store.home)
    toolchains = describe_toolchains(find_home(store.home))
    works = any(diagnosis.devices for diagnosis in diagnoses)
    data = {
        "works": works,
        "openvino": version,
        "kinds": msgspec.to_builtins(diagnoses),
        "store": bundles,
        "cache": cache,
        "toolchains": toolchains,
    }
    output.show(data, lambda: _doctor_text(version, diagnoses, bundles, cache, toolchains, output))
    if not works:
        output.error("OpenVINO can use no device of this machine, not even its CPU")
    return 0 if works else EXIT_FAILED


def _devices_text(found: Sequence[Device], output: Output) -> str:
    header, *rows = format_table(
        ("NAME", "DEVICE", "KIND", "ARCHITECTURE", "CAPABILITIES", "DRIVER", "COMPILER"),
        [
            (
                device.name,
                device.full_name,
                device.kind,
                device.architecture or "-",
                ", ".join(device.capabilities) or "-",
                device.driver or "-",
                device.compiler or "-",
            )
            for device in found
        ],
    )
    return "\n".join([output.heading(header), *rows])


def _examine_store(store: npu_persist.Store) -> dict[str, Any]:
    bundles: dict[str, Any] = {"path": str(store.home), "writable": _is_writable(store.home)}
    try:
        bundles["bundles"] = len(store.list())
    except (NpuPersistError, OSError) as error:
        return {**bundles, "problem": str(error)}
    return {**bundles, "problem": None}


def _examine_cache(home: Path) -> dict[str, Any]:
    try:
        cache = CompileCache(home)
        entries = cache.entries()
        return {
            "path": str(cache.path),
            "writable": _is_writable(cache.path),
            "entries": len(entries),
            "damaged": sum(entry.problem is not None for entry in entries),
            "size": sum(entry.size for entry in entries),
            "quota": cache.quota,
            "problem": None,
        }
    except (NpuPersistError, OSError) as error:
        return {"problem": str(error)}


def _is_writable(folder: Path) -> bool:
    """Tell whether a folder, or the one that it would be made in, takes a file; permissions alone do not say so."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False


def _doctor_text(  # noqa: PLR0913, PLR0917 (its sections)
    version: str,
    diagnoses: Sequence[Diagnosis],
    bundles: Mapping[str, Any],
    cache: Mapping[str, Any],
    toolchains: Sequence[Mapping[str, Any]],
    output: Output,
) -> str:
    sections = {"openvino": [version]}
    for diagnosis in diagnoses:
        state = "works" if diagnosis.devices else "not found"
        sections[f"{diagnosis.kind}: {state}"] = _diagnosis_lines(diagnosis)
    sections["store"] = _state_lines(bundles, ("path", "writable", "bundles"))
    sections["compile cache"] = _state_lines(cache, ("path", "writable", "entries", "damaged", "size", "quota"))
    sections["toolchains for the NPU"] = _toolchain_lines(toolchains)
    return "\n\n".join(format_section(output.heading(title), lines) for title, lines in sections.items())


def _diagnosis_lines(diagnosis: Diagnosis) -> list[str]:
    fields = {device.name: _device_text(device) for device in diagnosis.devices}
    fields |= {part: where or _MISSING for part, where in diagnosis.parts.items()}
    lines = format_fields(fields)
    for missing in diagnosis.missing:
        lines += ["", f"{missing.what}:", *(f"  {line}" for line in textwrap.wrap(missing.advice, _WIDTH))]
    return lines


def _toolchain_lines(toolchains: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = format_fields({each["name"]: "usable" if each["usable"] else "cannot be used" for each in toolchains})
    for each in toolchains:
        texts = [f"{each['name']}: {each['reason']}.", *([f"Run: {each['advice']}"] if each["advice"] else [])]
        wrapped = textwrap.wrap(" ".join(texts), _WIDTH, break_long_words=False, break_on_hyphens=False)
        lines += ["", *wrapped]
    return lines


def _device_text(device: Device) -> str:
    texts = [device.full_name, ", ".join(device.capabilities)]
    for part, version in (("driver", device.driver), ("compiler", device.compiler)):
        texts += [f"{part} {version}"] if version else []
    return "; ".join(filter(None, texts))


def _state_lines(state: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    fields = {name: _state_text(name, state[name]) for name in names if name in state}
    return format_fields(fields | ({"problem": state["problem"]} if state["problem"] else {}))


def _state_text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_size(value) if isinstance(value, int) and name in {"size", "quota"} else str(value)
