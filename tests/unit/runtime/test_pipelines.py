from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

import npu_persist
from npu_persist.bundle.origin import write_origin
from npu_persist.cache import CompileCache
from npu_persist.errors import (
    BundleNotFoundError,
    CompilationError,
    DeviceNotFoundError,
    FileIntegrityError,
    MissingExtraError,
    SignatureError,
    UsageError,
)
from npu_persist.store import Store
from tests.support.graphs import publish_affine
from tests.support.loads import spoil
from tests.support.pipelines import make_tokenizer_assets, publish_language_model, publish_text_encoder, token
from tests.support.signers import ORIGIN

if TYPE_CHECKING:
    from pathlib import Path

genai = pytest.importorskip("openvino_genai", reason="needs the extra genai")

ANSWER = "Hello world again\n"


@pytest.fixture(scope="module")
def assets() -> dict[str, bytes]:
    return make_tokenizer_assets()


def say(pipe: Any, prompt: str = "Well", tokens: int = 8) -> str:
    return str(pipe.generate(prompt, max_new_tokens=tokens, apply_chat_template=False))


def test_a_language_model_answers_and_comes_from_the_cache_the_second_time(assets: dict[str, bytes]) -> None:
    bundle = publish_language_model(Store(), assets=assets)
    first = npu_persist.pipeline("speaker")
    assert isinstance(first, genai.LLMPipeline)
    assert say(first) == ANSWER
    assert not first.report.from_cache
    assert first.report.verified_bytes == bundle.size
    again = npu_persist.pipeline("speaker")
    assert (again.report.from_cache, again.report.key) == (True, first.report.key)
    assert say(again, "Hello") == " world again\n"
    assert "from a compiled artifact for CPU, runs on CPU" in str(again.report)


def test_another_bundle_or_other_properties_have_an_entry_of_their_own(assets: dict[str, bytes]) -> None:
    publish_language_model(Store(), assets=assets)
    publish_language_model(Store(), name="mute", factor=-1.0, assets=assets)
    keys = {npu_persist.pipeline("speaker").report.key}
    other = npu_persist.pipeline("mute")
    assert not other.report.from_cache
    assert say(other, "Hello", tokens=3) != " world again\n"
    keys |= {other.report.key, npu_persist.pipeline("mute", config={"ATTENTION_BACKEND": "SDPA"}).report.key}
    assert len(keys) == 3


def test_a_damaged_entry_is_not_used(assets: dict[str, bytes]) -> None:
    publish_language_model(Store(), assets=assets)
    key = npu_persist.pipeline("speaker").report.key
    (entry,) = CompileCache(Store().home).entries()
    assert (entry.key, entry.reference is not None) == (key, True)
    (blob,) = (entry.path / "openvino").iterdir()
    spoil(blob)
    pipe = npu_persist.pipeline("speaker")
    assert not pipe.report.from_cache
    assert "damaged" in pipe.report.attempts[0].reason
    assert say(pipe) == ANSWER
    assert npu_persist.pipeline("speaker").report.from_cache


def test_without_the_cache_nothing_is_kept(assets: dict[str, bytes]) -> None:
    publish_language_model(Store(), assets=assets)
    pipe = npu_persist.pipeline("speaker", cache=False)
    assert (say(pipe), pipe.report.key) == (ANSWER, None)
    assert CompileCache(Store().home).entries() == ()


@pytest.mark.parametrize("name", ["assets/openvino_tokenizer.bin", "weights.safetensors", "model.xml"])
def test_a_changed_file_is_not_read(assets: dict[str, bytes], name: str) -> None:
    bundle = publish_language_model(Store(), assets=assets)
    spoil(bundle.path / name)
    with pytest.raises(FileIntegrityError, match=name.rpartition("/")[2]):
        npu_persist.pipeline("speaker")


def test_nothing_stays_in_the_staging_folders(assets: dict[str, bytes]) -> None:
    publish_language_model(Store(), assets=assets)
    pipe = npu_persist.pipeline("speaker")
    assert say(pipe) == ANSWER
    del pipe
    gc.collect()
    assert [*(Store().home / "staging").iterdir()] == [*(Store().home / "compile-cache/staging").iterdir()] == []


def test_a_text_encoder_gives_vectors(assets: dict[str, bytes]) -> None:
    publish_text_encoder(Store(), assets=assets)
    pipe = npu_persist.pipeline("encoder", config={"normalize": False})
    assert isinstance(pipe, genai.TextEmbeddingPipeline)
    (vector,) = pipe.embed_documents(["Hello"])
    assert vector[0] == token(b"Hello")


def test_what_no_pipeline_runs_is_refused(assets: dict[str, bytes]) -> None:
    publish_affine(Store())
    publish_language_model(Store(), name="bare")
    with pytest.raises(UsageError, match=r"affine:1: no pipeline runs its graphs, main.*Use `load`"):
        npu_persist.pipeline("affine")
    with pytest.raises(
        UsageError, match=r"lacks openvino_detokenizer\.xml, openvino_tokenizer\.xml, which LLMPipeline"
    ):
        npu_persist.pipeline("bare")
    with pytest.raises(BundleNotFoundError):
        npu_persist.pipeline("nobody")
    publish_language_model(Store(), assets=assets)
    with pytest.raises(DeviceNotFoundError):
        npu_persist.pipeline("speaker", "GPU.7")
    with pytest.raises(UsageError, match="config: expected"):
        npu_persist.pipeline("speaker", config=["LATENCY"])  # type: ignore[arg-type]
    with pytest.raises(CompilationError, match="GenAI could not load speaker:1 for CPU"):
        npu_persist.pipeline("speaker", config={"NO_SUCH_PROPERTY": 1})
    assert say(npu_persist.pipeline("speaker")) == ANSWER


def test_without_genai_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'npu_persist\[genai\]'"):
        npu_persist.pipeline("speaker")


def test_a_pulled_bundle_has_to_be_trusted(assets: dict[str, bytes], tmp_path: Path) -> None:
    bundle = publish_language_model(Store(tmp_path), assets=assets)
    write_origin(bundle.path, ORIGIN)
    with pytest.raises(SignatureError, match=r"would read its graph in this process.*was pulled from"):
        npu_persist.pipeline("speaker", store=tmp_path)
    assert say(npu_persist.pipeline("speaker", store=tmp_path, trust=True)) == ANSWER
