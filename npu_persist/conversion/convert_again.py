"""Converts a module again for `refresh`: the result must be the same graph, byte for byte, with other weights.

This is for tensors that are folded into others (BatchNorm, parametrized weights, those of recurrent layers), or
compressed, and for what torch.export captured.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from glob import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from npu_persist.bundle.tensors import Tensors
from npu_persist.conversion.compress import BITS, Plan, Stored
from npu_persist.conversion.convert import convert
from npu_persist.conversion.dynamic import axes_of
from npu_persist.conversion.evaluate import bind_like
from npu_persist.conversion.origins import Origins
from npu_persist.conversion.write import Written, write_ir
from npu_persist.errors import RefreshError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.conversion.capture import Capture

_PRECISIONS: dict[str, Stored] = {"F32": "fp32", "F16": "fp16", "int8": "int8", "int4": "int4"}


def convert_again(
    bundle: Bundle,
    capture: Capture,
    staging: Path,
    calibration: Sequence[Sequence[Any] | Mapping[str, Any]],
    report: Callable[[float], None],
) -> Written:
    """Write graph and weights of a captured call, as `persist` wrote those of the bundle.

    Raises:
        RefreshError: The graph is another one.
    """
    [graph] = bundle.manifest.graphs
    module, program = capture.call.module, capture.program
    plan = read_plan(bundle)
    origins = Origins(module, program) if isinstance(program, torch.jit.ScriptModule) and plan is None else None
    model = convert(capture, axes_of(graph.inputs), origins)
    calls = [bind_like(capture.call, given, f"calibration: call {n}") for n, given in enumerate(calibration)]
    arrays = [[tensor.numpy() for tensor in one.tensors] for one in calls]
    # Without a plan, a module whose weights are integers came compressed, and was persisted as "fp16".
    asked = "fp16" if plan is None and graph.precision in BITS else graph.precision
    written = write_ir(model, module, staging, asked, plan, report=report, origins=origins, calibration=arrays)
    old, new = bundle.file(graph.path), staging / graph.path
    if written.digests.get(graph.path) != bundle.manifest.files[graph.path].digest:
        raise RefreshError(
            f"{type(module).__name__} now has a different graph than {bundle.reference}: {_find_difference(old, new)}"
        )
    return written


def read_plan(bundle: Bundle) -> Plan | None:
    """Return what each weight was compressed to; None where `persist` has compressed nothing."""
    tensors = Tensors(bundle.file(bundle.manifest.weights.path), constants=False)
    if not tensors.compressed:
        return None
    kept = {escape(name): _PRECISIONS.get(tensors.precision(name), "fp16") for name in tensors}
    group_size: int | None = None
    for record in tensors.compressed.values():
        if len(record.grouped) > len(record.shape):  # a channel's groups are an axis of their own
            axis = next(n for n, size in enumerate(record.grouped) if record.shape[n] != size)
            group_size = record.grouped[axis + 1]
    [graph] = bundle.manifest.graphs
    return Plan(graph.precision, group_size, kept, graph.activations)


class _Layer(NamedTuple):
    name: str
    kind: str
    attributes: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        text = ", ".join(f"{key}={value}" for key, value in self.attributes)
        return f"{self.name} ({self.kind}{f': {text}' if text else ''})"


def _find_difference(old: Path, new: Path) -> str:
    """Return the first layer of two graphs that differs."""
    before, after = _read_layers(old), _read_layers(new)
    for one, other in zip(before, after, strict=False):
        if one != other:
            return f"its layer {one} is {other}"
    if len(before) != len(after):
        return f"it had {len(before)} layers, and has {len(after)}"
    return "the inputs of its layers or the places of their weights differ"


def _read_layers(path: Path) -> list[_Layer]:
    found = []
    for layer in ET.parse(path).iter("layer"):  # noqa: S314 - verified, or written a moment ago
        data = layer.find("data")
        items = () if data is None else tuple(data.attrib.items())
        attributes = tuple((key, value) for key, value in items if key not in {"offset", "size"})
        found.append(_Layer(layer.get("name", ""), layer.get("type", ""), attributes))
    return found
