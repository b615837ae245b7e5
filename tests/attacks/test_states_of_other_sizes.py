"""Somebody publishes a loop whose body hands more to its next turn than the next turn has room for.

Before: OpenVINO copied one over the other, outside of its memory. Now what a body takes is what was handed to it, at
the start and by the turn before, by the shapes that OpenVINO infers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.hostile import attack
from tests.support.operations import make_operation

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from pathlib import Path


def test_a_state_keeps_its_sizes(tmp_path: Path) -> None:
    def change(root: ET.Element) -> None:
        results = [
            layer.get("id", "") for layer in next(root.iter("body")).iter("layer") if layer.get("type") == "Result"
        ]
        edge = next(root.iter("back_edges"))[0]
        edge.set("from-layer", next(one for one in results if one != edge.get("from-layer")))

    error = attack(tmp_path, *make_operation("iterator"), change)
    assert error.startswith("GraphIntegrityError: "), error
    assert "for the next iteration" in error
