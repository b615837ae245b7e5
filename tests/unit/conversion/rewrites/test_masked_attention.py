"""Attention rows without a key are as torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops
from torch.nn import functional

from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import export, trace
from npu_persist.conversion.check import compile_for_check
from npu_persist.conversion.convert import convert
from npu_persist.conversion.dynamic import read_dynamic_shapes
from npu_persist.conversion.rewrites import DECODER_REWRITES, SPEECH_REWRITES
from npu_persist.conversion.rewrites.masked_attention import zero_rows_without_key
from tests.support.as_torch import assert_as_torch

MASKED = {"bool": None, "-inf": float("-inf"), "lowest": torch.finfo(torch.float32).min, "-1e4": -1e4}


class Attention(torch.nn.Module):
    """Fused attention; with `merge`, behind it the transposition that all models have."""

    def __init__(self, *, merge: bool = False, **options: Any) -> None:
        super().__init__()
        self.merge = merge
        self.options = options

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        result = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.options)
        return result.transpose(1, 2).flatten(2) if self.merge else result


def tensors(*shape: int, keys: int = 4, heads: int | None = None) -> list[torch.Tensor]:
    other = [*shape[:-2], keys, shape[-1]]
    if heads is not None:
        other[-3] = heads
    return [torch.randn(shape), torch.randn(other), torch.randn(other)]


def mask(kind: str, *shape: int, empty: tuple[int, ...] = ()) -> torch.Tensor:
    """Return a mask, triangular where it has rows for queries, in which rows `empty` have no key."""
    keys = torch.ones(shape, dtype=torch.bool).tril(shape[-1] - shape[-2]) if shape[-2] > 1 else torch.ones(shape) > 0
    keys[..., list(empty), :] = False
    fill = MASKED[kind]
    return keys if fill is None else torch.zeros(shape).masked_fill(~keys, fill)


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize("merge", [False, True])
def test_rows_without_a_key(kind: str, *, merge: bool) -> None:
    torch.manual_seed(0)
    given = tensors(2, 2, 4, 8)
    assert_as_torch(
        Attention(merge=merge),
        (*given, mask(kind, 2, 1, 4, 4)),
        (*given, mask(kind, 2, 1, 4, 4, empty=(0, 2))),
        (*given, mask(kind, 2, 1, 4, 4, empty=(0, 1, 2, 3))),
    )


@pytest.mark.parametrize(
    ("given", "shape", "options"),
    [
        ((4, 8), (4, 4), {}),
        ((2, 4, 8), (2, 4, 4), {}),
        ((1, 2, 2, 4, 8), (2, 1, 4, 4), {}),
        ((2, 2, 4, 8), (4, 4), {"merge": True}),
        ((2, 2, 4, 8), (2, 1, 1, 4), {"merge": True}),
        ((2, 2, 4, 8), (2, 2, 4, 4), {"scale": 0.3}),
        ((2, 2, 4, 8), (1, 4), {"scale": -0.3}),
        ((2, 2, 3, 8), (3, 4), {}),
        ((2, 2, 6, 8), (6, 4), {}),
        ((2, 4, 64, 48), (64, 4), {}),
        ((2, 4, 64, 48), (64, 4), {"merge": True}),
    ],
)
def test_shapes_and_scales(given: tuple[int, ...], shape: tuple[int, ...], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    q, k, v = tensors(*given)
    others = [(q, k, v, mask("bool", *shape, empty=(0,))), (q, k, v, mask("bool", *shape, empty=(shape[-2] - 1,)))]
    assert_as_torch(Attention(**options), (q, k, v, mask("bool", *shape)), *others)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_modules_in_half_precision(dtype: torch.dtype) -> None:
    given = [tensor.to(dtype) for tensor in tensors(1, 2, 4, 8)]
    call = bind_call(Attention(), (*given, mask("-inf", 4, 4, empty=(1,)).to(dtype)), {})
    model = convert(trace(call, fix_sizes=True), read_dynamic_shapes(None, call))
    (got,) = compile_for_check(model).create_infer_request().infer([tensor.numpy() for tensor in call.tensors]).values()
    expected = call.run(call.tensors).tensors[0].float().numpy()
    np.testing.assert_allclose(got.astype(np.float32), expected, atol=0.02)


def test_grouped_heads() -> None:
    given = tensors(2, 4, 4, 8, heads=2)
    all_keys, some = mask("bool", 2, 1, 4, 4), mask("bool", 2, 1, 4, 4, empty=(1,))
    assert_as_torch(Attention(enable_gqa=True), (*given, all_keys), (*given, some))


@pytest.mark.parametrize("keys", [3, 4, 5])
def test_causal_attention_has_a_key_in_each_row(keys: int) -> None:
    assert_as_torch(Attention(is_causal=True), tensors(1, 2, 4, 8, keys=keys), tensors(1, 2, 4, 8, keys=keys))


def test_sizes_that_vary() -> None:
    torch.manual_seed(0)
    length = torch.export.Dim("length", min=2, max=16)

    class SelfAttention(torch.nn.Module):
        def forward(self, x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(x, x, x, attn_mask=keys[:, None, None, :])

    model = assert_as_torch(
        SelfAttention(),
        (torch.randn(2, 2, 4, 8), torch.ones(2, 4) > 0),
        (torch.randn(2, 2, 7, 8), torch.arange(14).reshape(2, 7) > 6),
        dynamic_shapes={"x": {2: length}, "keys": {1: length}},
    )
    assert model.bundle.graph().inputs[1].shape[1] != 4


def test_an_exported_program() -> None:
    given = (*tensors(1, 2, 4, 8), mask("bool", 1, 1, 4, 4, empty=(1,)))
    call = bind_call(module := Attention(), given, {})
    capture = export(call, call.run(call.tensors), None)
    model = convert(capture, read_dynamic_shapes(None, call))
    (got,) = compile_for_check(model).create_infer_request().infer([tensor.numpy() for tensor in given]).values()
    np.testing.assert_allclose(got, module(*given).numpy(), atol=1e-6)


def attention_model(keys: Any, count: int = 1) -> ov.Model:
    """Return a model of attentions that share a mask, which is an input where `keys` is a shape."""
    parameters = [ops.parameter([1, 2, 4, 8], np.float32, name=f"x{index}") for index in range(count)]
    if isinstance(keys, list):
        given = ops.parameter(keys, np.bool_, name="mask")
        inputs = [*parameters, given]
    else:
        given, inputs = ops.constant(keys), parameters
    return ov.Model([ops.scaled_dot_product_attention(x, x, x, given) for x in parameters], inputs)


def kinds(model: ov.Model) -> list[str]:
    return [operation.get_type_name() for operation in model.get_ordered_ops()]


def test_a_constant_mask_with_keys_costs_nothing() -> None:
    model = attention_model(np.tril(np.ones((4, 4), np.bool_)))
    before = kinds(model)
    zero_rows_without_key(model)
    assert kinds(model) == before


def test_a_constant_mask_without_keys() -> None:
    keys = np.tril(np.ones((4, 4), np.bool_), -1)
    model = attention_model(keys)
    zero_rows_without_key(model)
    x = torch.randn(1, 2, 4, 8)
    expected = functional.scaled_dot_product_attention(x, x, x, torch.from_numpy(keys)).numpy()
    np.testing.assert_allclose(compile_for_check(model)([x.numpy()])[0], expected, atol=1e-6)


def test_the_transposition_behind_is_used_across_a_reshape_that_changes_nothing() -> None:
    query, mask = ops.parameter([1, 2, 4, 8], np.float32), ops.parameter([1, 1, 4, 4], np.bool_)
    attention = ops.scaled_dot_product_attention(query, query, query, mask)
    same = ops.reshape(attention, ops.constant([0, -1, 4, 8]), special_zero=True)
    model = ov.Model([ops.transpose(same, ops.constant([0, 2, 1, 3]))], [query, mask])
    zero_rows_without_key(model)
    assert kinds(model).count("Transpose") == 2, "the result's own, and that of which rows have a key"


def test_a_shared_mask_is_rewritten_once() -> None:
    model = attention_model([1, 1, 4, 4], count=3)
    zero_rows_without_key(model)
    assert (kinds(model).count("ReduceLogicalOr"), kinds(model).count("Select")) == (1, 3)


def test_attention_in_a_branch() -> None:
    condition, x, keys = ops.parameter([], np.bool_), ops.parameter([1, 2, 4, 8], np.float32), [1, 1, 4, 4]
    given = ops.parameter(keys, np.bool_)
    then, other = attention_model(keys), ops.parameter([1, 2, 4, 8], np.float32)
    branch = ops.if_op(condition)
    branch.set_then_body(then)
    branch.set_else_body(otherwise := ov.Model([ops.relu(other)], [other]))
    branch.set_input(x.output(0), then.get_parameters()[0], other)
    branch.set_input(given.output(0), then.get_parameters()[1], None)
    result = branch.set_output(then.results[0], otherwise.results[0])
    model = ov.Model([result], [condition, x, given])
    zero_rows_without_key(model)
    value = np.ones((1, 2, 4, 8), np.float32)
    got = compile_for_check(model)([np.ones((), np.bool_), value, np.zeros((1, 1, 4, 4), np.bool_)])[0]
    np.testing.assert_array_equal(got, np.zeros_like(value))


def test_rows_that_nobody_reads_are_finite_at_no_cost() -> None:
    call = bind_call(Attention(), (*tensors(1, 2, 4, 8), mask("bool", 1, 1, 4, 4, empty=(0,))), {})
    capture = trace(call, fix_sizes=True)
    model = convert(capture, read_dynamic_shapes(None, call), rewrites=DECODER_REWRITES)
    (found,) = compile_for_check(model)([tensor.numpy() for tensor in call.tensors]).values()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:, :, 1:], capture.results.tensors[0].numpy()[:, :, 1:], atol=1e-5)
    assert "Transpose" not in {operation.get_type_name() for operation in model.get_ops()}


def test_masks_with_keys_are_added() -> None:
    causal = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    call = bind_call(Attention(), (*tensors(1, 2, 4, 8), causal), {})
    capture = trace(call, fix_sizes=True)
    model = convert(capture, read_dynamic_shapes(None, call), rewrites=SPEECH_REWRITES)
    (attention,) = [node for node in model.get_ops() if node.get_type_name() == "ScaledDotProductAttention"]
    mask = attention.input_value(3)
    assert (mask.get_node().get_type_name(), mask.get_element_type()) == ("Select", ov.Type.f32)
    (found,) = compile_for_check(model)([tensor.numpy() for tensor in call.tensors]).values()
    np.testing.assert_allclose(found, capture.results.tensors[0].numpy(), atol=1e-5)
