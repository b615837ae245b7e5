"""`check`: compare a bundle's outputs on a device with torch's, which are in its golden sample."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from msgspec.structs import replace

from npu_persist.bundle.buckets import describe_shapes
from npu_persist.bundle.comparison import TOLERANCES, find_failures, measure, merge, read_tolerance
from npu_persist.bundle.verification import Verification
from npu_persist.compilation.exact_outputs import exact_outputs
from npu_persist.compilation.local import read_graph
from npu_persist.compilation.recipe import Recipe
from npu_persist.errors import UsageError
from npu_persist.runtime.golden import read_golden_inputs, read_golden_outputs
from npu_persist.runtime.load import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.golden_records import Difference, Tolerance
    from npu_persist.bundle.graph_records import Graph
    from npu_persist.bundle.verification import Verify
    from npu_persist.hub.client import Token
    from npu_persist.progress import ProgressCallback
    from npu_persist.runtime.inputs import Array
    from npu_persist.runtime.model import Model
    from npu_persist.runtime.report import Report
    from npu_persist.store import Store
    from npu_persist.trust.policy import Trust

_Shapes = dict[str, tuple[int, ...]]

ToleranceSource = Literal["given", "manifest", "default"]


class CheckedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One output of the golden sample, as a device gave it.

    Attributes:
        output: The output's name.
        dtype: Its numpy dtype.
        shape: Its shape.
        is_right: Whether it is within the tolerance.
        difference: From torch's output: `max_abs`; `max_relative`, to the output's scale; `cosine`; and for integers
            and booleans `mismatched`, the share of elements that differ. Infinite if they cannot be compared.
        persisted: The difference that `persist` measured, on a CPU in float32; None without its check.
        problem: What the numbers do not show: another shape, NaN, infinities, how many integers differ; or None.
    """

    output: str
    dtype: str
    shape: tuple[int, ...]
    is_right: bool
    difference: Difference
    persisted: Difference | None
    problem: str | None


class CheckedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The golden sample's inference, in one bucket if there are any; or all of its calls, where the graph has states.

    Attributes:
        shapes: The bucket; None for the graph as it is.
        seconds: Duration of an inference, after the first ones.
        outputs: Its outputs.
    """

    shapes: _Shapes | None
    seconds: float
    outputs: tuple[CheckedOutput, ...]


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a bundle's results on a device match torch's; `to_dict` returns it as JSON-compatible data.

    Attributes:
        reference: The bundle.
        graph: Name of the graph, if the bundle has several.
        device: The requested device string.
        is_right: Whether every output of every run is within the tolerance.
        tolerance: The tolerance that was applied.
        tolerance_source: Its origin: "given" by the caller; "manifest": the tolerance of `persist`; "default": that
            of the weights' precision, because the bundle was persisted with check=False.
        runs: One for each bucket that the golden sample fits into, or one for the graph without buckets.
        skipped: Buckets that it does not fit into; these were not checked.
        report: How the model was loaded: the source, and the devices that executed it, with their precisions.
        warnings: The warnings of `persist`; a module that draws random numbers, for instance, has no fixed result.
    """

    reference: str
    graph: str | None = None
    device: str
    is_right: bool
    tolerance: Tolerance
    tolerance_source: ToleranceSource
    runs: tuple[CheckedRun, ...]
    skipped: tuple[_Shapes, ...]
    report: Report
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as dicts, lists, text and numbers; infinity and NaN are text."""
        found: dict[str, Any] = without_infinities(msgspec.to_builtins(self))
        return {**found, "report": self.report.to_dict()}


def check(  # noqa: PLR0913 (what `load` takes)
    reference: str | Path,
    device: str = "AUTO",
    *,
    graph: str | None = None,
    tolerance: Tolerance | float | None = None,
    config: Mapping[str, Any] | None = None,
    hint: str | None = None,
    buckets: Sequence[Mapping[str, Sequence[int]]] | None = None,
    verify: Verify = "full",
    cache: bool = True,
    compile_timeout: float | None = None,
    progress: ProgressCallback | None = None,
    trust: Trust = None,
    require_signature: bool = False,
    token: Token = None,
    local_files_only: bool = False,
    store: Store | str | Path | None = None,
) -> CheckResult:
    """Run a bundle's golden sample on a device, loaded as `load` does, and compare the outputs with torch's.

    This shows whether the device's results are right, for the compiled artifact, driver and precision that `load` with
    the same arguments uses. The sample runs in every bucket that it fits into, padded and cut back like a call, after
    one warm-up run. With AUTO it waits until the device is chosen. Integers and booleans that depend on no
    floating-point number must be equal.

    Args:
        reference: As for `load`.
        device: As for `load`, but without fallbacks: a missing device is an error.
        graph: Name of the graph, if the bundle has several.
        tolerance: The largest difference relative to an output's scale, or a `Tolerance`. None: the tolerance of
            `persist`; or, if that checked nothing, the default for the precision of the weights, as in `persist`.
        config: As for `load`.
        hint: As for `load`.
        buckets: As for `load`.
        verify: As for `load`.
        cache: As for `load`.
        compile_timeout: As for `load`.
        progress: As for `load`.
        trust: As for `load`.
        require_signature: As for `load`.
        token: As for `load`.
        local_files_only: As for `load`.
        store: As for `load`.

    Returns:
        The differences of each output, and the verdict. Wrong results raise no exception.

    Raises:
        UsageError: The bundle has no golden sample, or it fits into none of the buckets; or the bundle has several
            graphs, and `graph` is missing; or as for `load`.
        InferenceError: The device failed.
        NpuPersistError: Any other error that `load` raises.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-check", (torch.ones(1, 4),))
        >>> result = npu_persist.check("doc-check", "CPU")
        >>> result.is_right
        True
        >>> result.runs[0].outputs[0].difference.max_relative < 0.01
        True
    """
    with load(
        reference,
        device,
        graph=graph,
        config=config,
        hint=hint,
        buckets=buckets,
        verify=verify,
        cache=cache,
        compile_timeout=compile_timeout,
        progress=progress,
        trust=trust,
        require_signature=require_signature,
        token=token,
        local_files_only=local_files_only,
        store=store,
    ) as model:
        return check_model(model, tolerance)


def check_model(model: Model, tolerance: Tolerance | float | None) -> CheckResult:
    """Return what `check` does, of a loaded model."""
    bundle, graph = model.bundle, model.graph
    if bundle.manifest.golden_of(graph) is None:
        raise UsageError(f"{bundle.reference} has no golden sample to compare with: persist the model again")
    allowed, source = _find_tolerance(bundle, graph, tolerance)
    runs = tuple(_run(model, allowed))
    done = [run.shapes for run in runs]
    return CheckResult(
        reference=bundle.reference,
        graph=model.report.graph,
        device=model.report.device,
        is_right=all(output.is_right for run in runs for output in run.outputs),
        tolerance=allowed,
        tolerance_source=source,
        runs=runs,
        skipped=tuple(dict(shapes) for shapes in model.buckets if shapes not in done),
        report=model.report,
        warnings=bundle.manifest.warnings,
    )


def _find_tolerance(bundle: Bundle, graph: Graph, given: object) -> tuple[Tolerance, ToleranceSource]:
    golden = bundle.manifest.golden_of(graph)
    default = TOLERANCES[graph.precision]
    if given is not None:
        return read_tolerance(given, default), "given"
    if golden is None or golden.tolerance is None:
        return default, "default"
    return golden.tolerance, "manifest"


def _run(model: Model, tolerance: Tolerance) -> Iterator[CheckedRun]:
    golden = model.bundle.manifest.golden_of(model.graph)
    steps = range(1 if golden is None else golden.steps)
    calls = [read_golden_inputs(model.bundle, model.graph, step) for step in steps]
    expected = [read_golden_outputs(model.bundle, model.graph, step) for step in steps]
    persisted = {one.output: one for one in (golden and golden.differences) or ()}
    exact = _find_exact(model)
    prepared = [*zip(*(model._prepare(inputs) for inputs in calls), strict=True)]  # noqa: SLF001 (of this room)
    if not prepared:
        sample = describe_shapes({name: array.shape for name, array in calls[0].items()})
        there = "; ".join(map(describe_shapes, model.buckets))
        raise UsageError(
            f"{model.bundle.reference}: its golden sample, {sample}, fits into none of the sizes that it is loaded "
            f"for: {there}. Give buckets=[...] with one that it fits into"
        )
    for runs in prepared:
        shapes = runs[0][0]
        model.reset()
        for _, run in runs:
            run()  # a plugin that overwrites what it computed at compile time is right in the first run only
        model._settle()  # noqa: SLF001
        model.reset()
        began = time.perf_counter()
        answers = [run() for _, run in runs]
        seconds = (time.perf_counter() - began) / len(runs)
        compared = [
            _compare_output(
                name, [one[name] for one in expected], [outputs[at] for outputs in answers], tolerance, exact
            )
            for at, name in enumerate(expected[0])
        ]
        yield CheckedRun(
            shapes=None if shapes is None else dict(shapes),
            seconds=seconds,
            outputs=tuple(replace(one, persisted=persisted.get(one.output)) for one in compared),
        )


def _compare_output(
    name: str, expected: Sequence[Array], found: Sequence[Array], tolerance: Tolerance, exact: frozenset[str]
) -> CheckedOutput:
    """Return the worst of an output in all calls of the golden sample, and what is wrong in the first that is."""
    differences = [measure(name, *pair) for pair in zip(expected, found, strict=True)]
    wrong = [at for at, difference in enumerate(differences) if find_failures([difference], tolerance, exact)]
    at = wrong[0] if wrong else 0
    problem = _find_problem(expected[at], found[at]) if wrong else None
    if problem is not None and len(found) > 1:
        problem = f"call {at + 1}: {problem}"
    return CheckedOutput(
        output=name,
        dtype=found[at].dtype.name,
        shape=found[at].shape,
        is_right=not wrong,
        difference=functools.reduce(merge, differences),
        persisted=None,
        problem=problem,
    )


def _find_exact(model: Model) -> frozenset[str]:
    """Return the outputs that no rounding can change; the graph is read only where there may be such."""
    if all(port.dtype.startswith("float") for port in model.outputs):
        return frozenset()
    bundle, graph = model.bundle, model.graph
    with Verification("full") as verification:
        read = read_graph(Recipe(bundle, graph, "CPU", {}), verification)
        return exact_outputs(read, [port.name for port in graph.outputs])


def _find_problem(expected: Array, found: Array) -> str | None:
    """Return why an output cannot be compared; None where the numbers say it."""
    if expected.shape != found.shape:
        return f"torch's has the shape {list(expected.shape)}"
    if expected.dtype.kind != "f":
        wrong = int((expected != found).sum())
        return f"{wrong} of {found.size} differ" if wrong else None
    for whose, array in (("torch's output", expected), ("this", found)):
        if count := int(np.isnan(array).sum()):
            return f"{whose} is NaN in {count} of {array.size}"
    infinite = np.isinf(expected) | np.isinf(found)
    differing = int((expected[infinite] != found[infinite]).sum())
    return f"infinities differ in {differing} of {found.size}" if differing else None


def without_infinities(value: Any) -> Any:
    """Return plain values with infinities and NaN as text: JSON has none."""
    if isinstance(value, dict):
        return {key: without_infinities(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_infinities(item) for item in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
