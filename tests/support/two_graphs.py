"""A bundle of two graphs without torch: `scale` is `x * weight`, `shift` is `x + weight`, of one weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace
from openvino import opset13 as ops

from npu_persist.bundle.golden_records import Golden, Tolerance
from npu_persist.bundle.graph_records import Port
from npu_persist.bundle.manifest import FileEntry
from npu_persist.files.digest import digest_file
from tests.support.graphs import GOLDEN, GRID, WEIGHTS, XML, constant, make_model, parameter, write_graph

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.manifest import Manifest
    from npu_persist.store import Store

WEIGHT = np.array([[1, 2, 3]], np.float32)
ANSWERS = {"scale": GRID * WEIGHT, "shift": GRID + WEIGHT}
"""What each graph gives for GRID: its golden sample."""
_PORT, _OUT = Port("x", "float32", (2, 3)), Port("y", "float32", (2, 3))


def write_two(
    directory: Path, *, name: str = "two", answers: dict[str, Any] | None = None, factor: float = 1
) -> Manifest:
    """Write the bundle into a directory, the manifest last.

    `answers` are torch's in place of the right ones; the weight is `factor` times what these are made with.
    """
    answers = {**ANSWERS, **(answers or {})}
    graphs, goldens, files = [], {}, {}
    for graph, operation in (("scale", ops.multiply), ("shift", ops.add)):
        x = parameter(_PORT)
        folder = directory / graph
        folder.mkdir()
        sample = {"input.x": GRID, "output.y": answers[graph]}
        model = make_model([x], [("y", operation(x, constant(WEIGHT * factor)))])
        manifest = write_graph(folder, model, [_PORT], [_OUT], sample=sample, name=name)
        paths = {XML: f"{graph}.xml", GOLDEN: f"{graph}.{GOLDEN}", WEIGHTS: WEIGHTS}
        for source, path in paths.items():
            (folder / source).replace(directory / path)
            files[path] = FileEntry((directory / path).stat().st_size, digest_file(directory / path))
        (folder / "manifest.json").unlink()
        folder.rmdir()
        graphs.append(replace(manifest.graphs[0], name=graph, path=paths[XML]))
        goldens[graph] = Golden(paths[GOLDEN], Tolerance(0.1, 0.999), None)
    manifest = replace(manifest, graphs=tuple(graphs), golden=None, goldens=goldens, files=files)
    (directory / "manifest.json").write_bytes(manifest.to_json())
    return manifest


def publish_two(store: Store, *, name: str = "two", answers: dict[str, Any] | None = None, factor: float = 1) -> Bundle:
    """Publish the bundle."""
    with store.stage() as staging:
        write_two(staging, name=name, answers=answers, factor=factor)
        return store.publish(staging)
