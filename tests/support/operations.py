"""One small graph for each operation that a bundle's graph may hold, made by OpenVINO itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import (
    opset1,
    opset3,
    opset4,
    opset5,
    opset7,
    opset8,
    opset11,
    opset12,
    opset13,
    opset14,
    opset15,
    opset17,
)
from openvino import opset16 as ops

if TYPE_CHECKING:
    from collections.abc import Iterator

Shape = tuple[int, ...]


def _x(*shape: int, kind: str = "float32", name: str = "x") -> Any:
    node = ops.parameter(list(shape), np.dtype(kind), name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def _c(value: Any, kind: str = "int64") -> Any:
    return ops.constant(np.array(value, kind))


def _ones(*shape: int) -> Any:
    return ops.constant(np.ones(shape, "float32"))


def make_operations() -> Iterator[tuple[str, list[Any], Any]]:  # noqa: C901, PLR0915 - a table
    """Yield a name, the inputs and the node (or several outputs) of each graph."""
    x = _x(1, 2, 6, 6)
    names = "abs acos asin atan ceiling cos cosh erf exp floor log negative relu sigmoid sign sin sinh sqrt tan tanh"
    newer = "acosh asinh atanh hswish mish softplus hsigmoid softsign is_finite is_nan is_inf"
    for name in (*names.split(), *newer.split()):
        yield name, [x], getattr(ops, name)(x)
    yield "erfinv", [x], opset17.erfinv(x)
    yield "identity", [x], ops.identity(x)
    flags = _x(2, 3, kind="bool")
    yield "logical_not", [flags], ops.logical_not(flags)
    yield "clamp", [x], ops.clamp(x, -1.5, 3.0)
    yield "clamp-infinite", [x], ops.clamp(x, float("-inf"), 1e300)
    yield "elu", [x], ops.elu(x, 0.5)
    yield "gelu", [x], ops.gelu(x, "tanh")
    yield "hard_sigmoid", [x], ops.hard_sigmoid(x, _c(0.2, "float32"), _c(0.5, "float32"))
    yield "selu", [x], ops.selu(x, _c(1.6, "float32"), _c(1.0, "float32"))
    yield "prelu", [x], ops.prelu(x, _ones(2))
    yield "swish", [x], ops.swish(x)
    yield "round", [x], ops.round(x, "half_to_even")
    yield "convert", [x], ops.convert(x, "i32")
    yield "convert_like", [x], ops.convert_like(x, _c([1]))
    y = _x(1, 2, 6, 6, name="y")
    for name in (
        "add", "subtract", "multiply", "divide", "equal", "not_equal", "greater", "greater_equal", "less", "less_equal",
        "maximum", "minimum", "mod", "floor_mod", "power", "squared_difference",
    ):  # fmt: skip
        yield name, [x, y], getattr(ops, name)(x, y)
    other = _x(2, 3, kind="bool", name="y")
    for name in ("logical_and", "logical_or", "logical_xor"):
        yield name, [flags, other], getattr(ops, name)(flags, other)
    m, n = _x(2, 3, kind="int32"), _x(2, 3, kind="int32", name="y")
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift"):
        yield name, [m, n], getattr(ops, name)(m, n)
    yield "bitwise_not", [m], ops.bitwise_not(m)
    yield "select", [flags], ops.select(flags, _c(1), _c([[1, 2, 3]]))
    low, high = _c(0.0, "float32"), _c(2.0, "float32")
    yield "fake_quantize", [x], ops.fake_quantize(x, low, high, low, high, 256)
    yield "fake_convert", [x], opset13.fake_convert(x, high)
    for name in ("reduce_logical_and", "reduce_logical_or"):
        yield name, [flags], getattr(ops, name)(flags, _c([1]), True)  # noqa: FBT003
    for name in ("reduce_max", "reduce_mean", "reduce_min", "reduce_prod", "reduce_sum", "reduce_l1", "reduce_l2"):
        yield name, [x], getattr(ops, name)(x, _c([1, -1]), False)  # noqa: FBT003
    yield "cum_sum", [x], ops.cum_sum(x, _c(1))
    yield "softmax", [x], opset8.softmax(x, -1)
    yield "softmax-1", [x], opset1.softmax(x, 1)
    yield "log_softmax", [x], ops.log_softmax(x, -1)
    yield "lrn", [x], ops.lrn(x, _c([1]))
    yield "mvn", [x], ops.mvn(x, _c([2, 3]), True, 1e-5, "INSIDE_SQRT")  # noqa: FBT003
    yield "normalize_l2", [x], ops.normalize_l2(x, _c([1]), 1e-6, "add")
    yield "batch_norm", [x], opset5.batch_norm_inference(x, _ones(2), _ones(2), _ones(2), _ones(2), 1e-5)
    yield "group_normalization", [x], opset12.group_normalization(x, _ones(2), _ones(2), 2, 1e-5)
    a, b = _x(2, 3, 4), _x(2, 4, 5, name="y")
    yield "matmul", [a, b], ops.matmul(a, b, False, False)  # noqa: FBT003
    yield "einsum", [a, b], ops.einsum([a, b], "bij,bjk->bik")
    square = _x(2, 3, 3)
    yield "inverse", [square], opset14.inverse(square)
    q = _x(1, 2, 4, 8)
    yield "attention", [q], opset13.scaled_dot_product_attention(q, q, q, causal=True)
    yield "attention-mask", [q], opset13.scaled_dot_product_attention(q, q, q, _ones(1, 1, 4, 4), _c(0.5, "float32"))
    two = ([1, 1], [0, 0], [0, 0])
    yield "avg_pool-1", [x], opset1.avg_pool(x, *two, [2, 2], True)  # noqa: FBT003
    yield "avg_pool-14", [x], opset14.avg_pool(x, *two, [2, 2], True, "ceil_torch")  # noqa: FBT003
    yield "avg_pool-16", [x], ops.avg_pool(x, [1, 1], [0, 0], [0, 0], [2, 2], True, "floor", dilations=[1, 1])  # noqa: FBT003
    yield "max_pool-1", [x], opset1.max_pool(x, *two, [2, 2])
    yield "max_pool-8", [x], opset8.max_pool(x, [1, 1], [1, 1], [0, 0], [0, 0], [2, 2]).outputs()
    yield "max_pool-14", [x], opset14.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).outputs()
    yield "adaptive_avg_pool", [x], ops.adaptive_avg_pool(x, _c([2, 3]))
    yield "adaptive_max_pool", [x], ops.adaptive_max_pool(x, _c([2, 3])).outputs()
    yield "convolution", [x], ops.convolution(x, _ones(3, 2, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])
    yield "convolution-same", [x], ops.convolution(x, _ones(3, 2, 3, 3), [1, 1], [0, 0], [0, 0], [1, 1], "same_upper")
    yield "group_convolution", [x], ops.group_convolution(x, _ones(2, 1, 1, 3, 3), [2, 2], [1, 1], [1, 1], [1, 1])
    yield (
        "transposed",
        [x],
        ops.convolution_backprop_data(x, _ones(2, 3, 3, 3), [2, 2], pads_begin=[1, 1], pads_end=[1, 1]),
    )
    sized = _c([12, 12])
    yield "transposed-sized", [x], ops.convolution_backprop_data(x, _ones(2, 3, 3, 3), [2, 2], sized)
    yield (
        "group_transposed", [x],
        ops.group_convolution_backprop_data(x, _ones(2, 1, 1, 3, 3), [2, 2], pads_begin=[0, 0], pads_end=[0, 0]),
    )  # fmt: skip
    offsets, mask = _x(1, 18, 6, 6, name="offsets"), _x(1, 9, 6, 6, name="mask")
    weights = _ones(3, 2, 3, 3)
    yield (
        "deformable", [x, offsets, mask],
        opset8.deformable_convolution(x, offsets, weights, [1, 1], [1, 1], [1, 1], [1, 1], mask),
    )  # fmt: skip
    for mode in ("nearest", "linear", "linear_onnx", "cubic"):
        yield f"interpolate-{mode}", [x], opset11.interpolate(x, sized, mode, "sizes", axes=_c([2, 3]))
    for mode in ("bilinear_pillow", "bicubic_pillow"):
        yield f"interpolate-{mode}", [x], opset11.interpolate(x, sized, mode, "sizes", axes=_c([2, 3]))
    yield (
        "interpolate-scales",
        [x],
        opset11.interpolate(x, _c([1.5, 1.5], "float32"), "nearest", "scales", axes=_c([2, 3])),
    )
    grid = _x(1, 4, 4, 2, name="grid")
    for mode in ("bilinear", "bicubic", "nearest"):
        settings = {"align_corners": False, "mode": mode, "padding_mode": "zeros"}
        yield f"grid_sample-{mode}", [x, grid], ops.grid_sample(x, grid, settings)
    boxes, batch = _x(3, 4, name="boxes"), _c([0, 0, 0])
    yield "roi_align", [x, boxes], ops.roi_align(x, boxes, batch, 2, 2, 2, 1.0, "avg", "half_pixel")
    turned = _x(3, 5, name="boxes")
    yield "roi_align_rotated", [x, turned], opset15.roi_align_rotated(x, turned, batch, 2, 2, 2, 1.0, True)  # noqa: FBT003
    columns = _x(1, 8, 9)
    yield "col2im", [columns], opset15.col2im(columns, _c([4, 4]), _c([2, 2]))
    yield "broadcast", [x], ops.broadcast(x, _c([3, 2, 6, 6]), broadcast_spec="BIDIRECTIONAL")
    yield "broadcast-explicit", [a], opset3.broadcast(a, _c([2, 3, 4, 5]), _c([0, 1, 2]), "EXPLICIT")
    yield "broadcast-1", [a], opset1.broadcast(a, _c([5, 2, 3, 4]))
    yield "concat", [x, y], ops.concat([x, y], 1)
    indices = _x(3, kind="int64", name="indices")
    yield "gather-1", [a, indices], opset1.gather(a, indices, _c(1))
    yield "gather-7", [a, indices], opset7.gather(a, indices, _c(1))
    yield "gather-8", [a, indices], opset8.gather(a, indices, _c(1))
    same = _x(2, 3, 4, kind="int64", name="indices")
    yield "gather_elements", [a, same], ops.gather_elements(a, same, 1)
    rows = _x(2, 1, kind="int64", name="indices")
    yield "gather_nd-5", [a, rows], opset5.gather_nd(a, rows)
    yield "gather_nd-8", [a, rows], opset8.gather_nd(a, rows)
    yield "pad-1", [a], opset1.pad(a, _c([0, 1, 1]), _c([0, 0, 1]), "constant", _c(0, "float32"))
    yield "pad-12", [a], opset12.pad(a, _c([0, 1, 1]), _c([0, 0, 1]), "reflect")
    yield "reshape", [a], ops.reshape(a, _c([0, -1]), True)  # noqa: FBT003
    yield "squeeze", [x], opset1.squeeze(x, _c([0]))
    yield "squeeze-15", [x], opset15.squeeze(x, _c([0]), True)  # noqa: FBT003
    yield "tile", [a], ops.tile(a, _c([1, 2, 1]))
    yield "transpose", [a], ops.transpose(a, _c([2, 0, 1]))
    yield "unsqueeze", [a], ops.unsqueeze(a, _c([1]))
    yield "slice", [a], ops.slice(a, _c([0]), _c([5]), _c([2]), _c([2]))
    yield "slice-back", [a], ops.slice(a, _c([-1]), _c([-9]), _c([-1]), _c([2]))
    yield "slice_scatter", [a], opset15.slice_scatter(a, _ones(2, 3, 2), _c([0]), _c([4]), _c([2]), _c([2]))
    yield "strided_slice", [a], ops.strided_slice(a, _c([0, 1]), _c([2, 3]), _c([1, 1]), [0, 0], [1, 0], [], [0, 1], [])
    yield "split", [a], ops.split(a, _c(2), 2).outputs()
    yield "variadic_split", [a], ops.variadic_split(a, _c(2), _c([1, 3])).outputs()
    deep = _x(1, 8, 3, 3)
    yield "depth_to_space", [deep], ops.depth_to_space(deep, "blocks_first", 2)
    yield "space_to_depth", [x], ops.space_to_depth(x, "depth_first", 2)
    yield "batch_to_space", [deep], ops.batch_to_space(_ones(4, 1, 2, 2), _c([1, 1, 2, 2]), _c([0] * 4), _c([0] * 4))
    yield "space_to_batch", [x], ops.space_to_batch(x, _c([1, 1, 2, 2]), _c([0] * 4), _c([0] * 4))
    yield "shuffle_channels", [deep], ops.shuffle_channels(deep, 1, 4)
    yield "reverse_sequence", [a], ops.reverse_sequence(a, _c([1, 2], "int32"), 0, 1)
    yield "roll", [a], ops.roll(a, _c([1, 2]), _c([0, 1]))
    updates = _x(2, 3, 4, name="updates")
    yield "scatter_elements-3", [a, same, updates], opset3.scatter_elements_update(a, same, updates, _c(1))
    for how in ("none", "sum", "prod", "max", "mean"):
        yield (
            f"scatter_elements-{how}",
            [a, same, updates],
            opset12.scatter_elements_update(a, same, updates, _c(1), how),
        )
    part = _x(2, 3, 4, name="updates")
    yield "scatter_nd-4", [a, rows, part], opset4.scatter_nd_update(a, rows, part)
    yield "scatter_nd-15", [a, rows, part], opset15.scatter_nd_update(a, rows, part, "sum")
    yield "scatter", [a, indices], opset3.scatter_update(a, indices, _ones(2, 3, 4), _c(1))
    table, ids = _ones(9, 4), _x(2, 3, kind="int64", name="ids")
    flat = _x(6, kind="int64", name="ids")
    yield "bags-3", [flat], opset3.embedding_bag_offsets_sum(table, flat, _c([0, 2]), _c(0))
    yield "packed-3", [ids], opset3.embedding_bag_packed_sum(table, ids)
    yield "bags", [flat], opset15.embedding_bag_offsets(table, flat, _c([0, 2]), _c(0), reduction="mean")
    yield "packed", [ids], opset15.embedding_bag_packed(table, ids, reduction="mean")
    yield "segment_max", [a], ops.segment_max(a, _c([0, 1]), _c(3), "ZERO")
    yield "shape_of-1", [a], opset1.shape_of(a)
    yield "shape_of", [a], ops.shape_of(a)
    stop = _x(kind="int64", name="stop")
    yield "range", [stop], ops.range(_c(0), stop, _c(1), "i64")
    yield "eye", [stop], ops.eye(stop, _c(3), _c(0), "f32")
    yield "one_hot-1", [ids], opset1.one_hot(ids, _c(5), _c(1), _c(0), -1)
    yield "one_hot-16", [ids], ops.one_hot(ids, _c(5), _c(1), _c(0), -1, "normalize")
    yield "non_zero", [a], ops.non_zero(a, "i64")
    yield "topk-3", [a], opset3.topk(a, _c(2), 2, "max", "value").outputs()
    yield "topk-11", [a], opset11.topk(a, _c(2), -1, "min", "index", "i64", True).outputs()  # noqa: FBT003
    yield "unique", [a], ops.unique(a, _c(0)).outputs()
    edges = ops.constant(np.arange(4, dtype="float32"))
    yield "bucketize", [a], ops.bucketize(a, edges, "i64", False)  # noqa: FBT003
    yield "search_sorted", [a], opset15.search_sorted(edges, ops.reshape(a, _c([-1]), False))  # noqa: FBT003
    places, scores = _x(1, 6, 4, name="places"), _x(1, 2, 6, name="scores")
    nms = [_c(3), _c(0.5, "float32"), _c(0.1, "float32")]
    yield "nms-5", [places, scores], opset5.non_max_suppression(places, scores, *nms).outputs()
    yield "nms-9", [places, scores], ops.non_max_suppression(places, scores, *nms).outputs()
    chances = _x(2, 5, name="chances")
    yield "multinomial", [chances], opset13.multinomial(chances, _c([3]), "i64", True, False, 1, 2)  # noqa: FBT003
    yield "random", [stop], opset8.random_uniform(_c([2, 3]), low, high, "f32", 1, 2)
    signal = _x(1, 2, 8, 8, 2)
    for name in ("dft", "idft"):
        yield name, [signal], getattr(ops, name)(signal, _c([2, 3]))
    yield "rdft", [x], ops.rdft(x, _c([2, 3]))
    yield "irdft", [signal], ops.irdft(signal, _c([2, 3]))
    wave = _x(1, 64, name="wave")
    yield "stft", [wave], opset15.stft(wave, _ones(16), _c(16), _c(8), True)  # noqa: FBT003
    spectrum = _x(1, 9, 7, 2, name="spectrum")
    yield "istft", [spectrum], ops.istft(spectrum, _ones(16), _c(16), _c(8), True, False)  # noqa: FBT003
    step, state, cell = _x(2, 3), _x(2, 4, name="h"), _x(2, 4, name="c")
    bias = ("float32",)
    yield (
        "rnn_cell",
        [step, state],
        ops.rnn_cell(step, state, _ones(4, 3), _ones(4, 4), _c([0] * 4, *bias), 4, ["tanh"], [], []),
    )
    yield "gru_cell", [step, state], opset3.gru_cell(step, state, _ones(12, 3), _ones(12, 4), _c([0] * 12, *bias), 4)
    lstm = opset4.lstm_cell(step, state, cell, _ones(16, 3), _ones(16, 4), _c([0] * 16, *bias), 4)
    yield "lstm_cell", [step, state, cell], lstm.outputs()
    steps, first, lengths = _x(2, 5, 3), _x(2, 1, 4, name="h"), _c([5, 5])
    cells = _x(2, 1, 4, name="c")
    yield (
        "rnn",
        [steps, first],
        opset5.rnn_sequence(
            steps, first, lengths, _ones(1, 4, 3), _ones(1, 4, 4), _c([[0] * 4], *bias), 4, "forward"
        ).outputs(),
    )
    yield (
        "gru",
        [steps, first],
        opset5.gru_sequence(
            steps,
            first,
            lengths,
            _ones(1, 12, 3),
            _ones(1, 12, 4),
            _c([[0] * 16], *bias),
            4,
            "reverse",
            linear_before_reset=True,
        ).outputs(),
    )
    yield (
        "lstm",
        [steps, first, cells],
        opset5.lstm_sequence(
            steps, first, cells, lengths, _ones(1, 16, 3), _ones(1, 16, 4), _c([[0] * 16], *bias), 4, "forward"
        ).outputs(),
    )
    wide, wider = _x(2, 2, 4, name="h"), _x(2, 2, 4, name="c")
    yield (
        "lstm-both",
        [steps, wide, wider],
        opset5.lstm_sequence(
            steps, wide, wider, lengths, _ones(2, 16, 3), _ones(2, 16, 4), _c([[0] * 16] * 2, *bias), 4, "bidirectional"
        ).outputs(),
    )
    yield "if", *_make_if()
    yield "iterator", *_make_iterator()
    yield "loop", *_make_loop()
    yield "state", *_make_state()
    x2 = ops.parameter(ov.PartialShape([ov.Dimension(1, 8), -1, 4]), np.float32, name="x")
    yield "open", [x2], ops.relu(x2)


def _make_if() -> tuple[list[Any], Any]:
    x, condition = _x(2, 3), _x(kind="bool", name="condition")
    one, other = _x(2, 3), _x(2, 3)
    then, otherwise = ops.result(ops.relu(one)), ops.result(ops.exp(other))
    node = opset8.if_op(condition)
    node.set_then_body(ov.Model([then], [one], "then"))
    node.set_else_body(ov.Model([otherwise], [other], "else"))
    node.set_input(x.output(0), one, other)
    node.set_output(then, otherwise)
    return [condition, x], node.outputs()


def _make_iterator() -> tuple[list[Any], Any]:
    x, state = _x(5, 2, 3), _x(2, 3, name="h")
    step, before = _x(1, 2, 3), _x(2, 3)
    after = ops.add(ops.squeeze(step, _c([0])), before)
    last, each = ops.result(after), ops.result(ops.unsqueeze(after, _c([0])))
    node = opset1.tensor_iterator()
    node.set_body(ov.Model([last, each], [step, before], "body"))
    node.set_sliced_input(step, x.output(0), 0, 1, 1, -1, 0)
    node.set_merged_input(before, state.output(0), last.output(0))
    node.get_iter_value(last.output(0), -1)
    node.get_concatenated_slices(each.output(0), 0, 1, 1, -1, 0)
    return [x, state], node.outputs()


def _make_loop() -> tuple[list[Any], Any]:
    x, count = _x(2, 3), _x(kind="int64", name="count")
    turn, before = _x(kind="int64"), _x(2, 3)
    after, go_on = ops.result(ops.add(before, _ones(1, 1))), ops.result(_c(True, "bool"))  # noqa: FBT003
    node = opset5.loop(count, _c(True, "bool"))  # noqa: FBT003
    node.set_function(ov.Model([go_on, after], [turn, before], "body"))
    node.set_special_body_ports([0, 0])
    node.set_merged_input(before, x.output(0), after.output(0))
    node.get_iter_value(after.output(0), -1)
    return [x, count], node.outputs()


def _make_state() -> tuple[list[Any], Any]:
    from openvino.op import assign, read_value
    from openvino.op.util import Variable, VariableInfo

    info = VariableInfo()
    info.data_shape, info.data_type, info.variable_id = ov.PartialShape([4]), ov.Type.f32, "sum"
    variable, x = Variable(info), _x(4)
    total = ops.add(read_value(_c([0] * 4, "float32"), variable), x)
    return [x, assign(total, variable)], total


def make_operation(name: str) -> tuple[list[Any], Any]:
    """Return the inputs and the node (or several outputs) of one graph."""
    return next((inputs, node) for found, inputs, node in make_operations() if found == name)
