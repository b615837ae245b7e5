"""What a load led to, made into a model: one compiled model, or one for each bucket.

The promise: where a model runs is what OpenVINO says, asked when it is read; that AUTO left out an accelerator which
was named is a warning.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from npu_persist.bundle.signature import CallPlan
from npu_persist.compilation.execution import executing_devices, is_settled
from npu_persist.compilation.ports import fix_inputs
from npu_persist.device.devices import get_kind, named_devices
from npu_persist.errors import DeviceWarning
from npu_persist.runtime.model import Model
from npu_persist.runtime.requests import Requests
from npu_persist.runtime.sizes import check_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.bundle.manifest import Buckets, Port
    from npu_persist.compilation.local import Compiled
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.runtime.report import Report


@dataclass
class Loaded:
    """What a load led to: a compiled model for each bucket, or one for the graph as it is."""

    recipe: Recipe
    buckets: Buckets | None
    outputs: tuple[Port, ...]
    compiled: list[Compiled]


def make_model(loaded: Loaded, report: Report) -> Model:
    """Return the model that calls what was compiled."""
    graph, models = loaded.recipe.graph, [one.model for one in loaded.compiled]
    waiting = [report]

    def note_first(seconds: float) -> None:
        with suppress(IndexError):  # another bucket was first
            waiting.pop().phases["first_inference"] = seconds
        for model in models:
            _warn_of_other_device(report, model)

    report._executing = lambda: tuple(  # noqa: SLF001 (ours to set)
        dict.fromkeys(name for model in models for name in executing_devices(model))
    )
    for model in models:
        _warn_of_other_device(report, model)
    if loaded.buckets is not None:
        return _make_bucket_model(loaded, loaded.buckets, report, note_first)
    plan = CallPlan(graph.signature, graph.inputs, graph.outputs)
    keep = loaded.compiled[0].keep
    return Model(loaded.recipe.bundle, models[0], plan, report=report, keep=keep, on_first=note_first)


def _make_bucket_model(loaded: Loaded, buckets: Buckets, report: Report, on_first: Callable[[float], None]) -> Model:
    from npu_persist.runtime.buckets import BucketModel, make_plan, require_stateless  # which few bundles need

    graph, bundle = loaded.recipe.graph, loaded.recipe.bundle
    requests = []
    for shapes, one in zip(buckets.shapes, loaded.compiled, strict=True):
        check_outputs(loaded.recipe, loaded.outputs, shapes, one.model)
        one.model.npu_persist_keep = tuple(one.keep)
        plan = CallPlan(graph.signature, fix_inputs(graph, shapes), loaded.outputs)
        requests.append(Requests(one.model, plan, bundle.reference, on_first))
    require_stateless(requests, bundle.reference)
    plan = make_plan(graph.signature, graph.inputs, loaded.outputs, buckets)
    return BucketModel(bundle, loaded.compiled[-1], plan, report, buckets=buckets, requests=requests)


def _warn_of_other_device(report: Report, model: Any) -> None:
    """Warn where AUTO settled on the CPU, although an accelerator was named."""
    wanted = {get_kind(name) for name in named_devices(report.device)} - {"CPU"}
    if get_kind(report.device) not in {"AUTO", "MULTI"} or not wanted or not is_settled(model):
        return
    executing = executing_devices(model)
    if executing and not wanted & {get_kind(name) for name in executing}:
        text = (
            f"{report.reference}: {report.device} was asked for, but only {', '.join(executing)} executes it. "
            "`npu-persist doctor` shows what the other devices lack"
        )
        if text not in report.notes:
            report.notes.append(text)
            warnings.warn(text, DeviceWarning, stacklevel=4)
