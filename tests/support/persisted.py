"""Bundles for the deploy tests, made where torch is: `python -m tests.support.persisted STORE`.

The deploy tests run these in an environment that never had torch; `.ci/run` carries the store from one to the other.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from typing import Any, NamedTuple

import torch

import npu_persist
from tests.models.architectures import ARCHITECTURES

NAMES = ("resnet", "vit", "bert", "whisper_encoder", "whisper_decoder", "unet_condition", "clip", "t5", "gpt2")
"""Of the table of architectures: each domain once."""


class Pair(NamedTuple):
    """A named tuple among the arguments and in the result."""

    first: Any
    second: Any


@dataclasses.dataclass
class Found:
    """A dataclass as a result."""

    scores: torch.Tensor
    parts: dict[str, Any]
    nothing: None = None


class Structured(torch.nn.Module):
    """Takes and gives every kind of structure at once."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(
        self,
        x: torch.Tensor,
        pair: Pair,
        *more: torch.Tensor,
        mask: torch.Tensor | None = None,
        scale: float = 2.0,
        options: dict[str, Any],
    ) -> Found:
        """Mix the arguments."""
        mixed = self.layer(x) * scale + pair.first.to(x.dtype) + sum(more)
        if mask is not None:
            mixed = mixed.masked_fill(mask, 0.0)
        return Found(mixed, {"pair": Pair(mixed + 1, x), "list": [pair.second, options["shift"][0] + 1], "number": 7})


def structured() -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Return the module and its example call."""
    torch.manual_seed(0)
    pair = Pair(torch.tensor([[1], [2]]), torch.ones((), dtype=torch.bool))
    args = (torch.randn(2, 4), pair, torch.randn(2, 3), torch.randn(3))
    kwargs = {"mask": torch.tensor([[True, False, False]]), "options": {"shift": [torch.arange(3), "unused"]}}
    return Structured().eval(), args, kwargs


def main(store: str) -> None:
    """Persist all of them."""
    # Tracing warns of each Python number that it freezes, transformers and diffusers of their own deprecations.
    warnings.simplefilter("ignore")
    by_name = {architecture.name: architecture for architecture in ARCHITECTURES}
    for name in NAMES:
        module, args, kwargs = by_name[name].build()
        npu_persist.persist(module, name, args, kwargs, store=store)
    module, args, kwargs = structured()
    npu_persist.persist(module, "structured", args, kwargs, precision="fp32", store=store)
    batch = torch.export.Dim("batch", min=1, max=8)
    linear = torch.nn.Linear(4, 2).to(torch.bfloat16)
    npu_persist.persist(
        linear, "dynamic", (torch.ones(2, 4, dtype=torch.bfloat16),), dynamic_shapes=({0: batch},), store=store
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
