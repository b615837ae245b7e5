"""Somebody publishes a bundle whose constant reads where it wants, by spelling the type otherwise.

Attack: `type="Constant"`, which OpenVINO takes for `Const` (it compares without case, and knows both names), with an
offset outside of the weights, or with a `value` in place of the data.

Before: the scan looked at `Const` only, and the process read what was not its own, or ended with SIGSEGV. Now types are
those that persist writes, letter for letter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import attack, find_data, find_layer
from tests.support.operations import make_operation

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from pathlib import Path


@pytest.mark.parametrize("spelling", ["Constant", "const", "CONST", "constant"])
@pytest.mark.parametrize("data", [{"offset": "1000000000000"}, {"value": "1"}])
def test_a_constant_is_a_const(tmp_path: Path, spelling: str, data: dict[str, str]) -> None:
    def change(root: ET.Element) -> None:
        find_data(root, "Const").attrib.update(data)
        find_layer(root, "Const").set("type", spelling)

    error = attack(tmp_path, *make_operation("gather-8"), change)
    assert error.startswith("GraphIntegrityError: "), error
    assert f"an operation that persist writes in layer 2, {spelling}" in error
