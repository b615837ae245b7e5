"""Pull the classifier from the hub and run it: the half without PyTorch, numpy only.

It runs only bundles that their owner signed. Add the owner's key to this device once:

    npu-persist keys add owner signer.pub.pem
"""

from __future__ import annotations

import argparse

import numpy as np

import npu_persist as npup

ENOUGH = 0.97
"""So many of the points on the spirals have to be told apart; noise in the training data costs a few."""


def main() -> None:
    """Draw which spiral the network takes each place of the plane for, and check it where the spirals are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", required=True, help="the repository that `persist.py` pushed to")
    parser.add_argument("--device", default="AUTO", help="NPU, GPU, CPU or AUTO")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    model = npup.load(f"hf://{options.repo}", device=options.device, require_signature=True, store=options.store)
    print(model.report)

    x, y = np.meshgrid(np.linspace(-3.5, 3.5, 32, dtype=np.float32), np.linspace(3.5, -3.5, 32, dtype=np.float32))
    plane = model(np.stack([x, y], axis=-1).reshape(1024, 2)).argmax(axis=1).reshape(32, 32)
    print("\n".join("".join(".#"[place] * 2 for place in row) for row in plane))

    radius = np.linspace(0.6, 2.9, 512)
    angle = np.concatenate([2 * radius, 2 * radius + np.pi])
    points = np.tile(radius, 2)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    right = (model(points.astype(np.float32)).argmax(axis=1) == np.repeat([0, 1], 512)).mean()
    assert right > ENOUGH, f"it should tell the spirals apart, but does for {right:.0%} of the points only"
    print(f"right for {right:.1%} of the points on the spirals")


if __name__ == "__main__":
    main()
