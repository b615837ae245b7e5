"""For which sizes a bundle is loaded: the caller's buckets, the bundle's, those it has compiled artifacts for, or none.

The promise: buckets are used only if it is known of every output how it is cut back; a device that compiles for fixed
sizes is never asked for others.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from npu_persist.bundle.buckets import describe_shapes, open_axes, read_sizes, require_bounds, resolve
from npu_persist.bundle.signature import describe_port, size_of
from npu_persist.device.devices import get_kind
from npu_persist.errors import ArtifactError, GraphIntegrityError, ManifestError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from npu_persist.artifact.artifact import Shapes
    from npu_persist.bundle.manifest import Buckets, Port
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.runtime.report import Report
    from npu_persist.runtime.verification import Verification
    from npu_persist.trust.policy import Policy

log = logging.getLogger(__name__)

_FIXED = frozenset({"NPU"})
"""Devices that compile for fixed sizes."""


def pick_buckets(recipe: Recipe, given: object, report: Report, policy: Policy) -> Buckets | None:
    """Return the buckets that a bundle is loaded for on a device; None: as the graph is.

    Args:
        recipe: The graph and the device.
        given: The caller's; None: the bundle's, or else those of artifacts that are attached for the device and
            trusted; an empty list: none.
        report: Where it is noted that nobody has checked them.
        policy: What is trusted of what is attached.

    Raises:
        DynamicShapeError, UsageError: They do not fit the graph.
        ManifestError: Those of the bundle do not.
    """
    graph = recipe.graph
    if isinstance(given, (list, tuple)) and not given:
        return None
    if given is None and not any(map(open_axes, graph.inputs)):
        return None
    if given is None and graph.buckets is not None:
        try:
            return resolve(graph.inputs, graph.buckets.shapes, graph.buckets.padding)
        except UsageError as error:
            raise ManifestError(
                f"{recipe.bundle.reference}: the manifest's buckets are none for its graph: {error}. The manifest is "
                "damaged or npu_persist did not write it: persist the model again, or get another copy of the bundle."
            ) from error
    padding = None if graph.buckets is None else graph.buckets.padding
    shapes = _attached_shapes(recipe, report, policy) if given is None else given
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
    if get_kind(recipe.device) in _FIXED:
        require_bounds(recipe.graph.inputs, recipe.bundle.reference, recipe.device)
    return [recipe]


def relate_outputs(recipe: Recipe, buckets: Buckets, verification: Verification) -> tuple[Port, ...]:
    """Return the graph's outputs, each open axis named after the axis of an input that it follows.

    `persist` with buckets has written the names into the manifest; otherwise the graph is read, and asked.

    Raises:
        DynamicShapeError: An output's size follows from something else, and what padding adds could not be cut off.
    """
    from npu_persist.compilation.dimensions import find_unrelated, name_outputs, require_related
    from npu_persist.compilation.local import read_graph  # only bundles with open axes come here

    graph = recipe.graph
    if find_unrelated(graph.inputs, graph.outputs) is None:
        return graph.outputs
    verification.check(recipe.bundle.file(graph.path), recipe.bundle.manifest.files[graph.path])
    outputs = name_outputs(read_graph(recipe), graph.inputs, graph.outputs, buckets.shapes)
    require_related(graph.inputs, outputs, recipe.bundle.reference)
    return outputs


def check_outputs(recipe: Recipe, outputs: Sequence[Port], shapes: Shapes, model: ov.CompiledModel) -> None:
    """Check that what was compiled for a bucket has outputs of the sizes that the names of their axes say.

    Raises:
        GraphIntegrityError: An output has another size: it would be cut back wrongly.
    """
    sizes = read_sizes(recipe.graph.inputs, shapes)
    for port, found in zip(outputs, model.outputs, strict=True):
        wanted = [axis if isinstance(axis, int) else size_of(axis.name or "", sizes) for axis in port.shape]
        got = found.get_partial_shape()
        if got.is_dynamic or list(got.to_shape()) != wanted:
            raise GraphIntegrityError(
                f"{recipe.bundle.reference}: output {port.name} should be {wanted} in the bucket "
                f"{describe_shapes(shapes)}, by {describe_port(port)}; compiled for {recipe.device} it is {got}. "
                "Persist the model again, get another copy of the bundle, or load it with buckets=()"
            )


def _attached_shapes(recipe: Recipe, report: Report, policy: Policy) -> list[Shapes]:
    from npu_persist.artifact.attached import list_attached

    found: list[Shapes] = []
    for folder, artifact in list_attached(recipe.bundle):
        if isinstance(artifact, ArtifactError) or not artifact.shapes or artifact.shapes in found:
            continue
        whose = (artifact.subject, artifact.graph, get_kind(artifact.device))
        if whose != (recipe.bundle.digest, recipe.graph.name, get_kind(recipe.device)):
            continue
        try:
            resolve(recipe.graph.inputs, [artifact.shapes])
        except UsageError as error:
            log.warning("%s: passed over, for its sizes are none of the graph's: %s", folder, error)
            continue
        decision = policy.decide(folder, artifact)
        if decision.is_trusted:
            found.append(artifact.shapes)
        else:  # or whoever it came from would decide what is compiled here
            _note(report, f"{folder.name}: its sizes are not taken as a bucket. {decision.reason}")
    return found


def _note(report: Report, text: str) -> None:
    if text not in report.notes:
        report.notes.append(text)
