"""Makes torch's encoders and decoders capturable, with the answers that they give in inference.

`nn.TransformerEncoder` and `nn.TransformerDecoder` look into masks, which a capture would freeze:

- Where no hint `is_causal` is given, they compare the mask with a causal one, and then use the hint in its place. The
  mask alone gives the same answer.
- Outside of autograd, an encoder leaves padding out (as a nested tensor) where the mask pads on the right, and answers
  zeros there. Its other path, which is captured, answers what the layers make of padding: so zeros are written.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HINTS = {nn.TransformerEncoder: ("mask", "is_causal"), nn.TransformerDecoder: ("tgt_mask", "tgt_is_causal")}
"""The mask, and the argument that says whether it is causal."""


@contextlib.contextmanager
def as_in_inference(module: nn.Module) -> Iterator[None]:
    """While active, encoders and decoders in `module` do not look into masks, and answer as outside of autograd."""
    hooks: list[Any] = []
    for part in module.modules():
        for kind, names in _HINTS.items():
            if isinstance(part, kind):
                hooks.append(part.register_forward_pre_hook(_Hint(*names), with_kwargs=True))
        if isinstance(part, nn.TransformerEncoder) and len(part.layers) > 0 and _leaves_padding_out(part):
            checks = bool(getattr(part, "mask_check", True))
            hooks.append(part.layers[-1].register_forward_hook(_Zeros(only_aligned=checks), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _leaves_padding_out(encoder: nn.TransformerEncoder) -> bool:
    return bool(
        torch.backends.mha.get_fastpath_enabled()
        and getattr(encoder, "use_nested_tensor", False)
        and not encoder.layers[0].training
    )


class _Hint:
    """A hook that says that a mask is not causal, where nothing says whether it is."""

    def __init__(self, mask: str, hint: str) -> None:
        self._mask = mask
        self._hint = hint

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        try:
            given = inspect.signature(module.forward).bind(*args, **kwargs)
        except TypeError:  # the forward's own error is the better one
            return None
        if given.arguments.get(self._mask) is None or given.arguments.get(self._hint) is not None:
            return None
        given.arguments[self._hint] = False
        return given.args, given.kwargs


class _Zeros:
    """A hook behind an encoder's last layer that writes zeros where the encoder would have left padding out."""

    def __init__(self, *, only_aligned: bool) -> None:
        self._only_aligned = only_aligned

    def __call__(
        self, _layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: torch.Tensor
    ) -> torch.Tensor | None:
        padding = kwargs.get("src_key_padding_mask")
        if padding is None or kwargs.get("src_mask") is not None or args[0].dim() != 3 or torch.is_autocast_enabled():  # noqa: PLR2004 - a batch of sequences
            return None
        is_padding = padding != 0
        zeroed = is_padding
        if self._only_aligned:
            starts = is_padding[:, :-1] & ~is_padding[:, 1:]  # padding with a token behind it
            zeroed = is_padding & ~starts.any()
        return output.masked_fill(zeroed.unsqueeze(-1), 0)
