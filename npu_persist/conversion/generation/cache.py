"""A cache of keys and values that transformers' layers accept, made of tensors that a trace has as inputs.

Each layer keeps all keys, those of sliding windows, too: the mask leaves out what is beyond the window.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from npu_persist.conversion.generation.models import transformers_class

if TYPE_CHECKING:
    from collections.abc import Sequence


class Layer:
    """Keys and values of one layer, [batch, heads, sequence, size]; without a past, those of this call only."""

    is_sliding = False
    is_compileable = False
    is_initialized = True

    def __init__(self, keys: torch.Tensor | None = None, values: torch.Tensor | None = None) -> None:
        self.keys = keys
        self.values = values

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append this call's keys and values; return all of them."""
        self.keys = keys if self.keys is None else torch.cat([self.keys, keys], dim=-2)
        self.values = values if self.values is None else torch.cat([self.values, values], dim=-2)
        return self.keys, self.values

    def get_seq_length(self) -> Any:
        """Return how many keys there are: in a trace a tensor."""
        return 0 if self.keys is None else self.keys.shape[-2]


@functools.cache
def cache_class() -> Any:  # noqa: C901 - a class with a short method for each that transformers calls
    """Return the class of the cache: a subclass of transformers' own, since models ask for that."""
    base = transformers_class("DynamicCache")

    class TracedCache(base):  # type: ignore[misc, valid-type]
        """A cache of given layers, whose every method that a forward calls is here."""

        def __init__(self, layers: Sequence[Layer]) -> None:
            self.layers = [*layers]
            self.layer_class_to_replicate = None
            self.offloading = False

        def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
            return self.layers[layer_idx].update(keys, values)

        def get_seq_length(self, layer_idx: int | None = 0, *_: Any) -> Any:
            layer = self.layers[layer_idx or 0]
            if layer.keys is None:  # of a layer that attends to another one's keys
                layer = next((one for one in self.layers if one.keys is not None), layer)
            return layer.get_seq_length()

        def get_mask_sizes(self, query: Any, layer_idx: int = 0) -> tuple[Any, int]:
            is_positions = isinstance(query, torch.Tensor) and query.ndim > 0  # until transformers 5
            return self.get_seq_length(layer_idx) + (query.shape[0] if is_positions else query), 0

        def get_query_offset(self, layer_idx: int = 0) -> Any:
            return self.get_seq_length(layer_idx)

        def get_max_length(self, *_: Any) -> int:
            return -1

        def get_max_cache_shape(self, *_: Any) -> int:
            return -1

        @property
        def is_sliding(self) -> list[bool]:
            return [False] * len(self.layers)

        @property
        def is_linear(self) -> list[bool]:
            return [False] * len(self.layers)

        @property
        def is_dummy(self) -> list[bool]:
            return [layer.keys is None for layer in self.layers]

        @property
        def is_compileable(self) -> bool:
            return False

        @property
        def is_initialized(self) -> bool:
            return True

        def __len__(self) -> int:
            return len(self.layers)

    return TracedCache
