"""The operations that a graph may hold: what `persist` writes, by the specification of OpenVINO's operation sets.

A line is one or more operations: types, version, inputs>outputs (`1-2` is one or two, `1+` one or more), then each
attribute and the format of its text. OpenVINO writes all attributes of an operation, always: all of them must be there,
and no others. A new operation of OpenVINO's PyTorch frontend or passes needs a line here; until then `persist` refuses
it, so that no bundle is written that does not load.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_OPERATIONS = """
Parameter opset1 0>1 shape=open_shape element_type=type
Const opset1 0>1 element_type=constant_type shape=shape offset=offset size=offset
Result opset1 1>0
ReadValue opset6 0-1>1 variable_id=variable variable_type=type variable_shape=open_shape
Assign opset6 1>1 variable_id=variable

Abs,Acos,Asin,Atan,Ceiling,Cos,Cosh,Erf,Exp,Floor,Log,LogicalNot,Negative,ReLU,Sigmoid,Sign,Sin,Sinh,Sqrt,Tan,Tanh opset1 1>1
Acosh,Asinh,Atanh,HSwish,Mish,SoftPlus opset4 1>1
HSigmoid opset5 1>1
SoftSign opset9 1>1
IsFinite,IsNaN opset10 1>1
IsInf opset10 1>1 detect_negative=bool detect_positive=bool
BitwiseNot opset13 1>1
Identity opset16 1>1
ErfInv opset17 1>1
Clamp opset1 1>1 min=real max=real
Convert opset1 1>1 destination_type=type
ConvertLike opset1 2>1
Elu opset1 1>1 alpha=real
Gelu opset7 1>1 approximation_mode=gelu
HardSigmoid,Selu opset1 3>1
PReLU opset1 2>1
Round opset5 1>1 mode=rounding_half
Swish opset4 1-2>1

Add,Equal,FloorMod,Greater,GreaterEqual,Less,LessEqual,LogicalAnd,LogicalOr,Maximum,Minimum,Mod opset1 2>1 auto_broadcast=broadcast
Multiply,NotEqual,Power,SquaredDifference,Subtract opset1 2>1 auto_broadcast=broadcast
Divide opset1 2>1 auto_broadcast=broadcast m_pythondiv=bool
LogicalXor opset2 2>1 auto_broadcast=broadcast
BitwiseAnd,BitwiseOr,BitwiseXor opset13 2>1 auto_broadcast=broadcast
BitwiseLeftShift,BitwiseRightShift opset15 2>1 auto_broadcast=broadcast
Select opset1 3>1 auto_broadcast=broadcast
FakeQuantize opset1 5>1 levels=levels auto_broadcast=broadcast
FakeConvert opset13 2-3>1 destination_type=f8_type

ReduceLogicalAnd,ReduceLogicalOr,ReduceMax,ReduceMean,ReduceMin,ReduceProd,ReduceSum opset1 2>1 keep_dims=bool
ReduceL1,ReduceL2 opset4 2>1 keep_dims=bool
CumSum opset3 1-2>1 exclusive=bool reverse=bool
SoftMax opset1 1>1 axis=axis
SoftMax opset8 1>1 axis=axis
LogSoftmax opset5 1>1 axis=axis
LRN opset1 2>1 alpha=real beta=real bias=real size=positive
MVN opset6 2>1 eps=real normalize_variance=bool eps_mode=mvn_mode
NormalizeL2 opset1 2>1 eps=real eps_mode=normalize_mode
BatchNormInference opset5 5>1 epsilon=real
GroupNormalization opset12 3>1 num_groups=positive epsilon=real

MatMul opset1 2>1 transpose_a=bool transpose_b=bool
GroupedMatMul opset17 2-3>1
Einsum opset7 1+>1 equation=equation
Inverse opset14 1>1 adjoint=bool
ScaledDotProductAttention opset13 3-6>1 causal=bool

