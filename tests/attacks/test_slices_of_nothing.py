"""Somebody publishes a loop whose slices have no size, or no stride, or an axis that is not there.

Before: `part_size="0"` in the port map of a TensorIterator divided by zero: SIGFPE. Now a slice has an axis, a stride
and a size, and a port map names ports, Parameters and Results that are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import attack
from tests.support.operations import make_operation

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from pathlib import Path


@pytest.mark.parametrize(
    "entry",
    [
        {"part_size": "0"},
        {"part_size": "-1"},
        {"part_size": ""},
        {"stride": "0"},
        {"axis": "1000000"},
        {"external_port_id": "7"},
        {"internal_layer_id": "2"},
        {"internal_layer_id": "99"},
        {"external_port_id": "-1"},
        {"purpose": "current_iteration"},
    ],
)
def test_port_maps_are_checked(tmp_path: Path, entry: dict[str, str]) -> None:
    def change(root: ET.Element) -> None:
        next(part for part in root.iter("input") if "part_size" in part.attrib).attrib.update(entry)

    error = attack(tmp_path, *make_operation("iterator"), change)
    assert error.startswith("GraphIntegrityError: "), error
    assert "TensorIterator" in error
