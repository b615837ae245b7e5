"""Says in the module's own terms what OpenVINO's errors say in terms of its source code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from npu_persist.compilation.messages import first_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_ADVICE = {
    "aten::histc": "For a mixture-of-experts model of transformers: model.set_experts_implementation('batched_mm').",
}
"""What to do about an operation that has a way around it."""


def find_operation(traced: torch.jit.ScriptModule, message: str) -> tuple[str | None, str | None]:
    """Return the operation that a frontend's error is about and the path of the submodule that it stands in."""
    layer = re.search(r"(?:friendly_name '|conversion of operation )([^' ]*)/(\w+::\w+)", message)
    if layer is not None:
        return layer.group(2), _path(layer.group(1))
    mentioned = set(re.findall(r"\w+::[\w.]+", message)) - {"prim::Constant"}
    for node in _all_nodes(traced.inlined_graph):
        kind = node.kind()
        if kind in mentioned:
            function = node.pyname() if kind == "prim::PythonOp" and hasattr(node, "pyname") else None
            return f"{kind} ({function})" if function else kind, _path(node.scopeName())
    return None, None


def describe_refusal(operation: str | None, path: str | None, error: Exception) -> str:
    """Return the message for an operation that was refused: what, where, OpenVINO's own words, and what to do."""
    where = "" if path is None else f" in {path or 'the module itself'}"
    text = f"OpenVINO could not convert {operation or 'an operation'}{where}: {first_lines(str(error))}"
    return f"{text} {_ADVICE[operation]}" if operation in _ADVICE else text


def _path(scope: str) -> str:
    """Return the path of a submodule from a tracer's scope, `__module.module/__module.module.encoder`."""
    return re.sub(r"^(__module\.)?module\.?", "", scope.rsplit("/", 1)[-1])


def _all_nodes(graph: torch.Graph | torch.Block) -> Iterator[torch.Node]:
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _all_nodes(block)
