"""Read a graph, compile it and call it once in a separate process, so that a crash of OpenVINO stays there.

The process returns the graph's outputs. A graph that took it over could do the same to the next process, so
this protects from crashes, endless work and exhausted memory, and not from code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from npu_persist.bundle.graph_records import Port
from npu_persist.bundle.verification import Verification
from npu_persist.compilation.local import compile_graph, describe_outputs, read_graph
from npu_persist.compilation.output_sizes import name_outputs
from npu_persist.compilation.process.memory import read_memory, read_total
from npu_persist.compilation.process.python import run_module, serve
from npu_persist.compilation.process.supervisor import Limits
from npu_persist.compilation.recipe import RecipeRecord  # noqa: TC001 (a field of a record)
from npu_persist.compilation.trial import call_once

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from npu_persist.artifact.artifact import Shapes
    from npu_persist.compilation.recipe import Recipe

SECONDS, SECONDS_FOR_NPU = 600.0, 7200.0
"""How long the graph of somebody who is not trusted may compile; Intel's compiler is known to take an hour."""

MEMORY_SHARE = 0.8
"""How much of this machine's memory that may take."""


class ProbeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request to the process.

    Attributes:
        recipe: What to read.
        buckets: Sizes that the outputs' open axes are to be named for; none: as the graph has them.
        compiles: Whether to compile the graph, too, and to call it once.
        verifies: Whether to compare its files with the manifest.
    """

    recipe: RecipeRecord
    buckets: tuple[dict[str, tuple[int, ...]], ...]
    compiles: bool
    verifies: bool


def limit(device: str, seconds: float | None = None, report: Callable[[str], object] | None = None) -> Limits:
    """Return the limits for a graph of somebody who is not trusted."""
    total = None if read_memory().now is None else read_total()
    default = SECONDS_FOR_NPU if "NPU" in device else SECONDS
    return Limits(seconds or default, None if total is None else int(MEMORY_SHARE * total), report=report)


def probe(
    recipe: Recipe, limits: Limits, *, buckets: Sequence[Shapes] = (), compiles: bool = False, verifies: bool = True
) -> tuple[Port, ...]:
    """Read a graph in a separate process, and return its outputs; properties that JSON lacks are left out."""
    request = ProbeRequest(
        recipe=recipe.to_record(), buckets=tuple(map(dict, buckets)), compiles=compiles, verifies=verifies
    )
    return run_module("npu_persist.compilation.probe", request, tuple[Port, ...], limits).result


def read(request: ProbeRequest, *_: object) -> tuple[Port, ...]:
    """Do what is asked."""
    recipe = request.recipe.open()
    graph, manifest = recipe.graph, recipe.bundle.manifest
    with Verification("full" if request.verifies else "none") as verification:
        verification.start(recipe.weights, manifest.files[manifest.weights.path])
        model = read_graph(recipe, verification)
        if request.buckets:
            outputs = name_outputs(model, graph.inputs, graph.outputs, request.buckets)
        else:
            outputs = describe_outputs(graph, model)
        if request.compiles:
            call_once(recipe, model, compile_graph(recipe, model).model)
        verification.finish()
    return outputs


if __name__ == "__main__":
    serve(read, ProbeRequest)
