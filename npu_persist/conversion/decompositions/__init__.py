"""Torch operations that OpenVINO's frontend lacks, written with those that it has, while a call is captured.

Three ways, since none reaches everything:

- `OPERATIONS`: an operation that the frontend lacks altogether, by its name in ATen. Both ways of capturing use these:
  the tracer records what the decomposition calls in the operation's place (a kernel for the dispatch key `Tracer`,
  there for the time of the trace), `torch.export` takes them as its decomposition table.
- `Replacing`: an operation that the frontend converts, but not for these arguments: complex numbers, a mask of lower
  rank, a negative dim. A function mode, which looks at the arguments before torch's dispatcher sees them.
- `rewrites.OPERATIONS`, for what comes out of scripted code, where neither has a say.

To add one, write a function of torch's arguments that calls other torch functions, give it its line in the table of its
file, and compare it with torch in `tests/unit/conversion/decompositions/`.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from typing import TYPE_CHECKING, Any

import torch

from npu_persist.conversion.decompositions import (
    counting,
    cumulative,
    diagonals,
    elementwise,
    linear_algebra,
    order_statistics,
    recurrent,
    torchs_own,
)
from npu_persist.conversion.decompositions.replacing import Replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["OPERATIONS", "Replacing", "decompose", "decomposing"]

OPERATIONS: dict[str, Callable[..., Any]] = {
    **torchs_own.OPERATIONS,
    **counting.OPERATIONS,
    **cumulative.OPERATIONS,
    **diagonals.OPERATIONS,
    **elementwise.OPERATIONS,
    **linear_algebra.OPERATIONS,
    **order_statistics.OPERATIONS,
    **recurrent.OPERATIONS,
}
"""Decompositions by the operation's name and overload in ATen, `cumprod` or `take.default`."""


@contextlib.contextmanager
def decomposing() -> Iterator[None]:
    """Let `torch.jit.trace` record decompositions in the place of operations that OpenVINO lacks."""
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "Overriding a previously registered kernel"
            for operation, decomposition in _overloads().items():
                library.impl(operation, decomposition, "Tracer", allow_override=True)  # type: ignore[no-untyped-call]
        with Replacing():
            yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]


def decompose(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Replace the operations that OpenVINO lacks in an exported program."""
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    used = {node.target for graph in graphs for node in graph.nodes if node.op == "call_function"}
    table = {
        operation: function
        for operation, function in _overloads().items()
        if operation in used and not operation._can_decompose()  # those that torch.export decomposes by itself
    }
    return program.run_decompositions(dict(table)) if table else program


@functools.cache
def _overloads() -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    """Return the decompositions by operation, and those of operations in place that follow from them."""
    found = {}
    for name, decomposition in OPERATIONS.items():
        packet, _, overload = name.partition(".")
        for kind, function in ((packet, decomposition), (f"{packet}_", functools.partial(_in_place, decomposition))):
            # Another version of torch may have other operations.
            operation = getattr(getattr(torch.ops.aten, kind, None), overload or "default", None)
            if operation is not None:
                found[operation] = function
    return found


def _in_place(decomposition: Callable[..., Any], self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return self.copy_(decomposition(self, *args, **kwargs))
