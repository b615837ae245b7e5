"""Run the encoder on texts of any length up to the largest bucket: the half without PyTorch."""

from __future__ import annotations

import argparse

import numpy as np

import npu_persist as npup


def main() -> None:
    """Print which blob runs here, load, and call the model with texts of several lengths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="AUTO", help="NPU, GPU, CPU or AUTO")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    for entry in npup.compatibility("text-encoder", options.device, store=options.store):
        print(f"{entry.folder.name}: {entry.verdict.status}. {' '.join(entry.verdict.reasons)}")
    model = npup.load("text-encoder", device=options.device, store=options.store)
    print(model.report)
    rng = np.random.default_rng(0)
    for length in (7, 32, 100):
        states = model(input_ids=rng.integers(1000, 30000, (1, length))).last_hidden_state
        assert states.shape[1] == length, states.shape
        print(f"{length} tokens: {states.shape}")


if __name__ == "__main__":
    main()
