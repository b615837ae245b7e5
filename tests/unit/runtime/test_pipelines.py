from __future__ import annotations

import gc
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
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
from npu_persist.runtime import pipelines
from npu_persist.runtime.pipelines import _load
from npu_persist.store import Store, export
from tests.support.graphs import publish_affine
from tests.support.loads import spoil
from tests.support.pipelines import (
    make_tokenizer_assets,
    publish_decoder,
    publish_language_model,
    publish_painter,
    publish_text_encoder,
    token,
)
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


def test_a_language_model_answers(assets: dict[str, bytes]) -> None:
    bundle = publish_language_model(Store(), assets=assets)
    pipe = npu_persist.pipeline("speaker")
    assert isinstance(pipe, genai.LLMPipeline)
    assert say(pipe) == ANSWER
    read = [entry.size for path, entry in bundle.manifest.files.items() if path != "golden.safetensors"]
    assert pipe.report.verified_bytes == sum(read)


def test_the_second_time_it_comes_from_the_cache(assets: dict[str, bytes]) -> None:
    publish_decoder(Store(), assets=assets)
    first = npu_persist.pipeline("decoder")
    assert not first.report.from_cache
    again = npu_persist.pipeline("decoder")
    assert (again.report.from_cache, again.report.key) == (True, first.report.key)
    assert again.report.verified_bytes > first.report.verified_bytes
    assert say(again) == say(first)
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
    publish_decoder(Store(), assets=assets)
    first = npu_persist.pipeline("decoder")
    (entry,) = CompileCache(Store().home).entries()
    assert (entry.key, entry.reference is not None) == (first.report.key, True)
    (blob,) = (entry.path / "openvino").iterdir()
    spoil(blob)
    pipe = npu_persist.pipeline("decoder")
    assert not pipe.report.from_cache
    assert "damaged" in pipe.report.attempts[0].reason
    assert say(pipe) == say(first)
    assert npu_persist.pipeline("decoder").report.from_cache


def test_what_openvino_does_not_take_back_is_neither_kept_nor_written_again(assets: dict[str, bytes]) -> None:
    """OpenVINO 2026.4 refuses what it wrote itself for this model, as it does wherever GenAI takes paged attention."""
    publish_language_model(Store(), assets=assets)
    reasons = []
    for _ in range(3):
        pipe = npu_persist.pipeline("speaker")
        assert (say(pipe), pipe.report.from_cache) == (ANSWER, False)
        cached, compiled = pipe.report.attempts
        assert (cached.is_used, compiled.source, compiled.is_used) == (False, "graph", True)
        reasons.append(cached.reason)
    (entry,) = CompileCache(Store().home).entries()
    assert entry.problem is None
    assert entry.artifact is not None
    assert not entry.artifact.files
    assert "nothing is there" in reasons[0]
    assert "did not take" in reasons[1]
    assert "does not take back" in reasons[2]


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


def exchange(path: Path) -> None:
    """Put a file with one other bit in the place of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    other = path.with_name("other")
    other.write_bytes(data)
    other.replace(path)


@pytest.mark.parametrize("name", ["assets/openvino_tokenizer.bin", "weights.safetensors", "model.xml"])
def test_a_file_that_is_exchanged_on_the_way_is_not_read(
    assets: dict[str, bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared with the manifest is what GenAI reads, and not what has its name in the store."""
    bundle = publish_language_model(Store(), assets=assets)
    plan = export.place_files

    def place_files(*arguments: Any) -> dict[str, str]:
        exchange(bundle.path / name)
        return plan(*arguments)

    monkeypatch.setattr("npu_persist.runtime.pipelines.place_files", place_files)
    with pytest.raises(FileIntegrityError, match=name.rpartition("/")[2]):
        npu_persist.pipeline("speaker")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows exchanges no file that is open")
