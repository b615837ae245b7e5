"""Language models of many architectures: the loaded bundle gives the tokens that torch's own `generate` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="persisting needs torch")
pytest.importorskip("transformers", reason="the architectures are those of transformers")

import npu_persist
from npu_persist.store import Store
from tests.models.generation import reference
from tests.models.generation.decoders import DECODERS, VOCABULARY, make_decoder
from tests.models.generation.encoder_decoders import ENCODER_DECODERS, make_encoder_decoder
from tests.support.generation import TOKENS, generate, prompts

if TYPE_CHECKING:
    from pathlib import Path

MIN_SHARE = 0.95
MIN_DECODERS, MIN_ENCODER_DECODERS = 25, 6

# Third parties' models warn of their own deprecations; that is not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def exact() -> dict[str, bool]:
    return {}


@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name: str, exact: dict[str, bool], tmp_path: Path) -> None:
    exact[name] = False
    model, store = make_decoder(name), Store(tmp_path)
    npu_persist.persist(model, name, store=store, precision="fp32")
    with npu_persist.load(name, device="CPU", store=store) as loaded:
        for ids, mask in prompts(VOCABULARY):
            expected = reference.generate(model, TOKENS, input_ids=ids, attention_mask=mask)
            np.testing.assert_array_equal(generate(loaded, ids, mask), expected)
    exact[name] = True


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_encoder_decoder(name: str, exact: dict[str, bool], tmp_path: Path) -> None:
    exact[name] = False
    model, store = make_encoder_decoder(name), Store(tmp_path)
    npu_persist.persist(model, name, store=store, precision="fp32")
    with npu_persist.load(name, device="CPU", store=store) as loaded:
        for source in sources(model):
            hidden = loaded.graphs["encoder"](**source).last_hidden_state
            start = np.full((len(hidden), 1), model.generation_config.decoder_start_token_id)
            made = generate(
                loaded.graphs["decoder"],
                start,
                encoder_hidden_states=hidden,
                encoder_attention_mask=source.get("attention_mask"),
            )
            np.testing.assert_array_equal(made, reference.generate(model, TOKENS, **source))
    exact[name] = True


def sources(model: Any) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Return what the encoder takes: texts, three of them padded on the right, or what speech looks like."""
    if model.get_encoder().main_input_name == "input_ids":
        texts = [{"input_ids": ids[:, ::-1], "attention_mask": mask[:, ::-1]} for ids, mask in prompts(VOCABULARY)]
        return [{name: np.ascontiguousarray(value) for name, value in text.items()} for text in texts]
    shape, generator = (model.config.num_mel_bins, 2 * model.config.max_source_positions), np.random.default_rng(1)
    return [{"input_features": generator.standard_normal((batch, *shape)).astype(np.float32)} for batch in (1, 1, 3)]


def test_share_that_is_exact(exact: dict[str, bool]) -> None:
    if exact.keys() < {*DECODERS, *ENCODER_DECODERS}:
        pytest.skip(f"{len(exact)} architectures were run here; the share is that of all")
    assert sum(exact.values()) >= MIN_SHARE * len(exact), [name for name, is_exact in exact.items() if not is_exact]


def test_the_table_is_large_enough() -> None:
    assert len(DECODERS) >= MIN_DECODERS
    assert len(ENCODER_DECODERS) >= MIN_ENCODER_DECODERS
