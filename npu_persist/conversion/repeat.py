"""Runs a module again: whether its answer depends on earlier calls, or on random numbers.

A forward that changes nothing and draws nothing is not run again. One that leaves something behind, such as a cache of
sines, is run after a call with other values: if the result is the same, there is no warning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from npu_persist.errors import ConversionError, ParityError, RandomnessWarning, StateWarning

if TYPE_CHECKING:
    from npu_persist.conversion.call import Call, Results
    from npu_persist.errors import PersistWarning

_SAME = 1e-5
"""Relative to the largest value; below, two answers of torch's are the same."""
_NAMES = 5


@dataclass(frozen=True)
class Repetition:
    """How a module's answer changes from call to call.

    Attributes:
        caveats: Warnings about state and random numbers.
        noise: By output, how far apart two answers are with other random numbers, relative to the largest value.
    """

    caveats: tuple[PersistWarning, ...] = ()
    noise: tuple[tuple[str, float], ...] = ()


def repeat(call: Call, results: Results) -> Repetition:
    """Run the example again where its forward left something behind or drew random numbers."""
    effects = results.effects
    if not effects.any:
        return Repetition()
    caveats = _find_state(call, results)
    noise = _find_noise(call, results)
    drawn = [name for name, _ in noise] or [
        name for name, is_random in zip(results.names, results.on_random, strict=True) if is_random
    ]
    if drawn:
        what = (
            "random numbers, which the forward draws itself" if noise else "random numbers from a seed in the forward"
        )
        caveats.append(
            RandomnessWarning(
                f"output {', '.join(drawn)} depends on {what}: {'; '.join(effects.draws[:_NAMES])}. The loaded model "
                "draws other numbers, or always the same ones. To control them, pass them as an argument "
                "(noise, or the "
                "distribution's mode instead of a sample), and switch dropout off"
            )
        )
    return Repetition(tuple(caveats), noise)


def describe_noise(repetition: Repetition) -> ParityError:
    """Return the error for answers of torch's that differ by more than a graph's may."""
    name, _ = max(repetition.noise, key=lambda one: one[1])
    reason = next(text for text in repetition.caveats if isinstance(text, RandomnessWarning))
    return ParityError(
        f"output {name}: torch itself returns different results when run again, so they cannot be compared: "
        f"{reason}. Nothing was published. check=False publishes it as it is.",
        output=name,
    )


def _find_state(call: Call, results: Results) -> list[PersistWarning]:
    effects = results.effects
    if not effects.changes and not effects.written:
        return []
    again = _run_after_another(call)
    results = _as_run(call, results, again)
    differing = {name for name, _ in _compare(results, again)}
    differing |= {name for name, uses in zip(results.names, results.on_state, strict=True) if uses}
    touched = [*map(str, effects.changes), *effects.written]
    shown = ", ".join(touched[:_NAMES]) + (", …" if len(touched) > _NAMES else "")
    caveats: list[PersistWarning] = []
    if differing:
        names = ", ".join(name for name in results.names if name in differing)
        caveats.append(
            StateWarning(
                f"output {names} depends on what the forward writes into {shown}; each call of the loaded model starts "
                "from the values at the time of persist"
            )
        )
    if not caveats:
        later = {change.path: change.new for change in again.effects.changes if change.is_number}
        counts = [change for change in effects.changes if change.is_number and later.get(change.path) != change.new]
        caveats += [
            StateWarning(
                f"the forward counts in {change}: {change.old}, then {change.new}, then {later.get(change.path)}. What "
                "the forward does with the count, the loaded model does as in the first call"
            )
            for change in counts
        ]
    return caveats


def _run_after_another(call: Call) -> Results:
    """Run the example after a call with other values; after itself, where torch refuses those."""
    others = [tensor.flip(tuple(range(tensor.ndim))) for tensor in call.tensors]
    others = [tensor * 0.75 if tensor.is_floating_point() else tensor for tensor in others]
    try:
        return call.run(call.tensors, after=others)
    except ConversionError:
        return call.run(call.tensors, after=call.tensors)


def _find_noise(call: Call, results: Results) -> tuple[tuple[str, float], ...]:
    if not results.effects.draws:
        return ()
    again = call.run(call.tensors, seed=1)
    results = _as_run(call, results, again)
    found = _compare(results, again)
    return found or _compare(results, call.run(call.tensors, after=call.tensors))  # a generator of the module's own


def _as_run(call: Call, results: Results, again: Results) -> Results:
    """Return results of a plain forward: a trace has sizes as tensors, where axes are dynamic."""
    return results if results.names == again.names else replace(call.run(call.tensors), on_state=results.on_state)


def _compare(results: Results, again: Results) -> tuple[tuple[str, float], ...]:
    """Return the outputs that differ, and by how much."""
    if results.names != again.names or results.tree != again.tree:
        return tuple((name, float("inf")) for name in results.names)
    differences = [_measure(*pair) for pair in zip(results.tensors, again.tensors, strict=True)]
    return tuple((name, by) for name, by in zip(results.names, differences, strict=True) if by > _SAME)


def _measure(one: torch.Tensor, other: torch.Tensor) -> float:
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if torch.equal(one, other) or one.numel() == 0:
        return 0.0
    if not one.is_floating_point():
        return float("inf")
    scale, by = one.double().abs().max(), (one.double() - other.double()).abs().nan_to_num(0.0).max()
    return float(by / scale) if scale > 0 else float("inf")
