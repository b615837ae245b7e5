"""Buckets: a model compiled for several sizes; each call runs in the smallest that it fits into, padded and cut back.

A call of exactly a bucket's size runs as it is. What is cut out of a padded call's outputs is what the graph would give
for the call's own sizes: buckets are used only where that is known of every output.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from npu_persist.bundle.buckets import choose, describe_shapes, open_axes, read_sizes, require_bounds, resolve
from npu_persist.bundle.signature import CallPlan, describe_port, size_of
from npu_persist.bundle.states import require_fixed
from npu_persist.compilation.local import fix_inputs
from npu_persist.device.devices import get_kind
from npu_persist.errors import ArtifactError, GraphIntegrityError, InputError, ManifestError, UsageError
from npu_persist.runtime.golden import make_random
from npu_persist.runtime.lanes import LENT
from npu_persist.runtime.model import Model
from npu_persist.runtime.padding import Fit, find_masks, make_masks
from npu_persist.runtime.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    import openvino as ov

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.bundle.buckets import Shapes
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.graph_records import Buckets, Graph, Port
    from npu_persist.bundle.verification import Verification
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.runtime.inputs import Array
    from npu_persist.runtime.report import LiveReport
    from npu_persist.trust.policy import Policy


log = logging.getLogger(__name__)

_FIXED = frozenset({"NPU"})
"""Devices that compile for fixed sizes only."""

_MOST_FITS = 4096
"""Shapes of calls that are remembered."""


def pick_buckets(
    recipe: Recipe,
    given: object,
    attached: Sequence[tuple[Path, Artifact | ArtifactError]],
    policy: Policy,
) -> tuple[Buckets | None, tuple[str, ...]]:
    """Return the buckets that a bundle is loaded for on a device, or None for the graph as it is; and notes."""
    graph = recipe.graph
    if isinstance(given, (list, tuple)) and not given:
        return None, ()
    if graph.states:
        if given is not None:
            raise UsageError(
                f"{recipe.bundle.reference} has states, and each bucket would have its own states: load it "
                "without buckets"
            )
        return None, ()
    if given is None and graph.buckets is not None:
        try:
            return resolve(graph.inputs, graph.buckets.shapes, graph.buckets.padding), ()
        except UsageError as error:
            raise ManifestError(
                f"{recipe.bundle.reference}: the manifest's buckets do not fit its graph: {error}. The manifest is "
                "damaged or npu_persist did not write it: persist the model again, or get another copy of the bundle."
            ) from error
    padding = None if graph.buckets is None else graph.buckets.padding
    notes: tuple[str, ...] = ()
    shapes = given
    if given is None:
        shapes, notes = _attached_shapes(recipe, attached, policy)
    if not shapes:
        return None, notes
    found = resolve(graph.inputs, shapes, padding)
    if graph.buckets is None or any(one not in graph.buckets.shapes for one in found.shapes):
        notes += ("the bundle was not persisted with these buckets: padded calls were never compared with torch",)
    return found, notes


def split(recipe: Recipe, buckets: Buckets | None) -> list[Recipe]:
    """Return a recipe for each bucket, smallest first; without buckets the one for the graph as it is."""
    if buckets is not None:
        return [replace(recipe, shapes=shapes) for shapes in buckets.shapes]
    if get_kind(recipe.device) in _FIXED and recipe.lengths is None:
        require_bounds(recipe.graph.inputs, recipe.bundle.reference, recipe.device)
        if recipe.properties.get("NPU_USE_NPUW") != "YES":  # which fixes the sizes of states itself
            require_fixed(recipe.graph.states, recipe.bundle.reference, recipe.device)
    return [recipe]


def relate_outputs(recipe: Recipe, buckets: Buckets, verification: Verification, policy: Policy) -> tuple[Port, ...]:
    """Return the graph's outputs, each open axis named after the axis of an input that it follows.

    `persist` with buckets wrote the names into the manifest; otherwise the graph is read, and asked. DynamicShapeError
    where an output's size follows from something else: what padding adds could not be cut off.
    """
    from npu_persist.compilation.local import read_graph
    from npu_persist.compilation.output_sizes import find_unrelated, name_outputs, require_related

    graph = recipe.graph
    if find_unrelated(graph.inputs, graph.outputs) is None:
        return graph.outputs
    if policy.find_distrust(recipe.bundle) is None:
        outputs = name_outputs(read_graph(recipe, verification), graph.inputs, graph.outputs, buckets.shapes)
    else:
        from npu_persist.compilation.probe import limit, probe

        outputs = probe(recipe, limit(recipe.device), buckets=buckets.shapes, verifies=verification.mode != "none")
    require_related(graph.inputs, outputs, recipe.bundle.reference)
    return outputs


def make_bucket_model(  # noqa: PLR0913 (as many as a model has parts)
    recipe: Recipe,
    buckets: Buckets,
    outputs: Sequence[Port],
    models: Sequence[ov.CompiledModel],
    report: LiveReport,
    *,
    check_values: bool = True,
) -> BucketModel:
    """Return a model that calls what was compiled for the buckets."""
    graph, reference = recipe.graph, recipe.bundle.reference
    requests = []
    for shapes, model in zip(buckets.shapes, models, strict=True):
        _check_outputs(recipe, outputs, shapes, model)
        plan = CallPlan(graph.signature, fix_inputs(graph, shapes), outputs)
        requests.append(Requests(model, plan, reference, report.note_first_inference))
    if any(one.has_state for one in requests):
        raise UsageError(
            f"{reference} has a state, and each bucket would have its own state: load it with buckets=(), at "
            "the graph's own sizes"
        )
    plan = CallPlan(graph.signature, graph.inputs, outputs, find_masks(graph.inputs, buckets))
    together = BucketRequests(plan, buckets, requests)
    return BucketModel(recipe.bundle, recipe.graph, plan, together, report, buckets, check_values=check_values)


class BucketRequests:
    """The requests of a model's buckets: as `Requests`, for calls of any size that fits.

    Args:
        plan: The graph's inputs and outputs; what is open in an output follows an open axis of the inputs.
        buckets: The buckets, smallest first.
        requests: The requests of each.
    """

    has_state = False
    states = ()

    def __init__(self, plan: CallPlan, buckets: Buckets, requests: Sequence[Requests]) -> None:
        self._plan = plan
        self._buckets = buckets
        self._all = list(zip(buckets.shapes, requests, strict=True))
        self._open = [index for index, port in enumerate(plan.inputs) if open_axes(port)]
        self._fits: dict[tuple[tuple[int, ...], ...], tuple[Fit, Requests]] = {}
        self._largest = requests[-1]

    @property
    def compiled(self) -> ov.CompiledModel:
        """The largest bucket's compiled model."""
        return self._largest.compiled

    @property
    def optimal(self) -> int:
        """How many inferences at once make best use of the device."""
        return self._largest.optimal

    def queue(self, job: Callable[[], Any]) -> Future[Any]:
        """Run a job as soon as a worker is free: one queue for all sizes."""
        return self._largest.queue(job)

    def reset(self) -> None:
        """Do what `Requests.reset` does without a state."""
        self._largest.reset()

    def close(self) -> None:
        """Wait for running and queued inferences, and release the requests and the compiled models."""
        for _, requests in reversed(self._all):  # the largest, which has the queue, first
            requests.close()

    def place(self, arrays: list[Array]) -> tuple[Requests, list[Array], Fit | None]:
        """Return whose request runs a call, on which arrays, and how its outputs are cut back."""
        fit, requests = self._find(arrays)
        return (requests, arrays, None) if fit.is_exact else (requests, fit.fill(arrays), fit)

    def run(self, arrays: list[Array], limit: float = LENT, *, share_outputs: bool = False) -> list[Array]:
        """Run one inference on the caller's thread."""
        fit, requests = self._find(arrays)
        if fit.is_exact:
            return requests.run(arrays, limit, share_outputs=share_outputs)
        outputs = requests.run(fit.fill(arrays), limit, share_outputs=share_outputs)
        return fit.cut(outputs, share_outputs=share_outputs)

    def prepare(self, arrays: list[Array]) -> list[tuple[Shapes, Callable[[], list[Array]]]]:
        """Return what runs inputs in each bucket that they fit into, with the bucket."""
        inputs = self._plan.inputs
        shapes = {inputs[index].name: arrays[index].shape for index in self._open}
        return [
            (bucket, partial(_run_in, requests, Fit(inputs, self._plan.outputs, self._buckets, bucket, shapes), arrays))
            for bucket, requests in self._all
            if choose([bucket], shapes) is not None
        ]

    def warm_up(self) -> None:
        """Run one inference on each request of each bucket."""
        for bucket, requests in self._all:
            sample = make_random(self._plan.inputs, 0, bucket)
            requests.run_on_each([sample[port.name] for port in self._plan.inputs])

    def _find(self, arrays: Sequence[Array]) -> tuple[Fit, Requests]:
        key = tuple([arrays[index].shape for index in self._open])
        try:
            return self._fits[key]
        except KeyError:
            pass
        inputs = self._plan.inputs
        shapes = {inputs[index].name: shape for index, shape in zip(self._open, key, strict=True)}
        bucket = choose(self._buckets.shapes, shapes)
        if bucket is None:
            there = "; ".join(map(describe_shapes, self._buckets.shapes))
            raise InputError(
                f"the call fits none of the sizes that the model was compiled for: got {describe_shapes(shapes)}, "
                f"expected at most one of {there}. Cut the inputs, or load or persist it with a larger bucket",
                argument=next(iter(shapes)),
                expected=there,
                got=describe_shapes(shapes),
            )
        requests = next(requests for one, requests in self._all if one is bucket)
        found = Fit(inputs, self._plan.outputs, self._buckets, bucket, shapes), requests
        if len(self._fits) >= _MOST_FITS:
            self._fits.clear()
        self._fits[key] = found
        return found


