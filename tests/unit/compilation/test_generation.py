"""Models that generate, on the real NPU plugin, whose wrapper (NPUW) runs on a CPU: all but the NPU's own compiler."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import npu_persist
from npu_persist.artifact.artifact import BLOB_FILE, Artifact, Lengths
from npu_persist.artifact.attached import list_attached
from npu_persist.artifact.blob import read_blob
from npu_persist.bundle.graph_records import Port
from npu_persist.bundle.manifest import derived_bin
from npu_persist.bundle.verification import Verification
from npu_persist.compilation import local
from npu_persist.compilation.generation import WITH_WEIGHTS, choose_lengths, find_kind, make_options
from npu_persist.compilation.local import compile_graph, export_blob, import_blob, read_graph
from npu_persist.compilation.recipe import Recipe, make_recipe
from npu_persist.compilation.toolchains import native
from npu_persist.compilation.toolchains.toolchain import CompilerRequest
from npu_persist.device.core import get_core
from npu_persist.errors import ArtifactError, FileIntegrityError, PropertyError, UsageError, WeightsInUseError
from npu_persist.store import Store
from tests.support.decoders import SMALL, continue_greedily, publish_llama, with_seed
from tests.support.graphs import publish_affine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.compilation.local import Compiled
    from tests.support.decoders import Stored

ON_THE_CPU = {"NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE"}
LENGTHS = Lengths(64, 64)
PROMPT = [5, 17, 3]
SPEECH = ("input_ids", "encoder_hidden_states", "beam_idx")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    publish_llama(store)
    publish_llama(store, with_seed(SMALL, 1))
    return store


@pytest.fixture
def verification() -> Iterator[Verification]:
    with Verification("full") as verification:
        yield verification


def on_npuw(bundle: Bundle, **changes: Any) -> Recipe:
    return make_recipe(bundle, bundle.graph(), "NPU", ON_THE_CPU | changes, lengths=LENGTHS)


def compile_here(recipe: Recipe, verification: Verification, extra: dict[str, Any] | None = None) -> Compiled:
    verification.start(recipe.weights, recipe.bundle.manifest.files[recipe.bundle.manifest.weights.path])
    return compile_graph(recipe, read_graph(recipe, verification), extra)


def answer_on_cpu(bundle: Bundle, count: int = 12) -> list[int]:
    with Verification("full") as verification:
        recipe = make_recipe(bundle, bundle.graph(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return continue_greedily(compile_here(recipe, verification).model, PROMPT, count)


@pytest.fixture
def exported(store: Store, tmp_path: Path, verification: Verification) -> tuple[Recipe, Artifact, Path]:
    recipe = on_npuw(store.resolve("llama:1"))
    return recipe, export_blob(recipe, compile_here(recipe, verification), tmp_path), tmp_path


def test_compiled_exported_and_imported_it_answers_as_on_the_cpu(
    store: Store, tmp_path: Path, verification: Verification
) -> None:
    bundle = store.resolve("llama:1")
    expected = answer_on_cpu(bundle)
    recipe = on_npuw(bundle)
    compiled = compile_here(recipe, verification)
    assert continue_greedily(compiled.model, PROMPT, 12) == expected
    artifact = export_blob(recipe, compiled, tmp_path)
    assert (artifact.lengths, artifact.npuw, artifact.weightless, artifact.notes) == (LENGTHS, "0.31", True, ())
    assert artifact.key == recipe.key
    assert artifact.options["NPUW_LLM_MAX_PROMPT_LEN"] == "64"
    del compiled
    imported = import_blob(recipe, artifact, tmp_path, verification, check=True)
    assert continue_greedily(imported.model, PROMPT, 12) == expected


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_weights_that_are_integers_stay_in_their_file(
    precision: Stored, tmp_path: Path, verification: Verification
) -> None:
    bundle = publish_llama(Store(tmp_path / "store"), replace(SMALL, precision=precision))
    recipe = on_npuw(bundle)
    assert recipe.options["NPUW_DQ"] == "YES"
    artifact = export_blob(recipe, compile_here(recipe, verification), tmp_path)
    imported = import_blob(recipe, artifact, tmp_path, verification, check=True)
    on_cpu = make_recipe(bundle, bundle.graph(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = read_logits(compile_here(on_cpu, verification).model)
    # NPUW computes in half precision: tokens that are nearly as likely may change places.
    np.testing.assert_allclose(read_logits(imported.model), expected, atol=0.1 * np.abs(expected).max())


def read_logits(model: Any) -> np.ndarray[Any, Any]:
    """Return the last logits after a prompt, and after each of two tokens more."""
    request, total, found = model.create_infer_request(), 0, []
    for tokens in (PROMPT, [64], [57]):
        start, total = total, total + len(tokens)
        call = {
            "input_ids": np.array([tokens]),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(start, total)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        found.append(request.infer(call)[0][0, -1].copy())
    return np.array(found)


def test_several_tokens_begin_a_conversation_and_it_ends_at_the_capacity(
    store: Store, verification: Verification
) -> None:
    bundle = store.resolve("llama:1")
    model = compile_here(on_npuw(bundle), verification).model
    request = model.create_infer_request()
    first = continue_greedily(request, PROMPT, 5)
    assert continue_greedily(request, PROMPT, 5) == first
    capacity = LENGTHS.prompt + LENGTHS.response - 1
    assert continue_greedily(request, PROMPT, capacity - len(PROMPT) + 1) == answer_on_cpu(
        bundle, capacity - len(PROMPT) + 1
    )
    with pytest.raises(RuntimeError):
        continue_greedily(request, PROMPT, capacity - len(PROMPT) + 2)


def test_a_blob_with_its_weights_needs_no_file(store: Store) -> None:
    (result,) = npu_persist.compile(
        "llama:1", "NPU", config=ON_THE_CPU, max_prompt=64, min_response=64, weightless=False, store=store
    )
    assert result.artifact is not None
    assert result.path is not None
    blob = read_blob(result.path / BLOB_FILE)
    assert (result.artifact.weightless, blob.weightless, blob.generates) == (False, False, True)
    bundle = store.resolve("llama:1")
    with Verification("full") as verification:
        found = import_blob(on_npuw(bundle), result.artifact, result.path, verification, check=True)
        assert continue_greedily(found.model, PROMPT, 12) == answer_on_cpu(bundle)


def test_what_compile_attaches_is_what_load_takes_for_any_lengths(store: Store) -> None:
    for max_prompt, min_response in ((10, 65), (100, 64)):
        (result,) = npu_persist.compile(
            "llama:2", "NPU", config=ON_THE_CPU, max_prompt=max_prompt, min_response=min_response, store=store
        )
        assert "prompt" in result.label
    attached = [artifact for _, artifact in list_attached(store.resolve("llama:2"))]
    lengths = [artifact.lengths for artifact in attached if isinstance(artifact, Artifact)]
    assert sorted((one.prompt, one.response) for one in lengths if one) == [(64, 128), (128, 64)]
    model = npu_persist.load("llama:2", "NPU", config=ON_THE_CPU, store=store)
    assert any(attempt.source == "attached" and attempt.is_used for attempt in model.report.attempts)
    count = len(PROMPT)
    logits = model(np.array([PROMPT]), np.ones((1, count), np.int64), np.arange(count)[None], np.zeros(1, np.int32))
    assert int(logits[0, -1].argmax()) == answer_on_cpu(store.resolve("llama:2"), 1)[0]
    model.close()


def test_one_blob_with_other_weights_is_refused_while_a_model_lives(
    store: Store, exported: tuple[Recipe, Artifact, Path]
) -> None:
    recipe, artifact, folder = exported
    other = on_npuw(store.resolve("llama:2"))
    with Verification("full") as verification:
        living = import_blob(recipe, artifact, folder, verification, check=True)
        again = import_blob(recipe, artifact, folder, verification, check=True)
        with pytest.raises(WeightsInUseError, match=r"other weights, blake3:.*in a process of its own"):
            import_blob(other, artifact, folder, verification, check=True)
        del living
        with pytest.raises(WeightsInUseError):
            import_blob(other, artifact, folder, verification, check=True)
        del again
        found = import_blob(other, artifact, folder, verification, check=True)
        assert continue_greedily(found.model, PROMPT, 12) == answer_on_cpu(other.bundle)


def test_no_flipped_bit_reaches_openvino(
    exported: tuple[Recipe, Artifact, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, artifact, folder = exported

    class Core:
        def import_model(self, *_: object) -> None:
            raise AssertionError("a blob that is not what was compiled reached OpenVINO")

    monkeypatch.setattr(local, "get_core", Core)
    chance = random.Random(0)  # noqa: S311
    blob = folder / BLOB_FILE
    weights = recipe.weights
    weights.chmod(0o644)
    for path, count in ((blob, 500), (weights, 500)):
        right = path.read_bytes()
        data = bytearray(right)
        for _ in range(count):
            bit = chance.randrange(8 * len(data))
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            with Verification("full") as verification:
                if path == blob:
                    with pytest.raises(ArtifactError, match="expected blake3:"):
                        import_blob(recipe, artifact, folder, verification, check=True)
                else:
                    verification.start(path, recipe.bundle.manifest.files[recipe.bundle.manifest.weights.path])
                    with pytest.raises(FileIntegrityError):
                        verification.finish()
            data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(right)


def test_a_graph_that_fails_in_parts_is_compiled_in_one_piece(
    store: Store, tmp_path: Path, verification: Verification, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[dict[str, Any]] = []

    class Core:
        def compile_model(self, model: Any, device: str, properties: dict[str, Any]) -> Any:
            tried.append(properties)
            if "NPUW_ONLINE_PIPELINE" not in properties:
                raise RuntimeError("Model references undeclared parameters: Parameter_7")
            return real.compile_model(model, device, properties)

    bundle = store.resolve("llama:1")
    recipe = make_recipe(bundle, bundle.graph(), "NPU", {"NPUW_DEVICES": "CPU"}, lengths=LENGTHS)
    model = read_graph(recipe, verification)
    real = get_core()
    monkeypatch.setattr(local, "get_core", Core)
    compiled = compile_graph(recipe, model)
    monkeypatch.undo()
    assert [one.get("NPUW_ONLINE_PIPELINE") for one in tried] == [None, "NONE"]
    artifact = export_blob(recipe, compiled, tmp_path)
    assert artifact.options["NPUW_ONLINE_PIPELINE"] == "NONE"
    (note,) = artifact.notes
    assert note.startswith("compiled in one piece (NPUW_ONLINE_PIPELINE=NONE); in parts it failed: Model references")
    assert artifact.key == recipe.key
    assert continue_greedily(compiled.model, PROMPT, 12) == answer_on_cpu(bundle)


def test_lengths(store: Store) -> None:
    graph = store.resolve("llama:1").graph()
    assert find_kind(graph) == "text"
    assert choose_lengths(graph) == Lengths(1024, 128)
    assert choose_lengths(graph, 65, 64) == Lengths(128, 64)
    speech = _with_inputs(graph, *(Port(name, "int64", (1,)) for name in SPEECH))
    assert find_kind(speech) == "speech"
    assert choose_lengths(speech) == Lengths(4, 444)
    assert choose_lengths(speech, 8, 440) == Lengths(8, 440)
    options = make_options(speech, Lengths(4, 444))
    assert (options["NPUW_WHISPER"], options["NPUW_FOLD"], options["NPUW_ONLINE_PIPELINE"]) == ("YES", "YES", "NONE")
    bundle = store.resolve("llama:1")
    asked = make_recipe(bundle, graph, "NPU", {"NPUW_LLM_MAX_PROMPT_LEN": "256"}).lengths
    assert asked == Lengths(256, 128)
    assert make_recipe(bundle, graph, "CPU", {}).lengths is None
    with pytest.raises(PropertyError, match="expected a number of tokens"):
        make_recipe(bundle, graph, "NPU", {"NPUW_LLM_MAX_PROMPT_LEN": "many"})


def _with_inputs(graph: Any, *inputs: Port) -> Any:
    return type(graph)(**{**_fields(graph), "inputs": inputs})


def _fields(graph: Any) -> dict[str, Any]:
    return {name: getattr(graph, name) for name in graph.__struct_fields__}


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "128", 2**21])
def test_lengths_that_are_none(store: Store, value: Any) -> None:
    for name in ("max_prompt", "min_response"):
        with pytest.raises(UsageError, match=f"{name}: expected a number of tokens from 1 to 1048576, or None; got"):
            npu_persist.compile("llama:1", "NPU:4000", store=store, **{name: value})


def test_lengths_are_for_models_that_generate(tmp_path: Path, store: Store) -> None:
    other = Store(tmp_path)
    publish_affine(other)
    with pytest.raises(UsageError, match="max_prompt, min_response: expected a graph that generates"):
        npu_persist.compile("affine", "NPU:4000", max_prompt=64, store=other)
    with pytest.raises(PropertyError, match="expected the lengths as max_prompt= and min_response="):
        npu_persist.compile("llama:1", "NPU:4000", config={"NPUW_LLM_MAX_PROMPT_LEN": "64"}, store=store)


def test_the_hand_made_decoder_is_right_with_and_without_its_cache(store: Store, tmp_path: Path) -> None:
    """What the other tests compare with."""
    bundle = publish_llama(Store(tmp_path), tokens=8)
    ids = [*PROMPT, *answer_on_cpu(store.resolve("llama:1"), 5)]
    model = npu_persist.load(bundle.path, "CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    logits = model(np.array([ids]), np.ones((1, 8), np.int64), np.arange(8)[None])
    assert logits[0, len(PROMPT) - 1 : -1].argmax(-1).tolist() == ids[len(PROMPT) :]


def test_toolchains_of_this_interpreter_hand_the_options_on(store: Store, tmp_path: Path) -> None:
    bundle = store.resolve("llama:1")
    recipe = on_npuw(bundle)
    bundle.ensure_bin()
    request = CompilerRequest(
        graph=str(bundle.file(recipe.graph.path)),
        weights=str(bundle.path / derived_bin(recipe.graph.path)),
        output=str(tmp_path / BLOB_FILE),
        platform=None,
        options=recipe.options | ON_THE_CPU | WITH_WEIGHTS,
    )
    native.compile_here(request)
    blob = read_blob(tmp_path / BLOB_FILE)
    assert (blob.generates, blob.weightless, blob.npuw) == (True, False, "0.31")