AvgPool opset1 1>1 kernel=sizes strides=sizes pads_begin=pads pads_end=pads exclude-pad=bool auto_pad=auto_pad rounding_type=rounding
AvgPool opset14 1>1 kernel=sizes strides=sizes pads_begin=pads pads_end=pads exclude-pad=bool auto_pad=auto_pad rounding_type=rounding
AvgPool opset16 1>1 kernel=sizes strides=sizes dilations=sizes pads_begin=pads pads_end=pads exclude-pad=bool auto_pad=auto_pad rounding_type=rounding
MaxPool opset1 1>1 strides=sizes pads_begin=pads pads_end=pads kernel=sizes rounding_type=rounding auto_pad=auto_pad
MaxPool opset8 1>2 strides=sizes dilations=sizes pads_begin=pads pads_end=pads kernel=sizes rounding_type=rounding auto_pad=auto_pad index_element_type=index_type axis=axis
MaxPool opset14 1>2 strides=sizes dilations=sizes pads_begin=pads pads_end=pads kernel=sizes rounding_type=rounding auto_pad=auto_pad index_element_type=index_type axis=axis
AdaptiveAvgPool opset8 2>1
AdaptiveMaxPool opset8 2>2 index_element_type=index_type
Convolution opset1 2>1 strides=sizes dilations=sizes pads_begin=pads pads_end=pads auto_pad=auto_pad
GroupConvolution opset1 2>1 strides=sizes pads_begin=pads pads_end=pads dilations=sizes auto_pad=auto_pad
ConvolutionBackpropData opset1 2-3>1 strides=sizes dilations=sizes pads_begin=pads pads_end=pads auto_pad=auto_pad output_padding=pads
GroupConvolutionBackpropData opset1 2-3>1 strides=sizes pads_begin=pads pads_end=pads dilations=sizes auto_pad=auto_pad output_padding=pads
DeformableConvolution opset8 3-4>1 bilinear_interpolation_pad=bool strides=sizes dilations=sizes pads_begin=pads pads_end=pads auto_pad=auto_pad group=positive deformable_group=positive
Interpolate opset4 3-4>1 mode=interpolation shape_calculation_mode=sizes_or_scales coordinate_transformation_mode=coordinates nearest_mode=nearest_mode antialias=bool pads_begin=pads pads_end=pads cube_coeff=real
Interpolate opset11 2-3>1 mode=interpolation shape_calculation_mode=sizes_or_scales coordinate_transformation_mode=coordinates nearest_mode=nearest_mode antialias=bool pads_begin=pads pads_end=pads cube_coeff=real
GridSample opset9 2>1 align_corners=bool mode=grid_mode padding_mode=grid_padding
ROIAlign opset9 3>1 pooled_h=positive pooled_w=positive sampling_ratio=natural spatial_scale=real mode=roi_mode aligned_mode=roi_aligned
ROIAlignRotated opset15 3>1 pooled_h=positive pooled_w=positive sampling_ratio=natural spatial_scale=real clockwise_mode=bool
Col2Im opset15 3>1 strides=sizes dilations=sizes pads_begin=pads pads_end=pads

Broadcast opset1 2-3>1 mode=broadcast_mode
Broadcast opset3 2-3>1 mode=broadcast_mode
Concat opset1 1+>1 axis=axis
Gather opset1 3>1
Gather opset7 3>1 batch_dims=axis
Gather opset8 3>1 batch_dims=axis
GatherElements opset6 2>1 axis=axis
GatherND opset5 2>1 batch_dims=axis
GatherND opset8 2>1 batch_dims=axis
Pad opset1 3-4>1 pad_mode=pad_mode
Pad opset12 3-4>1 pad_mode=pad_mode
Reshape opset1 2>1 special_zero=bool
Squeeze opset1 1-2>1
Squeeze opset15 1-2>1 allow_axis_skip=bool
Tile,Transpose,Unsqueeze opset1 2>1
Slice opset8 4-5>1
SliceScatter opset15 5-6>1
StridedSlice opset1 3-4>1 begin_mask=mask end_mask=mask new_axis_mask=mask shrink_axis_mask=mask ellipsis_mask=mask
Split opset1 2>1+ num_splits=positive
VariadicSplit opset1 3>1+
DepthToSpace,SpaceToDepth opset1 1>1 block_size=positive mode=depth_mode
BatchToSpace,SpaceToBatch opset2 4>1
ShuffleChannels opset1 1>1 axis=axis group=positive
ReverseSequence opset1 2>1 batch_axis=axis seq_axis=axis
Roll opset7 3>1
ScatterElementsUpdate opset3 4>1
ScatterElementsUpdate opset12 4>1 reduction=scatter use_init_val=bool
ScatterNDUpdate opset4 3>1
ScatterNDUpdate opset15 3>1 reduction=scatter
ScatterUpdate opset3 4>1
EmbeddingBagOffsetsSum opset3 3-5>1
EmbeddingBagPackedSum opset3 2-3>1
EmbeddingBagOffsets opset15 3-5>1 reduction=mean_or_sum
EmbeddingBagPacked opset15 2-3>1 reduction=mean_or_sum
SegmentMax opset16 2-3>1 fill_mode=segment_fill

