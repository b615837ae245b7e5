"""Call a compiled model once in a separate process, so that a crash happens there and not where it is used.

The inputs are those of the golden sample if they fit, and zeros otherwise: the only question is whether a call crashes
the process.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from npu_persist.bundle.weights import read_header
from npu_persist.compilation.graph_shapes import check_shapes
from npu_persist.compilation.local import fix_inputs
from npu_persist.errors import NpuPersistError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import openvino as ov

    from npu_persist.bundle.graph_records import Dimension, Port
    from npu_persist.bundle.weights import Tensor
    from npu_persist.compilation.recipe import Recipe

log = logging.getLogger(__name__)


def call_once(recipe: Recipe, model: ov.Model, compiled: ov.CompiledModel) -> None:
    """Call a compiled model. `model` is the graph that it was compiled from, and must not be used afterwards."""
    path, tensors = _open_sample(recipe)
    inputs = [_make_input(port, path, tensors) for port in fix_inputs(recipe.graph, recipe.shapes)]
    call_with(recipe.bundle.reference, model, compiled, inputs)


def call_with(where: str, model: ov.Model, compiled: ov.CompiledModel, inputs: Sequence[np.ndarray[Any, Any]]) -> None:
    """Call a compiled model, if its graph is right for inputs of these sizes, which a device does not look at.

    An error of OpenVINO's does not matter here: the model's caller gets it, and survives.

    Raises:
        GraphIntegrityError: With these sizes the graph would end the process.
    """
    try:
        if model.is_dynamic():
            model.reshape({port: list(array.shape) for port, array in zip(model.inputs, inputs, strict=True)})
            check_shapes(where, model)
        request = compiled.create_infer_request()
        request.infer(inputs)
        if any(node.get_type_name() == "ReadValue" for node in model.get_ops()):  # what it holds, the next call uses
            request.infer(inputs)
    except RuntimeError as error:
        log.info("%s: the trial call failed: %s", where, error)


def _open_sample(recipe: Recipe) -> tuple[Path | None, Mapping[str, Tensor]]:
    golden = recipe.bundle.manifest.golden_of(recipe.graph)
    if golden is None:
        return None, {}
    try:
        path = recipe.bundle.file(golden.path)
        return path, read_header(path).tensors
    except (NpuPersistError, OSError) as error:
        log.info("%s: its golden sample cannot be read: %s", recipe, error)
        return None, {}


def _make_input(port: Port, path: Path | None, tensors: Mapping[str, Tensor]) -> np.ndarray[Any, Any]:
    dtype, tensor = np.dtype(port.dtype), tensors.get(f"input.{port.name}")
    fits = (
        tensor is not None
        and len(tensor.shape) == len(port.shape)
        and all(_allows(axis, size) for axis, size in zip(port.shape, tensor.shape, strict=True))
    )
    if tensor is not None and path is not None and fits:
        count = math.prod(tensor.shape)
        if count * dtype.itemsize == tensor.size:
            return np.fromfile(path, dtype, count, offset=tensor.start).reshape(tensor.shape)
    smallest = [axis if isinstance(axis, int) else max(axis.min, 1) for axis in port.shape]
    zeros = np.zeros(smallest, dtype)
    return zeros if port.bounds is None else np.clip(zeros, port.bounds.low, port.bounds.high)


def _allows(axis: int | Dimension, size: int) -> bool:
    if isinstance(axis, int):
        return axis == size
    return axis.min <= size and (axis.max is None or size <= axis.max)
