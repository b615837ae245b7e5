"""Somebody publishes a bundle that converts to a type which the CPU cannot write.

Before: a Convert to u1 ended the process with SIGSEGV. Now a graph converts to the types that persist writes; the
narrow ones are those of constants only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import attack, find_data
from tests.support.operations import make_operation

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from pathlib import Path


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i4", "nf4", "f4e2m1", "f8e8m0", "bf16", "string", "F32"])
def test_a_graph_converts_to_what_persist_writes(tmp_path: Path, kind: str) -> None:
    def change(root: ET.Element) -> None:
        find_data(root, "Convert").set("destination_type", kind)

    error = attack(tmp_path, *make_operation("convert"), change)
    assert error.startswith("GraphIntegrityError: "), error
    assert "a value of destination_type that persist writes" in error
