"""Persist a text encoder for texts of several lengths: the half that needs PyTorch and transformers."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import BertConfig, BertModel

import npu_persist as npup

LENGTHS = (32, 128)
"""An NPU wants fixed shapes: it gets two, and a text goes to the smallest that it fits."""

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def main() -> None:
    """Build the encoder with random weights and persist it with its buckets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tiny config of the same shape")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = BertModel(BertConfig(**(TINY if options.small else {})), add_pooling_layer=False)
    ids = torch.randint(1000, 30000, (1, LENGTHS[0]))
    bundle = npup.persist(
        model,
        "text-encoder",
        kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        buckets=[{"input_ids": (1, length)} for length in LENGTHS],
        store=options.store,
    )
    print(f"{bundle.reference} at {bundle.path}")


if __name__ == "__main__":
    main()
