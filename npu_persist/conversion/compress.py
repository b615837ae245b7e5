"""Weights as integers of 8 or 4 bits: symmetric, by output channel, without data.

For a channel (or a group of `group_size` inputs of it) of weights w, in b bits:

    scale = a / 2^(b-1),  a = |min w| where |min w| >= max w, else -max w
    q     = clip(round(w / scale), -2^(b-1), 2^(b-1) - 1)

so that the value of largest magnitude is always the most negative integer. These are INT8_SYM and INT4_SYM of NNCF
(https://github.com/openvinotoolkit/nncf), byte for byte. What stays at 8 bits in "int4" is what NNCF's backup mode
keeps: embeddings, convolutions and the last linear layer. The graph has Constant, Convert, Multiply and Convert for a
weight, which plugins compute together with what follows.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops

from npu_persist.errors import PrecisionWarning, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from npu_persist.bundle.golden_records import Difference
    from npu_persist.bundle.graph_records import Activations, Precision

Stored: TypeAlias = Literal["fp32", "fp16", "int8", "int4"]
"""What one weight is stored as."""

BITS: dict[str, int] = {"int8": 8, "int4": 4}
_SMALLEST = float(np.finfo(np.float32).eps)
"""What smaller scales are set to, as NNCF does."""
_LARGEST_ROUNDING = 2.0**-7
"""How far half precision may move a scale, relatively: beyond, the scale is subnormal, and the weight stays a float."""
_MATRIX = 2
"""Axes of a matrix: vectors are not compressed."""


class Plan(NamedTuple):
    """What the weights of a module are to be stored as.

    Attributes:
        precision: "int8" or "int4".
        group_size: How many inputs of a channel share a scale in "int4"; None is all of them.
        keep: Other precisions, by pattern of the weight's or its module's name in the state_dict, as `fnmatch` has
            them; the last pattern that fits counts.
        activations: "int8" where activations are quantized, too.
    """

    precision: Stored
    group_size: int | None
    keep: Mapping[str, Stored]
    activations: Activations | None = None

    def choose(self, name: str, *, may_be_int4: bool) -> Stored:
        """Return what a weight is stored as."""
        kept: Stored | None = None
        for pattern, precision in self.keep.items():
            if _fits(name, pattern):
                kept = precision
        if kept is not None:
            return kept
        return self.precision if may_be_int4 else "int8"


class Compressed(NamedTuple):
    """A weight that was compressed: its type, and the names of the constants that hold it in the graph."""

    precision: Stored
    values: str
    scale: str
    grouped: tuple[int, ...]
    """The shape in the graph, where a channel's groups are an axis of their own."""
    reduced: tuple[int, ...]
    """The axes of that which share a scale."""


class Weight(NamedTuple):
    """A constant of the graph that is a parameter, and how it is used."""

    constant: ov.Node
    name: str
    reduced: tuple[int, ...]
    """The axes that share a scale: those of the inputs."""
    is_linear: bool
    users: tuple[str, ...]
    """The operations that read it."""


