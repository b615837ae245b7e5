"""The sizes that an NPU compiles a graph for: one recording, or one image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import npu_persist
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.graph_records import Dimension, Port
from npu_persist.compilation.fixed_sizes import find_sizes, one_recording
from npu_persist.errors import UsageError
from npu_persist.store import Store
from tests.support.graphs import publish_affine
from tests.support.pipelines import publish_painter

if TYPE_CHECKING:
    from pathlib import Path

BATCH = Dimension("batch", 0, None)
MEL = Port("mel", "float32", (BATCH, 80, 3000))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([MEL], {"mel": (1, 80, 3000)}),
        ([Port("mel", "float32", (1, 80, 3000))], None),
        ([MEL, Port("speaker", "int64", (BATCH,))], {"mel": (1, 80, 3000), "speaker": (1,)}),
        ([MEL, Port("mask", "int64", (1, Dimension("frames", 1, None)))], None),
    ],
)
def test_the_encoder_of_speech_is_called_with_one_recording(inputs: list[Port], expected: Any) -> None:
    assert one_recording(inputs) == expected


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return publish_painter(Store(tmp_path_factory.mktemp("store")), {})


def sizes(bundle: Bundle, image_size: tuple[int, int] | None = None) -> dict[str, Any]:
    found = [find_sizes(bundle, graph, image_size) for graph in bundle.manifest.graphs]
    return {name: shape for one in found for name, shape in (one or {}).items()}


def test_an_image_is_as_large_as_the_model_was_trained_for_or_as_is_asked(painter: Bundle) -> None:
    context = {"input_ids": (2, 8), "encoder_hidden_states": (1, 8, 4)}
    assert sizes(painter) == context | {"sample": (1, 4, 8, 8), "latent_sample": (1, 4, 8, 8)}
    assert sizes(painter, (16, 24)) == context | {"sample": (1, 4, 8, 12), "latent_sample": (1, 4, 8, 12)}
    with pytest.raises(UsageError, match="needs multiples of 2; got 16 by 25"):
        sizes(painter, (16, 25))


@pytest.mark.parametrize(
    ("asset", "data", "message"),
    [
        ("unet", b'{"sample_size": 1e9}', "cannot read its asset unet/config.json"),
        ("unet", b'{"sample_size": [8]}', "cannot read its asset unet/config.json"),
        ("unet", b'{"sample_size": [8, 0]}', "has no usable sample_size"),
        ("unet", b"[" * 100_000, "cannot read its asset unet/config.json"),
        ("unet", b"{}", "has no usable sample_size. Give image_size"),
        ("vae_decoder", b"{}", "cannot read its asset vae_decoder/config.json"),
        ("vae_decoder", json.dumps({"block_out_channels": [8] * 99}).encode(), "needs multiples of 65536"),
    ],
)
def test_configurations_are_not_believed(  # noqa: PLR0913, PLR0917
    asset: str, data: bytes, message: str, painter: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_bytes(data)
    right = Bundle.asset
    monkeypatch.setattr(
        Bundle,
        "asset",
        lambda self, name: tmp_path / "config.json" if name == f"{asset}/config.json" else right(self, name),
    )
    with pytest.raises(UsageError, match=message):
        sizes(painter, None if asset == "unet" else (16, 16))


def test_image_sizes_are_for_pipelines_of_diffusers(tmp_path: Path, painter: Bundle) -> None:
    with pytest.raises(UsageError, match="image_size: expected height and width in pixels"):
        npu_persist.compile(painter.path, "CPU", image_size=(16,))  # type: ignore[arg-type]
    publish_affine(Store(tmp_path))
    with pytest.raises(UsageError, match="image_size: expected a pipeline of diffusers"):
        npu_persist.compile("affine", "CPU", image_size=(16, 16), store=tmp_path)


def test_an_image_size_is_for_any_device(tmp_path: Path, painter: Bundle) -> None:
    results = npu_persist.compile(painter.path, "CPU", image_size=(16, 24), store=tmp_path)
    assert {result.graph: result.shapes for result in results} == {
        "text_encoder": {"input_ids": (2, 8)},
        "unet": {"sample": (1, 4, 8, 12), "encoder_hidden_states": (1, 8, 4)},
        "vae_decoder": {"latent_sample": (1, 4, 8, 12)},
    }
