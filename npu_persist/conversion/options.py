"""What `persist` is asked for, checked once and before a module is touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import openvino as ov
import torch

from npu_persist.bundle.graph_records import Activations, Padding, Precision
from npu_persist.compilation.compile import check_toolchain, read_targets
from npu_persist.compilation.fixed_sizes import read_image_size
from npu_persist.compilation.generation import check_numbers
from npu_persist.conversion.calibrate import require_nncf
from npu_persist.conversion.compress import BITS, Plan, Stored, check_keep
from npu_persist.conversion.examples import Example, unwrap
from npu_persist.conversion.states import check_states
from npu_persist.errors import UsageError
from npu_persist.files.filesystem import component_problem

if TYPE_CHECKING:
    from npu_persist.artifact.target import Target
    from npu_persist.bundle.golden_records import Tolerance

MAIN = "main"
"""Name of the graph of a bundle that is persisted from one module."""
LONGEST_FILE = ".golden.safetensors"
"""End of the longest name of a graph's files."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What one graph is made of, and how: the checked arguments of `persist`.

    What needs the example to be checked (`dynamic_shapes`, `buckets`, `padding`) is as the caller gave it.
    """

    name: str
    graph: str
    label: str
    """What to call the module in a warning."""
    module: torch.nn.Module
    args: Sequence[Any] | None
    kwargs: Mapping[str, Any] | None
    dynamic_shapes: Any
    buckets: Sequence[Mapping[str, Sequence[int]]] | None
    padding: Mapping[str, Padding] | None
    states: Mapping[str, str] | None
    initial: Mapping[str, Any] | None
    precision: Precision
    plan: Plan | None
    calibration: Sequence[Sequence[Any] | Mapping[str, Any]]
    by_layer: bool
    evaluate: Iterable[Sequence[Any] | Mapping[str, Any]] | None
    metrics: Mapping[str, Callable[[list[Any]], float]]
    check: bool
    tolerance: Tolerance
    targets: tuple[Target, ...]
    known_sizes: Literal["recording", "image"] | None = None
    """What the sizes are of that `compile` chooses by itself, for an NPU; None: it needs to be told."""
    is_generation: bool = False
    """Whether the module is one of transformers that generates, and the graph is to keep its past."""
    in_float: bool = False
    """Whether the graph takes, gives and computes in float32 what the module has in half precision."""

    def __post_init__(self) -> None:
        """Raise UsageError for options that contradict each other."""
        activations = None if self.plan is None else self.plan.activations
        if activations is not None and not self.calibration:
            raise UsageError(
                "quantizing activations needs real data: also pass calibration=, a few dozen calls of the module."
            )
        if self.calibration:
            if self.precision != "int4" and activations is None:
                raise UsageError(
                    'calibration is for int4 weights, or for int8 activations: pass precision="int4", or '
                    'precision="int8" and activations="int8", or leave it out.'
                )
            require_nncf()
        if self.evaluate is not None and not self.check:
            raise UsageError("evaluate compares with torch, which check=False switches off: pass only one of them.")
        if self.metrics and self.evaluate is None:
            raise UsageError("metrics measure the results of the calls in evaluate: pass evaluate= too.")
        if self.by_layer and (self.plan is None or not self.check):
            raise UsageError(
                'by_layer measures compressed weights: it needs precision="int8" or "int4", and the check.'
            )
        if self.by_layer and self.calibration:
            raise UsageError(
                "by_layer measures weights that are compressed without data: leave calibration out for it."
            )
        if self.padding is not None and self.buckets is None:
            raise UsageError("padding is for calls smaller than a bucket: pass buckets too, or leave it out")
        self._check_states()
        self._check_generation()

    def _check_generation(self) -> None:
        if self.is_generation:
            for name in ("calibration", "by_layer", "evaluate", "initial"):
                if getattr(self, name):
                    raise UsageError(
                        f"{name} takes single calls, but a generative model is persisted with its KV cache: leave it "
                        "out, or give an example to persist the plain forward."
                    )

    def _check_states(self) -> None:
        if self.states is not None:
            check_states(self.states, self.initial)
            if self.buckets is not None:
                raise UsageError("states: each bucket would have its own states; pass states or buckets, not both.")
            if self.evaluate is not None:
                raise UsageError(
                    "evaluate compares single calls, but with states each call continues the last: leave it out."
                )
        elif self.initial is not None:
            raise UsageError("initial sets the initial values of states: pass states too, or leave it out.")


def read_examples(model: object, of_one: Mapping[str, Any]) -> dict[str, Example]:
    """Return an example for each graph, by name, their modules without wrappers.

    Args:
        model: A module, or the examples.
        of_one: The arguments that belong to an example, given for the only module.
    """
    if not isinstance(model, Mapping):
        check_module(model)
        return {MAIN: Example(unwrap(model), **of_one)}  # type: ignore[arg-type]
    given = [name for name, value in of_one.items() if value is not None and value != ()]
    if given:
        raise UsageError(f"{', '.join(given)}: pass this to the Example of its graph.")
    _check_graph_names(model)
    examples: dict[str, Example] = {}
    for name, example in model.items():
        if not isinstance(example, Example):
            raise UsageError(f"graph {name}: expected an npu_persist.Example; got {type(example).__qualname__}.")
        check_module(example.module)
        options = {field.name: getattr(example, field.name) for field in fields(example)}
        examples[name] = Example(**{**options, "module": unwrap(example.module)})
    return examples


def _check_graph_names(names: Mapping[Any, object]) -> None:
    """Raise UsageError for names that no files can have side by side."""
    if not names:
        raise UsageError("expected a module, or at least one Example by the name of its graph; got an empty mapping.")
    seen: dict[str, str] = {}
    for name in names:
        problem = component_problem(f"{name}{LONGEST_FILE}") if isinstance(name, str) and name else "is no name"
        if problem:
            raise UsageError(f"graph {name!r}: expected a valid file name; with {LONGEST_FILE} it {problem}.")
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise UsageError(f"graphs {other!r} and {name!r}: expected names that differ in more than case.")


def check_module(model: object) -> None:
    """Raise UsageError for what is no module, or one without weights yet."""
    if isinstance(model, (ov.Model, ov.CompiledModel)):
        raise UsageError(
            f"{type(model).__name__} is already an OpenVINO model; persist takes the torch.nn.Module that it was made "
            "from. To keep an OpenVINO model as it is, use openvino.save_model."
        )
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"persist takes a torch.nn.Module; got {type(model).__module__}.{type(model).__qualname__}.")
    for name, tensor in model.named_parameters():
        if torch.nn.parameter.is_lazy(tensor):
            raise UsageError(f"{name} has no shape yet: run the lazy module once before persisting it.")


def read_precision(given: Precision) -> Precision:
    """Return a precision that bundles can have."""
    if given not in get_args(Precision):
        raise UsageError(f"precision must be one of {', '.join(map(repr, get_args(Precision)))}; got {given!r}.")
    return given


def read_plan(
    modules: Sequence[torch.nn.Module],
    precision: Precision,
    group_size: int | None,
    keep: Mapping[str, Stored] | None,
    activations: Activations | None = None,
) -> Plan | None:
    """Return how weights are to be compressed; None where they are not."""
    if activations is not None and (activations not in get_args(Activations) or precision != "int8"):
        raise UsageError(
            f"activations must be None, or 'int8' with precision=\"int8\"; got {activations!r} with precision="
            f'"{precision}".'
        )
    if precision not in BITS:
        if group_size is not None or keep is not None:
            raise UsageError(
                'group_size and keep are for compressed weights: pass precision="int8" or "int4", or leave them out.'
            )
        return None
    if group_size is not None and (precision != "int4" or type(group_size) is not int or group_size < 1):
        raise UsageError(f'group_size must be a positive number, for precision="int4" only; got {group_size!r}.')
    for pattern, stored in (keep or {}).items():
        if stored not in get_args(Precision) or (precision == "int8" and stored == "int4"):
            raise UsageError(f"keep: {pattern!r} must be kept as 'fp32', 'fp16' or 'int8'; got {stored!r}.")
    plan = Plan(precision, group_size, dict(keep or {}), activations)
    check_keep(modules, plan)
    return plan


def read_metrics(given: Mapping[str, Callable[[list[Any]], float]] | None) -> dict[str, Callable[[list[Any]], float]]:
    """Return the user's metrics: functions by name."""
    metrics: object = {} if given is None else given
    items = [*metrics.items()] if isinstance(metrics, Mapping) else [(None, None)]
    if not all(isinstance(name, str) and name and callable(function) for name, function in items):
        raise UsageError(f'metrics must be functions by name, as in {{"accuracy": accuracy}}; got {given!r}.')
    return dict(items)


