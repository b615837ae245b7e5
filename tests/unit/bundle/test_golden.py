from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from npu_persist.bundle.golden import read_golden_tensors
from npu_persist.bundle.graph_records import DTYPES, Port
from npu_persist.bundle.weights import ITEM_SIZES, lay_out
from npu_persist.errors import GraphIntegrityError, StoreError
from tests.support.bundles import GOLDEN, TINY_GRAPH

if TYPE_CHECKING:
    from pathlib import Path


def test_tensors_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(GOLDEN)
    assert set(read_golden_tensors(path, TINY_GRAPH)) == {"input.x.0", "input.x.1", "output.y"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_a_name_in_the_file(dtype: str, tmp_path: Path) -> None:
    port = Port("x", dtype, (1,))  # type: ignore[arg-type]
    graph = replace(TINY_GRAPH, inputs=(port,), outputs=())
    fitting = []
    for name, size in ITEM_SIZES.items():
        path = tmp_path / name
        path.write_bytes(lay_out({"input.x": (name, (1,), size)}, {})[0] + bytes(size))
        try:
            read_golden_tensors(path, graph)
        except GraphIntegrityError:
            continue
        fitting.append(name)
    assert len(fitting) == 1
    assert fitting[0][0] == dtype[0].upper()
    assert fitting[0].lstrip("BFIOLU") == dtype.lstrip("abcdefghijklmnopqrstuvwxyz")


def test_a_file_that_is_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        read_golden_tensors(tmp_path / "golden.safetensors", TINY_GRAPH)
