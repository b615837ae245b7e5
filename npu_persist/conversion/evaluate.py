"""How far the written graph is from torch on calls that the caller gives, beside the example."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from npu_persist.bundle.comparison import describe, describe_tolerance, find_failures, merge
from npu_persist.bundle.golden_records import Evaluation, Metric
from npu_persist.bundle.signature import rebuild
from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.conversion.call import bind_call
from npu_persist.conversion.check import measure_all
from npu_persist.errors import ParityError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    import openvino as ov

    from npu_persist.bundle.golden_records import Difference, Tolerance
    from npu_persist.conversion.call import Call


def bind_like(call: Call, given: Sequence[Any] | Mapping[str, Any], where: str) -> Call:
    """Return a call of the same module with the same arguments, with other tensors."""
    other = bind_call(call.module, *((), given) if isinstance(given, Mapping) else (given, {}))
    if (other.arguments, other.dtypes) != (call.arguments, call.dtypes):
        raise UsageError(f"{where} has different arguments than the example: pass the same ones, with the same types.")
    return other


def evaluate(  # noqa: PLR0913 - the model, and how it is to be measured
    call: Call,
    request: ov.InferRequest,
    calls: Iterable[Sequence[Any] | Mapping[str, Any]],
    tolerance: Tolerance,
    exact: Container[str],
    *,
    metrics: Mapping[str, Callable[[list[Any]], float]],
) -> Evaluation:
    """Run each call in torch and in OpenVINO; return the worst difference of each output, and the metrics.

    Raises:
        UsageError: There are no calls, or one is not like the example; or a metric failed.
        ParityError: One is beyond tolerance.
    """
    worst: dict[str, Difference] = {}
    answers: tuple[list[Any], list[Any]] = [], []  # of torch, and of the model
    count = 0
    for given in calls:
        where, count = f"evaluate: call {count}", count + 1
        other = bind_like(call, given, where)
        expected = call.run(other.tensors)
        try:
            found = [*request.infer([tensor.numpy() for tensor in other.tensors]).values()]
        except RuntimeError as error:
            raise UsageError(
                f"{where} does not run: {first_lines(str(error))} Give calls with the example's shapes, or "
                "dynamic_shapes for the axes that vary."
            ) from error
        differences = measure_all(expected, found)
        if failed := find_failures(differences, tolerance, exact):
            raise ParityError(
                f"{where}, output {failed[0].output}: OpenVINO differs from torch {describe(failed[0])} (allowed: "
                f"{describe_tolerance(failed[0], tolerance)}). Nothing was published.",
                output=failed[0].output,
                differences=differences,
            )
        worst |= {one.output: merge(one, worst.get(one.output, one)) for one in differences}
        if metrics:
            answers[0].append(rebuild(expected.tree, [tensor.numpy() for tensor in expected.tensors]))
            answers[1].append(rebuild(expected.tree, found))
    if not count:
        raise UsageError("evaluate has no calls: pass some, or leave it out.")
    measured = [
        Metric(name, _apply(name, metric, answers[0], "torch"), _apply(name, metric, answers[1], "OpenVINO"))
        for name, metric in metrics.items()
    ]
    return Evaluation(count, tuple(worst.values()), tuple(measured))


def _apply(name: str, metric: Callable[[list[Any]], float], answers: list[Any], whose: str) -> float:
    try:
        value: Any = metric(answers)
    except Exception as error:
        raise UsageError(
            f"metric {name!r} raised {type(error).__name__} for the answers of {whose}: {error}. It is given a list of "
            "them, one for each call, as a loaded model returns them. Nothing was published."
        ) from error
    if isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, (int, float, np.integer, np.floating)) or not math.isfinite(value):
        raise UsageError(
            f"metric {name!r} gave {value!r} for the answers of {whose}; it has to give a finite number. Nothing was "
            "published."
        )
    return float(value)
