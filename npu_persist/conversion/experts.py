"""Mixtures of experts of transformers, computed in the one way that OpenVINO can hold."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

log = logging.getLogger(__name__)


@contextlib.contextmanager
def batching_experts(module: torch.nn.Module) -> Iterator[None]:
    """Let experts be one batched product for the time being: the default kernel, a grouped one, exists in torch only.

    Both give the same numbers. Models that were given "eager" or "batched_mm" keep it.
    """
    restores: list[tuple[Any, Any]] = []
    try:
        for part in module.modules():
            model: Any = part
            if not hasattr(part, "get_experts_implementation") or not model._can_set_experts_implementation():
                continue
            chosen = model.get_experts_implementation()
            if "grouped_mm" in chosen.values():
                restores.append((model, chosen))
                model.set_experts_implementation("batched_mm")
                log.info("%s: its experts use batched_mm while it is persisted", type(part).__name__)
        yield
    finally:
        for part, chosen in reversed(restores):
            part.set_experts_implementation(chosen)