@dataclass(frozen=True)
class AheadOfTime:
    """What the published bundle is compiled for at once.

    Attributes:
        targets: What for; nothing is compiled if there are none.
        max_prompt: Tokens of the longest prompt of a model that generates, on an NPU; None: as usual.
        min_response: Tokens of an answer that fits after any prompt, likewise.
        image_size: Height and width of the image of a pipeline of diffusers; None: as usual.
    """

    targets: tuple[Target, ...]
    max_prompt: int | None
    min_response: int | None
    image_size: tuple[int, int] | None

    @property
    def flags(self) -> str:
        """The same for `npu-persist compile`."""
        size = None if self.image_size is None else f"{self.image_size[0]}x{self.image_size[1]}"
        sizes = (("--max-prompt", self.max_prompt), ("--min-response", self.min_response), ("--image-size", size))
        return " ".join(
            [
                *(f"--target {target}" for target in self.targets),
                *(f"{name} {value}" for name, value in sizes if value is not None),
            ]
        )


def read_ahead_of_time(  # noqa: PLR0913 - what `persist` was given
    given: str | Sequence[str] | None,
    max_prompt: int | None,
    min_response: int | None,
    image_size: object,
    *,
    generates: bool,
    paints: bool,
) -> AheadOfTime:
    """Return what to compile for; ToolchainError if nothing here compiles for one of the targets."""
    check_numbers(max_prompt=max_prompt, min_response=min_response)
    size = read_image_size(image_size)
    targets = () if given is None else read_targets(given)
    if (max_prompt, min_response) != (None, None):
        if not generates:
            raise UsageError(
                "max_prompt, min_response: expected a model that `generate` of transformers works on, without an "
                "example. Leave them out"
            )
        if not any(target.kind == "NPU" for target in targets):
            raise UsageError("max_prompt, min_response: they are for an NPU. Give targets=['NPU:4000'] too")
    if size is not None and not (paints and targets):
        raise UsageError("image_size: expected a pipeline of diffusers and targets, such as ['NPU:4000']. Leave it out")
    check_toolchain(targets, None)
    return AheadOfTime(targets, max_prompt, min_response, size)


def read_metadata(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the user's metadata, which JSON can hold."""
    metadata = dict(given or {})
    try:
        json.dumps(metadata, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"metadata must be valid JSON: {error}.") from error
    if not _is_portable(metadata):
        raise UsageError("metadata must be portable JSON: strings as keys, 64-bit integers.")
    return metadata


def _is_portable(value: Any) -> bool:
    """Return whether nothing in a value that `json` takes would come back as something else, or not at all."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_portable(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_portable, value))
    return not isinstance(value, int) or abs(value) < 1 << 63
