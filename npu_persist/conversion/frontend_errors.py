"""Explains what the PyTorch frontend refused: the operation, where it is in the module, and why, in this order."""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.conversion import call
from npu_persist.conversion.monitor import is_foreign
from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    Program = torch.jit.ScriptModule | torch.export.ExportedProgram

_MISSING = re.compile(r"No conversion rule found for operations: (.*)")
_FAILED = re.compile(r"^-- (\S.*?) with a message:\n(.*?)(?=^-- |^Summary:|\Z)", re.DOTALL | re.MULTILINE)
_CONVERTING = re.compile(r"(?:friendly_name '|conversion of operation )([^' ]*)/(\w+::\w+)")
_NOISE = re.compile(
    r"Exception happened during conversion of operation .*|Check '.*' failed at .*|FrontEnd API failed with .*"
    r"|While validating node .*|Exception from .*"
)
_INNER = ("prim::", "<", "Sequence")
"""What the names of the tracer's own operations begin with: these mostly fail after others."""
_ADVICE = {
    "quantized::": "Persist the module as it was before it was quantized.",
    "prim::PackPadded": "OpenVINO has no packed sequences: call the layer with the padded tensor.",
}
"""What to do instead, by what the operation's name begins with."""
_LONGEST, _LONGEST_LINE = 250, 80
_SOURCE = re.compile(r"(\S+\.py)\((\d+)\): |File \"([^\"]+)\", line (\d+)")


class _Place(NamedTuple):
    """Where an operation is: the submodule's path, and file, line and text of the code."""

    module: str
    line: str | None

    def __str__(self) -> str:
        return f" in {self.module or 'the module itself'}" + (f" ({self.line})" if self.line else "")


def explain(program: Program, error: Exception) -> ConversionError:
    """Return the error that names the first operation which was refused."""
    message = str(error)
    places = dict(_find_places(program))
    missing = [name.strip() for found in _MISSING.findall(message) for name in found.split(",")]
    failed = dict(sorted(_FAILED.findall(message), key=lambda found: found[0].startswith(_INNER)))
    named = _CONVERTING.search(message)
    if missing:
        # The graph's order: the first one that the forward comes to.
        first, *others = sorted(missing, key=lambda name: [*places, name].index(name))
        place = places.get(first)
        text = f"{_label(first, place)} has no conversion to OpenVINO"
        text += f"; nor has {', nor '.join(others)}" if others else ""
        return _error(text, first, place)
    for name, reason in failed.items():  # those of torch's own operations come first
        place = places.get(name)
        inner = _CONVERTING.search(reason)
        if inner is not None and (place is None or place.module != module_path(inner[1])):
            place = _Place(module_path(inner[1]), None)
        return _error(f"{_label(name, place)} could not be converted to OpenVINO: {_reason(reason)}", name, place)
    if named is not None:
        place = _Place(module_path(named[1]), None)
        return _error(
            f"{_label(named[2], place)} could not be converted to OpenVINO: {_reason(message)}", named[2], place
        )
    mentioned = next((name for name in places if re.search(rf"{re.escape(name)}(?![\w.])", message)), None)
    if mentioned is not None:
        place = places[mentioned]
        text = f"{_label(mentioned, place)} could not be converted to OpenVINO: {_reason(message)}"
        return _error(text, mentioned, place)
    return ConversionError(f"OpenVINO could not convert the graph: {_reason(message)}.")


def _error(text: str, operation: str, place: _Place | None) -> ConversionError:
    advice = "".join(f" {what}" for name, what in _ADVICE.items() if operation.startswith(name))
    path = None if place is None else place.module
    return ConversionError(f"{text.rstrip('.')}.{advice}", module_path=path, operation=operation)


def _label(name: str, place: _Place | None) -> str:
    return name if place is None else f"{name}{place}"


def _reason(text: str) -> str:
    """Return what is left of a frontend's message without places in its own code."""
    kept = _NOISE.sub("", text).replace("[PyTorch Frontend]", "")
    return first_lines(kept or text, _LONGEST)


def _find_places(program: Program) -> Iterator[tuple[str, _Place]]:
    """Yield each operation's name once, where it is used first."""
    seen = set()
    if isinstance(program, torch.export.ExportedProgram):
        for node in program.graph.nodes:
            if node.op == "call_function" and (name := str(node.target)) not in seen:
                seen.add(name)
                stack = [*(node.meta.get("nn_module_stack") or {}).values()]
                path = module_path(re.sub(r"^L\['self'\]\.?", "", stack[-1][0])) if stack else ""
                yield name, _Place(path, _source_line(node.meta.get("stack_trace") or ""))
        return
    for traced in all_nodes(program.inlined_graph):
        name = traced.kind()
        if name == "prim::PythonOp" and hasattr(traced, "pyname"):
            name = f"{name} ({traced.pyname()})"
        if name not in seen and not name.startswith("prim::Const"):
            seen.add(name)
            yield name, _Place(module_path(traced.scopeName()), _source_line(str(traced.sourceRange())))


def _source_line(stack: str) -> str | None:
    """Return the line of the module's code in a stack: the innermost one that is not torch's, within our call of it."""
    found = [(path or other, int(line or number)) for path, line, other, number in _SOURCE.findall(stack)]
    if 'File "' in stack:  # torch.export's stacks end with the innermost call, the tracer's begin with it
        found.reverse()
    for path, line in found:
        if path == call.__file__:  # what is further out is the caller of persist
            return None
        if not is_foreign(path):
            return f"{Path(path).name}:{line}: {linecache.getline(path, line).strip()[:_LONGEST_LINE]}"
    return None


def module_path(scope: str) -> str:
    """Return the path of a submodule from a tracer's scope, `__module.module/__module.module.encoder`."""
    return re.sub(r"^(__module\.)?module\.?", "", scope.rsplit("/", 1)[-1])


def all_nodes(graph: torch.Graph | torch.Block) -> Iterator[torch.Node]:
    """Yield the nodes of a graph and of the blocks inside of it."""
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from all_nodes(block)
