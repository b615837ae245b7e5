"""Integers of 4 bits that are packed in bytes stay so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.support.as_torch import assert_as_torch

if TYPE_CHECKING:
    from collections.abc import Callable


def unpack(packed: torch.Tensor) -> torch.Tensor:
    return torch.stack((torch.bitwise_and(packed, 15), torch.bitwise_right_shift(packed, 4)), dim=-1)


class Packed(torch.nn.Module):
    def __init__(self, unpacking: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.register_buffer("packed", torch.randint(0, 256, (512, 1), dtype=torch.uint8))
        self.unpacking = unpacking

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.packed, torch.Tensor)
        return x @ self.unpacking(self.packed).float().reshape(64, 16)


KEPT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "unsigned": lambda packed: unpack(packed).reshape(64, 16).half() * 0.5,
    "signed": lambda packed: (unpack(packed).to(torch.int8) - 8).reshape(64, 16).half() * 0.5,
    "unsigned, in groups": lambda packed: (unpack(packed).reshape(64, 4, 4).half() - 7) * 0.5,
    "signed, in groups": lambda packed: (unpack(packed).to(torch.int8) - 8).reshape(64, 4, 4).half() * 0.5,
}
OTHERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "another offset": lambda packed: unpack(packed).to(torch.int8) - 7,
    "the high half first": lambda packed: torch.stack((packed >> 4, packed & 15), -1),
    "another mask": lambda packed: torch.stack((packed & 7, packed >> 4), -1),
    "another shift": lambda packed: torch.stack((packed & 15, packed >> 3), -1),
    "another axis": lambda packed: torch.stack((packed & 15, packed >> 4), 1),
    "other bytes": lambda packed: torch.stack((packed & 15, packed.flip(0) >> 4), -1),
    "read twice": lambda packed: (unpacked := unpack(packed)) + (unpacked.to(torch.int8) - 8),
}


@pytest.mark.parametrize("name", KEPT)
def test_they_are_constants_of_4_bits(name: str) -> None:
    with assert_as_torch(Packed(KEPT[name]), (torch.randn(2, 64),), (torch.randn(2, 64),), atol=1e-3) as model:
        assert model.bundle.manifest.weights.data_size < 600
        assert ("u4" if "unsigned" in name else "i4") in (model.bundle.path / "model.xml").read_text()


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_unpacked_otherwise_is_right_too(name: str) -> None:
    assert_as_torch(Packed(OTHERS[name]), (torch.randn(2, 64),), (torch.randn(2, 64),), atol=1e-3).close()
