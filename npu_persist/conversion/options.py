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

if TYPE_CHECKING:
    from npu_persist.artifact.target import Target
    from npu_persist.store import Store


@dataclass(frozen=True, kw_only=True)
class Options:
    """The checked arguments of `persist`, but for the module and its example.

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

    def __post_init__(self) -> None:
        """Raise UsageError for names that are not valid, and for padding without buckets."""
        self.store.check_names(self.name, self.alias)
        if self.padding is not None and self.buckets is None:
            raise UsageError("padding is for calls smaller than a bucket: give buckets too, or leave it out")


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


def read_precision(given: Precision) -> Precision:
    """Return a precision that bundles can have."""
    if given not in get_args(Precision):
        raise UsageError(f"precision must be one of {', '.join(map(repr, get_args(Precision)))}; got {given!r}.")
    return given


def read_tolerance(given: Tolerance | float | None, module: torch.nn.Module, precision: Precision) -> Tolerance:
    """Return the tolerance of the check against torch."""
    if isinstance(given, Tolerance):
        return given
    default = default_tolerance(module, precision)
    if given is None:
        return default
    if not isinstance(given, (int, float)) or not given > 0:  # type: ignore[redundant-expr]
        raise UsageError(f"tolerance must be a positive number or a Tolerance; got {given!r}.")
    # An error of r relative to the largest element moves the direction by an angle of that order, so cos >= 1 - r.
    return Tolerance(float(given), min(default.cosine, max(-1.0, 1.0 - float(given))))


def read_compile_targets(given: str | Sequence[str] | None) -> tuple[Target, ...]:
    """Return the targets; ToolchainError if nothing here compiles for one of them."""
    if given is None:
        return ()
    targets = read_targets(given)
    check_toolchain(targets, None)
    return targets


def read_metadata(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the user's metadata, which JSON can hold."""
    metadata = dict(given or {})
    try:
        json.dumps(metadata, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"metadata must be valid JSON: {error}.") from error
    if not _is_portable(metadata):
        raise UsageError("metadata must be JSON that every reader can hold: strings as keys, integers of 64 bits.")
    return metadata


def _is_portable(value: Any) -> bool:
    """Return whether nothing in a value that `json` takes would come back as something else, or not at all."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_portable(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_portable, value))
    return not isinstance(value, int) or abs(value) < 1 << 63
