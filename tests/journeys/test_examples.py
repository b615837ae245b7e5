"""Where example inputs come from, and which source wins."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch

from npu_persist.conversion.examples import find_example, record
from tests.support.modules import Affine

X = torch.zeros(1, 4)


class Lightning(Affine):
    example_input_array: Any = X


def test_given_ones_win() -> None:
    module = Lightning()
    with record(module):
        module(torch.ones(2, 4))
    assert find_example(module, (X,), None).source == "given"
    assert find_example(module, None, {"x": X}) == ((), {"x": X}, "given")


def test_recorded_ones_win_over_the_module_s_own() -> None:
    module = Lightning()
    with record(module):
        module(torch.ones(2, 4))
    example = find_example(module, None, None)
    assert example.source == "record"
    assert example.args[0].shape == (2, 4)


def test_what_was_recorded_does_not_change_later() -> None:
    module, x = Affine(), torch.ones(2, 4, requires_grad=True)
    with record(module):
        module(x)
    with torch.no_grad():
        x.zero_()
    recorded = find_example(module, None, None).args[0]
    assert recorded.sum() == 8
    assert not recorded.requires_grad


def test_a_recording_does_not_keep_the_module_alive() -> None:
    module = Affine()
    with record(module):
        module(X)
    reference = weakref.ref(module)
    del module
    gc.collect()
    assert reference() is None


def test_an_example_array_may_be_a_tensor_a_tuple_or_a_dict() -> None:
    module = Affine()
    for value, args, kwargs in ((X, (X,), {}), ((X, X), (X, X), {}), ({"x": X}, (), {"x": X})):
        module.example_input_array = value  # type: ignore[assignment]
        example = find_example(module, None, None)
        assert (list(example.args), dict(example.kwargs)) == (list(args), kwargs)


def test_transformers_models_that_take_no_tokens() -> None:
    from transformers import ViTConfig, ViTModel, WhisperConfig, WhisperModel

    vit = ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8))
    assert {name: tuple(t.shape) for name, t in find_example(vit, None, None).kwargs.items()} == {
        "pixel_values": (1, 3, 32, 32)
    }
    whisper = WhisperModel(
        WhisperConfig(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                      decoder_attention_heads=2, max_source_positions=50, vocab_size=60, pad_token_id=1,
                      bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    )  # fmt: skip
    made = find_example(whisper, None, None).kwargs
    assert tuple(made["input_features"].shape) == (1, 80, 100)
    whisper(**made)


def test_made_examples_are_the_same_every_time() -> None:
    from diffusers import UNet2DModel

    module = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    first, second = find_example(module, None, None).kwargs, find_example(module, None, None).kwargs
    assert all(torch.equal(first[name], second[name]) for name in first)
    module(**first)


def test_a_recording_through_a_wrapper_is_the_module_s() -> None:
    module = Affine()
    wrapped = torch.nn.DataParallel(module)
    with record(wrapped):
        wrapped(X)
    assert find_example(module, None, None).source == "record"
