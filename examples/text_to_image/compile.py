"""Compile the UNet for an NPU that is not here, for images of one size. Without PyTorch, and without an NPU.

Needs access to Intel's compiler: `npu-persist toolchain install` on Linux.
"""

from __future__ import annotations

import argparse

import npu_persist as npup


def main() -> None:
    """Compile for one latent and one prompt at a time, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="NPU:4000", help="such as NPU:4000 (default: %(default)s)")
    parser.add_argument("--latent", type=int, default=8, help="edge of the latents: of an image's, 1/8 (default: 8)")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    unet = npup.open("text-to-image", store=options.store).graph("unet")
    channels, width = (port.shape[axis] for port, axis in ((unet.inputs[0], 1), (unet.inputs[2], 2)))
    assert isinstance(channels, int)
    assert isinstance(width, int)
    bucket = {"sample": (1, channels, options.latent, options.latent), "encoder_hidden_states": (1, 77, width)}
    (result,) = npup.compile("text-to-image", options.target, graph="unet", buckets=[bucket], store=options.store)
    assert result.artifact is not None
    print(f"{result.label}: {result.artifact.size / 1e6:.1f} MB in {result.seconds:.1f} s")


if __name__ == "__main__":
    main()
