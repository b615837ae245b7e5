"""What `persist` is asked for, checked once and before the module is touched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import openvino as ov
import torch

from npu_persist.bundle.manifest import Padding, Precision, Tolerance
from npu_persist.compilation.compile import check_toolchain, read_targets
from npu_persist.conversion.check import default_tolerance
from npu_persist.errors import UsageError
from npu_persist.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.artifact.target import Target


@dataclass(frozen=True, kw_only=True)
class Options:
    """The checked arguments of `persist`, without the module and its example.

    What needs the example to be checked (`dynamic_shapes`, `buckets`, `padding`) is as the caller gave it.
    """

    name: str
    alias: str | None
    store: Store
    dynamic_shapes: Any
    buckets: Sequence[Mapping[str, Sequence[int]]] | None
    padding: Mapping[str, Padding] | None
    precision: Precision
    check: bool
    tolerance: Tolerance
    targets: tuple[Target, ...]
    metadata: dict[str, Any]


def read_options(  # noqa: PLR0913 - the arguments of persist
    module: torch.nn.Module,
    name: str,
    *,
    alias: str | None,
    store: Store | str | Path | None,
    dynamic_shapes: Any,
    buckets: Sequence[Mapping[str, Sequence[int]]] | None,
    padding: Mapping[str, Padding] | None,
    precision: Precision,
    check: bool,
    tolerance: Tolerance | float | None,
    targets: str | Sequence[str] | None,
    metadata: Mapping[str, Any] | None,
) -> Options:
    """Check the arguments of `persist`.

    Raises:
        UsageError: one of them is not valid.
        ToolchainError: nothing here compiles for one of the targets.

    """
    if precision not in get_args(Precision):
        raise UsageError(f"precision must be one of {', '.join(map(repr, get_args(Precision)))}; got {precision!r}.")
    if padding is not None and buckets is None:
        raise UsageError("padding says how calls are filled up to buckets: give buckets too, or leave it out")
    _check_metadata(metadata)
    chosen = store if isinstance(store, Store) else Store(store)
    chosen.check_names(name, alias)
    wanted = () if targets is None else read_targets(targets)
    if wanted:
        check_toolchain(wanted, None)
    return Options(
        name=name,
        alias=alias,
        store=chosen,
        dynamic_shapes=dynamic_shapes,
        buckets=buckets,
        padding=padding,
        precision=precision,
        check=check,
        tolerance=_read_tolerance(tolerance, default_tolerance(module, precision)),
        targets=wanted,
        metadata=dict(metadata or {}),
    )


def check_module(model: object) -> None:
    """Raise UsageError for what is no module, or one without weights yet."""
    if isinstance(model, (ov.Model, ov.CompiledModel)):
        raise UsageError(
            f"{type(model).__name__} is an OpenVINO model already; persist takes the torch.nn.Module that it was made "
            "from. To keep an OpenVINO model as it is, use openvino.save_model."
        )
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"persist takes a torch.nn.Module; got {type(model).__module__}.{type(model).__qualname__}.")
    for name, tensor in model.named_parameters():
        if torch.nn.parameter.is_lazy(tensor):
            raise UsageError(f"{name} has no shape yet: run the lazy module once before persisting it.")


def _check_metadata(metadata: Mapping[str, Any] | None) -> None:
    try:
        json.dumps(dict(metadata or {}), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"metadata must be valid JSON: {error}.") from error
    if not _is_portable(metadata or {}):
        raise UsageError("metadata must be JSON that every reader can hold: strings as keys, integers of 64 bits.")


def _is_portable(value: Any) -> bool:
    """Return whether nothing in a value that `json` takes would come back as something else, or not at all."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_portable(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_portable, value))
    return not isinstance(value, int) or abs(value) < 1 << 63


def _read_tolerance(given: Tolerance | float | None, default: Tolerance) -> Tolerance:
    if given is None:
        return default
    if isinstance(given, Tolerance):
        return given
    if not isinstance(given, (int, float)) or not given > 0:  # type: ignore[redundant-expr]
        raise UsageError(f"tolerance must be a positive number or a Tolerance; got {given!r}.")
    # An error of r relative to the largest element moves the direction by an angle of that order, so cos >= 1 - r.
    return Tolerance(float(given), min(default.cosine, max(-1.0, 1.0 - float(given))))
