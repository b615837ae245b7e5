"""Encoder-decoder models: an example for the encoder, and a call of the decoder with the encoder's result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim

from npu_persist.conversion.examples import Example
from npu_persist.conversion.generation.cache import Layer, cache_class
from npu_persist.conversion.generation.decoder import PAST, TOKENS, DecoderCall, make_call, make_tokens
from npu_persist.conversion.generation.models import (
    accepted,
    is_encoder_decoder,
    is_generation,
    read_past,
    refuse,
    transformers_class,
)
from npu_persist.errors import DynamicShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from npu_persist.conversion.options import Options

_SOURCE, _USUAL_SOURCE = 7, 128
"""Length of the example's source text, and of one that a user may have."""


@dataclass(frozen=True, eq=False)
class CrossDecoderCall(DecoderCall):
    """A forward of the whole model, which leaves the encoder out where its result is given."""

    def make_cache(self, layers: Sequence[Layer]) -> Any:
        """Return a cache whose part for the encoder's keys is empty: they are computed from its result."""
        kind, both = cache_class(), transformers_class("EncoderDecoderCache")
        return both(kind(layers), kind([Layer() for _ in range(self.count)]))


def encoder_example(module: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return arguments for the encoder, and which of their sizes vary.

    Text comes as two sequences, the second padded; what a speech model hears at the one length that it takes.

    Raises:
        ConversionError: The encoder takes something else.
    """
    encoder, config = module.get_encoder(), module.config
    name = encoder.main_input_name
    # Beyond its positions a model fails, or makes more of them, which a graph cannot.
    batch, source = Dim("batch", min=1), Dim("source", min=1, max=getattr(config, "max_position_embeddings", None))
    if name == "input_ids":
        ids, mask = make_tokens(module.get_input_embeddings().weight.shape[0], _SOURCE)
        mask[1, -2:] = 0
        return {name: ids, "attention_mask": mask}, {key: {0: batch, 1: source} for key in (name, "attention_mask")}
    if name == "input_features" and hasattr(config, "max_source_positions"):
        dtype = next(encoder.parameters()).dtype
        shape = 2, config.num_mel_bins, 2 * config.max_source_positions
        heard = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        # GenAI gives the request a tensor of no recordings when it is done, so that its memory is free.
        return {name: heard}, {name: {0: Dim("batch", min=0)}}
    raise refuse(module, f"its encoder takes {name}")


def split(examples: dict[str, Example]) -> dict[str, Example]:
    """Return the examples; of one model that generates and has an encoder, those of its encoder and its decoder."""
    (example,) = examples.values()
    module: Any = example.module
    if not is_generation(example) or not is_encoder_decoder(module):
        return examples
    kwargs, shapes = encoder_example(module)
    return {"encoder": Example(module.get_encoder(), kwargs=kwargs, dynamic_shapes=shapes), "decoder": example}


def hears(examples: Mapping[str, Example]) -> bool:
    """Tell whether one of the models makes text of speech."""
    models = (one.module for one in examples.values() if is_generation(one))
    return any(_hears(model) for model in models if is_encoder_decoder(model))


def require_decoders(work: Sequence[Options]) -> None:
    """Raise DynamicShapeError if a target is an NPU, and a model has an encoder of text: no NPU runs its decoder."""
    npu = next((target for target in work[0].targets if target.kind == "NPU"), None)
    # A mask for what the encoder gave is nothing that NPUW knows.
    options = next((one for one in work if _is_cross(one) and not _hears(one.module)), None)
    if npu is None or options is None:
        return
    graph, bucket = "NAME", ""
    if (encoder := next((one for one in work if one.graph == "encoder" and one.kwargs), None)) is not None:
        config: Any = options.module.config
        size = min(getattr(config, "max_position_embeddings", None) or _USUAL_SOURCE, _USUAL_SOURCE)
        graph, bucket = "encoder", f" --bucket {','.join(f'{name}=1x{size}' for name in encoder.kwargs or ())}"
    raise DynamicShapeError(
        f"{options.name}: {npu} runs no decoder that takes a mask of the encoder's output. Leave targets out, and "
        f"compile other graphs when it is published: `npu-persist compile {options.name} --target {npu} --graph "
        f"{graph}{bucket}`",
        input="encoder_attention_mask",
        axis=1,
    )


def _is_cross(options: Options) -> bool:
    return options.is_generation and is_encoder_decoder(options.module)


def _hears(module: Any) -> bool:
    return bool(module.get_encoder().main_input_name == "input_features")


def cross_decoder_call(module: Any) -> DecoderCall:
    """Return an example call of an encoder-decoder model: three tokens after five.

    Raises:
        ConversionError: The model has no cache of keys and values.
    """
    takes = accepted(module)
    for name in ("decoder_input_ids", "encoder_outputs", "past_key_values"):
        if name not in takes:
            raise refuse(module, f"its forward takes no {name}")
    source, _ = encoder_example(module)
    ids, _ = make_tokens(module.get_output_embeddings().weight.shape[0], PAST + TOKENS, seed=1)
    mask = {name: value for name, value in source.items() if name == "attention_mask" and name in takes}
    states = module.get_encoder()(**source)[0]
    result = module(decoder_input_ids=ids[:, :PAST], encoder_outputs=(states,), **mask, use_cache=True)
    past = read_past(module, result.past_key_values)
    given = {"input_ids": ids[:, PAST:].contiguous(), "encoder_hidden_states": states}
    given |= {f"encoder_{name}": value for name, value in mask.items()}

    def rebuild(tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
        tokens, hidden, *masks = tensors
        return {"decoder_input_ids": tokens, "encoder_outputs": (hidden,), **dict(zip(mask, masks, strict=True))}

    return make_call(CrossDecoderCall, module, given, rebuild, result).with_past(past)
