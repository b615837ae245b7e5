"""The IR that is written: names and offsets follow from the graph alone, and every constant is where the xml says."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors import safe_open

import npu_persist
from npu_persist.bundle.graph import check_graph
from npu_persist.bundle.manifest import DATA_ALIGNMENT
from npu_persist.bundle.weights import ITEM_SIZES, read_header

if TYPE_CHECKING:
    from npu_persist.bundle.bundle import Bundle


class Mixed(torch.nn.Module):
    """Weights of several types, one shared by two layers, two that are equal, and a conditional subgraph's worth of
    names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.second = torch.nn.Linear(8, 8)
        self.twin = torch.nn.Linear(8, 8)
        self.twin.load_state_dict(self.second.state_dict())
        self.table: torch.Tensor
        self.register_buffer("table", torch.arange(100).reshape(10, 10))
        self.normalization = torch.nn.LayerNorm(8)
        torch.nn.init.uniform_(self.normalization.weight)
        torch.nn.init.uniform_(self.normalization.bias)

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.normalization(self.first(x) + self.first(x.flip(0)))
        return self.second(y) * self.twin(x), self.table[index]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    torch.manual_seed(1)
    return npu_persist.persist(Mixed(), "mixed", (torch.randn(2, 8), torch.tensor([1, 2])))


def layers(bundle: Bundle) -> list[ET.Element]:
    return list(ET.parse(bundle.path / "model.xml").getroot().iter("layer"))  # noqa: S314 - our own file


def test_constants_lie_in_the_file_under_their_state_dict_names(bundle: Bundle) -> None:
    header = read_header(bundle.path / "weights.safetensors")
    assert header.data_start % DATA_ALIGNMENT == 0
    by_place = {(tensor.start, tensor.size): name for name, tensor in header.tensors.items()}
    found = set()
    for layer in layers(bundle):
        if layer.get("type") == "Const":
            data = layer.find("data")
            assert data is not None
            found.add(by_place[int(data.get("offset", "")), int(data.get("size", ""))])
    assert found == set(header.tensors), "each tensor of the file is read by the graph, and nothing else is"
    assert {"first.weight", "first.bias", "second.weight", "table", "normalization.weight"} <= found
    check_graph(bundle.path / "model.xml", bundle.path / "weights.safetensors")


def test_every_tensor_is_aligned_for_its_type(bundle: Bundle) -> None:
    for name, tensor in read_header(bundle.path / "weights.safetensors").tensors.items():
        assert tensor.start % ITEM_SIZES[tensor.dtype] == 0, name


def test_equal_tensors_are_stored_once_under_an_alias(bundle: Bundle) -> None:
    with safe_open(bundle.path / "weights.safetensors", "np") as file:
        metadata = file.metadata()
        keys = set(file.keys())
    assert metadata["format"] == "pt"
    assert {metadata.get("twin.weight"), metadata.get("second.weight")} == {None, "second.weight"}
    assert "twin.weight" not in keys


def test_fp32_keeps_every_bit() -> None:
    module = torch.nn.Linear(16, 16)
    bundle = npu_persist.persist(module, "exact", (torch.randn(1, 16),), precision="fp32")
    header = read_header(bundle.path / "weights.safetensors")
    tensor = header.tensors["weight"]
    data = (bundle.path / "weights.safetensors").read_bytes()[tensor.start : tensor.start + tensor.size]
    np.testing.assert_array_equal(np.frombuffer(data, np.float32).reshape(16, 16), module.weight.detach().numpy())


def test_a_constant_without_elements_takes_no_bytes() -> None:
    """OpenVINO writes one byte for it, here for the shape of a scalar; a load would take that for damage."""

    class Windows(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.unfold(1, 4, 4)

    bundle = npu_persist.persist(
        Windows(), "windows", (torch.zeros(1, 8),), dynamic_shapes={"x": {1: torch.export.Dim("n", min=4, max=64)}}
    )
    header = read_header(bundle.path / "weights.safetensors")
    assert [tensor.size for tensor in header.tensors.values() if 0 in tensor.shape] == [0]
    x = np.arange(12, dtype=np.float32).reshape(1, 12)
    np.testing.assert_array_equal(npu_persist.load(bundle.path, "CPU")(x), x.reshape(1, 3, 4))