ShapeOf opset1 1>1
ShapeOf opset3 1>1 output_type=index_type
Range opset4 3>1 output_type=type
Eye opset9 3-4>1 output_type=type
OneHot opset1 4>1 axis=axis
OneHot opset16 4>1 axis=axis negative_indices_mode=negative_indices
NonZero opset3 1>1 output_type=index_type
TopK opset3 2>2 axis=axis mode=topk_mode sort=sort index_element_type=index_type
TopK opset11 2>2 axis=axis mode=topk_mode sort=sort index_element_type=index_type stable=bool
Unique opset10 1-2>4 sorted=bool index_element_type=index_type count_element_type=index_type
Bucketize opset3 2>1 output_type=index_type with_right_bound=bool
SearchSorted opset15 2>1 right_mode=bool output_type=index_type
NonMaxSuppression opset5 2-6>3 box_encoding=box_encoding sort_result_descending=bool output_type=index_type
NonMaxSuppression opset9 2-6>3 box_encoding=box_encoding sort_result_descending=bool output_type=index_type
Multinomial opset13 2>1 convert_type=index_type with_replacement=bool log_probs=bool global_seed=natural op_seed=natural
RandomUniform opset8 3>1 output_type=type op_seed=offset global_seed=offset alignment=alignment

DFT,IDFT opset7 2-3>1
RDFT,IRDFT opset9 2-3>1
STFT opset15 4>1 transpose_frames=bool
ISTFT opset16 4-5>1 center=bool normalized=bool

RNNCell opset1 5>1 hidden_size=positive activations=activations activations_alpha=reals activations_beta=reals clip=real
GRUCell opset3 5>1 linear_before_reset=bool hidden_size=positive activations=activations activations_alpha=reals activations_beta=reals clip=real
LSTMCell opset4 6>2 hidden_size=positive activations=activations activations_alpha=reals activations_beta=reals clip=real
RNNSequence opset5 6>2 direction=direction hidden_size=positive activations=activations activations_alpha=reals activations_beta=reals clip=real
GRUSequence opset5 6>2 direction=direction linear_before_reset=bool hidden_size=positive activations=activations activations_alpha=reals activations_beta=reals clip=real
LSTMSequence opset5 7>3 direction=direction hidden_size=positive activations=activations activations_alpha=reals activations_beta=reals clip=real

