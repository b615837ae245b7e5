"""Compare sentences with the persisted encoder: the half without PyTorch, numpy and `tokenizers` only."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from tokenizers import Tokenizer

import npu_persist as npup

SENTENCES = [
    "A man is playing the guitar on stage.",
    "Someone performs music with a string instrument.",
    "The stock market fell sharply on Monday.",
    "Share prices dropped at the start of the week.",
    "How do I bake bread without yeast?",
    "What is a recipe for a loaf that needs no leavening?",
]
"""Pairs: each sentence says the same as its neighbour."""


def embed(encoder: npup.Model, sentences: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return one embedding a sentence, (sentences, width), each of length one."""
    settings = encoder.bundle.manifest.metadata
    tokenizer = Tokenizer.from_str(settings["tokenizer"])
    tokenizer.enable_truncation(settings["tokens"])
    tokenizer.enable_padding(length=settings["tokens"])
    encodings = tokenizer.encode_batch(sentences)
    return np.concatenate([encoder(np.array([item.ids]), np.array([item.attention_mask])) for item in encodings])


def main() -> None:
    """Print how similar the sentences are; of the built-in ones, each must be closest to its pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sentences", nargs="*", help="default: three pairs with the same meaning in other words")
    parser.add_argument("--device", default="AUTO", help="NPU, GPU, CPU or AUTO")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    encoder = npup.load("sentence-encoder", device=options.device, store=options.store)
    sentences = options.sentences or SENTENCES
    embeddings = embed(encoder, sentences)
    similarity = embeddings @ embeddings.T
    for sentence, row in zip(sentences, similarity, strict=True):
        print(" ".join(f"{value:5.2f}" for value in row), sentence)

    if not options.sentences:
        nearest = (similarity - 2 * np.eye(len(sentences))).argmax(axis=1)
        assert nearest.tolist() == [1, 0, 3, 2, 5, 4], f"each sentence should be closest to its pair, got {nearest}"
        print("each sentence is closest to the one that says the same")


if __name__ == "__main__":
    main()
