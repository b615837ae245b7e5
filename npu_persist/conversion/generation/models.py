"""What a language model keeps from token to token: found by running it once, not by its name."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from npu_persist.conversion.examples import has_example
from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npu_persist.conversion.examples import Example

_AXES = 4
_CONSTANTS = frozenset({"_sliding_window_tensor"})
"""Tensors of transformers' cache layers that are no state."""
_OTHER_SENSES = frozenset({"pixel_values", "pixel_values_videos", "input_features", "input_values"})
"""What a forward that takes more than text is given."""


@dataclass(frozen=True)
class Past:
    """Keys and values of the layers that have them, by the layer's number, and how many layers there are."""

    layers: Mapping[int, tuple[torch.Tensor, torch.Tensor]]
    count: int

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Keys and values in turn."""
        return tuple(tensor for pair in self.layers.values() for tensor in pair)


def is_generation(example: Example) -> bool:
    """Tell whether an example without a call is a model that generates, which then keeps its past."""
    return not has_example(example) and generates(example.module)


def generates(module: Any) -> bool:
    """Tell whether transformers' `generate` works on a module that takes text, or hears and gives text."""
    if "transformers" not in sys.modules or not isinstance(module, transformers_class("GenerationMixin")):
        return False
    if not type(module).can_generate():
        return False
    return is_encoder_decoder(module) or not _OTHER_SENSES & accepted(module)


def transformers_class(name: str) -> Any:
    """Return a class of transformers, which made the model: this package does not import it."""
    return getattr(sys.modules["transformers"], name)


def is_encoder_decoder(module: Any) -> bool:
    """Tell whether a model has an encoder whose result its decoder attends to."""
    return bool(getattr(module.config, "is_encoder_decoder", False))


def accepted(module: torch.nn.Module) -> frozenset[str]:
    """Return the names of the parameters of a module's forward."""
    return frozenset(inspect.signature(module.forward).parameters)


def read_past(module: torch.nn.Module, cache: Any) -> Past:
    """Read the cache that a forward gave.

    Raises:
        ConversionError: It holds something else than keys and values that grow with each token.
    """
    cache = getattr(cache, "self_attention_cache", cache)
    layers = getattr(cache, "layers", None)
    if layers is None:
        what = "no cache" if cache is None else f"a {type(cache).__name__}"
        raise refuse(module, f"its forward returns {what} instead of keys and values by layer")
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for index, layer in enumerate(layers):
        held = sorted(name for name, value in vars(layer).items() if _holds_tensors(value))
        if other := [name for name in held if name not in {"keys", "values", *_CONSTANTS}]:
            raise refuse(module, f"layer {index} keeps {', '.join(other)} ({type(layer).__name__}), no keys that grow")
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None:
            continue
        if keys.ndim != _AXES or values.ndim != _AXES:
            raise refuse(module, f"the keys of layer {index} have {keys.ndim} axes instead of {_AXES}")
        found[index] = keys, values
    if not found:
        raise refuse(module, "no layer keeps keys and values")
    return Past(found, len(layers))


def _holds_tensors(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
    return any(isinstance(one, torch.Tensor) for one in values)


def refuse(module: torch.nn.Module, why: str) -> ConversionError:
    """Return the error for a model that cannot keep its past between calls."""
    return ConversionError(
        f"{type(module).__name__} cannot become a decoder with a KV cache: {why}. To persist its plain "
        'forward, give an example, such as kwargs={"input_ids": ...}.'
    )
