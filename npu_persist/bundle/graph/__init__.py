"""The check of a whole graph before OpenVINO reads it: only what `persist` writes passes.

OpenVINO's own checks have gaps that crash the process or let a graph read any memory: a `Constant` with its value,
a size that overflows, a layer without inputs, bodies nested until the stack ends. `reader` bounds the XML, `operations`
is the grammar of layers, `rules` holds what layers, edges and bodies must be to each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.bundle.graph.reader import read_net
from npu_persist.bundle.graph.rules import Rules
from npu_persist.bundle.weights import Header, read_header

if TYPE_CHECKING:
    from pathlib import Path


def check_graph(graph: Path, weights: Path) -> Header:
    """Check an IR and the header of its weights file, and return the header.

    Raises:
        GraphIntegrityError: Something is not as `persist` writes it.
    """
    size = weights.stat().st_size
    header = read_header(weights)
    Rules(graph, header.data_start, size).check(read_net(graph))
    return header
