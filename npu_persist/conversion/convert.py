"""A captured call to an `openvino.Model` with named inputs and outputs and the shapes that were asked for.

This is what `openvino.convert_model` does for a module, without three things it does on the way: tracing twice to
compare (the check against torch is stronger), building an empty preprocessing pipeline (a third of the whole time on
BERT-base), and telemetry. The frontend, its extensions and the common optimizations are the same calls.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING

import openvino as ov
import torch
from openvino._offline_transformations import (
    apply_fused_names_cleanup,
    apply_moc_transformations,
    compress_quantize_weights_transformation,
)
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

from npu_persist.bundle.manifest import Dimension, Port
from npu_persist.compilation.messages import first_lines
from npu_persist.conversion.conversion_errors import describe_refusal, find_operation
from npu_persist.conversion.dynamic import Axes, to_export_shapes
from npu_persist.conversion.operations import extensions, fold_constant_results, make_integer_divisions_exact
from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from npu_persist.conversion.capture import Call

log = logging.getLogger(__name__)

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


def convert_trace(call: Call, traced: torch.jit.ScriptModule, axes: Axes) -> ov.Model:
    """Convert a traced call.

    Raises:
        ConversionError: an operation has no OpenVINO equivalent; names the operation and the submodule it stands in.

    """
    decoder = TorchScriptPythonDecoder(traced, example_input=tuple(call.tensors), shared_memory=True)
    try:
        return _convert(decoder, call, axes)
    except Exception as error:
        operation, path = find_operation(traced, str(error))
        raise ConversionError(
            describe_refusal(operation, path, error), module_path=path, operation=operation
        ) from error


def convert_export(call: Call, axes: Axes) -> ov.Model:
    """Capture the call with `torch.export` and convert the exported program.

    Raises:
        ConversionError: torch.export or the frontend refused the module.

    """
    try:
        program = call.export(to_export_shapes(call, axes))
        with _quiet_decoder():
            decoder = TorchFXPythonDecoder.from_exported_program(program)
        return _convert(decoder, call, axes)
    except Exception as error:
        raise ConversionError(f"torch.export could not take the module: {first_lines(str(error))}") from error


@contextlib.contextmanager
def _quiet_decoder() -> Iterator[None]:
    """Keep the decoder from logging each decomposition that this torch lacks, and torch from warning of its use."""
    root, handler = logging.getLogger(), logging.NullHandler()

    def refuse(_: logging.LogRecord) -> bool:
        return False

    root.addHandler(handler)
    root.addFilter(refuse)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        root.removeFilter(refuse)
        root.removeHandler(handler)


def _convert(decoder: TorchScriptPythonDecoder | TorchFXPythonDecoder, call: Call, axes: Axes) -> ov.Model:
    frontend = FrontEndManager().load_by_framework("pytorch")
    for extension in extensions():
        frontend.add_extension(extension)
    loaded = frontend.load(decoder, True)  # noqa: FBT003 - share_weights is positional only
    places = loaded.get_inputs()
    if len(places) != len(call.tensors):
        raise ConversionError(f"the capture has {len(places)} inputs where the call has {len(call.tensors)} tensors")
    for index, (place, tensor) in enumerate(zip(places, call.tensors, strict=True)):
        loaded.set_partial_shape(place, partial_shape(axes.shape(index, tensor)))
        loaded.set_element_type(place, _TYPES[tensor.dtype])
    model = frontend.convert(loaded)
    masks = _masks(model)
    make_integer_divisions_exact(model, [op for op in model.get_ordered_ops() if masks[op.get_name()]])
    apply_moc_transformations(model, cf=False, smart_reshape=False)
    compress_quantize_weights_transformation(model)
    fold_constant_results(model)
    apply_fused_names_cleanup(model)
    return _with_exact_ports(model, call)


def _with_exact_ports(model: ov.Model, call: Call) -> ov.Model:
    """Name inputs and outputs and make each output the dtype that torch gave."""
    parameters, results = model.get_parameters(), model.get_results()
    if len(parameters) != len(call.tensors) or len(results) != len(call.results):
        raise ConversionError(
            f"the converted graph has {len(parameters)} inputs and {len(results)} outputs; the call has "
            f"{len(call.tensors)} and {len(call.results)}"
        )
    wanted = [_TYPES[result.dtype] for result in call.results]
    for index, kind in enumerate(wanted):
        if model.outputs[index].get_element_type() != kind:
            source = results[index].input_value(0)
            results[index].input(0).replace_source_output(ov.opset13.convert(source, kind).output(0))
    model.validate_nodes_and_infer_types()
    for parameter, name in zip(parameters, call.input_names, strict=True):
        parameter.set_friendly_name(name)
        parameter.output(0).get_tensor().set_names({name})
    # An output may be an input as it came, or the same tensor as another output: then one tensor has both names.
    names = {(node.get_name(), 0): {name} for node, name in zip(parameters, call.input_names, strict=True)}
    for result, name in zip(results, call.output_names, strict=True):
        source = result.input_value(0)
        shared = names.setdefault((source.get_node().get_name(), source.get_index()), set())
        shared.add(name)
        source.get_tensor().set_names(shared)
        result.set_friendly_name(f"{name}/result")
    model.set_friendly_name("main")
    return model


def dependences(model: ov.Model) -> list[int]:
    """Return for each output which inputs its values depend on in the graph, a bit for each; shapes do not count."""
    masks = _masks(model)
    return [masks[result.get_name()] for result in model.get_results()]


def _masks(model: ov.Model) -> dict[str, int]:
    masks: dict[str, int] = {parameter.get_name(): 1 << index for index, parameter in enumerate(model.get_parameters())}
    for operation in model.get_ordered_ops():
        if operation.get_type_name() not in {"Parameter", "ShapeOf"}:
            mask = 0
            for source in operation.input_values():
                mask |= masks.get(source.get_node().get_name(), 0)
            masks[operation.get_name()] = mask
        elif operation.get_type_name() == "ShapeOf":
            masks[operation.get_name()] = 0
    return masks


def partial_shape(shape: Sequence[int | Dimension]) -> ov.PartialShape:
    """Return OpenVINO's form of a shape with bounds."""
    return ov.PartialShape(
        [
            axis if isinstance(axis, int) else ov.Dimension(axis.min, -1 if axis.max is None else axis.max)
            for axis in shape
        ]
    )


def describe_ports(model: ov.Model, call: Call, axes: Axes) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return the manifest's ports of a converted model, inputs and outputs."""
    inputs = tuple(
        Port(name, _dtype_name(port), axes.shape(index, tensor))
        for index, (name, port, tensor) in enumerate(zip(call.input_names, model.inputs, call.tensors, strict=True))
    )
    outputs = tuple(
        Port(name, _dtype_name(port), _shape_of(port, result))
        for name, port, result in zip(call.output_names, model.outputs, call.results, strict=True)
    )
    return inputs, outputs


def _dtype_name(port: ov.Output) -> str:
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
