"""Models that generate are persisted with their past: torch's tokens, and the call of OpenVINO GenAI."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest
import torch
import transformers

import npu_persist
from npu_persist.artifact.artifact import Artifact
from npu_persist.artifact.attached import list_attached
from npu_persist.bundle.graph_records import axis_bounds
from npu_persist.conversion.generation.models import generates
from npu_persist.errors import (
    CompilationError,
    ConversionError,
    DynamicShapeError,
    ExampleWarning,
    InputError,
    UsageError,
)
from npu_persist.store import Store
from tests.models.generation import reference
from tests.models.generation.decoders import DECODERS, VOCABULARY, make_decoder
from tests.models.generation.encoder_decoders import make_encoder_decoder
from tests.support.generation import generate, prompts

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist import Bundle

COUNT = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def llama() -> Any:
    return make_decoder("llama")


@pytest.fixture(scope="module")
def bundle(llama: Any, store: Store) -> Bundle:
    return npu_persist.persist(llama, "llama", store=store, precision="fp32")


def test_tokens_are_those_of_torch(llama: Any, bundle: Bundle) -> None:
    with npu_persist.load(bundle.path, device="CPU") as model:
        for ids, mask in prompts(VOCABULARY):
            expected = reference.generate(llama, COUNT, input_ids=ids, attention_mask=mask)
            np.testing.assert_array_equal(generate(model, ids, mask, COUNT), expected)


def test_names_and_types_are_those_of_openvino_genai(bundle: Bundle) -> None:
    model = ov.Core().read_model(bundle.path / "model.xml")
    found = {port.get_any_name(): (port.get_element_type(), str(port.get_partial_shape())) for port in model.inputs}
    tokens = (ov.Type.i64, "[1..,1..]")
    assert found == {
        "input_ids": tokens,
        "attention_mask": tokens,
        "position_ids": tokens,
        "beam_idx": (ov.Type.i32, "[1..]"),
    }
    assert [port.get_any_name() for port in model.outputs] == ["logits"]
    assert {sink.get_variable_id() for sink in model.get_sinks()} == {
        f"past_key_values.{layer}.{kind}present.{layer}.{kind}" for layer in range(2) for kind in ("key", "value")
    }
    for operation in model.get_ops():
        if operation.get_type_name() == "ReadValue":
            (user,) = operation.output(0).get_target_inputs()
            assert user.get_node().get_type_name() == "Gather"
            assert user.get_node().input_value(1).get_any_name() == "beam_idx"


def test_weights_have_the_names_of_the_state_dict(llama: Any, bundle: Bundle) -> None:
    weights = npu_persist.weights(bundle.path)
    matrices = {name: tensor for name, tensor in llama.state_dict().items() if tensor.ndim > 1}
    assert matrices
    for name, tensor in matrices.items():
        np.testing.assert_array_equal(weights[name], tensor.numpy(), err_msg=name)


def test_the_same_model_again_is_the_same_bundle(llama: Any, bundle: Bundle, store: Store) -> None:
    assert npu_persist.persist(llama, "llama", store=store, precision="fp32").digest == bundle.digest


def test_sequences_are_continued_in_the_order_of_beam_idx(bundle: Bundle) -> None:
    ids = np.random.default_rng(0).integers(5, VOCABULARY, (2, 6))
    more, longer = ids[:, :1], np.ones((2, 7), np.int64)
    first = {"attention_mask": longer[:, 1:], "position_ids": np.tile(np.arange(6), (2, 1))}
    second = {"input_ids": more, "attention_mask": longer, "position_ids": np.full((2, 1), 6)}
    straight, crossed = np.array([0, 1], np.int32), np.array([1, 0], np.int32)
    with npu_persist.load(bundle.path, device="CPU") as model, model.session() as one, model.session() as other:
        one(input_ids=ids, **first, beam_idx=straight)
        other(input_ids=ids[::-1].copy(), **first, beam_idx=straight)
        np.testing.assert_allclose(
            one(**second, beam_idx=crossed).logits, other(**second, beam_idx=straight).logits, atol=1e-5
        )


@pytest.mark.parametrize("beam", [[2], [-1], [1 << 30]])
def test_a_sequence_that_does_not_exist_is_refused(bundle: Bundle, beam: list[int]) -> None:
    one = np.ones((1, 1), np.int64)
    with npu_persist.load(bundle.path, device="CPU") as model, model.session() as session:
        session(one, one, one - 1, np.zeros(1, np.int32))
        with pytest.raises(InputError, match="beam_idx"):
            session(one, np.ones((1, 2), np.int64), one, np.array(beam, np.int32))


def test_an_encoder_and_a_decoder_are_two_graphs_on_one_weights_file(store: Store) -> None:
    model = make_encoder_decoder("whisper")
    bundle = npu_persist.persist(model, "whisper", store=store, precision="fp32")
    assert [graph.name for graph in bundle.manifest.graphs] == ["encoder", "decoder"]
    decoder = bundle.manifest.graphs[1]
    assert [port.name for port in decoder.inputs] == ["input_ids", "encoder_hidden_states", "beam_idx"]
    # GenAI gives requests that are done a tensor of no recordings.
    ports = {port.name: port for graph in bundle.manifest.graphs for port in graph.inputs}
    assert [axis_bounds(ports[name].shape[0])[0] for name in ("input_features", "encoder_hidden_states")] == [0, 0]
    shape = (2, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    heard = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with npu_persist.load(bundle.path, device="CPU") as loaded:
        hidden = loaded.graphs["encoder"](input_features=heard).last_hidden_state
        start = np.full((2, 1), model.generation_config.decoder_start_token_id)
        made = generate(loaded.graphs["decoder"], start, count=COUNT, encoder_hidden_states=hidden)
    np.testing.assert_array_equal(made, reference.generate(model, COUNT, input_features=heard))
    variables = [sink.get_variable_id() for sink in ov.Core().read_model(bundle.path / "decoder.xml").get_sinks()]
    assert sum(name.startswith("cross.") for name in variables) == 2 * model.config.decoder_layers


def test_half_precision_modules_are_persisted(store: Store) -> None:
    model = make_decoder("llama").to(torch.bfloat16)
    bundle = npu_persist.persist(model, "bf16", store=store)
    ids, mask = prompts(VOCABULARY)[2]
    with npu_persist.load(bundle.path, device="CPU") as loaded:
        assert generate(loaded, ids, mask, COUNT).shape == (3, COUNT)


@pytest.mark.parametrize("name", ["MambaForCausalLM", "RwkvForCausalLM", "RecurrentGemmaForCausalLM"])
def test_a_past_that_does_not_grow_is_refused_with_its_reason(name: str, store: Store) -> None:
    config = getattr(transformers, name.replace("ForCausalLM", "Config"))
    sizes = {"num_attention_heads": 4, "lru_width": 32, "attention_window_size": 8} if "Gemma" in name else {}
    small = config(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, intermediate_size=48, **sizes)
    model = getattr(transformers, name)(small).eval()
    with pytest.raises(ConversionError, match=rf"{name} cannot become a decoder with a KV cache: .+give an example"):
        npu_persist.persist(model, "recurrent", store=store)


def test_an_example_means_the_plain_forward(llama: Any, store: Store) -> None:
    with pytest.warns(ExampleWarning, match="use_cache=False"):
        bundle = npu_persist.persist(
            llama, "plain", kwargs={"input_ids": torch.ones(1, 4, dtype=torch.int64)}, store=store
        )
    assert [port.name for port in bundle.manifest.graphs[0].inputs] == ["input_ids"]
    assert not bundle.manifest.graphs[0].states


def test_only_models_that_take_text_or_speech_generate_by_themselves(llama: Any) -> None:
    assert generates(llama)
    assert not generates(llama.model)
    assert not generates(torch.nn.Linear(2, 2))


def test_calls_without_a_past_are_refused(llama: Any, store: Store) -> None:
    with pytest.raises(UsageError, match="evaluate takes single calls"):
        npu_persist.persist(llama, "calls", evaluate=[{"input_ids": torch.ones(1, 4, dtype=torch.int64)}], store=store)


def test_targets_are_compiled_for_the_lengths_that_are_given(
    llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the NPU plugin, whose wrapper runs on a CPU here."""
    on_the_cpu = {"NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE"}
    compile_there = partial(npu_persist.compile, config=on_the_cpu)
    monkeypatch.setattr("npu_persist.conversion.persist.compile_bundle", compile_there)
    store = Store(tmp_path)
    bundle = npu_persist.persist(
        llama, "llama", store=store, check=False, targets=["NPU"], max_prompt=100, min_response=64
    )
    ((_, artifact),) = list_attached(bundle)
    assert isinstance(artifact, Artifact)
    assert str(artifact.lengths) == "prompt 128, response 64"


