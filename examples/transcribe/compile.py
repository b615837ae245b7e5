"""Compile encoder and decoder for an NPU that is not here. Without PyTorch, and without an NPU.

Needs access to Intel's compiler: `npu-persist toolchain install` on Linux.
"""

from __future__ import annotations

import argparse

import npu_persist as npup


def main() -> None:
    """Compile both graphs, for one recording at a time, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="NPU:4000", help="such as NPU:4000 (default: %(default)s)")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    for result in npup.compile("transcribe", options.target, store=options.store):
        assert result.artifact is not None
        print(f"{result.label}: {result.artifact.size / 1e6:.1f} MB in {result.seconds:.1f} s")


if __name__ == "__main__":
    main()
