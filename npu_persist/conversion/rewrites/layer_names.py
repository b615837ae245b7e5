"""Name layers by what follows from the graph alone, so that equal models give equal files.

OpenVINO numbers names by a counter of the process.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET


def name_layers(root: ET.Element) -> None:
    """Name each layer by its module's path and its kind, numbered where that is not unique."""
    root.set("name", "main")
    for layers in root.iter("layers"):
        taken: dict[str, int] = {}
        for layer in layers.findall("layer"):
            kind = layer.get("type") or ""
            name = layer.get("name") or ""
            if kind not in {"Parameter", "Result", "Const"}:
                name = re.sub(r"^(__module\.)?module\b\.?", "", name.removeprefix("__module."))
                name = re.sub(r"(_\d+)+$", "", name)
                name = re.sub(r"^((?:Slice|Gather)Assign)_\d+/", r"\1/", name)  # of the frontend, for x[...] = y
                name = kind if "#" in name or not name or "/" not in name else name
            count = taken[name] = taken.get(name, 0) + 1
            layer.set("name", name if count == 1 else f"{name}:{count}")