class BucketModel(Model):
    """A model that is compiled for several sizes; see `Model`."""

    def __init__(  # noqa: PLR0913, PLR0917 (as many as a model has parts)
        self,
        bundle: Bundle,
        graph: Graph,
        plan: CallPlan,
        requests: BucketRequests,
        report: LiveReport,
        buckets: Buckets,
        *,
        check_values: bool = True,
    ) -> None:
        """Wrap compiled models; use `npu_persist.load` instead."""
        # It has what a model uses of `Requests`.
        super().__init__(bundle, graph, plan, cast("Requests", requests), report, check_values=check_values)
        self._bucket_requests = requests
        self._buckets = buckets
        self._masks = find_masks(plan.inputs, buckets)

    @property
    def buckets(self) -> tuple[Shapes, ...]:
        """The sizes that it is compiled for, smallest first."""
        return self._buckets.shapes

    def warm_up(self, values: Sequence[Any] | Mapping[str, Any] | None = None) -> None:
        """Run the model on each of the device's requests of each bucket, or of the one that `values` fit into."""
        if values is None:
            self._bucket_requests.warm_up()
        else:
            super().warm_up(values)

    def _check(self, values: Sequence[Any] | Mapping[str, Any]) -> list[Array]:
        return super()._check(make_masks(self.inputs, self._masks, values) if self._masks else values)

    def _sample(self) -> Mapping[str, Array]:
        sample = super()._sample()
        if choose(self.buckets, {name: array.shape for name, array in sample.items()}) is None:
            return make_random(self.inputs, 0, self.buckets[0])
        return sample