def test_a_file_that_is_exchanged_after_the_links_were_made_is_not_read(
    assets: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = publish_language_model(Store(), assets=assets)
    paths = [bundle.path / name for name in ("assets/openvino_tokenizer.bin", "weights.safetensors", "model.xml")]
    monkeypatch.setattr(pipelines, "note_threads", lambda: [*map(exchange, paths)])
    assert say(npu_persist.pipeline("speaker")) == ANSWER


@pytest.mark.skipif(sys.platform == "win32", reason="Windows writes to no file that is mapped")
@pytest.mark.parametrize("name", ["assets/openvino_tokenizer.bin", "weights.safetensors"])
def test_a_file_that_is_written_to_while_genai_loads_is_an_error(
    assets: dict[str, bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish_language_model(Store(), assets=assets).path / name
    path.chmod(0o644)

    def write() -> None:  # and not truncate, which would end the process that maps it
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            (last,) = file.read()
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))

    monkeypatch.setattr(pipelines, "note_threads", write)
    with pytest.raises(FileIntegrityError, match=name):
        npu_persist.pipeline("speaker")
    assert not CompileCache(Store().home).entries()


def staged() -> list[Path]:
    return [path for part in ("staging", "compile-cache/staging") for path in (Store().home / part).iterdir()]


def test_nothing_stays_in_the_staging_folders(assets: dict[str, bytes]) -> None:
    publish_language_model(Store(), assets=assets)
    pipe = npu_persist.pipeline("speaker")
    assert say(pipe) == ANSWER
    assert staged()
    del pipe
    gc.collect()
    assert not staged()


@pytest.mark.parametrize("name", ["speaker", "decoder"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_an_interrupt_leaves_nothing_behind(
    assets: dict[str, bytes], error: type[BaseException], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_language_model(Store(), assets=assets)
    publish_decoder(Store(), assets=assets)
    npu_persist.pipeline(name)
    gc.collect()

    def load(*_: object, **__: object) -> None:
        assert len(staged()) == 4  # two folders, each with its lock
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(pipelines, "_subclass", lambda _: load)
        with pytest.raises(CompilationError if error is RuntimeError else error):
            npu_persist.pipeline(name)
    assert not staged()
    assert npu_persist.pipeline(name).report.from_cache is (name == "decoder")


def test_a_text_encoder_gives_vectors(assets: dict[str, bytes]) -> None:
    publish_text_encoder(Store(), assets=assets)
    pipe = npu_persist.pipeline("encoder", config={"normalize": False})
    assert isinstance(pipe, genai.TextEmbeddingPipeline)
    (vector,) = pipe.embed_documents(["Hello"])
    assert vector[0] == token(b"Hello")


def paint(pipe: Any, prompt: str = "Hello", **options: Any) -> np.ndarray[Any, Any]:
    image = pipe.generate(prompt, num_inference_steps=2, rng_seed=7, **options)
    return np.array(image.data)


def test_an_image_is_what_stock_genai_makes_of_the_exported_folder(assets: dict[str, bytes], tmp_path: Path) -> None:
    publish_painter(Store(), assets)
    npu_persist.export("painter", "genai", tmp_path / "out")
    stock = genai.Text2ImagePipeline(str(tmp_path / "out"), "CPU", INFERENCE_PRECISION_HINT="f32")
    pipe = npu_persist.pipeline("painter")
    assert isinstance(pipe, genai.Text2ImagePipeline)
    found = paint(pipe)
    assert found.shape == (1, 16, 16, 3)
    assert np.array_equal(found, paint(stock))
    assert not np.array_equal(found, paint(pipe, "A"))
    larger = paint(pipe, height=32, width=24)
    assert larger.shape == (1, 32, 24, 3)
    assert np.array_equal(larger, paint(stock, height=32, width=24))
    again = npu_persist.pipeline("painter")
    assert (again.report.from_cache, pipe.report.from_cache) == (True, False)
    assert np.array_equal(paint(again), found)


def test_the_report_says_that_an_attached_artifact_is_passed_over(assets: dict[str, bytes]) -> None:
    publish_painter(Store(), assets)
    (result,) = npu_persist.compile("painter", "CPU", graph="unet", image_size=(16, 16))
    assert result.path is not None
    first = npu_persist.pipeline("painter", cache=False).report.attempts
    assert [(attempt.source, attempt.is_used) for attempt in first] == [("attached", False), ("graph", True)]
    assert first[0].reason.startswith(f"{result.path.name}: Text2ImagePipeline of openvino_genai")
    assert first[0].reason.endswith("compiles its graphs itself; `load` uses it")


@pytest.mark.parametrize("name", ["assets/tokenizer/openvino_tokenizer.bin", "unet.xml", "assets/model_index.json"])
def test_a_changed_file_of_several_models_is_not_read(assets: dict[str, bytes], name: str) -> None:
    bundle = publish_painter(Store(), assets)
    spoil(bundle.path / name)
    with pytest.raises(FileIntegrityError, match=name.rpartition("/")[2]):
        npu_persist.pipeline("painter")


def test_images_of_one_size_are_those_of_any_size(assets: dict[str, bytes]) -> None:
    publish_painter(Store(), assets)
    free = npu_persist.pipeline("painter")
    fixed = npu_persist.pipeline("painter", image_size=(24, 32))
    assert fixed.report.key != free.report.key
    assert np.array_equal(paint(fixed, height=24, width=32), paint(free, height=24, width=32))
    with pytest.raises(RuntimeError):
        paint(fixed, height=32, width=24)
    assert npu_persist.pipeline("painter", image_size=(24, 32)).report.from_cache
    for size in ((24,), (24, 32.0), (0, 16), "24x32"):
        with pytest.raises(UsageError, match="image_size: expected height and width"):
            npu_persist.pipeline("painter", image_size=size)  # type: ignore[arg-type]
    publish_text_encoder(Store(), assets=assets)
    with pytest.raises(UsageError, match="TextEmbeddingPipeline, which makes no images"):
        npu_persist.pipeline("encoder", image_size=(24, 32))


def test_on_an_npu_sizes_are_fixed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []

    class Recording:
        def __init__(self, folder: str, *more: Any, **properties: Any) -> None:
            calls.append((folder, *more, properties))

        def get_generation_config(self) -> Any:
            return SimpleNamespace(height=16, width=24, guidance_scale=7.5)

        def reshape(self, *sizes: Any) -> None:
            calls.append(sizes)

        def compile(self, device: str, **properties: Any) -> None:
            calls.append((device, properties))

    monkeypatch.setattr("openvino_genai.Text2ImagePipeline", Recording)
    _load("Text2ImagePipeline", tmp_path, "NPU", None, {"A": 1})
    assert calls == [(str(tmp_path), {}), (1, 16, 24, 7.5), ("NPU", {"A": 1})]


def test_without_its_tokenizer_a_text_to_image_pipeline_is_refused() -> None:
    publish_painter(Store(), {"tokenizer.json": b"{}"})
    lacking = r"lacks tokenizer/openvino_detokenizer\.xml, tokenizer/openvino_tokenizer\.xml, which Text2ImagePipeline"
    with pytest.raises(UsageError, match=lacking):
        npu_persist.pipeline("painter")


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
