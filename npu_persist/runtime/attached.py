"""Which attached artifact a load takes, of those that fit what is loaded.

The promise: an artifact is only chosen if it was compiled from this bundle's graph for these sizes, with the properties
that the load asks for (an NPU's may have more, that change no answers), nothing speaks against it and it is trusted;
each of the others has its reason. Its bytes are not compared with their digests here: whoever imports it does that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from npu_persist.artifact.compatibility import check_attached, version_numbers
from npu_persist.device.core import get_core
from npu_persist.device.devices import get_kind
from npu_persist.device.machine import describe_machine
from npu_persist.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.artifact.compatibility import Status
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.device.machine import Machine
    from npu_persist.trust.policy import Policy

_NAMED = 5
"""So many folders of artifacts for other graphs and sizes are named in a reason."""


_PRECISION = "INFERENCE_PRECISION_HINT"
"""A property that changes answers: nobody gets it who did not ask for it."""


class Candidate(NamedTuple):
    """An artifact that may be imported."""

    folder: Path
    artifact: Artifact
    status: Status
    reason: str
    """Why, and what is not known of it."""


class Choice(NamedTuple):
    """What there is to import, the best first, and the reason of each that is passed over."""

    candidates: list[Candidate]
    passed: list[str]


def choose_attached(
    recipe: Recipe, attached: Iterable[tuple[Path, Artifact | ArtifactError]], policy: Policy
) -> Choice:
    """Return which artifacts may stand for a recipe's compilation.

    Args:
        recipe: What is loaded.
        attached: What `list_attached` gave for its bundle.
        policy: What is trusted of it.
    """
    choice = Choice([], [])
    machine: Machine | None = None
    elsewhere: list[str] = []
    for folder, artifact in attached:
        name = folder.name
        if isinstance(artifact, ArtifactError):
            choice.passed.append(f"{name}: {artifact}")
        elif artifact.graph != recipe.graph.name or (artifact.shapes or {}) != (recipe.shapes or {}):
            elsewhere.append(name)  # whose blob need not be looked at: there may be one for each of many sizes
        else:
            machine = machine or describe_machine(get_core(), recipe.device)
            verdict = check_attached(recipe.bundle, folder, artifact, machine)
            status, reasons = verdict.status, verdict.reasons
            if against := [*_differences(artifact, recipe), *(reasons if status == "unsupported" else ())]:
                choice.passed.append(f"{name}: {' '.join(against)}")
                continue
            how = "is for this machine:" if status == "supported" else "may run on this machine:"
            decision = policy.decide(folder, artifact)
            text = " ".join(part for part in (name, how, *reasons, decision.reason) if part)
            if decision.is_trusted:
                choice.candidates.append(Candidate(folder, artifact, status, text))
            else:
                choice.passed.append(text)
    if elsewhere:
        names = ", ".join(elsewhere[:_NAMED]) + (f" and {len(elsewhere) - _NAMED} more" * (len(elsewhere) > _NAMED))
        choice.passed.append(f"{names}: for other graphs or sizes of inputs.")
    choice.candidates.sort(key=lambda candidate: _rank(candidate, recipe))
    return choice


def _differences(artifact: Artifact, recipe: Recipe) -> list[str]:
    """Return in what an artifact is for something else than a recipe, whatever the machine, as sentences."""
    differences = []
    if artifact.device != recipe.device and get_kind(artifact.device) == get_kind(recipe.device) != "NPU":
        differences.append(f"It was compiled for {artifact.device}; {recipe.device} is asked for.")
    asked, given = recipe.texts, dict(artifact.properties)
    if get_kind(artifact.device) == "NPU":
        # How well the compiler had to try, for instance, is none of the load's business.
        given = {name: text for name, text in given.items() if name in asked or name == _PRECISION}
    if given != asked:
        differences.append(f"It was compiled with the properties {dict(artifact.properties)}; {asked} is asked for.")
    return differences


def _rank(candidate: Candidate, recipe: Recipe) -> tuple[object, ...]:
    artifact = candidate.artifact
    same_release = version_numbers(artifact.openvino, 3) == version_numbers(recipe.openvino, 3)
    return (
        candidate.status != "supported",
        artifact.key != recipe.key,
        not same_release,
        dict(artifact.properties) != recipe.texts,
        [-number for number in version_numbers(artifact.compiler or "0", 3)],
        candidate.folder.name,
    )
