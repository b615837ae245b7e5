"""Compiles a graph for `refresh`'s check as `load` compiles it for the CPU, and keeps that in the compile cache.

What a CPU compiles holds values that were computed from weights, so nothing of another version's is taken over: the
check compiles the new graph once, and the first `load` for the CPU finds it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from npu_persist.bundle.comparison import needs_f32
from npu_persist.cache import CompileCache
from npu_persist.compilation.index_guards import guard_graph
from npu_persist.compilation.local import WEIGHTLESS, Compiled, export_blob
from npu_persist.compilation.recipe import make_recipe
from npu_persist.compilation.wide_integers import clamp_integers
from npu_persist.conversion.check import compile_for_check, read_written
from npu_persist.device.core import get_core
from npu_persist.device.devices import PRECISION, name_precision, read_property
from npu_persist.device.precision import FULL
from npu_persist.errors import CompilationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    import openvino as ov

    from npu_persist.bundle.bundle import Bundle

log = logging.getLogger(__name__)

_DEVICE = "CPU"
_FAILURES = (CompilationError, StoreError, OSError)


class AsLoaded(NamedTuple):
    """A graph that was compiled for the CPU.

    Attributes:
        model: The graph.
        compiled: What OpenVINO made of it.
    """

    model: ov.Model
    compiled: Compiled


def compile_as_loaded(graph: Path, weights: Path) -> AsLoaded:
    """Compile a graph that was written a moment ago, in float32."""
    model = read_written(graph, weights)
    guard_graph(model)
    clamp_integers(model)
    began = time.perf_counter()
    compiled = compile_for_check(model, **WEIGHTLESS)
    return AsLoaded(model, Compiled(compiled, time.perf_counter() - began))


def export_compiled(bundle: Bundle, found: AsLoaded, home: Path, until: ExitStack) -> Callable[[], None]:
    """Write what was compiled for the check into the compile cache's staging, where it stays until the end of `until`.

    Returns what puts it into the cache once the bundle is published. Neither is ever an error.
    """
    [graph] = bundle.manifest.graphs
    precision = name_precision(read_property(get_core(), _DEVICE, PRECISION))
    if graph.buckets is not None or (precision != FULL and not needs_f32(bundle.manifest, graph)):
        return _do_nothing  # `load` compiles for other sizes, or lets a CPU with bf16 compute in that
    recipe, cache = make_recipe(bundle, graph, _DEVICE, {}), CompileCache(home)
    try:
        if cache.find_distrust() is not None or cache.find(recipe.key) is not None:
            return _do_nothing
        staging = until.enter_context(cache.stage())
        artifact = export_blob(recipe, found.compiled, staging)
    except _FAILURES as error:
        log.info("%s: what the check compiled is not kept: %s", bundle.name, error)
        return _do_nothing

    def keep() -> None:
        try:
            cache.publish(artifact, staging)
        except _FAILURES as error:
            log.info("%s: what the check compiled is not kept: %s", artifact.name, error)

    return keep


def _do_nothing() -> None:
    pass