def _run_in(requests: Requests, fit: Fit, arrays: list[Array]) -> list[Array]:
    return requests.run(arrays) if fit.is_exact else fit.cut(requests.run(fit.fill(arrays)), share_outputs=False)


def _check_outputs(recipe: Recipe, outputs: Sequence[Port], shapes: Shapes, model: ov.CompiledModel) -> None:
    """Raise unless the outputs compiled for a bucket have the sizes that their axes' names say: the cuts rely on it."""
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


def _attached_shapes(
    recipe: Recipe, attached: Sequence[tuple[Path, Artifact | ArtifactError]], policy: Policy
) -> tuple[list[Shapes], tuple[str, ...]]:
    found: list[Shapes] = []
    notes: list[str] = []
    for folder, artifact in attached:
        if isinstance(artifact, ArtifactError) or not artifact.shapes or artifact.shapes in found:
            continue
        compiled_from = (artifact.subject, artifact.graph, get_kind(artifact.device))
        if compiled_from != (recipe.bundle.digest, recipe.graph.name, get_kind(recipe.device)):
            continue
        try:
            resolve(recipe.graph.inputs, [artifact.shapes])
        except UsageError as error:
            log.warning("%s: rejected, its sizes do not fit the graph: %s", folder, error)
            continue
        decision = policy.decide(folder, artifact, recipe.bundle.manifest.name)
        if decision.is_trusted:
            found.append(artifact.shapes)
        else:  # or its author would decide what is compiled here
            notes.append(f"{folder.name}: its sizes are not used as a bucket. {decision.reason}")
    return found, tuple(notes)
