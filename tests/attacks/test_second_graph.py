"""A bundle of two graphs, one of which was made to do harm: it is refused, and the other loads."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

import npu_persist
from npu_persist.errors import GraphIntegrityError
from npu_persist.files.digest import digest_file
from tests.support.graphs import GRID
from tests.support.two_graphs import ANSWERS, write_two

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("offset", [1 << 40, -8, 0])
def test_constants_outside_of_the_tensors(tmp_path: Path, offset: int) -> None:
    write_two(tmp_path)
    graph, manifest = tmp_path / "shift.xml", tmp_path / "manifest.json"
    graph.write_text(re.sub(r'offset="[0-9]+"', f'offset="{offset}"', graph.read_text()))
    document = json.loads(manifest.read_text())
    document["files"]["shift.xml"] = {"size": graph.stat().st_size, "digest": digest_file(graph)}
    manifest.write_text(json.dumps(document))
    for options in ({}, {"graph": "shift"}):
        with pytest.raises(GraphIntegrityError):
            npu_persist.load(tmp_path, "CPU", **options)  # type: ignore[arg-type]
    with npu_persist.load(tmp_path, "CPU", graph="scale") as model:
        assert np.array_equal(model(GRID), ANSWERS["scale"])
