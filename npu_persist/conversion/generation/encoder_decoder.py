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
    from collections.abc import Iterable, Mapping, Sequence

    from npu_persist.artifact.target import Target

_SOURCE = 7
"""Length of the example's source text."""


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


def require_compilable(examples: Mapping[str, Example], name: str, targets: Iterable[Target]) -> None:
    """Raise DynamicShapeError for an encoder and a decoder, as `split` gave them, and a target that is an NPU.

    Their sizes have to be chosen for each of the two.
    """
    npu = next((target for target in targets if target.kind == "NPU"), None)
    if npu is None or len(examples) == 1:
        return
    given = examples["encoder"].kwargs or {}
    bucket = ",".join(f"{key}={'x'.join(map(str, (1, *value.shape[1:])))}" for key, value in given.items())
    command = f"`npu-persist compile {name} --target {npu} --graph"
    # A mask for what the encoder gave is nothing that NPUW knows.
    decoder = "; its decoder runs on other devices" if "attention_mask" in given else f" and {command} decoder`"
    raise DynamicShapeError(
        f"{name}: {npu} compiles for fixed sizes, which have to be chosen for the encoder alone. Leave targets out, "
        f"and compile it when it is published: {command} encoder --bucket {bucket}`{decoder}",
        input=next(iter(given)),
        axis=0,
    )


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
