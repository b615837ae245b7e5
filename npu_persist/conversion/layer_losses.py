"""Which compressed layers cost most: torch runs with all of them compressed, and with each in turn as it was."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from npu_persist.bundle.comparison import measure
from npu_persist.conversion.compress import BITS, quantize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from npu_persist.conversion.call import Call, Results
    from npu_persist.conversion.compress import Compressed

_SHOWN = 5
_FEW = (1, 2, 4, 8)
"""How many of the worst layers are kept at once, to tell what that would give."""


def measure_layers(
    call: Call, expected: Results, compressed: Mapping[str, Compressed], report: Callable[[float], None]
) -> str:
    """Return a text for a warning. It takes one forward of torch's for each compressed weight."""
    parameters = dict(call.module.named_parameters(remove_duplicate=False))
    rest = {name: (parameters[name], one) for name, one in compressed.items()}

    def loss(*kept: str) -> float:
        """Return the largest relative difference of any output, with these weights as they were."""
        with torch.no_grad(), contextlib.ExitStack() as stack:
            for name in kept:
                stack.enter_context(_as_it_was(rest[name][0], originals[name]))
            found = call.run(call.tensors)
        outputs = zip(expected.names, expected.tensors, found.tensors, strict=True)
        floats = [measure(name, one.numpy(), two.numpy()) for name, one, two in outputs if one.is_floating_point()]
        return max((one.max_relative for one in floats), default=0.0)

    originals = {name: parameter.detach().clone() for name, (parameter, _) in rest.items()}
    try:
        with torch.no_grad():
            for parameter, one in rest.values():
                parameter.copy_(_round(parameter, one))
        base = loss()
        losses: dict[str, float] = {}
        for number, name in enumerate(rest, 1):
            losses[name] = loss(name)
            report(number / len(rest))
        ranked = sorted(losses, key=losses.__getitem__)
        few = {count: loss(*ranked[:count]) for count in _FEW if count < len(ranked)}
    finally:
        with torch.no_grad():
            for name, (parameter, _) in rest.items():
                parameter.copy_(originals[name])
    each = ", ".join(f"{name} {losses[name]:.3g}" for name in ranked[:_SHOWN])
    kept = ", ".join(f"{count} {found:.3g}" for count, found in few.items())
    return f"compression costs {base:.3g} of the largest value in torch; with one layer uncompressed: {each}" + (
        f"; with the first n of these uncompressed, by n: {kept}" if few else ""
    )


def _round(parameter: torch.Tensor, one: Compressed) -> torch.Tensor:
    """Return a weight as the loaded model has it."""
    values, scale = quantize(parameter.detach().float().reshape(one.grouped), BITS[one.precision], one.reduced)
    return (values * scale.half().float()).reshape(parameter.shape)


@contextlib.contextmanager
def _as_it_was(parameter: torch.Tensor, original: torch.Tensor) -> Iterator[None]:
    compressed = parameter.detach().clone()
    parameter.copy_(original)
    try:
        yield
    finally:
        parameter.copy_(compressed)
