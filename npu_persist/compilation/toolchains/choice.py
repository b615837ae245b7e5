"""Which toolchain compiles for the NPU here.

The promise: they are tried in one order, `plugin`, `libraries`, `wine`; where none can be used the error says what each
lacks, and the one command that is nearest.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from npu_persist.compilation.toolchains.native import COMPILER_VARIABLE, LibrariesToolchain, PluginToolchain
from npu_persist.compilation.toolchains.wine import WineToolchain
from npu_persist.errors import ToolchainError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.compilation.toolchains.base import State, Toolchain

NAMES = ("plugin", "libraries", "wine")
"""All toolchains, in the order in which they are tried."""


def find_toolchains(home: Path | None = None) -> tuple[Toolchain, ...]:
    """Return all toolchains, those that cannot be used too, in the order in which they are tried.

    Args:
        home: The folder of installed toolchains; None for `wine.find_home()`.
    """
    return PluginToolchain(), LibrariesToolchain(), WineToolchain(home)


def choose_toolchain(name: str | None = None, home: Path | None = None) -> Toolchain:
    """Return the first toolchain that can be used, or the one of that name if it can.

    Args:
        name: `plugin`, `libraries` or `wine`; None for the first.
        home: The folder of installed toolchains; None for `wine.find_home()`.

    Raises:
        ToolchainError: None can be used, or not that one.
        UsageError: There is none of that name.
    """
    if name not in {None, *NAMES}:
        raise UsageError(f"toolchain: expected one of {', '.join(NAMES)}, got {name!r}")
    states = {each: each.examine() for each in find_toolchains(home) if name in {None, each.name}}
    for toolchain, state in states.items():
        if state.usable:
            return toolchain
    if name is not None:
        ((_, state),) = states.items()
        raise ToolchainError(f"toolchain {name}: {state.reason}.{_say_advice(state)}")
    reasons = "; ".join(f"{toolchain.name}: {state.reason}" for toolchain, state in states.items())
    nearest = find_nearest({toolchain.name: state for toolchain, state in states.items()})
    raise ToolchainError(f"no toolchain can compile for the NPU here. {reasons}.{_say_advice(nearest)}")


def find_nearest(states: dict[str, State]) -> State:
    """Return the state of the toolchain that is the easiest to make usable here."""
    if sys.platform == "win32":
        return states["plugin"]
    if os.environ.get(COMPILER_VARIABLE):  # who set it wants that one
        return states["libraries"]
    return states["wine"] if states["wine"].advice else states["libraries"]


def _say_advice(state: State) -> str:
    return f" Run: {state.advice}" if state.advice else ""
