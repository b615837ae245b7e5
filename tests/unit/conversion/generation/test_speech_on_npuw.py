"""Speech on the real NPU plugin, whose wrapper (NPUW) runs on the CPU: it finds what it looks for in the decoder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest

import npu_persist
from npu_persist.artifact.artifact import Artifact, Lengths
from npu_persist.artifact.attached import list_attached
from npu_persist.bundle.manifest import derived_bin
from npu_persist.compilation.generation import choose_lengths, make_options
from npu_persist.errors import InputError, StateError, UsageError
from npu_persist.store import Store
from tests.models.generation import reference
from tests.models.generation.encoder_decoders import make_encoder_decoder
from tests.support.generation import generate
from tests.support.loads import attempts

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist import Bundle

ON_THE_CPU = {"NPUW_DEVICES": "CPU"}
PROMPTS = ([1], [1, 5], [1, 5, 7, 9])
"""One to four tokens, which is what NPUW reads at once. That of one comes first: later, NPUW would go on with it."""
RECORDING = np.random.default_rng(1).standard_normal((1, 16, 40)).astype(np.float32)
FOLLOWING = (17, 3, 40, 8, 8, 61)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    store = Store(tmp_path_factory.mktemp("store"))
    return npu_persist.persist(make_encoder_decoder("whisper"), "whisper", store=store, precision="fp32")


@pytest.fixture(scope="module")
def core() -> ov.Core:
    """Return OpenVINO whose CPU computes in float32: NPUW's masks become -inf in bfloat16."""
    core = ov.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return core


@pytest.fixture(scope="module")
def heard(bundle: Bundle, core: ov.Core) -> np.ndarray[Any, Any]:
    encoder = core.compile_model(bundle.path / bundle.graph("encoder").path, "CPU")
    found: np.ndarray[Any, Any] = encoder(RECORDING)[0]
    return found


def test_it_answers_as_on_the_cpu_compiled_exported_and_imported(
    bundle: Bundle, core: ov.Core, heard: np.ndarray[Any, Any]
) -> None:
    graph = bundle.graph("decoder")
    lengths = choose_lengths(graph)
    assert lengths is not None
    path = bundle.path / graph.path
    on_cpu = core.compile_model(path, "CPU")
    on_npuw = core.compile_model(path, "NPU", make_options(graph, lengths) | {"NPUW_DEVICES": "CPU"})
    blob = on_npuw.export_model()
    weights = str(bundle.path / derived_bin(graph.path))
    imported = core.import_model(blob, "NPU", {"WEIGHTS_PATH": weights})
    for prompt in PROMPTS:
        expected = read_logits(on_cpu, prompt, heard)
        for model in (on_npuw, imported):
            # NPUW keeps the past in half precision.
            found = read_logits(model, prompt, heard)
            np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())


def read_logits(model: ov.CompiledModel, prompt: list[int], heard: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the last logits after a prompt, and after each of the tokens that follow."""
    request, found = model.create_infer_request(), []
    for ids in (prompt, *([token] for token in FOLLOWING)):
        call = {"input_ids": np.array([ids]), "encoder_hidden_states": heard, "beam_idx": np.zeros(1, np.int32)}
        found.append(request.infer(call)["logits"][0, -1].copy())
    return np.array(found)


def test_targets_are_compiled_for_one_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_cpu = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE"}
    monkeypatch.setattr(
        "npu_persist.conversion.persist.compile_bundle", partial(npu_persist.compile, config=on_the_cpu)
    )
    model, store = make_encoder_decoder("whisper"), Store(tmp_path)
    bundle = npu_persist.persist(model, "whisper", store=store, precision="fp32", targets=["NPU"], min_response=20)
    attached = [artifact for _, artifact in list_attached(bundle) if isinstance(artifact, Artifact)]
    assert {artifact.graph: (artifact.shapes, artifact.lengths) for artifact in attached} == {
        "encoder": ({"input_features": (1, 16, 40)}, None),
        "decoder": (None, Lengths(4, 20)),
    }


@pytest.mark.filterwarnings("ignore::npu_persist.errors.DeviceWarning")  # an NPU has no float32
@pytest.mark.usefixtures("exact_cpu")
def test_sessions_give_the_tokens_of_torch_compiled_and_imported(bundle: Bundle, heard: np.ndarray[Any, Any]) -> None:
    model, beam = make_encoder_decoder("whisper"), np.zeros(1, np.int32)
    start = np.full((1, 1), model.generation_config.decoder_start_token_id)
    expected = reference.generate(model, 12, input_features=RECORDING)
    longer = np.concatenate([start, expected[:, :2]], axis=-1)
    for source in ("graph", "cache"):
        with npu_persist.load(bundle.path, "NPU", graph="decoder", config=ON_THE_CPU) as decoder:
            assert attempts(decoder)[-1] == (source, "NPU", True)
            for prompt in (start, longer, start):  # to NPUW, one token is a prompt only if it comes first
                found = generate(decoder, prompt, count=8, encoder_hidden_states=heard)
                np.testing.assert_array_equal(found, expected[:, prompt.shape[1] - 1 :][:, :8])
            with decoder.session() as one, decoder.session() as other:
                one(start, heard, beam)
                with pytest.raises(InputError, match="an NPU takes one token at a time; got 3"):
                    one(longer, heard, beam)
                with pytest.raises(UsageError, match="cannot be copied"):
                    one.copy()
                other(longer, heard, beam)
                with pytest.raises(StateError, match="another one has begun"):
                    one(start, heard, beam)
                assert other(expected[:, 2:3], heard, beam).logits[0, -1].argmax() == expected[0, 3]
                one.reset()
                assert one(start, heard, beam).logits[0, -1].argmax() == expected[0, 0]


def test_the_length_of_what_is_heard_is_fixed(bundle: Bundle, heard: np.ndarray[Any, Any]) -> None:
    port = next(port for port in bundle.graph("decoder").inputs if port.name == "encoder_hidden_states")
    assert port.shape[1:] == heard.shape[1:]


def test_keys_of_what_is_heard_are_kept_as_attention_takes_them(bundle: Bundle) -> None:
    model = ov.Core().read_model(bundle.path / bundle.graph("decoder").path)
    kept = [
        {user.get_node().get_type_name() for user in operation.output(0).get_target_inputs()}
        for operation in model.get_ops()
        if operation.get_type_name() == "ReadValue" and operation.get_variable_id().startswith("cross.")
    ]
    assert kept == [{"ScaledDotProductAttention", "Assign"}] * 4
