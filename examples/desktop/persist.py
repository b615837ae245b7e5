"""Train a network that knows five shapes by their strokes, and persist it: the half that needs PyTorch.

The network takes strokes as input, so the app needs no image code.
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise

import torch

import npu_persist as npup

SHAPES = ["circle", "triangle", "square", "star", "cross"]
SEGMENTS = 64
"""A drawing is this many short lines; one that has fewer repeats its last."""
SIZE = 24
STEPS = 300
DRAWINGS = 200
"""Of each shape, to learn from."""


class Shapes(torch.nn.Module):
    """Centre and scale the strokes, paint them, and look at the picture."""

    pixels: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        axis = torch.linspace(-1.15, 1.15, SIZE)
        self.register_buffer("pixels", torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(-1, 1, 2))
        channels = (1, 16, 32, 48)
        layers: list[torch.nn.Module] = []
        for before, after in pairwise(channels):
            layers += [torch.nn.Conv2d(before, after, 3, stride=2, padding=1), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(48 * 9, len(SHAPES)))

    def paint(self, segments: torch.Tensor) -> torch.Tensor:
        """Return pictures (batch, 1, SIZE, SIZE) of segments (batch, SEGMENTS, 4): x and y of both ends."""
        ends = segments.reshape(-1, 2 * SEGMENTS, 2)
        low, high = ends.amin(dim=1, keepdim=True), ends.amax(dim=1, keepdim=True)
        scale = (high - low).amax(dim=2, keepdim=True).clamp(min=1e-3) / 2
        ends = ((ends - (low + high) / 2) / scale).reshape(-1, 1, SEGMENTS, 4)
        begin, way = ends[..., :2], ends[..., 2:] - ends[..., :2]
        offset = self.pixels - begin
        along = ((offset * way).sum(-1) / (way * way).sum(-1).clamp(min=1e-6)).clamp(0, 1)
        nearest = (offset - along[..., None] * way).square().sum(-1).amin(dim=-1)
        return torch.exp(-nearest * 120).reshape(-1, 1, SIZE, SIZE)

    def forward(self, segments: torch.Tensor) -> torch.Tensor:
        """Return how likely each of SHAPES is, (batch, 5)."""
        result: torch.Tensor = self.layers(self.paint(segments)).softmax(dim=-1)
        return result


def outline(shape: str) -> list[torch.Tensor]:
    """Return the strokes of a shape, each (points, 2), as somebody might draw it."""
    turn = torch.rand(()) * math.tau
    if shape == "cross":
        lines = (torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
        return [line + 0.25 * torch.randn(1, 2) * torch.rand(()) for line in lines]
    corners = {"circle": 40, "triangle": 3, "square": 4, "star": 5 if turn < math.pi else 10}[shape]
    steps = torch.arange(corners + 1)
    if shape == "star" and corners == 5:  # noqa: PLR2004 (in one line, through the middle)
        steps = 2 * steps
    angle = steps * (math.tau / corners)
    radius = torch.ones(corners + 1)
    if shape == "star" and corners > 5:  # noqa: PLR2004 (its outline)
        radius[1::2] = 0.35 + 0.2 * torch.rand(())
    if shape == "circle":
        angle = angle * (0.93 + 0.1 * torch.rand(()))
    return [torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)]


def draw(shape: str) -> torch.Tensor:
    """Return the segments (SEGMENTS, 4) of a shape, turned, stretched and wobbling."""
    strokes = outline(shape)
    each = SEGMENTS // len(strokes)
    turn = torch.rand(()) * math.tau
    rotation = torch.tensor([[turn.cos(), turn.sin()], [-turn.sin(), turn.cos()]])
    stretch = torch.tensor([1.0, 0.75 + 0.5 * torch.rand(())])
    parts = []
    for stroke in strokes:
        line = torch.nn.functional.interpolate(stroke.T[None], each + 1, mode="linear", align_corners=True)
        wobble = torch.nn.functional.interpolate(torch.randn(1, 2, 7), each + 1, mode="linear", align_corners=True)
        points = (line + 0.05 * wobble)[0].T @ rotation * stretch
        parts.append(torch.cat([points[:-1], points[1:]], dim=1))
    return torch.cat(parts)


def draw_each(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return so many drawings of each shape, (drawings, SEGMENTS, 4), and which of SHAPES they are."""
    labels = torch.arange(len(SHAPES)).repeat(count)
    return torch.stack([draw(SHAPES[label]) for label in labels]), labels


def train() -> Shapes:
    """Return a network that knows the shapes."""
    network = Shapes()
    drawings, labels = draw_each(DRAWINGS)
    pictures = torch.cat([network.paint(drawings[start : start + 50]) for start in range(0, len(drawings), 50)])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.002)
    for _ in range(STEPS):
        some = torch.randint(0, len(labels), (64,))
        loss = torch.nn.functional.cross_entropy(network.layers(pictures[some]), labels[some])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


def main() -> None:
    """Train, measure on other drawings, persist."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    torch.manual_seed(0)
    network = train()
    drawings, labels = draw_each(40)
    with torch.no_grad():
        found = network(drawings).argmax(dim=1)
    print(f"right for {(found == labels).float().mean():.1%} of {len(labels)} other drawings")
    bundle = npup.persist(network, "shapes", (draw("star")[None],), metadata={"shapes": SHAPES}, store=options.store)
    print(f"{bundle.reference} at {bundle.path}")


if __name__ == "__main__":
    main()
