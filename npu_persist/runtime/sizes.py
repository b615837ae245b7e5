"""For which sizes a bundle is loaded: the caller's buckets, the bundle's, those it has compiled artifacts for, or none.

The promise: buckets are used only if it is known of every output how it is cut back; a device that compiles for fixed
sizes is never asked for others.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from npu_persist.attachment import list_attached
from npu_persist.buckets import require_bounds, resolve
from npu_persist.compilation.local import read_graph
from npu_persist.compilation.relations import find_unrelated, name_outputs, require_related
from npu_persist.device import head
from npu_persist.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from npu_persist.artifact import Shapes
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.manifest import Buckets, Port
    from npu_persist.runtime.report import Report
    from npu_persist.runtime.verification import Verification

log = logging.getLogger(__name__)

_FIXED = frozenset({"NPU"})
"""Devices that compile for fixed sizes."""


def pick_buckets(recipe: Recipe, given: object, report: Report) -> Buckets | None:
    """Return the buckets that a bundle is loaded for on a device; None: as the graph is.

    Args:
        recipe: The graph and the device.
        given: The caller's; None: the bundle's, or else those of artifacts that are attached for the device; an empty
            list: none.
        report: Where it is noted that nobody has checked them.

    Raises:
        DynamicShapeError, UsageError: They do not fit the graph.
    """
    graph = recipe.graph
    if isinstance(given, (list, tuple)) and not given:
        return None
    if given is None and graph.buckets is not None:
        return resolve(graph.inputs, graph.buckets.shapes, graph.buckets.padding)
    padding = None if graph.buckets is None else graph.buckets.padding
    shapes = _attached_shapes(recipe) if given is None else given
    if not shapes:
        return None
    found = resolve(graph.inputs, shapes, padding)
    if graph.buckets is None or any(one not in graph.buckets.shapes for one in found.shapes):
        _note(report, "the bundle was not persisted with these buckets: nobody compared padded calls with torch")
    return found


def split(recipe: Recipe, buckets: Buckets | None) -> list[Recipe]:
    """Return a recipe for each bucket, smallest first; without buckets the one for the graph as it is.

    Raises:
        DynamicShapeError: The device wants fixed sizes, and the graph has an axis without an upper bound.
    """
    if buckets is not None:
        return [replace(recipe, shapes=shapes) for shapes in buckets.shapes]
    if head(recipe.device) in _FIXED:
        require_bounds(recipe.graph.inputs, recipe.bundle.reference, recipe.device)
    return [recipe]


def relate_outputs(recipe: Recipe, buckets: Buckets, verification: Verification) -> tuple[Port, ...]:
    """Return the graph's outputs, each open axis named after the axis of an input that it follows.

    `persist` with buckets has written the names into the manifest; otherwise the graph is read, and asked.

    Raises:
        DynamicShapeError: An output's size follows from something else, and what padding adds could not be cut off.
    """
    graph = recipe.graph
    if find_unrelated(graph.inputs, graph.outputs) is None:
        return graph.outputs
    verification.check(recipe.bundle.file(graph.path), recipe.bundle.manifest.files[graph.path])
    outputs = name_outputs(read_graph(recipe), graph.inputs, graph.outputs, buckets.shapes)
    require_related(graph.inputs, outputs, recipe.bundle.reference)
    return outputs


def _attached_shapes(recipe: Recipe) -> list[Shapes]:
    found: list[Shapes] = []
    for folder, artifact in list_attached(recipe.bundle):
        if isinstance(artifact, ArtifactError) or not artifact.shapes or artifact.shapes in found:
            continue
        whose = (artifact.subject, artifact.graph, head(artifact.device))
        if whose != (recipe.bundle.digest, recipe.graph.name, head(recipe.device)):
            continue
        try:
            resolve(recipe.graph.inputs, [artifact.shapes])
        except UsageError as error:
            log.warning("%s: passed over, for its sizes are none of the graph's: %s", folder, error)
        else:
            found.append(artifact.shapes)
    return found


def _note(report: Report, text: str) -> None:
    if text not in report.notes:
        report.notes.append(text)
