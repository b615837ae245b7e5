"""Make an image of a text: the half without PyTorch, with OpenVINO GenAI (extra `genai`)."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import npu_persist as npup


def main() -> None:
    """Make the image twice from one seed, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", nargs="?", default="a lighthouse in a storm")
    parser.add_argument("--device", default="CPU", help="NPU, GPU, CPU")
    parser.add_argument("--steps", type=int, default=3, help="denoising steps (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE.ppm", help="write the image to this file")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    for entry in npup.compatibility("text-to-image", options.device, store=options.store):
        print(f"{entry.folder.name}: {entry.verdict.status}. {' '.join(entry.verdict.reasons)}")
    pipe = npup.pipeline("text-to-image", device=options.device, store=options.store)
    print(pipe.report)
    images = []
    for _ in range(2):
        began = time.perf_counter()
        made = pipe.generate(options.prompt, num_inference_steps=options.steps, rng_seed=7)
        images.append(np.array(made.data[0]))
        print(f"{options.steps} steps in {time.perf_counter() - began:.1f} s")
    height, width, _ = images[0].shape
    print(f"{height} by {width} pixels")
    assert np.array_equal(images[0], images[1])
    assert images[0].std() > 1
    if options.output:
        options.output.write_bytes(b"P6 %d %d 255\n" % (width, height) + images[0].tobytes())
        print(f"saved to {options.output}")


if __name__ == "__main__":
    main()
