"""Somebody publishes a bundle with an attribute of 300,000 spaces.

Attack: OpenVINO matches some attributes with regular expressions, which take a stack frame for each character.

Before: SIGSEGV when the compiled model was exported to the cache. Now attributes have a length, and what persist does
not write of them is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import attack, find_layer
from tests.support.operations import make_operation

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from pathlib import Path


@pytest.mark.parametrize("attribute", ["name", "type", "version"])
def test_attributes_have_a_length(tmp_path: Path, attribute: str) -> None:
    def change(root: ET.Element) -> None:
        layer = find_layer(root, "ReLU")
        layer.set(attribute, layer.get(attribute, "") + " " * 300_000)

    error = attack(tmp_path, *make_operation("relu"), change)
    assert error.startswith("GraphIntegrityError: "), error
    assert "texts of at most 16384 characters" in error
