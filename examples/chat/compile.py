"""Compile the language model for an NPU that is not here. Without PyTorch, and without an NPU.

Needs access to Intel's compiler: `npu-persist toolchain install` on Linux.
"""

from __future__ import annotations

import argparse

import npu_persist as npup


def main() -> None:
    """Compile one blob for prompts and answers, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="NPU:4000", help="such as NPU:4000 (default: %(default)s)")
    parser.add_argument("--max-prompt", type=int, default=128, help="longest prompt, in tokens (default: %(default)s)")
    parser.add_argument("--min-response", type=int, default=64, help="tokens that can follow (default: %(default)s)")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    lengths = {"max_prompt": options.max_prompt, "min_response": options.min_response}
    (result,) = npup.compile("chat", options.target, **lengths, store=options.store)
    assert result.artifact is not None
    print(f"{result.label}: {result.artifact.size / 1e6:.1f} MB in {result.seconds:.1f} s")


if __name__ == "__main__":
    main()