def _fits(name: str, pattern: str) -> bool:
    """Tell whether a pattern is for a parameter, or for its module."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)


def check_keep(modules: Sequence[torch.nn.Module], plan: Plan) -> None:
    """Raise UsageError for a pattern that fits no parameter."""
    names = [name for module in modules for name, _ in module.named_parameters(remove_duplicate=False)]
    for pattern in plan.keep:
        if not any(_fits(name, pattern) for name in names):
            shown, whose = ", ".join(names[:5]), " or ".join(type(module).__name__ for module in modules)
            raise UsageError(
                f"keep: {pattern!r} matches no parameter of {whose}, and no module that has one. "
                f"Names are as in its state_dict: {shown}{', …' if len(names) > len(names[:5]) else ''}."
            )


def compress(
    model: ov.Model, module: torch.nn.Module, names: Mapping[str, str], plan: Plan
) -> tuple[dict[str, Compressed], list[ov.Node]]:
    """Replace weights of linear layers, embeddings and convolutions by integers, one at a time.

    Args:
        model: The graph, which is changed.
        module: The module that it was made of.
        names: The state_dict name of each constant that is a tensor of it, by the constant's name.
        plan: What is asked for.

    Returns:
        What was compressed, by name of the state_dict, and the constants to keep in float32.
    """
    done: dict[str, Compressed] = {}
    exact = []
    for weight, chosen in choose(find_weights(model, module, names), plan):
        if chosen == "fp32":
            exact.append(weight.constant)
        elif chosen in BITS and (found := _replace(weight, chosen, plan.group_size)) is not None:
            done[weight.name] = found
    return done, exact


def find_precision(model: ov.Model, asked: Precision) -> Precision:
    """Return what most of the weights are: integers where the module came compressed, by NNCF for instance."""
    if asked != "fp16":
        return asked
    counts: Counter[Precision] = Counter()
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "Constant" and len(operation.shape) >= _MATRIX:
            counts[_BY_TYPE.get(operation.get_element_type().get_type_name(), asked)] += math.prod(operation.shape)
    return max(counts, key=counts.__getitem__, default=asked)


def find_activations(model: ov.Model) -> Activations | None:
    """Return what the activations of a module that came quantized are, by NNCF for instance."""
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "FakeQuantize":
            levels = operation.get_attributes()["levels"]
            return "int8" if _HALF_OF_8_BITS < levels <= _ALL_OF_8_BITS else None
    return None


_HALF_OF_8_BITS, _ALL_OF_8_BITS = 128, 256
"""Levels that a quantization may have; symmetric ones leave out one."""
_BY_TYPE: dict[str, Precision] = {"i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4"}


def is_compressed(module: torch.nn.Module) -> bool:
    """Tell whether most of a module's parameters and buffers are integers of 8 bits, or packed in such."""
    sizes = Counter({True: 0, False: 0})
    for tensor in (*module.parameters(), *module.buffers()):
        sizes[tensor.dtype in {torch.int8, torch.uint8}] += tensor.numel()
    return sizes[True] > sizes[False]


def choose(found: tuple[list[Weight], bool], plan: Plan) -> list[tuple[Weight, Stored]]:
    """Return what each weight is to be stored as."""
    weights, is_last_shared = found
    linear = [weight for weight in weights if weight.is_linear]
    last = linear[-1] if linear and not is_last_shared else None
    return [(one, plan.choose(one.name, may_be_int4=one.is_linear and one is not last)) for one in weights]


def warn_of_floats(module: torch.nn.Module, done: Mapping[str, Compressed], plan: Plan) -> PrecisionWarning | None:
    """Return a warning where much of the module stayed in floating point without being asked for."""
    sizes = {
        name: parameter.numel()
        for name, parameter in module.named_parameters()
        if plan.choose(name, may_be_int4=True) in BITS
    }
    left = {name: size for name, size in sizes.items() if name not in done}
    share = sum(left.values()) / max(sum(sizes.values()), 1)
    if share <= _MUCH:
        return None
    largest = sorted(left, key=lambda name: -left[name])[:3]
    return PrecisionWarning(
        f"{share:.0%} of the parameters stay in half precision, the largest of them {', '.join(largest)}: only weights "
        f"of linear layers, embeddings and convolutions become {plan.precision}"
    )


def warn_of_loss(plan: Plan, differences: Iterable[Difference]) -> PrecisionWarning | None:
    """Return a warning where compression costs an output more than a rounding."""
    worst = min((found for found in differences if found.mismatched is None), key=lambda one: one.cosine, default=None)
    if worst is None or worst.cosine >= _NOTICEABLE:
        return None
    return PrecisionWarning(
        f"{plan.precision} costs output {worst.output} {worst.max_relative:.2g} of its largest value, cosine "
        f"{worst.cosine:.4f}{_advise(plan)}"
    )


def _advise(plan: Plan) -> str:
    if plan.precision == "int8":
        return '. keep={"name": "fp16"} keeps layers as they are; by_layer=True finds the ones to keep'
    smaller = "" if plan.group_size else "group_size=64 or 128, "
    return (
        f'. Closer to torch, and larger: {smaller}keep={{"name": "int8"}} for the layers that by_layer=True finds, or '
        'precision="int8"'
    )