@pytest.mark.filterwarnings("ignore::npu_persist.errors.DeviceWarning")  # an NPU has no float32
def test_sessions_on_an_npu_give_the_tokens_of_torch(llama: Any, bundle: Bundle, store: Store) -> None:
    """By the NPU plugin, whose wrapper runs on a CPU here: a prompt, and then one token at a time."""
    config = {"NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE", "NPUW_LLM_MAX_PROMPT_LEN": "64"}
    with npu_persist.load(bundle.reference, "NPU", config=config, store=store) as model:
        for prompt in ([[5, 9, 12]], [[7]], [[7]]):
            ids = np.array(prompt)
            expected = reference.generate(llama, COUNT, input_ids=ids, attention_mask=np.ones_like(ids))
            np.testing.assert_array_equal(generate(model, ids, count=COUNT), expected)
        beam, one, two = np.zeros(1, np.int32), np.ones((1, 1), np.int64), np.ones((1, 2), np.int64)
        with model.session() as first, model.session() as second:
            for session in (first, second):
                session(one * 7, one, one - 1, beam)
            logits = first(one * 9, two, one, beam).logits
            np.testing.assert_array_equal(second(one * 9, two, one, beam).logits, logits)
            first.reset()
            first(one * 7, one, one - 1, beam)
            np.testing.assert_array_equal(first(one * 9, two, one, beam).logits, logits)
            with pytest.raises(InputError, match="an NPU takes one token at a time; got 2"):
                first(two, np.ones((1, 4), np.int64), np.array([[2, 3]]), beam)
            with pytest.raises(UsageError, match="cannot be copied"):
                first.copy()


