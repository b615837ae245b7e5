"""Write exports for optimum-intel, and what torch answers: `python -m tests.support.exports DIR`.

optimum-intel wants an older transformers than the tests, so CI reads the exports in an environment of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

import npu_persist
from tests.support.stable_diffusion import PROMPT, make_latents, make_pipeline

WORDS = ["<end>", "?", "What", "is", "the", "capital", "of", "France"]
TEXTS = ["What is the capital", "the capital of France is the"]
TOKENS = 8
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def make_tokenizer() -> Any:
    """Return a tokenizer of eight words that pads on the left."""
    words = {word: index for index, word in enumerate(WORDS)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))  # noqa: S106 (no password)
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"eos_token": "<end>", "unk_token": "?", "pad_token": "<end>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, padding_side="left", **special)


def write(folder: Path) -> None:
    """Persist and export a language model, a text encoder and text to image, each with what torch answers."""
    torch.manual_seed(0)
    tokenizer, store = make_tokenizer(), folder / "store"
    given = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    config = transformers.LlamaConfig(vocab_size=len(WORDS), num_key_value_heads=2, eos_token_id=None, **_SIZES)
    llama = transformers.LlamaForCausalLM(config).eval()
    npu_persist.persist(llama, "llama", tokenizer=tokenizer, precision="fp32", store=store)
    answers = llama.generate(**given, max_new_tokens=TOKENS, do_sample=False)
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=len(WORDS), **_SIZES), add_pooling_layer=False)
    bert.eval()
    sizes: Any = {0: torch.export.Dim("batch", min=1, max=8), 1: torch.export.Dim("length", min=1, max=64)}
    shapes = dict.fromkeys(given, sizes)
    kwargs = dict(given)
    npu_persist.persist(
        bert, "bert", kwargs=kwargs, dynamic_shapes=shapes, tokenizer=tokenizer, precision="fp32", store=store
    )
    with torch.no_grad():
        hidden = bert(**given).last_hidden_state
    for name, expected in (("llama", answers), ("bert", hidden)):
        npu_persist.export(name, "genai", folder / name, store=store)
        (folder / f"{name}.json").write_text(json.dumps({"texts": TEXTS, "expected": expected.tolist()}))
    pipeline = make_pipeline()
    npu_persist.persist(pipeline, "diffusion", precision="fp32", store=store)
    npu_persist.export("diffusion", "genai", folder / "diffusion", store=store)
    latents = make_latents(16, 24)
    size = {"height": 16, "width": 24, "num_inference_steps": 3}
    image = pipeline(PROMPT, **size, latents=latents.clone(), output_type="np").images
    found = {"texts": [PROMPT], "size": size, "latents": latents.tolist(), "expected": image.tolist()}
    (folder / "diffusion.json").write_text(json.dumps(found))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
