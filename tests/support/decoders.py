"""Decoders of language models with their caches as states, made of OpenVINO's operations alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation

from npu_persist.bundle.graph_records import Dimension, Port
from tests.support.graphs import constant, make_model, parameter, publish_graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store

Stored = Literal["fp32", "fp16", "int8", "int4"]


@dataclass(frozen=True)
class Llama:
    """The config of a decoder like Llama's."""

    layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 128
    vocabulary: int = 96
    theta: float = 10_000.0
    epsilon: float = 1e-5
    precision: Stored = "fp16"
    seed: int = 0
    is_eager: bool = False

    @property
    def size(self) -> int:
        """Size of a head."""
        return self.hidden // self.heads


SMALL = Llama()


class Weights:
    """Weights by the names that transformers gives them; random where there are none, the same for the same seed."""

    def __init__(self, seed: int, precision: Stored, given: Mapping[str, np.ndarray[Any, Any]] | None = None) -> None:
        self._random = np.random.default_rng(seed)
        self._precision = precision
        self._given = given

    def vector(self, name: str, *shape: int, offset: float = 1.0) -> Any:
        """Return what is not compressed."""
        if self._given is not None:
            return constant(self._given[name])
        return constant(offset + 0.1 * self._random.standard_normal(shape, dtype=np.float32))

    def matrix(self, name: str, rows: int, columns: int, *, precision: Stored | None = None) -> Any:
        """Return a matrix as it is stored: a constant and what makes float32 of it."""
        if self._given is None:
            values = self._random.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)
        else:
            values = np.asarray(self._given[name], np.float32)
        return _store(values, precision or self._precision)


