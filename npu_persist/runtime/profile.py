"""Where an inference spends its time, layer by layer, as the device counted it.

The promise: the device's own numbers, or an error; never zeros of counters that were off.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from npu_persist.errors import UsageError

if TYPE_CHECKING:
    import openvino as ov

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class LayerTime:
    """One layer of the compiled graph, which may be several of the graph's operations in one.

    Attributes:
        name: its name in the graph.
        type: its operation, for instance `MatMul`.
        exec_type: what the device ran for it, for instance `brgemm_avx2_f32`.
        status: `executed`, `not_run` or `optimized_out`.
        real_us: microseconds from its start to its end.
        cpu_us: microseconds of that on the host's processor.

    """

    name: str
    type: str
    exec_type: str
    status: str
    real_us: int
    cpu_us: int


def read_layers(compiled: ov.CompiledModel, request: Any, reference: str) -> tuple[LayerTime, ...]:
    """Return the times that a request's last inference left in the device's counters.

    Raises:
        UsageError: the model was loaded without counters, or the device has none.

    """
    try:
        is_counted = str(compiled.get_property("PERF_COUNT")).upper() in {"YES", "TRUE"}
    except RuntimeError:  # HETERO does not know the property, and passes it on: its numbers tell
        is_counted = any(info.real_time for info in request.get_profiling_info())
    layers = tuple(
        LayerTime(
            name=info.node_name,
            type=info.node_type,
            exec_type=info.exec_type,
            status=info.status.name.lower(),
            real_us=info.real_time // _MICROSECOND,
            cpu_us=info.cpu_time // _MICROSECOND,
        )
        for info in (request.get_profiling_info() if is_counted else ())
    )
    if not layers:
        raise UsageError(
            f"{reference} has no times of its layers: they are counted only in a model that was loaded for it. Write "
            f'load({reference!r}, device, config={{"PERF_COUNT": True}})'
        )
    return layers
