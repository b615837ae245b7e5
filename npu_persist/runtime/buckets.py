"""A model that is compiled for several sizes: each call runs in the smallest that it fits into, filled up and cut back.

The promise: a call of exactly a bucket's size is run as it is; another one's inputs are filled up as its padding says,
and of its outputs it gets what the graph would give for its own sizes, never more; a call that fits nowhere is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from npu_persist.bundle.buckets import choose, describe_shapes, open_axes, read_sizes
from npu_persist.bundle.signature import CallPlan
from npu_persist.errors import InputError, UsageError
from npu_persist.runtime.golden import make_random
from npu_persist.runtime.model import Model
from npu_persist.runtime.padding import Fit
from npu_persist.runtime.requests import LENT, run_on_each

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from npu_persist.bundle.buckets import Shapes
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.manifest import Buckets, Port, Signature
    from npu_persist.compilation.local import Compiled
    from npu_persist.runtime.inputs import Array
    from npu_persist.runtime.report import Report
    from npu_persist.runtime.requests import Requests

_MASK = "attention_mask"
"""End of the names of inputs that say, with 1 and 0, which values count: they are made where a call gives none."""

_MOST_FITS = 4096
"""Shapes of calls that are remembered."""


class BucketRequests:
    """The requests of a model's buckets: as `Requests`, for calls of any size that fits.

    Args:
        plan: The graph's inputs and outputs; what is open in an output follows an open axis of the inputs.
        buckets: The buckets, smallest first.
        requests: The requests of each.
    """

    has_state = False

    def __init__(self, plan: CallPlan, buckets: Buckets, requests: Sequence[Requests]) -> None:
        self._plan = plan
        self._buckets = buckets
        self._all = list(zip(buckets.shapes, requests, strict=True))
        self._open = [index for index, port in enumerate(plan.inputs) if open_axes(port)]
        self._fits: dict[tuple[tuple[int, ...], ...], tuple[Fit, Requests]] = {}
        self._largest = requests[-1]

    @property
    def optimal(self) -> int:
        """How many inferences at once make best use of the device."""
        return self._largest.optimal

    def queue(self, job: Callable[[], Any]) -> Future[Any]:
        """Run a job as soon as a worker is free: one queue for all sizes."""
        return self._largest.queue(job)

    def reset(self) -> None:
        """Do nothing: there is no state."""

    def place(self, arrays: list[Array]) -> tuple[Requests, list[Array], Fit | None]:
        """Return whose request runs a call, on which arrays, and how its outputs are cut back.

        Raises:
            InputError: It fits no bucket.
        """
        fit, requests = self._find(arrays)
        return (requests, arrays, None) if fit.is_exact else (requests, fit.fill(arrays), fit)

    def run(self, arrays: list[Array], limit: float = LENT, *, share_outputs: bool = False) -> list[Array]:
        """Run one inference on the caller's thread.

        Raises:
            InputError: It fits no bucket.
            InferenceError: The device failed.
        """
        fit, requests = self._find(arrays)
        if fit.is_exact:
            return requests.run(arrays, limit, share_outputs=share_outputs)
        outputs = requests.run(fit.fill(arrays), limit, share_outputs=share_outputs)
        return fit.cut(outputs, share_outputs=share_outputs)

    def warm_up(self) -> None:
        """Run one inference on each request of each bucket."""
        for bucket, requests in self._all:
            sample = make_random(self._plan.inputs, 0, bucket)
            run_on_each(requests, [sample[port.name] for port in self._plan.inputs])

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
                f"the call fits none of the sizes that the model is compiled for: got {describe_shapes(shapes)}, "
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

    def __init__(  # noqa: PLR0913 (what `load` knows of it)
        self,
        bundle: Bundle,
        largest: Compiled,
        plan: CallPlan,
        report: Report,
        *,
        buckets: Buckets,
        requests: Sequence[Requests],
    ) -> None:
        """Wrap the compiled models; use `npu_persist.load` instead."""
        placed = BucketRequests(plan, buckets, requests)
        # It has of `Requests` what a model calls.
        shown = cast("Requests", placed)
        super().__init__(bundle, largest.model, plan, report, keep=largest.keep, requests=shown)
        self._bucket_requests = placed
        self._buckets = buckets
        self._masks = find_masks(plan.inputs, buckets)

    @property
    def buckets(self) -> tuple[Shapes, ...]:
        """The sizes that it is compiled for, smallest first."""
        return self._buckets.shapes

    def warm_up(self, values: Sequence[Any] | Mapping[str, Any] | None = None) -> None:
        """Run the model on each of the device's requests of each bucket, or of that which `values` fit into."""
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


def make_plan(signature: Signature, inputs: Sequence[Port], outputs: Sequence[Port], buckets: Buckets) -> CallPlan:
    """Return the plan of a model with buckets: a call may leave out masks that can be made."""
    return CallPlan(signature, inputs, outputs, find_masks(inputs, buckets))


def find_masks(inputs: Sequence[Port], buckets: Buckets) -> frozenset[int]:
    """Return the inputs, by index, that are made of ones where a call gives none.

    These are attention masks of two axes, batch and sequence, whose sizes the other inputs give. One of more axes is
    added to scores as a rule, and ones would be none.
    """
    masks = [index for index, port in enumerate(inputs) if port.name.endswith(_MASK) and len(port.shape) == 2]  # noqa: PLR2004
    others = {found.root for index, port in enumerate(inputs) if index not in masks for found in open_axes(port)}
    return frozenset(
        index
        for index in masks
        if {found.root for found in open_axes(inputs[index])} <= others
        and not (inputs[index].name in buckets.padding and buckets.padding[inputs[index].name].value)
    )


def make_masks(
    inputs: Sequence[Port], masks: frozenset[int], values: Sequence[Any] | Mapping[str, Any]
) -> Sequence[Any] | Mapping[str, Any]:
    """Return the inputs of a call, with masks of its own size where it gives none; what is wrong is left as it is."""
    given = [values.get(port.name) for port in inputs] if isinstance(values, Mapping) else [*values]
    missing = [index for index in masks if len(given) == len(inputs) and given[index] is None]
    if not missing:
        return values
    shapes = {port.name: _shape(value) for port, value in zip(inputs, given, strict=True)}
    sizes = read_sizes([port for port in inputs if len(shapes[port.name]) == len(port.shape)], shapes)
    made: dict[int, Array] = {}
    for index in missing:
        port = inputs[index]
        shape = list(port.shape)
        for axis, _, factor, root, offset in open_axes(port):
            shape[axis] = factor * sizes[root] + offset if root in sizes else shape[axis]
        if all(isinstance(size, int) for size in shape):
            made[index] = np.ones(shape, port.dtype)
    if isinstance(values, Mapping):
        return {**values, **{inputs[index].name: mask for index, mask in made.items()}}
    return [made.get(index, value) for index, value in enumerate(given)]


def _shape(value: Any) -> tuple[int, ...]:
    try:
        return tuple(np.shape(value))
    except ValueError:  # uneven lists: another check says so
        return ()


def require_stateless(requests: Sequence[Requests], reference: str) -> None:
    """Refuse buckets for a graph that remembers something: each bucket would remember for itself.

    Raises:
        UsageError: It does.
    """
    if any(one.has_state for one in requests):
        raise UsageError(
            f"{reference} has a state, which buckets would each have for themselves: load it with buckets=(), as the "
            "graph is"
        )
