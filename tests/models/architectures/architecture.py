"""What an entry of the architectures' table is, and the example inputs that several domains share.

Promise: the same seed goes before the weights and before the inputs, so an entry is the same in every process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers

if TYPE_CHECKING:
    from collections.abc import Callable

Call = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]
"""A module with the positional and keyword arguments of one call of it."""


SMALL: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
"""Sizes of a small text model, as most configs of transformers name them."""
NO_CACHE: dict[str, Any] = {"use_cache": False}
WAVEFORM: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
"""The same of a speech model on waveforms."""


@dataclass(frozen=True)
class Architecture:
    """One row of the table: a name, its domain, and how to make a small one."""

    name: str
    kind: str
    make: Callable[[], Call]

    def build(self) -> Call:
        """Make the module in eval mode, with random weights that are the same every time, and its example call."""
        torch.manual_seed(0)
        module, args, kwargs = self.make()
        return module.eval(), args, kwargs


def image(size: int = 64, *, batch: int = 1, channels: int = 3) -> torch.Tensor:
    """Pixels as an image processor leaves them: zero mean, unit variance, (batch, channels, size, size)."""
    return torch.randn(batch, channels, size, size)


def tokens(*, batch: int = 2, length: int = 16, vocabulary: int = 200) -> torch.Tensor:
    """Token ids as (batch, length) int64; the lowest ids, which models give a meaning of their own, are left out."""
    return torch.randint(5, vocabulary, (batch, length))


def padding_mask(*, batch: int = 2, length: int = 16, padded: int = 4) -> torch.Tensor:
    """Attention mask as (batch, length) int64 in which the last row ends in padding."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - padded :] = 0
    return mask


def padded_text(*, batch: int = 2, length: int = 16, vocabulary: int = 200, pad: int = 0) -> dict[str, torch.Tensor]:
    """Keyword inputs as a tokenizer gives them for sentences of different length."""
    mask = padding_mask(batch=batch, length=length)
    ids = tokens(batch=batch, length=length, vocabulary=vocabulary)
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}


def causal(name: str, **sizes: Any) -> Call:
    """A causal model by its name in transformers; sizes of None are left out."""
    chosen = {**SMALL, "num_key_value_heads": 2, **sizes}
    config = getattr(transformers, f"{name}Config")(**{key: size for key, size in chosen.items() if size is not None})
    return getattr(transformers, f"{name}ForCausalLM")(config), (), {**padded_text(), **NO_CACHE}
