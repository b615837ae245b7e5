"""Bundles that OpenVINO GenAI's pipelines run, made without torch and transformers."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest
from openvino import opset6

from npu_persist.bundle.graph_records import Dimension, Graph, Port
from npu_persist.bundle.manifest import FileEntry, Manifest, Producer
from npu_persist.files.digest import digest_file
from tests.support.decoders import SMALL, make_llama
from tests.support.graphs import call_of, constant, make_model, parameter, publish_graph, write_weights

if TYPE_CHECKING:
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store

WORDS = [*(bytes([code]) for code in range(1, 256)), b"Hello", b" world", b" again"]
"""The vocabulary: every byte, and three words; a token is its place here, plus one."""

BATCH, LENGTH, ALL = Dimension("batch", 1, None), Dimension("length", 1, None), Dimension("all", 1, None)
_END = 10
"""The token that ends an answer: a line break."""


def make_tokenizer_assets() -> dict[str, bytes]:
    """Return a tokenizer of `WORDS` as GenAI reads it."""
    tokenizers = pytest.importorskip("openvino_tokenizers", reason="needs the extra genai")
    encode, decode = tokenizers.build_rwkv_tokenizer([f"{token(word)} {word!r} {len(word)}" for word in WORDS])
    mask = ops.broadcast(constant(1, "int64"), ops.shape_of(encode.outputs[0].get_node().input_value(0)))
    mask.output(0).set_names({"attention_mask"})
    encode.add_results([ops.result(mask)])
    assets = {"config.json": b'{"model_type": "test"}'}
    with tempfile.TemporaryDirectory() as folder:
        for name, graph in (("openvino_tokenizer", encode), ("openvino_detokenizer", decode)):
            graph.set_rt_info(_END, "eos_token_id")
            ov.save_model(graph, f"{folder}/{name}.xml")
        return assets | {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def token(word: bytes) -> int:
    """Return a word's token."""
    return WORDS.index(word) + 1


def _integers(name: str, *axes: int | Dimension, dtype: Any = "int64") -> tuple[Port, Any]:
    port = Port(name, dtype, axes)
    return port, parameter(port)


def publish_language_model(store: Store, *, name: str = "speaker", factor: float = 1.0, **options: Any) -> Bundle:
    """Publish a model that answers any word with `Hello world again` and a line break; it counts tokens in a state."""
    size = len(WORDS) + 1
    table = np.zeros((size, size), np.float32)
    following = [token(b"Hello"), token(b" world"), token(b" again"), _END]
    table[:, following[0]] = 1
    for before, after in pairwise(following):
        table[before] = 0
        table[before, after] = factor
    ids, mask, positions, beam = (
        _integers("input_ids", BATCH, LENGTH),
        _integers("attention_mask", BATCH, ALL),
        _integers("position_ids", BATCH, LENGTH),
        _integers("beam_idx", BATCH, dtype="int32"),
    )
    logits = ops.gather(constant(table), ids[1], constant(0, "int64"))
    past, keep = _grow(ids[1], beam[1])
    for node in (mask[1], positions[1], past):  # OpenVINO drops an input that decides nothing
        total = ops.reduce_sum(ops.convert(node, "f32"), constant([0, 1], "int64"), keep_dims=False)
        logits = ops.add(logits, ops.multiply(total, constant(1e-9)))
    logits.output(0).set_names({"logits"})
    ports, nodes = zip(ids, mask, positions, beam, strict=True)
    model = make_model(nodes, [("logits", logits)])
    model.add_sinks([keep])
    out = Port("logits", "float32", (BATCH, LENGTH, size))
    return publish_graph(store, model, ports, [out], name=name, **options)


def publish_decoder(store: Store, *, name: str = "decoder", **options: Any) -> Bundle:
    """Publish a small decoder of random weights, of which OpenVINO takes back what it compiled."""
    model, inputs, outputs = make_llama(replace(SMALL, vocabulary=len(WORDS) + 1))
    return publish_graph(store, model, inputs, outputs, name=name, **options)


def publish_text_encoder(store: Store, *, name: str = "encoder", **options: Any) -> Bundle:
    """Publish a text encoder: a token's vector is its number, four times."""
    ids, mask = _integers("input_ids", BATCH, LENGTH), _integers("attention_mask", BATCH, LENGTH)
    hidden = ops.add(ops.convert(ids[1], "f32"), ops.multiply(ops.convert(mask[1], "f32"), constant(1e-9)))
    hidden = ops.multiply(ops.unsqueeze(hidden, constant(2, "int64")), constant(np.ones((1, 1, 4))))
    hidden.output(0).set_names({"last_hidden_state"})
    out = Port("last_hidden_state", "float32", (BATCH, LENGTH, 4))
    model = make_model([ids[1], mask[1]], [("last_hidden_state", hidden)])
    return publish_graph(store, model, [ids[0], mask[0]], [out], name=name, **options)


