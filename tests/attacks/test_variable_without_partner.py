"""Somebody publishes a bundle that assigns a variable which nothing reads, or reads one which nothing assigns.

Before: SIGSEGV when OpenVINO read or compiled the graph. Now each variable is read once and assigned once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import attack, find_data
from tests.support.operations import make_operation

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from pathlib import Path


@pytest.mark.parametrize("kind", ["Assign", "ReadValue"])
def test_variables_come_in_pairs(tmp_path: Path, kind: str) -> None:
    def change(root: ET.Element) -> None:
        find_data(root, kind).set("variable_id", "other")

    error = attack(tmp_path, *make_operation("state"), change)
    assert error.startswith("GraphIntegrityError: "), error
    assert "variables that are read once and assigned once" in error