def _store(values: np.ndarray[Any, Any], precision: Stored) -> Any:
    if precision == "fp32":
        return constant(values)
    if precision == "fp16":
        return ops.convert(constant(values, "float16"), "f32")
    bits = int(precision.removeprefix("int"))
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    scale = np.maximum(np.maximum(-low, high) / 2 ** (bits - 1), 1e-6)
    integers = np.clip(np.round(values / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int8)
    if bits == 8:
        stored = constant(integers, "int8")
    else:
        nibbles = integers.reshape(-1, 2).view(np.uint8) & 15
        packed = np.ascontiguousarray(nibbles[:, 0] | nibbles[:, 1] << 4)
        stored = ov.op.Constant(ov.Tensor(packed, ov.Shape(values.shape), ov.Type.i4), shared_memory=False)
    halves = ops.multiply(ops.convert(stored, "f16"), constant(scale, "float16"))
    return ops.convert(halves, "f32")


def _ints(*values: int) -> Any:
    return constant(list(values), "int64")


def _linear(x: Any, weight: Any) -> Any:
    return ops.matmul(x, weight, transpose_a=False, transpose_b=True)


def _split(x: Any, heads: int, size: int) -> Any:
    """Return [batch, heads, tokens, size]."""
    return ops.transpose(ops.reshape(x, _ints(0, 0, heads, size), special_zero=True), _ints(0, 2, 1, 3))


def _join(x: Any, hidden: int) -> Any:
    return ops.reshape(ops.transpose(x, _ints(0, 2, 1, 3)), _ints(0, 0, hidden), special_zero=True)


def _norm(x: Any, weight: Any, epsilon: float) -> Any:
    mean = ops.reduce_mean(ops.power(x, constant(2)), _ints(-1), keep_dims=True)
    root = ops.sqrt(ops.add(mean, constant(epsilon)))
    return ops.multiply(weight, ops.multiply(x, ops.divide(constant(1), root)))


def _rotate(x: Any, cos: Any, sin: Any, size: int) -> Any:
    first = ops.slice(x, _ints(0), _ints(size // 2), _ints(1), _ints(3))
    second = ops.slice(x, _ints(size // 2), _ints(2**31 - 1), _ints(1), _ints(3))
    turned = ops.concat([ops.multiply(second, constant(-1)), first], -1)
    return ops.add(ops.multiply(x, cos), ops.multiply(turned, sin))


def _repeat(x: Any, times: int, heads: int, size: int) -> Any:
    """Return each head as often, as transformers does it."""
    if times == 1:
        return x
    shape = ops.shape_of(x)
    parts = [ops.gather(shape, _ints(*axes), constant(0, "int64")) for axes in ((0, 1), (2, 3))]
    wide = ops.broadcast(ops.unsqueeze(x, _ints(2)), ops.concat([parts[0], _ints(times), parts[1]], 0), "BIDIRECTIONAL")
    return ops.reshape(wide, _ints(0, heads, -1, size), special_zero=True)


def _attend(  # noqa: PLR0913
    query: Any, key: Any, value: Any, mask: Any, size: int, *, is_eager: bool
) -> Any:
    if not is_eager:
        return ops.scaled_dot_product_attention(query, key, value, mask, constant(size**-0.5))
    scores = ops.matmul(query, key, transpose_a=False, transpose_b=True)
    scores = ops.add(ops.multiply(scores, constant(size**-0.5)), mask)
    return ops.matmul(ops.softmax(scores, -1), value, transpose_a=False, transpose_b=False)


class _Caches:
    """The caches of one graph: inputs and outputs that become states."""

    def __init__(self, heads: int, size: int, beams: Any) -> None:
        self._heads, self._size, self._beams = heads, size, beams
        self.inputs: list[Any] = []
        self.outputs: list[tuple[str, Any]] = []

    def add(self, name: str, new: Any) -> Any:
        """Return the whole of a cache, with the new part at its end."""
        port = Port(f"past_key_values.{name}", "float32", (_OPEN, self._heads, Dimension(None, 0, None), self._size))
        past = parameter(port)
        self.inputs.append(past)
        kept = ops.gather(past, self._beams, constant(0, "int64"))
        whole = ops.concat([kept, new], 2)
        self.outputs.append((f"present.{name}", whole))
        return whole

    @property
    def pairs(self) -> dict[str, str]:
        return {f"past_key_values.{name[8:]}": name for name, _ in self.outputs}


_OPEN = Dimension("batch", 1, None)


def _ports(*names: str) -> list[Port]:
    axes = {
        "input_ids": (_OPEN, Dimension("sequence", 1, None)),
        "attention_mask": (_OPEN, Dimension("total", 1, None)),
        "position_ids": (_OPEN, Dimension("sequence", 1, None)),
        "beam_idx": (Dimension("beams", 1, None),),
    }
    return [Port(name, "int32" if name == "beam_idx" else "int64", axes[name]) for name in names]


def _make_stateful(model: ov.Model, caches: _Caches, heads: int, size: int) -> None:
    apply_make_stateful_transformation(model, caches.pairs)
    batch = ops.gather(
        ops.shape_of(next(port for port in model.inputs if "input_ids" in port.names)),
        _ints(0),
        constant(0, "int64"),
    )
    initial = ops.concat([batch, _ints(heads, 0, size)], 0)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([ops.broadcast(constant(0.0), initial)])
    model.validate_nodes_and_infer_types()


def make_llama(
    config: Llama = SMALL, given: Mapping[str, np.ndarray[Any, Any]] | None = None, *, tokens: int | None = None
) -> tuple[ov.Model, list[Port], list[Port]]:
    """Return a decoder with its ports: with its cache as state, or without one for so many tokens."""
    weights = Weights(config.seed, config.precision, given)
    size, hidden = config.size, config.hidden
    names = ("input_ids", "attention_mask", "position_ids") + (("beam_idx",) if tokens is None else ())
    ports = _ports(*names)
    if tokens is not None:
        ports = [replace_shape(port, (1, tokens)) for port in ports]
    inputs = [parameter(port) for port in ports]
    ids, mask, positions = inputs[:3]
    caches = None if tokens is not None else _Caches(config.kv_heads, size, inputs[3])
    table = weights.matrix("model.embed_tokens.weight", config.vocabulary, hidden)
    x = ops.gather(table, ids, constant(0, "int64"))
    angles = config.theta ** (-np.arange(0, size, 2, dtype=np.float32) / size)
    turns = ops.matmul(
        constant(angles.reshape(1, -1, 1)),
        ops.convert(ops.unsqueeze(positions, _ints(1)), "f32"),
        transpose_a=False,
        transpose_b=False,
    )
    turns = ops.transpose(turns, _ints(0, 2, 1))
    turns = ops.concat([turns, turns], -1)
    cos, sin = (ops.unsqueeze(node, _ints(1)) for node in (ops.cos(turns), ops.sin(turns)))
    wanted = _causal_mask(ids, mask)
    for layer in range(config.layers):
        name = f"model.layers.{layer}"
        normal = _norm(x, weights.vector(f"{name}.input_layernorm.weight", hidden), config.epsilon)
        parts = []
        for part, heads in (("q", config.heads), ("k", config.kv_heads), ("v", config.kv_heads)):
            weight = weights.matrix(f"{name}.self_attn.{part}_proj.weight", heads * size, hidden)
            parts.append(_split(_linear(normal, weight), heads, size))
        query, key, value = parts
        query, key = (_rotate(each, cos, sin, size) for each in (query, key))
        if caches is not None:
            key, value = caches.add(f"{layer}.key", key), caches.add(f"{layer}.value", value)
        times = config.heads // config.kv_heads
        key, value = (_repeat(each, times, config.heads, size) for each in (key, value))
        attended = _join(_attend(query, key, value, wanted, size, is_eager=config.is_eager), hidden)
        x = ops.add(x, _linear(attended, weights.matrix(f"{name}.self_attn.o_proj.weight", hidden, hidden)))
        normal = _norm(x, weights.vector(f"{name}.post_attention_layernorm.weight", hidden), config.epsilon)
        gate, up = (
            _linear(normal, weights.matrix(f"{name}.mlp.{part}_proj.weight", config.intermediate, hidden))
            for part in ("gate", "up")
        )
        down = weights.matrix(f"{name}.mlp.down_proj.weight", hidden, config.intermediate)
        x = ops.add(x, _linear(ops.multiply(ops.swish(gate), up), down))
    x = _norm(x, weights.vector("model.norm.weight", hidden), config.epsilon)
    logits = _linear(x, table)
    outputs = [Port("logits", "float32", (*ports[0].shape, config.vocabulary))]
    return _finish(inputs, logits, caches, config.kv_heads, size), ports, outputs


def _finish(inputs: list[Any], logits: Any, caches: _Caches | None, heads: int, size: int) -> ov.Model:
    if caches is None:
        return make_model(inputs, [("logits", logits)])
    model = make_model([*inputs, *caches.inputs], [("logits", logits), *caches.outputs])
    for port, name in zip(model.outputs, ["logits", *(name for name, _ in caches.outputs)], strict=True):
        port.get_tensor().set_names({name})
    _make_stateful(model, caches, heads, size)
    return model


def _causal_mask(ids: Any, mask: Any) -> Any:
    """Return what is added to the scores: [batch, 1, tokens, all tokens]."""
    total = ops.gather(ops.shape_of(mask), constant(1, "int64"), constant(0, "int64"))
    tokens = ops.gather(ops.shape_of(ids), constant(1, "int64"), constant(0, "int64"))
    zero, one = constant(0, "int64"), constant(1, "int64")
    columns = ops.range(zero, total, one, "i64")
    rows = ops.range(ops.subtract(total, tokens), total, one, "i64")
    seen = ops.less_equal(ops.unsqueeze(columns, _ints(0)), ops.unsqueeze(rows, _ints(1)))
    there = ops.convert(ops.unsqueeze(mask, _ints(1, 2)), "boolean")
    seen = ops.logical_and(ops.unsqueeze(seen, _ints(0, 1)), there)
    return ops.select(seen, constant(0.0), constant(-65504.0))


def replace_shape(port: Port, shape: tuple[int, ...]) -> Port:
    """Return a port of another shape."""
    return Port(port.name, port.dtype, shape)


def publish_llama(
    store: Store,
    config: Llama = SMALL,
    given: Mapping[str, np.ndarray[Any, Any]] | None = None,
    *,
    name: str = "llama",
    tokens: int | None = None,
) -> Bundle:
    """Publish a decoder as a bundle."""
    model, inputs, outputs = make_llama(config, given, tokens=tokens)
    return publish_graph(store, model, inputs, outputs, name=name, precision=config.precision)


def with_seed(config: Llama, seed: int) -> Llama:
    """Return the same shape with other weights."""
    return replace(config, seed=seed)


def continue_greedily(model: Any, prompt: list[int], count: int) -> list[int]:
    """Return the next tokens after a prompt; of a compiled model, or of a request of one."""
    request = model.create_infer_request() if hasattr(model, "create_infer_request") else model
    if hasattr(model, "create_infer_request"):
        request.reset_state()
    found: list[int] = []
    feed, total = list(prompt), 0
    while len(found) < count:
        start, total = total, total + len(feed)
        logits = request.infer(
            {
                "input_ids": np.array([feed], np.int64),
                "attention_mask": np.ones((1, total), np.int64),
                "position_ids": np.arange(start, total, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )[0]
        feed = [int(logits[0, -1].argmax())]
        found += feed
    return found