CONFIGS: dict[str, dict[str, Any]] = {
    "model_index.json": {
        "_class_name": "StableDiffusionPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "scheduler/scheduler_config.json": {"_class_name": "EulerDiscreteScheduler", "steps_offset": 1},
    "text_encoder/config.json": {"max_position_embeddings": 8, "num_hidden_layers": 1},
    "unet/config.json": {"in_channels": 4, "sample_size": 8},
    "vae_decoder/config.json": {"latent_channels": 4, "block_out_channels": [8, 8], "scaling_factor": 0.5},
}
"""What GenAI reads of a pipeline of diffusers: images of 16 by 16 pixels, two for each of the latents."""


def publish_painter(store: Store, tokenizer: dict[str, bytes], *, name: str = "painter", factor: float = 0.9) -> Bundle:
    """Publish a model that makes noise of the prompt's colour, in the graphs of Stable Diffusion."""
    high, wide, tokens = Dimension("height", 1, None), Dimension("width", 1, None), Dimension("tokens", 1, 8)
    ids = _integers("input_ids", BATCH, tokens)
    hidden = ops.multiply(ops.unsqueeze(ops.convert(ids[1], "f32"), constant(2, "int64")), constant(np.ones((1, 1, 4))))
    sample, latent = (Port(which, "float32", (BATCH, 4, high, wide)) for which in ("sample", "latent_sample"))
    context = Port("encoder_hidden_states", "float32", (BATCH, tokens, 4))
    timestep = _integers("timestep", 1)
    nodes = [parameter(sample), timestep[1], parameter(context)]
    colour = ops.reduce_mean(nodes[2], constant([1], "int64"), keep_dims=False)
    colour = ops.unsqueeze(ops.multiply(colour, constant(1e-3)), constant([2, 3], "int64"))
    noise = ops.add(ops.multiply(nodes[0], constant(factor)), colour)
    noise = ops.add(noise, ops.multiply(ops.convert(nodes[1], "f32"), constant(1e-9)))
    pixels = parameter(latent)
    shown = ops.gather(pixels, constant([0, 1, 2], "int64"), constant(1, "int64"))
    image = ops.interpolate(shown, constant([2, 2]), "nearest", "scales", axes=constant([2, 3], "int64"))
    graphs = {
        "text_encoder": ([ids[0]], [ids[1]], Port("last_hidden_state", "float32", context.shape), hidden),
        "unet": ([sample, timestep[0], context], nodes, Port("out_sample", "float32", sample.shape), noise),
        "vae_decoder": (
            [latent],
            [pixels],
            Port("sample", "float32", (BATCH, 3, *(Dimension(None, 1, None),) * 2)),
            image,
        ),
    }
    assets = {asset: json.dumps(data).encode() for asset, data in CONFIGS.items()}
    assets |= {f"tokenizer/{asset}": data for asset, data in tokenizer.items()}
    with store.stage() as staging:
        described, drafts = [], {}
        for graph, (inputs, taken, out, node) in graphs.items():
            node.output(0).set_names({out.name})
            drafts[staging / f"{graph}.draft.xml"] = staging / f"{graph}.xml"
            ov.save_model(make_model(taken, [(out.name, node)]), staging / f"{graph}.draft.xml", compress_to_fp16=False)
            described.append(
                Graph(graph, f"{graph}.xml", "fp32", "trace", tuple(inputs), (out,), call_of(inputs, [out]))
            )
        weights = write_weights(drafts, staging)
        for asset, data in assets.items():
            path = staging / "assets" / asset
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        files = {
            path.relative_to(staging).as_posix(): FileEntry(path.stat().st_size, digest_file(path))
            for path in staging.rglob("*")
            if path.is_file()
        }
        manifest = Manifest(
            name=name,
            producer=Producer("0.1.0", "2026.4.1", None),
            graphs=tuple(described),
            weights=weights,
            golden=None,
            files=files,
            warnings=(),
            metadata={},
        )
        (staging / "manifest.json").write_bytes(manifest.to_json())
        return store.publish(staging)


def _grow(ids: Any, beam: Any) -> tuple[Any, Any]:
    """Return the tokens of the conversation so far, [batch, all], and what keeps them in a state."""
    batch = ops.gather(ops.shape_of(ids), constant([0], "int64"), constant(0, "int64"))
    # Not a constant 0, from which the CPU plugin would conclude that the state never grows.
    zero = ops.minimum(
        ops.reduce_min(ops.convert(beam, "i64"), constant([0], "int64"), keep_dims=True), constant([0], "int64")
    )
    empty = ops.broadcast(constant(0.0), ops.concat([batch, zero], 0))
    read = opset6.read_value(empty, "past", ov.Type.f32, ov.PartialShape([-1, -1]))
    past = ops.concat([ops.gather(read, beam, constant(0, "int64")), ops.convert(ids, "f32")], 1)
    return past, opset6.assign(past, "past")
