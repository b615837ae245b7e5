"""Converts a captured call to an `openvino.Model` with named inputs and outputs and the requested shapes.

This is what `openvino.convert_model` does for a module, without three steps: it traces twice to compare (the check
against torch is stronger), builds an empty preprocessing pipeline (a third of the whole time on BERT-base), and sends
telemetry. The frontend and the common optimizations are the same calls.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

import openvino as ov
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch import ConversionExtension
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

from npu_persist.bundle.graph_records import Bounds, Dimension, Port, allows
from npu_persist.conversion.bounds import read_bounds
from npu_persist.conversion.frontend_errors import explain
from npu_persist.conversion.rewrites import MODEL_REWRITES, OPERATIONS
from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from npu_persist.conversion.capture import Capture
    from npu_persist.conversion.dynamic import Axes
    from npu_persist.conversion.origins import Origins

_TYPES = {
    torch.bool: ov.Type.boolean,
    torch.int8: ov.Type.i8,
    torch.int16: ov.Type.i16,
    torch.int32: ov.Type.i32,
    torch.int64: ov.Type.i64,
    torch.uint8: ov.Type.u8,
    torch.float16: ov.Type.f16,
    torch.float32: ov.Type.f32,
    torch.float64: ov.Type.f64,
}


def convert(
    capture: Capture,
    axes: Axes,
    origins: Origins | None = None,
    rewrites: Sequence[Callable[[ov.Model], None]] = MODEL_REWRITES,
) -> ov.Model:
    """Convert a captured call; `origins` follows where its constants come from."""
    program = capture.program
    try:
        if isinstance(program, torch.export.ExportedProgram):
            with _quiet_decoder():
                return _convert(TorchFXPythonDecoder.from_exported_program(program), capture, axes, None, rewrites)
        decoder = TorchScriptPythonDecoder(program, example_input=capture.call.tensors, shared_memory=True)
        return _convert(decoder, capture, axes, origins, rewrites)
    except Exception as error:
        raise explain(program, error) from error


@contextlib.contextmanager
def _quiet_decoder() -> Iterator[None]:
    """Silence the decoder's log line for each decomposition that this torch lacks, and torch's deprecations."""
    root, handler = logging.getLogger(), logging.NullHandler()

    def refuse(_: logging.LogRecord) -> bool:
        return False

    root.addHandler(handler)
    root.addFilter(refuse)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "A model attribute .* requires gradient")  # of what export lifted itself
            yield
    finally:
        root.removeFilter(refuse)
        root.removeHandler(handler)


def _convert(
    decoder: TorchScriptPythonDecoder | TorchFXPythonDecoder,
    capture: Capture,
    axes: Axes,
    origins: Origins | None,
    rewrites: Sequence[Callable[[ov.Model], None]],
) -> ov.Model:
    frontend = FrontEndManager().load_by_framework("pytorch")
    for operation, conversion in OPERATIONS.items():
        frontend.add_extension(ConversionExtension(operation, conversion))
    loaded = frontend.load(decoder, True)  # noqa: FBT003 - share_weights is positional only
    places, tensors = loaded.get_inputs(), capture.call.tensors
    if len(places) != len(tensors):
        raise ConversionError(f"the capture has {len(places)} inputs where the call has {len(tensors)} tensors")
    for index, (place, tensor) in enumerate(zip(places, tensors, strict=True)):
        loaded.set_partial_shape(place, _partial_shape(axes.shape(index, tensor)))
        loaded.set_element_type(place, _TYPES[tensor.dtype])
    model = frontend.convert(loaded)
    if origins is not None:
        origins.start(model)
    for rewrite in rewrites:
        rewrite(model)
    _name_ports(model, capture)
    return model


def _name_ports(model: ov.Model, capture: Capture) -> None:
    """Name inputs and outputs and make each output the dtype that torch gave."""
    parameters, results = model.get_parameters(), model.get_results()
    inputs, outputs = capture.call.input_names, capture.results.names
    if len(parameters) != len(inputs) or len(results) != len(outputs):
        raise ConversionError(
            f"the converted graph has {len(parameters)} inputs and {len(results)} outputs; the call has {len(inputs)} "
            f"and {len(outputs)}"
        )
    for port, result, tensor in zip(model.outputs, results, capture.results.tensors, strict=True):
        if port.get_element_type() != (kind := _TYPES[tensor.dtype]):
            source = result.input_value(0)
            result.input(0).replace_source_output(ov.opset13.convert(source, kind).output(0))
    model.validate_nodes_and_infer_types()
    for parameter, name in zip(parameters, inputs, strict=True):
        parameter.set_friendly_name(name)
        parameter.output(0).get_tensor().set_names({name})
    # An output may be an input as it came, or the same tensor as another output: then one tensor has both names.
    names = {(node.get_name(), 0): {name} for node, name in zip(parameters, inputs, strict=True)}
    for result, name in zip(results, outputs, strict=True):
        source = result.input_value(0)
        shared = names.setdefault((source.get_node().get_name(), source.get_index()), set())
        shared.add(name)
        source.get_tensor().set_names(shared)
        result.set_friendly_name(f"{name}/result")
    model.set_friendly_name("main")


def _partial_shape(shape: Sequence[int | Dimension]) -> ov.PartialShape:
    return ov.PartialShape(
        [
            axis if isinstance(axis, int) else ov.Dimension(axis.min, -1 if axis.max is None else axis.max)
            for axis in shape
        ]
    )


def describe_ports(model: ov.Model, capture: Capture, axes: Axes) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return the inputs and outputs of a converted model, as the manifest has them."""
    call, results = capture.call, capture.results
    inputs = tuple(
        Port(name, _dtype_name(port), axes.shape(index, tensor), _bounds_of(port, tensor))
        for index, (name, port, tensor) in enumerate(zip(call.input_names, model.inputs, call.tensors, strict=True))
    )
    outputs = tuple(
        Port(name, _dtype_name(port), _shape_of(port, result))
        for name, port, result in zip(results.names, model.outputs, results.tensors, strict=True)
    )
    return inputs, outputs


def _bounds_of(port: ov.Output, example: torch.Tensor) -> Bounds | None:
    """Return the bounds of an integer input that say more than its dtype; none that the example contradicts."""
    bounds = read_bounds(port.get_node())
    if bounds is None or example.dtype is torch.bool or example.is_floating_point():
        return None
    limits = torch.iinfo(example.dtype)
    low = bounds.low if bounds.low is not None and bounds.low > limits.min else None
    high = bounds.high if bounds.high is not None and bounds.high < limits.max else None
    if low is None and high is None:
        return None
    bounds = Bounds(low, high)
    is_right = not example.numel() or all(allows(bounds, int(value)) for value in (example.min(), example.max()))
    return bounds if is_right else None


def _dtype_name(port: ov.Output) -> Any:
    return "bool" if port.get_element_type() == ov.Type.boolean else port.get_element_type().to_dtype().name


def _shape_of(port: ov.Output, result: torch.Tensor) -> tuple[int | Dimension, ...]:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return tuple(Dimension(None, 0, None) for _ in result.shape)
    return tuple(
        axis.get_length()
        if axis.is_static
        else Dimension(None, axis.get_min_length(), None if axis.get_max_length() < 0 else axis.get_max_length())
        for axis in shape
    )