def test_a_compilation_that_fails_names_the_command_with_its_lengths(
    llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_there(*_: object, **__: object) -> None:
        raise CompilationError("out of order")

    monkeypatch.setattr("npu_persist.conversion.persist.compile_bundle", compile_there)
    command = "`npu-persist compile llama:1 --target NPU --max-prompt 100 --min-response 64`"
    with pytest.raises(CompilationError, match=command):
        npu_persist.persist(
            llama, "llama", store=Store(tmp_path), check=False, targets="NPU", max_prompt=100, min_response=64
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bloom", "takes decoders with .*position_ids.*; this one has attention_mask, beam_idx, input_ids"),
        ("t5", "NPU --graph encoder --bucket input_ids=1x128,attention_mask=1x128`"),
    ],
)
def test_what_no_npu_takes_is_refused_before_it_is_traced(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("npu_persist.conversion.generation.build.trace", None)
    monkeypatch.setattr("npu_persist.conversion.build.find_example", None)
    model = make_decoder(name) if name in DECODERS else make_encoder_decoder(name)
    with pytest.raises(DynamicShapeError, match=message):
        npu_persist.persist(model, "it", store=Store(tmp_path), targets=["NPU"])
    assert Store(tmp_path).names() == ()


def test_lengths_are_for_models_that_generate_and_for_npus(llama: Any, tmp_path: Path) -> None:
    given: dict[str, Any] = {"store": Store(tmp_path), "max_prompt": 64}
    with pytest.raises(UsageError, match=r"they are for an NPU. Give targets=\['NPU:4000'\] too"):
        npu_persist.persist(llama, "llama", **given)
    with pytest.raises(UsageError, match="they are for an NPU"):
        npu_persist.persist(llama, "llama", targets="CPU", **given)
    with pytest.raises(UsageError, match="expected a model that `generate` of transformers works on"):
        npu_persist.persist(torch.nn.Linear(2, 2), "layer", (torch.zeros(1, 2),), targets="NPU", **given)
    with pytest.raises(UsageError, match="max_prompt: expected a number of tokens from 1 to"):
        npu_persist.persist(llama, "llama", targets="NPU", **{**given, "max_prompt": 0})
    assert Store(tmp_path).names() == ()
