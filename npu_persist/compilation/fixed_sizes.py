"""The sizes that an NPU compiles a graph for where its bundle says what it is part of: speech, or text to image."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from npu_persist.bundle.assets import MODEL_INDEX
from npu_persist.bundle.buckets import open_axes
from npu_persist.compilation.generation import find_kind
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from npu_persist.artifact.artifact import Shapes
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.graph_records import Graph, Port

_UNET, _VAE = "unet/config.json", "vae_decoder/config.json"
_LARGEST = 1 << 16
_MOST_HALVINGS = 16


def find_sizes(bundle: Bundle, graph: Graph, image_size: tuple[int, int] | None) -> Shapes | None:
    """Return the sizes of the inputs that a graph leaves open; None if the bundle does not say what it is part of."""
    if any(find_kind(one) == "speech" for one in bundle.manifest.graphs):
        return one_recording(graph.inputs)
    if not is_text_to_image(bundle):
        return None
    return _one_image(bundle, graph, image_size)


def one_recording(inputs: Sequence[Port]) -> Shapes | None:
    """Return the sizes of one recording, for the encoder of a decoder of speech; None if more than the batch varies.

    NPUW's decoder takes one at a time, so this is what the encoder of an NPU is called with.
    """
    opened = [port for port in inputs if open_axes(port)]
    if not opened or any([found.axis for found in open_axes(port)] != [0] for port in opened):
        return None
    return {port.name: (1, *(size for size in port.shape[1:] if isinstance(size, int))) for port in opened}


def is_text_to_image(bundle: Bundle) -> bool:
    """Tell whether a bundle is a pipeline of diffusers."""
    return {MODEL_INDEX, _UNET, _VAE} <= set(bundle.assets)


def read_image_size(size: object) -> tuple[int, int] | None:
    """Return height and width; UsageError if they are none."""
    if size is None:
        return None
    if not isinstance(size, (tuple, list)) or [type(one) for one in size] != [int, int] or min(size) < 1:
        raise UsageError(f"image_size: expected height and width in pixels, such as (512, 768); got {size!r}")
    return size[0], size[1]


class _UnetConfig(msgspec.Struct):
    """What the UNet says of itself: height and width of the latents that it was trained with."""

    sample_size: int | tuple[int, int] | None = None


class _VaeConfig(msgspec.Struct):
    """What the autoencoder says of itself; but for the first, each block halves the image."""

    block_out_channels: tuple[int, ...]


_Config = TypeVar("_Config", _UnetConfig, _VaeConfig)


def _one_image(bundle: Bundle, graph: Graph, image_size: tuple[int, int] | None) -> Shapes | None:
    """Return the sizes of a graph for one image, as OpenVINO GenAI runs it on an NPU.

    The UNet is called for one prompt after the other, the text encoder for the prompt and the negative one at once.
    """
    height, width = _read_latents(bundle, image_size)
    is_text = any(port.name == "input_ids" for port in graph.inputs)
    known = {"batch": 2 if is_text else 1, "height": height, "width": width, "rows": height, "columns": width}
    if (tokens := _find_tokens(bundle.manifest.graphs)) is not None:
        known["tokens"] = tokens
    opened = [port for port in graph.inputs if open_axes(port)]
    if not opened or any(axis.root not in known for port in opened for axis in open_axes(port)):
        return None
    found = {}
    for port in opened:
        sizes = {axis.axis: axis.factor * known[axis.root] + axis.offset for axis in open_axes(port)}
        found[port.name] = tuple(size if isinstance(size, int) else sizes[axis] for axis, size in enumerate(port.shape))
    return found


def _find_tokens(graphs: Iterable[Graph]) -> int | None:
    """Return the most tokens that a text encoder takes, which prompts are padded to."""
    encoders = [one for one in graphs if [port.name for port in one.inputs] == ["input_ids"]]
    longest = (axis.bounds.max for one in encoders for axis in open_axes(one.inputs[0]) if axis.axis == 1)
    return next(longest, None)


def _read_latents(bundle: Bundle, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width of an image's latents; by default those that the model was trained with."""
    if image_size is not None:
        halvings = len(_read_config(bundle, _VAE, _VaeConfig).block_out_channels) - 1
        height, width = image_size
        factor = 2 ** min(max(halvings, 0), _MOST_HALVINGS)
        if height % factor or width % factor:
            raise UsageError(f"image_size: {bundle.reference} needs multiples of {factor}; got {height} by {width}")
        return height // factor, width // factor
    trained = _read_config(bundle, _UNET, _UnetConfig).sample_size
    latents = trained if isinstance(trained, tuple) else (trained or 0, trained or 0)
    if not all(0 < size <= _LARGEST for size in latents):
        raise UsageError(f"{bundle.reference}: its {_UNET} has no usable sample_size. Give image_size=(height, width)")
    return latents


def _read_config(bundle: Bundle, name: str, kind: type[_Config]) -> _Config:
    try:
        return msgspec.json.decode(bundle.asset(name).read_bytes(), type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(
            f"{bundle.reference}: cannot read its asset {name}: {error}. Compile its graphs one by one, with buckets"
        ) from error
