"""Where an inference spends its time: layer by layer, and by operation.

The promise: the times are the device's own counters, which cost time themselves: shares are what they are good for, and
`bench` without counters says how fast the model is. What they cover is the device's choice: the CPU's are means over
all inferences since the load, the slow first one included, other devices' may be those of the last inference alone.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from npu_persist.benchmark.results import Case, Layer, Profile, TypeSum
from npu_persist.benchmark.subject import make_spec, started
from npu_persist.hub.pulled import resolve
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from npu_persist.store.api import AnyStore

EXECUTED = "executed"
"""OpenVINO's word for layers that ran; others were folded into their neighbours."""


def profile(
    references: Sequence[str],
    devices: Sequence[str] = ("AUTO",),
    hints: Sequence[str | None] = (None,),
    *,
    runs: int = 20,
    store: AnyStore = None,
    **options: Any,
) -> Iterator[Profile]:
    """Give the profile of each reference on each device with each hint, one after the other.

    Args:
        references: Bundles, as `load` takes them.
        devices: OpenVINO's device strings.
        hints: None is OpenVINO's own default.
        runs: How many inferences.
        store: Where the bundles are.
        options: Inputs and config, as for `Benchmark`.

    Raises:
        BundleNotFoundError: A reference leads nowhere.
        UsageError: There are to be no runs, or the device has no counters.
        NpuPersistError: What loading or running one of them raised.
    """
    opened = open_store(store)
    bundles = [resolve(opened, reference).reference for reference in references]
    options["config"] = {**(options.get("config") or {}), "PERF_COUNT": "YES"}
    for case in itertools.starmap(Case, itertools.product(bundles, devices, hints)):
        with started(str(case), make_spec(case, case.reference, opened.home, **options)) as subject:
            yield _summarize(case, subject.ready, subject.profile(runs))


def _summarize(case: Case, ready: Mapping[str, Any], found: Mapping[str, Any]) -> Profile:
    executed = [layer for layer in found["layers"] if layer["status"] == EXECUTED]
    total = sum(layer["real_us"] for layer in executed)

    def share(microseconds: float) -> float:
        return microseconds / total if total else 0.0

    executed.sort(key=lambda layer: layer["real_us"], reverse=True)
    sums: dict[str, list[int]] = {}
    for layer in executed:
        sums.setdefault(layer["type"], []).append(layer["real_us"])
    types = [TypeSum(name, len(times), sum(times) / 1000, share(sum(times))) for name, times in sums.items()]
    return Profile(
        case=case,
        inference=found["inference"] * 1000,
        total=total / 1000,
        layers=tuple(
            Layer(one["name"], one["type"], one["exec_type"], one["real_us"] / 1000, share(one["real_us"]))
            for one in executed
        ),
        types=tuple(sorted(types, key=lambda one: one.milliseconds, reverse=True)),
        execution_devices=tuple(ready["execution_devices"]),
        full_names=tuple(ready["full_names"]),
        openvino=ready["openvino"],
    )
