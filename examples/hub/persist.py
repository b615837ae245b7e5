"""Train a small classifier, persist, compile and sign it, and push it to a hub: the half that needs PyTorch.

The hub is Hugging Face's, or the one in HF_ENDPOINT; the token comes from `hf auth login` or HF_TOKEN.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import npu_persist as npup

POINTS = 512
"""Of each spiral."""


def make_spirals(points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points (2 * points, 2) on two spirals, and which of the two each is on."""
    radius = torch.linspace(0.5, 3, points)
    angle = torch.stack([2 * radius, 2 * radius + torch.pi], dim=1)
    spirals = radius[:, None, None] * torch.stack([angle.cos(), angle.sin()], dim=2)
    noisy = spirals + 0.05 * torch.randn_like(spirals)
    return noisy.reshape(-1, 2), torch.arange(2).repeat(points)


def train() -> torch.nn.Module:
    """Return a network that tells the spirals apart."""
    torch.manual_seed(0)
    layers = (torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))
    network = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    points, labels = make_spirals(POINTS)
    for _ in range(300):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(points), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


def ensure_key(path: Path) -> None:
    """Make the key that signs, if it is not there, and write its public half beside it."""
    if path.exists():
        return
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(private)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub.pem").write_bytes(public)


def main() -> None:
    """Persist for a batch of 1024, compile for this machine's CPU, sign both, and push."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", required=True, help="the repository to push to: your-name/spirals")
    parser.add_argument("--key", metavar="FILE", type=Path, default="signer.pem", help="who signs; made if missing")
    parser.add_argument("--target", nargs="+", default=["CPU"], help="compile for these, such as NPU:4000")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    bundle = npup.persist(train(), "spirals", (torch.zeros(1024, 2),), targets=options.target, store=options.store)
    ensure_key(options.key)
    for path in npup.sign(bundle.reference, options.key, store=options.store):
        print(f"signed: {path}")
    pushed = npup.push(bundle.reference, options.repo, store=options.store)
    print(f"{bundle.reference} is at {pushed.url}, {pushed.uploaded_bytes} bytes were sent")


if __name__ == "__main__":
    main()
