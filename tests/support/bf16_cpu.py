"""A machine whose CPU has bf16, on one that may not have it: what such a CPU computes by default, and what it says.

Each MatMul is rounded to bf16 in a graph that is compiled without a property that decides on the precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.device import core
from npu_persist.device.precision import is_decided

if TYPE_CHECKING:
    import openvino as ov


class Bf16Core:
    """OpenVINO's core, whose CPU has bf16.

    Attributes:
        compiled: The properties of each compilation.
        imported: The properties of each import.
    """

    def __init__(self, real: ov.Core) -> None:
        self._real = real
        self.compiled: list[dict[str, Any]] = []
        self.imported: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_property(self, device: str, name: str) -> Any:
        from openvino import Type

        found = self._real.get_property(device, name)
        if device == "CPU" and name == "OPTIMIZATION_CAPABILITIES":
            return sorted({*found, "BF16"})
        return Type.bf16 if (device, name) == ("CPU", "INFERENCE_PRECISION_HINT") else found

    def compile_model(self, model: ov.Model, device: str, properties: dict[str, Any]) -> ov.CompiledModel:
        self.compiled.append(properties)
        if not is_decided(properties):
            model = model.clone()
            _round_products(model)
        return self._real.compile_model(model, device, properties)

    def import_model(self, blob: Any, device: str, properties: dict[str, Any]) -> ov.CompiledModel:
        self.imported.append(properties)
        return self._real.import_model(blob, device, properties)


def _round_products(model: ov.Model) -> None:
    import numpy as np
    from openvino import opset13 as ops

    for product in model.get_ordered_ops():
        if product.get_type_name() == "MatMul":
            readers = product.output(0).get_target_inputs()
            # Veltkamp's splitting: the upper 8 of float32's 24 bits. A Convert to bf16 would be taken out again.
            scaled = ops.multiply(product, ops.constant(np.float32(2**16 + 1)))
            rounded = ops.subtract(scaled, ops.subtract(scaled, product))
            for reader in readers:
                reader.replace_source_output(rounded.output(0))


@pytest.fixture
def bf16_cpu(monkeypatch: pytest.MonkeyPatch) -> Bf16Core:
    """The package's core of this test, whose CPU has bf16."""
    made = Bf16Core(core.get_core())
    monkeypatch.setattr(core, "_cores", [made])
    return made
