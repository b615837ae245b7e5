"""Greedy decoding by a session, in numpy, as a program without torch does it; and prompts to begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npu_persist import Model

TOKENS = 32


def generate(model: Model, ids: Any, mask: Any = None, count: int = TOKENS, **given: Any) -> np.ndarray[Any, Any]:
    """Return the likeliest tokens one after the other; `given` goes to each call."""
    inputs = {port.name for port in model.inputs}
    mask = np.ones_like(ids) if mask is None else mask
    positions, made = np.maximum(mask.cumsum(-1) - 1, 0), []
    with model.session() as session:
        for _ in range(count):
            call: Mapping[str, Any] = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **given}
            beam = np.arange(len(ids), dtype=np.int32)
            logits = session(**{name: value for name, value in call.items() if name in inputs}, beam_idx=beam).logits
            ids = logits[:, -1].argmax(-1)[:, None]
            made.append(ids)
            mask = np.concatenate([mask, np.ones_like(ids)], axis=-1)
            positions = mask.sum(-1, keepdims=True) - 1
    return np.concatenate(made, axis=-1)


def prompts(vocabulary: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return a short prompt, a long one and three that are padded on the left, with their masks."""
    generator, found = np.random.default_rng(1), []
    for shape, padded in (((1, 7), ()), ((1, 19), ()), ((3, 11), (6, 0, 3))):
        ids, mask = generator.integers(5, vocabulary, shape), np.ones(shape, np.int64)
        for row, count in enumerate(padded):
            ids[row, :count] = mask[row, :count] = 0
        found.append((ids, mask))
    return found