If opset8 1+>1+
Loop opset5 2+>0+
TensorIterator opset1 1+>1+
"""  # noqa: E501 - a table

_TYPE = "boolean|u8|u16|u32|u64|i8|i16|i32|i64|f16|f32|f64"
_WORDS = {
    "alignment": "tensorflow|pytorch",
    "auto_pad": "explicit|same_upper|same_lower|valid",
    "bool": "true|false",
    "box_encoding": "corner|center",
    "broadcast": "numpy|none",
    "broadcast_mode": "numpy|none|explicit|bidirectional",
    "constant_type": _TYPE + "|u1|u2|u4|i4|nf4|f4e2m1|f8e4m3|f8e5m2|f8e8m0",
    "coordinates": "half_pixel|pytorch_half_pixel|asymmetric|tf_half_pixel_for_nn|align_corners",
    "depth_mode": "blocks_first|depth_first",
    "direction": "forward|reverse|bidirectional",
    "f8_type": "f8e4m3|f8e5m2",
    "gelu": "ERF|TANH",
    "grid_mode": "bilinear|bicubic|nearest",
    "grid_padding": "zeros|border|reflection",
    "index_type": "i32|i64",
    "interpolation": "nearest|linear|linear_onnx|cubic|bilinear_pillow|bicubic_pillow",
    "mean_or_sum": "sum|mean",
    "mvn_mode": "INSIDE_SQRT|OUTSIDE_SQRT",
    "nearest_mode": "round_prefer_floor|round_prefer_ceil|floor|ceil|simple",
    "negative_indices": "ignore_negative|normalize",
    "normalize_mode": "add|max",
    "pad_mode": "constant|edge|reflect|symmetric",
    "roi_aligned": "asymmetric|half_pixel_for_nn|half_pixel",
    "roi_mode": "avg|max",
    "rounding": "floor|ceil|ceil_torch",
    "rounding_half": "half_to_even|half_away_from_zero",
    "scatter": "none|sum|sub|prod|min|max|mean",
    "segment_fill": "zero|lowest",
    "sizes_or_scales": "sizes|scales",
    "sort": "none|index|value",
    "topk_mode": "max|min",
    "type": _TYPE,
}
"""Attributes that are one of a few words."""

_REAL = r"-?(?:[0-9]{1,400}(?:\.[0-9]{1,40})?(?:e[+-]?[0-9]{1,3})?|inf|nan)"
_OPEN = r"(?:[0-9]{1,18}(?:\.\.[0-9]{0,18})?|\?|\.\.[0-9]{1,18})"


def _list(item: str) -> str:
    """Return the pattern of up to 64 items: a tensor has no more axes."""
    return f"(?:{item}(?:, ?{item}){{0,63}})?"


_PATTERNS = {
    "activations": _list("(?:sigmoid|tanh|relu)"),
    "axis": "-?[0-9]{1,2}",
    "equation": r"[A-Za-z., ]{1,200}->[A-Za-z. ]{0,100}",
    "levels": "[2-9]|[1-9][0-9]{1,8}",
    "mask": _list("[01]"),
    "natural": "[0-9]{1,9}",
    "offset": "[0-9]{1,18}",
    "open_shape": rf"\.\.\.|{_list(_OPEN)}",
    "pads": _list("[0-9]{1,9}"),
    "positive": "[1-9][0-9]{0,8}",
    "real": _REAL,
    "reals": _list(_REAL),
    "shape": _list("[0-9]{1,18}"),
    "sizes": _list("[1-9][0-9]{0,8}"),
    "variable": r"[^\x00-\x1f]{1,256}",
}
"""Attributes with numbers and texts."""

MAX_PORTS = 100_000
"""Inputs or outputs of one operation, at most: a Concat may join what a loop of a model appended."""


class Operation(NamedTuple):
    """What may be said of one layer: numbers of ports, and the format of each attribute."""

    inputs: range
    outputs: range
    attributes: Mapping[str, Callable[[str], object]]


@cache
def find_operation(kind: str, version: str) -> Operation | None:
    """Return the rules for a layer of this type and version; None if there is no such operation."""
    line = _lines().get((kind, version))
    if line is None:
        return None
    ports, *attributes = line
    inputs, outputs = map(_range, ports.split(">"))
    return Operation(
        inputs, outputs, {name: _format(kind) for name, _, kind in (text.partition("=") for text in attributes)}
    )


@cache
def _lines() -> Mapping[tuple[str, str], list[str]]:
    found = {}
    for line in _OPERATIONS.splitlines():
        if line:
            types, version, *rest = line.split(" ")
            for kind in types.split(","):
                found[kind, version] = rest
    return found


@cache
def _format(name: str) -> Callable[[str], object]:
    """Return what tells whether a text has a format. A pattern is compiled when a graph needs it."""
    if name in _WORDS:
        return frozenset(_WORDS[name].split("|")).__contains__
    return re.compile(_PATTERNS[name], re.ASCII).fullmatch


def _range(text: str) -> range:
    """Return the numbers that `2`, `2-3` or `2+` stands for."""
    if text.endswith("+"):
        return range(int(text[:-1]), MAX_PORTS + 1)
    low, _, high = text.partition("-")
    return range(int(low), int(high or low) + 1)


def known_operations() -> frozenset[tuple[str, str]]:
    """Return type and version of every operation that a graph may hold."""
    return frozenset(_lines())
