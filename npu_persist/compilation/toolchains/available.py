"""Which toolchains can be used here: find them, choose one, and try one on the smallest graph there is."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.artifact.blob import read_blob
from npu_persist.compilation.process.supervisor import Limits
from npu_persist.compilation.toolchains.native import COMPILER_VARIABLE, LibrariesToolchain, PluginToolchain
from npu_persist.compilation.toolchains.toolchain import CompilerRequest
from npu_persist.compilation.toolchains.wine import WineToolchain
from npu_persist.errors import ToolchainError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.compilation.toolchains.toolchain import CompilerResult, State, Toolchain

NAMES = ("plugin", "libraries", "wine")
"""All toolchains, in the order in which they are tried."""

PROBED = ("3720", "4000")
"""Platforms that a check compiles for."""

_PROBE_TIMEOUT = 300.0
"""Seconds for one operation: it takes half a second where nothing is wrong."""

_PORT = "<dim>1</dim><dim>16</dim></port>"
_GRAPH = f"""\
<?xml version="1.0"?>
<net name="probe" version="11">
<layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1,16" element_type="f32"/>
<output><port id="0" precision="FP32" names="x">{_PORT}</output></layer>
<layer id="1" name="relu" type="ReLU" version="opset1"><input><port id="0" precision="FP32">{_PORT}</input>
<output><port id="1" precision="FP32" names="y">{_PORT}</output></layer>
<layer id="2" name="y/sink" type="Result" version="opset1"><input><port id="0" precision="FP32">{_PORT}</input></layer>
</layers>
<edges>
<edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/>
</edges>
</net>
"""


def find_toolchains(home: Path | None = None) -> tuple[Toolchain, ...]:
    """Return all toolchains, usable or not, in the order in which they are tried."""
    return PluginToolchain(), LibrariesToolchain(), WineToolchain(home)


def choose_toolchain(name: str | None = None, home: Path | None = None) -> Toolchain:
    """Return the first toolchain that can be used, or the one of that name if it can."""
    if name not in {None, *NAMES}:
        raise UsageError(f"toolchain: expected one of {', '.join(NAMES)}, got {name!r}")
    states = {each: each.examine() for each in find_toolchains(home) if name in {None, each.name}}
    for toolchain, state in states.items():
        if state.usable:
            return toolchain
    if name is not None:
        ((_, state),) = states.items()
        raise ToolchainError(f"toolchain {name}: {state.reason}.{_format_advice(state)}")
    reasons = "; ".join(f"{toolchain.name}: {state.reason}" for toolchain, state in states.items())
    nearest = find_nearest({toolchain.name: state for toolchain, state in states.items()})
    raise ToolchainError(f"no toolchain can compile for the NPU here. {reasons}.{_format_advice(nearest)}")


def find_nearest(states: dict[str, State]) -> State:
    """Return the state of the toolchain that is the easiest to make usable here."""
    if sys.platform == "win32":
        return states["plugin"]
    if os.environ.get(COMPILER_VARIABLE):  # set on purpose
        return states["libraries"]
    return states["wine"] if states["wine"].advice else states["libraries"]


def _format_advice(state: State) -> str:
    return f" Run: {state.advice}" if state.advice else ""


def probe(compile_request: Callable[[CompilerRequest, Limits], CompilerResult], platform: str) -> CompilerResult:
    """Compile one operation for a platform with a toolchain's `compile`, and check the blob."""
    with tempfile.TemporaryDirectory(prefix="npu_persist-") as name:
        folder = Path(name)
        graph, weights, output = folder / "probe.xml", folder / "probe.bin", folder / "probe.blob"
        graph.write_text(_GRAPH, encoding="utf-8")
        weights.touch()
        request = CompilerRequest(str(graph), str(weights), str(output), platform)
        result = compile_request(request, Limits(timeout=_PROBE_TIMEOUT))
        blob = read_blob(output, "NPU")
        if not blob.is_elf or blob.requirements is None or blob.requirements.platform != platform:
            raise ToolchainError(
                f"the probe for platform {platform}: expected an ELF file of the NPU for it, got {blob}"
            )
    return result
