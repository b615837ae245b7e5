"""Persist Silero's voice activity detector, trained, with its state: the half that needs PyTorch.

The network comes with the package `silero-vad`; `pip install --no-deps` leaves torchaudio out, which only reads files.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch

import npu_persist as npup

SAMPLES, CONTEXT = 512, 64
"""Samples of a chunk, 32 ms at 16 kHz, and those of the chunk before that the network sees again."""


class Detector(torch.nn.Module):
    """Silero's network for 16 kHz, with its state as argument and result."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, chunk: torch.Tensor, context: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the probability (1, 1) of speech in a chunk (1, 512), and what the next call takes."""
        samples = torch.cat([context, chunk], dim=1)
        speech, memory = self.network(samples, memory)
        return speech, samples[:, -CONTEXT:], memory


def main() -> None:
    """Load the network and persist it; the loaded model takes a chunk and returns a probability."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    package = find_spec("silero_vad")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("The network is a package: pip install --no-deps silero-vad")
    path = Path(package.submodule_search_locations[0]) / "data" / "silero_vad.jit"
    silero = torch.jit.load(path).eval()  # type: ignore[no-untyped-call]

    bundle = npup.persist(
        Detector(silero._model),  # noqa: SLF001 - the network for 16 kHz; the other is for 8
        "voice-activity",
        (0.1 * torch.randn(1, SAMPLES), torch.zeros(1, CONTEXT), torch.zeros(2, 1, 128)),
        states={"context": "output.1", "memory": "output.2"},
        metadata={"rate": 16000, "samples": SAMPLES},
        store=options.store,
    )
    print(f"{bundle.reference} at {bundle.path}")


if __name__ == "__main__":
    main()
