"""First-inference latency: how long a user's process takes to its first output, with a cold and a warm compile cache.

The promise: each run is a process of its own that does nothing else; the cache that is cold is a temporary one, never
the user's; and configurations take turns, so that a busy minute hits all of them.

Cold means this package's compile cache, and OpenVINO's below it. The bundle's files stay in the system's page cache,
and what a driver caches for itself (the NPU's on Linux, in ~/.cache/ze_intel_npu_cache) is not touched.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from typing import TYPE_CHECKING, Any

from npu_persist.benchmark.measure import check_positive
from npu_persist.benchmark.results import Case, FirstInference, compare
from npu_persist.benchmark.subject import make_spec, started
from npu_persist.hub.pulled import resolve
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from npu_persist.store.api import AnyStore

    Arrays = Mapping[str, np.ndarray[Any, Any]]
    Listener = Callable[[Case, str, float, float], None]

CACHES = ("cold", "warm")


class FirstInferences:
    """Configurations whose first inference is timed; `run` does it, `results` has what was found, also after Ctrl-C."""

    def __init__(  # noqa: PLR0913 (what a benchmark has)
        self,
        references: Sequence[str],
        devices: Sequence[str],
        hints: Sequence[str | None] = (None,),
        *,
        runs: int = 5,
        inputs: Arrays | None = None,
        random: bool = False,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        store: AnyStore = None,
    ) -> None:
        """Choose the configurations: each reference on each device with each hint.

        Args:
            references: Bundles, as `load` takes them.
            devices: OpenVINO's device strings.
            hints: None is OpenVINO's own default.
            runs: How often each is measured, with a cold cache and then with the warm one that this leaves.
            inputs: An array for each input; making them counts for nothing.
            random: Random inputs although there is a golden sample.
            seed: Of the random inputs.
            config: OpenVINO properties.
            store: Where the bundles are.

        Raises:
            BundleNotFoundError: A reference leads nowhere.
            UsageError: There are to be no runs.
        """
        check_positive(runs=runs)
        opened = open_store(store)
        bundles = [resolve(opened, reference) for reference in references]
        # Loaded by their paths: the store's directory is where the compile cache is, and must be a temporary one.
        self._paths = {bundle.reference: str(bundle.path) for bundle in bundles}
        self._cases = [Case(*parts) for parts in itertools.product(self._paths, devices, hints)]
        self._runs = runs
        self._found: dict[tuple[Case, str], list[dict[str, Any]]] = {
            key: [] for key in itertools.product(self._cases, CACHES)
        }
        self._options: dict[str, Any] = {"inputs": inputs, "random": random, "seed": seed, "config": config}

    def run(self, listen: Listener | None = None) -> None:
        """Measure everything.

        Args:
            listen: Is given the configuration, "cold" or "warm", the seconds from the process's start, and how much of
                all is done, after each process.

        Raises:
            NpuPersistError: What loading or calling one of them raised; `results` has what was measured before.
        """
        done = 0
        for _, case in itertools.product(range(self._runs), self._cases):
            with tempfile.TemporaryDirectory(prefix="npu-persist-bench-", ignore_cleanup_errors=True) as home:
                for cache in CACHES:
                    found = self._measure(case, home, linger=cache == "cold")
                    self._found[case, cache].append(found)
                    done += 1
                    if listen is not None:
                        listen(case, cache, found["from_start"], done / self._runs / len(self._found))

    @property
    def results(self) -> tuple[FirstInference, ...]:
        """What was found: cold caches first, in the order of the configurations."""
        keys = sorted(self._found, key=lambda key: CACHES.index(key[1]))
        return tuple(self._summarize(*key) for key in keys if self._found[key])

    def _measure(self, case: Case, home: str, *, linger: bool) -> dict[str, Any]:
        spec = make_spec(case, self._paths[case.reference], home, linger=linger, **self._options)
        with started(str(case), spec) as subject:
            ready = subject.ready
            return {
                **ready,
                "from_start": ready["answered"] - subject.began - ready["inputs"],
                "from_load": ready["load"] + ready["first_inference"],
            }

    def _summarize(self, case: Case, cache: str) -> FirstInference:
        found = self._found[case, cache]
        from_start = tuple(run["from_start"] for run in found)
        first = [run["from_start"] for run in self._found[self._cases[0], cache]]
        phases = {name: statistics.median(run["phases"].get(name, 0.0) for run in found) for name in found[0]["phases"]}
        return FirstInference(
            case=case,
            cache=cache,
            from_start=from_start,
            from_load=tuple(run["from_load"] for run in found),
            phases=phases,
            from_cache=all(run["from_cache"] for run in found),
            ratio=compare(from_start, first) if len(self._cases) > 1 else None,
            execution_devices=tuple(found[-1]["execution_devices"]),
            full_names=tuple(found[-1]["full_names"]),
            openvino=found[-1]["openvino"],
        )
