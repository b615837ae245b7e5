"""Somebody publishes Ifs inside of Ifs.

Attack: OpenVINO follows bodies by recursion, and its passes take several times as long with each: 12 took more
than 40 s.

Now bodies may be inside each other four times.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from tests.support.hostile import attack, find_layer
from tests.support.operations import make_operation

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from pathlib import Path


def test_bodies_inside_each_other_are_bounded(tmp_path: Path) -> None:
    def change(root: ET.Element) -> None:
        once = copy.deepcopy(find_layer(root, "If"))
        layer = find_layer(root, "If")
        for _ in range(12):
            layers = layer.find("then_body/layers")
            assert layers is not None
            inner = copy.deepcopy(once)
            inner.set("id", "1")
            layers[1] = inner
            layer = inner

    error = attack(tmp_path, *make_operation("if"), change)
    assert error.startswith("GraphIntegrityError: "), error
    assert "at most 4 bodies inside each other" in error