_NOTICEABLE = 0.99
"""A cosine below which a loss is worth a warning."""
_MUCH = 0.2
"""A share of the parameters that is worth a warning."""


def find_weights(model: ov.Model, module: torch.nn.Module, names: Mapping[str, str]) -> tuple[list[Weight], bool]:
    """Return the weights in the order in which the graph reads them, and whether the last one had been read before."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    found: dict[str, Weight] = {}
    unusable: set[str] = set()
    is_repeated = False
    for operation in model.get_ordered_ops():
        for port, channels in _weight_ports(operation):
            constant = operation.input_value(port).get_node()
            while constant.get_type_name() == "Convert":
                constant = constant.input_value(0).get_node()
            unique = constant.get_friendly_name()
            if (
                constant.get_type_name() != "Constant"
                or names.get(unique) not in parameters
                or not constant.get_element_type().is_real()
            ):
                continue
            axes = tuple(axis for axis in range(len(constant.shape)) if axis not in channels)
            is_linear = operation.get_type_name() == "MatMul"
            is_repeated = unique in found
            user = operation.get_friendly_name()
            if not is_repeated:
                found[unique] = Weight(constant, names[unique], axes, is_linear, (user,))
                continue
            found[unique] = found[unique]._replace(users=(*found[unique].users, user))
            if found[unique].reduced != axes:
                unusable.add(unique)
            elif not is_linear:
                found[unique] = found[unique]._replace(is_linear=False)
    for unique in unusable:
        del found[unique]
    return [*found.values()], is_repeated


def _weight_ports(operation: ov.Node) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the inputs that may be weights, and the axes of their output channels."""
    kind = operation.get_type_name()
    if kind == "MatMul":
        attributes = operation.get_attributes()
        for port, transposed in ((1, attributes["transpose_b"]), (0, not attributes["transpose_a"])):
            rank = operation.get_input_partial_shape(port).rank
            if rank.is_static and rank.get_length() >= _MATRIX:
                inputs = rank.get_length() - (1 if transposed else 2)
                yield port, tuple(axis for axis in range(rank.get_length()) if axis != inputs)
    elif kind in _CHANNELS:
        yield 1, _CHANNELS[kind]
    elif kind == "Gather" and operation.get_input_partial_shape(0).rank == ov.Dimension(_MATRIX):
        axis = operation.input_value(2).get_node()
        if axis.get_type_name() == "Constant" and int(np.ravel(axis.get_data())[0]) == 0:
            yield 0, (0,)


_CHANNELS = {
    "Convolution": (0,),
    "GroupConvolution": (0, 1),
    "ConvolutionBackpropData": (1,),
    "GroupConvolutionBackpropData": (0, 2),
}
"""The axes of the output channels, and of the groups, by the specification of the operation sets."""
WEIGHTED = frozenset({"MatMul", "Gather", *_CHANNELS})
"""Operations whose weights are compressed."""


