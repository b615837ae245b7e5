"""What torch generates greedily."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationMixin


def generate(model: Any, count: int, **given: Any) -> Any:
    """Return `count` tokens of torch's own `generate`, whatever they are: none ends the text."""
    settings = model.generation_config
    settings.eos_token_id = settings.forced_eos_token_id = None
    settings.pad_token_id = 0
    tensors = {name: torch.as_tensor(value) for name, value in given.items()}
    # Not Whisper's own, which cuts what it hears into windows, and asks for a tokenizer.
    made = GenerationMixin.generate(model, **tensors, max_new_tokens=count, do_sample=False)
    return made[:, -count:].numpy()
