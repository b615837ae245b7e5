"""One call of a decoder with its cache as a function from tensors to tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim

from npu_persist.bundle.graph_records import DictNode, TensorNode
from npu_persist.conversion.call import Call, Results
from npu_persist.conversion.dynamic import Axes
from npu_persist.conversion.generation.cache import Layer, cache_class
from npu_persist.conversion.generation.models import accepted, read_past, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from npu_persist.conversion.generation.models import Past

BATCH, PAST, TOKENS = 2, 5, 3
"""Sizes of the example, all different: with a size of 1 a trace could take other ways."""
LOGITS = "logits"


@dataclass(frozen=True, eq=False)
class DecoderCall(Call):
    """A forward of a decoder that takes the keys and values of earlier tokens, and gives those of all tokens.

    Attributes:
        past: Names of the inputs and outputs that hold them, in pairs.
        layers: The numbers of the layers that have them.
        count: How many layers there are.
        result: Name of the type that the forward gives.
    """

    past: tuple[tuple[str, str], ...] = ()
    layers: tuple[int, ...] = ()
    count: int = 0
    result: str = ""

    @property
    def own(self) -> int:
        """How many of the tensors are no keys or values."""
        return len(self.tensors) - len(self.past)

    @property
    def is_source_padded(self) -> bool:
        """Whether an encoder's result is of any length, with a mask; what is heard always has the same."""
        return "encoder_attention_mask" in self.input_names

    @property
    def axes(self) -> Axes:
        """Which sizes vary."""
        # GenAI gives the request a tensor of no sequences when it has heard a recording, so that its memory is free.
        batch = Dim("batch", min=0 if "encoder_hidden_states" in self.input_names else 1)
        tokens, source = Dim("tokens", min=1), Dim("source", min=1)
        known: dict[str, dict[int, Any]] = {
            "input_ids": {0: batch, 1: tokens},
            "position_ids": {0: batch, 1: tokens},
            "attention_mask": {0: batch, 1: Dim("total", min=1)},
            "encoder_hidden_states": {0: batch, 1: source} if self.is_source_padded else {0: batch},
            "encoder_attention_mask": {0: batch, 1: source},
        }
        past = {0: batch, 2: Dim("past", min=0)}
        return Axes({index: known.get(name, past) for index, name in enumerate(self.input_names)})

    def forward(
        self,
        tensors: Sequence[torch.Tensor],
        is_size: Callable[[torch.Tensor], bool] | None = None,  # noqa: ARG002 - it gives no numbers
    ) -> Results:
        """Call the module with a cache made of the last tensors."""
        typed = [tensor.to(dtype) for tensor, dtype in zip(tensors, self.dtypes, strict=True)]
        layers = [Layer() for _ in range(self.count)]
        for place, index in enumerate(self.layers):
            layers[index] = Layer(*typed[self.own + 2 * place : self.own + 2 * place + 2])
        cache = self.make_cache(layers)
        result = self.module(**self.rebuild(typed[: self.own]), past_key_values=cache, use_cache=True)
        held: list[Any] = [tensor for index in self.layers for tensor in (layers[index].keys, layers[index].values)]
        names = (LOGITS, *(present for _, present in self.past))
        tree = DictNode(tuple((name, TensorNode(index)) for index, name in enumerate(names)))
        return Results(tree, names, self.to_graph((result.logits, *held)), paths=names)

    def make_cache(self, layers: Sequence[Layer]) -> Any:
        """Return the cache that the module takes."""
        return cache_class()(layers)

    def with_past(self, past: Past) -> DecoderCall:
        """Return the call with a cache for its last tensors, under the names that OpenVINO's plugins look for."""
        part = "decoder." if "encoder_hidden_states" in self.input_names else ""
        names = tuple(
            (f"past_key_values.{index}.{part}{kind}", f"present.{index}.{part}{kind}")
            for index in past.layers
            for kind in ("key", "value")
        )
        held = [tensor.detach().clone() for tensor in past.tensors]
        return replace(
            self,
            tensors=(*self.tensors, *self.to_graph(held)),
            input_names=(*self.input_names, *(name for name, _ in names)),
            dtypes=(*self.dtypes, *(tensor.dtype for tensor in held)),
            past=names,
            layers=(*past.layers,),
            count=past.count,
        )


def decoder_call(module: Any) -> DecoderCall:
    """Return an example call of a decoder-only model: three tokens after five, the first sequence padded.

    Raises:
        ConversionError: The model has no cache of keys and values.
    """
    takes = accepted(module)
    for name in ("input_ids", "attention_mask", "past_key_values"):
        if name not in takes:
            raise refuse(module, f"its forward takes no {name}")
    ids, mask = make_tokens(module.get_input_embeddings().weight.shape[0], PAST + TOKENS)
    mask[0, :2] = 0
    whole = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    whole = {name: value for name, value in whole.items() if name in takes}
    result = module(**{name: value[:, :PAST] for name, value in whole.items()}, use_cache=True)
    past = read_past(module, getattr(result, "past_key_values", None))
    given = {
        name: (value if name == "attention_mask" else value[:, PAST:]).contiguous() for name, value in whole.items()
    }
    return make_call(
        DecoderCall, module, given, lambda tensors: dict(zip(given, tensors, strict=True)), result
    ).with_past(past)


def make_call(
    kind: type[DecoderCall],
    module: torch.nn.Module,
    given: dict[str, torch.Tensor],
    rebuild: Callable[[Sequence[torch.Tensor]], dict[str, Any]],
    result: object,
) -> DecoderCall:
    """Return a call with these tensors, and no past yet."""
    call = kind(
        module,
        tuple((name, TensorNode(index)) for index, name in enumerate(given)),
        tuple(value.detach().clone() for value in given.values()),
        (*given,),
        tuple(value.dtype for value in given.values()),
        rebuild,
        in_float=True,
        result=type(result).__name__,
    )
    return replace(call, tensors=call.to_graph(call.tensors))


def make_tokens(vocabulary: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens, no special ones, and a mask of ones."""
    low = min(3, vocabulary - 1)
    ids = torch.randint(low, vocabulary, (BATCH, length), generator=torch.Generator().manual_seed(seed))
    return ids, torch.ones(BATCH, length, dtype=torch.int64)