def quantize(weight: torch.Tensor, bits: int, axes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return integers (int8) and scales (float32) of a weight; `axes` share a scale."""
    lowest, highest = weight.amin(axes, keepdim=True).abs(), weight.amax(axes, keepdim=True)
    scale = torch.where(lowest >= highest, lowest, -highest) / 2 ** (bits - 1)
    scale = torch.where(scale.abs() < _SMALLEST, _SMALLEST, scale)
    values = (weight / scale).round_().clamp_(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return values.to(torch.int8), scale


def pack(values: torch.Tensor) -> torch.Tensor:
    """Return integers of 4 bits as bytes, the first of two in the low half."""
    flat = values.reshape(-1)
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    return (flat[0::2] & 0xF | flat[1::2] << 4).view(torch.uint8)


def _replace(weight: Weight, precision: Stored, group_size: int | None) -> Compressed | None:
    """Replace a constant by its integers; None where it has to stay a float."""
    constant, kind = weight.constant, weight.constant.get_element_type()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that numpy's view is read-only
        data = torch.from_numpy(constant.data.view(np.int16) if kind == ov.Type.bf16 else constant.data)
    floats = data.view(torch.bfloat16).float() if kind == ov.Type.bf16 else data.float()
    shape, axes, bits = tuple(floats.shape), weight.reduced, BITS[precision]
    if floats.numel() == 0:
        return None
    if bits == BITS["int4"] and group_size is not None and len(axes) == 1 and shape[axes[0]] % group_size == 0:
        [axis] = axes
        floats = floats.reshape(*shape[:axis], shape[axis] // group_size, group_size, *shape[axis + 1 :])
        axes = (axis + 1,)
    values, scale = quantize(floats, bits, axes)
    half = scale.half()
    if not bool(((half.float() - scale).abs() <= _LARGEST_ROUNDING * scale.abs()).all()):  # NaN included
        return None
    name = constant.get_friendly_name()
    stored = _make_int4(pack(values), tuple(floats.shape)) if bits == BITS["int4"] else ops.constant(values.numpy())
    stored.set_friendly_name(name)
    scales = ops.constant(half.numpy())
    scales.set_friendly_name(f"{name}@scale")
    result = ops.multiply(ops.convert(stored, ov.Type.f16), scales)
    if tuple(floats.shape) != shape:
        result = ops.reshape(result, ops.constant(np.array(shape, np.int64)), special_zero=False)
    constant.set_friendly_name(f"{name}@float")
    _connect(constant, result)
    return Compressed(precision, name, f"{name}@scale", tuple(floats.shape), axes)


def _connect(constant: ov.Node, values: ov.Node) -> None:
    """Let what reads a constant read half-precision values instead."""
    wide = ops.convert(values, ov.Type.f32)
    for user in constant.output(0).get_target_inputs():  # not by way of bfloat16, which would round them
        node = user.get_node()
        if node.get_type_name() == "Convert" and node.get_output_element_type(0) == ov.Type.f32:
            node.output(0).replace(wide.output(0))
    kind = constant.get_element_type()
    if kind != ov.Type.f16:
        values = wide if kind == ov.Type.f32 else ops.convert(values, kind)
    constant.output(0).replace(values.output(0))


def find_quantized(model: ov.Model, users: Mapping[str, Weight]) -> dict[str, Compressed]:
    """Name the int8 weights of a graph that NNCF has quantized, by the operations that read them, as `compress` does.

    Their scales become half precision. Those that half precision does not hold are left as they are.
    """
    found: dict[str, Compressed] = {}
    for operation in model.get_ordered_ops():
        weight = users.get(operation.get_friendly_name())
        if weight is None:
            continue
        for port, _ in _weight_ports(operation):
            product = operation.input_value(port).get_node()
            if product.get_type_name() != "Multiply" or product.input_value(0).get_node().get_type_name() != "Convert":
                continue
            values = product.input_value(0).get_node().input_value(0).get_node()
            scale = product.input_value(1).get_node()
            kinds = [node.get_type_name() for node in (values, scale)]
            if kinds != ["Constant", "Constant"] or values.get_element_type() != ov.Type.i8:
                continue
            name, shape = weight.constant.get_friendly_name(), tuple(values.shape)
            axes = scale.data.reshape((1,) * (len(shape) - scale.data.ndim) + scale.data.shape)
            half = axes.astype(np.float16)
            if name in found or not (np.abs(half.astype(np.float32) - axes) <= _LARGEST_ROUNDING * np.abs(axes)).all():
                continue
            scales = ops.constant(half)
            scales.set_friendly_name(f"{name}@scale")
            values.set_friendly_name(name)
            float_values = ops.multiply(ops.convert(values, ov.Type.f16), scales)
            product.output(0).replace(ops.convert(float_values, product.get_element_type()).output(0))
            reduced = tuple(axis for axis, size in enumerate(half.shape) if size != shape[axis])
            found[name] = Compressed("int8", name, f"{name}@scale", shape, reduced)
    return found


def _make_int4(packed: torch.Tensor, shape: tuple[int, ...]) -> ov.Node:
    tensor = ov.Tensor(ov.Type.i4, ov.Shape(shape))
    tensor.data.reshape(-1).view(np.uint8)[:] = packed.numpy()
    return ov.op.Constant(tensor)
