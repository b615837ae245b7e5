"""Prints how models of torchvision and timm fare, as Markdown: `.ci/zoo` makes the environment and calls this.

Random weights, small images, each compared with torch on a second input: the table of `tests/models`, for the packages
that CI does not install.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from typing import TYPE_CHECKING

import timm
import torch
import torchvision

from npu_persist.store import Store
from tests.models.architectures.__main__ import COLUMNS, as_markdown
from tests.models.architectures.architecture import Architecture, Call, image
from tests.models.architectures.measure import Row, measure

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSIFIERS = (
    "resnet18 vgg11 alexnet squeezenet1_1 densenet121 googlenet mobilenet_v2 mobilenet_v3_small shufflenet_v2_x0_5 "
    "mnasnet0_5 efficientnet_b0 regnet_x_400mf convnext_tiny swin_t swin_v2_t"
)
SEGMENTERS = "lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large fcn_resnet50"
DETECTORS = "ssdlite320_mobilenet_v3_large fasterrcnn_mobilenet_v3_large_320_fpn"
VIDEOS = "r3d_18 mc3_18 r2plus1d_18"
TIMM = (
    "vit_tiny_patch16_224 mobileone_s0 repvgg_a0 ghostnet_100 xcit_nano_12_p16_224 coat_lite_tiny mixer_s32_224 "
    "resmlp_12_224 eva02_tiny_patch14_224 fastvit_t8 efficientvit_b0 levit_128s edgenext_xx_small "
    "mobilenetv4_conv_small hrnet_w18_small poolformer_s12 efficientformer_l1 tiny_vit_5m_224"
)


def of_torchvision(name: str, *shape: int) -> Callable[[], Call]:
    """Return how to make a model of torchvision, with one input of a shape."""
    return lambda: (
        torchvision.models.get_model(name, weights=None, weights_backbone=None)
        if name in {*SEGMENTERS.split(), *DETECTORS.split()}
        else torchvision.models.get_model(name, weights=None),
        (torch.rand(shape),),
        {},
    )


def of_timm(name: str) -> Callable[[], Call]:
    """Return how to make a model of timm, with an image of its own size."""

    def make() -> Call:
        model = timm.create_model(name, pretrained=False)
        return model, (image(model.pretrained_cfg["input_size"][-1]),), {}

    return make


def architectures() -> list[Architecture]:
    """Return every model of the table."""
    vision = (
        *((name, (1, 3, 64, 64)) for name in f"{CLASSIFIERS} {SEGMENTERS}".split()),
        *((name, (1, 3, 128, 128)) for name in DETECTORS.split()),
        *((name, (1, 3, 4, 32, 32)) for name in VIDEOS.split()),
    )
    return [Architecture(name, "torchvision", of_torchvision(name, *shape)) for name, shape in vision] + [
        Architecture(name, "timm", of_timm(name)) for name in TIMM.split()
    ]


def main(names: list[str]) -> int:
    """Measure the named models, or all; the exit status says whether one was not converted."""
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    chosen = [architecture for architecture in architectures() if not names or architecture.name in names]
    converted = 0
    for architecture in chosen:
        with tempfile.TemporaryDirectory() as directory:
            try:
                row = measure(architecture, Store(directory))
            except Exception as error:  # noqa: BLE001 - one model must not end the table
                row = Row(architecture.name, architecture.kind, 0.0, error=type(error).__name__, reason=str(error))
        converted += row.is_converted
        print(as_markdown(row), flush=True)
    print(f"\n{converted} of {len(chosen)} converted")
    return int(converted < len(chosen))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
