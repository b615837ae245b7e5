"""Compile the encoder for NPUs of other machines: the build machine's part, without PyTorch and without an NPU.

Needs a toolchain: `npu-persist toolchain install` on Linux. With `--dask` the compilations run on a cluster (package
`distributed`), here one on this machine, whose workers see the store under the same path.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING

import npu_persist as npup

if TYPE_CHECKING:
    from concurrent.futures import Executor

TARGETS = ["meteor-lake", "lunar-lake"]


def main() -> None:
    """Compile every bucket for every target, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", default=TARGETS, help="such as NPU:4000 (default: %(default)s)")
    parser.add_argument("--dask", action="store_true", help="on a cluster of dask.distributed")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    with ExitStack() as stack:
        executor: Executor | None = None
        if options.dask:
            from distributed import Client, LocalCluster

            cluster = stack.enter_context(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None))
            executor = stack.enter_context(Client(cluster)).get_executor()
        jobs = 2 if executor is None else 1  # the executor has its own
        results = npup.compile("text-encoder", options.target, jobs=jobs, executor=executor, store=options.store)
    for result in results:
        assert result.artifact is not None
        memory = (result.peak_memory or 0) / 1e6
        print(
            f"{result.label}: {result.artifact.size / 1e6:.1f} MB in {result.seconds:.1f} s, {memory:.0f} MB of memory"
        )


if __name__ == "__main__":
    main()
