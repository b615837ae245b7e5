"""OpenVINO's own passes, with the arguments that `openvino.convert_model` gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openvino._offline_transformations import (
    apply_fused_names_cleanup,
    apply_moc_transformations,
    compress_quantize_weights_transformation,
)

if TYPE_CHECKING:
    import openvino as ov


def optimize(model: ov.Model) -> None:
    """Run the common optimizations."""
    apply_moc_transformations(model, cf=False, smart_reshape=False)
    compress_quantize_weights_transformation(model)


def clean_up_names(model: ov.Model) -> None:
    """Drop the names of layers that were fused into others."""
    apply_fused_names_cleanup(model)
