"""Somebody publishes a bundle that looks up rows in a table without rows.

Before: the CPU divided by a size of zero (Gather: SIGFPE) or read the first element (EmbeddingBag, Pad: SIGSEGV). Now
these have inputs that are not empty, by the shapes that OpenVINO infers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import attack, find_data
from tests.support.operations import make_operation

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from pathlib import Path


@pytest.mark.parametrize("name", ["gather-8", "gather-7", "pad-1", "packed"])
def test_nothing_is_looked_up_in_an_empty_table(tmp_path: Path, name: str) -> None:
    def change(root: ET.Element) -> None:
        data = find_data(root, "Parameter")
        axes = data.get("shape", "").split(",")
        data.set("shape", ",".join(["0", *axes[1:]]))

    error = attack(tmp_path, *make_operation(name), change)
    assert error.startswith("GraphIntegrityError: "), error
    assert "inputs that are not empty" in error


def test_a_table_has_rows(tmp_path: Path) -> None:
    def change(root: ET.Element) -> None:
        find_data(root, "Const").set("shape", "36")

    error = attack(tmp_path, *make_operation("packed"), change)
    assert error.startswith("GraphIntegrityError: "), error
    assert "a table of 2 axes" in error
