"""Blobs of language models in GenAI's pipeline, on the real NPU plugin, whose wrapper (NPUW) runs on a CPU."""

from __future__ import annotations

import gc
import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import npu_persist
from npu_persist.artifact.artifact import BLOB_FILE
from npu_persist.cache import CompileCache
from npu_persist.compilation import weights_in_memory
from npu_persist.errors import FileIntegrityError, NpuPersistError, PropertyError, WeightsInUseError
from npu_persist.runtime import pipelines
from npu_persist.store import Store
from tests.support.loads import spoil
from tests.support.pipelines import make_tokenizer_assets, publish_decoder

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("openvino_genai", reason="needs the extra genai")

ON_THE_CPU = {"NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE"}
SHORT = {"MAX_PROMPT_LEN": 64, "MIN_RESPONSE_LEN": 64}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a decoder, and a blob attached to it."""
    store = Store(tmp_path_factory.mktemp("compiled"))
    publish_decoder(store, assets=make_tokenizer_assets())
    npu_persist.compile("decoder", "NPU", config=ON_THE_CPU, max_prompt=64, min_response=64, store=store)
    return store.home


@pytest.fixture
def store(compiled: Path, tmp_path: Path) -> Store:
    shutil.copytree(compiled, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def blob(store: Store) -> Path:
    (path,) = store.resolve("decoder").path.glob(f"compiled/*/{BLOB_FILE}")
    path.chmod(0o644)
    return path


def open_on_npu(store: Store, config: dict[str, Any] | None = None, **options: Any) -> Any:
    return npu_persist.pipeline("decoder", "NPU", config=ON_THE_CPU | (config or {}), store=store, **options)


def say(pipe: Any) -> str:
    text = str(pipe.generate("Hello world", max_new_tokens=12, apply_chat_template=False, ignore_eos=True))
    assert len(text) > 4
    return text


def say_on_cpu(store: Store) -> str:
    return say(npu_persist.pipeline("decoder", config={"INFERENCE_PRECISION_HINT": "f32"}, cache=False, store=store))


def used(pipe: Any) -> list[tuple[str, bool]]:
    return [(attempt.source, attempt.is_used) for attempt in pipe.report.attempts]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What GenAI was given; it refuses everything."""
    found: list[dict[str, Any]] = []

    def load(_name: str, _folder: Path, _device: str, _image_size: object, properties: dict[str, Any]) -> None:
        found.append(properties)
        raise RuntimeError("out of order")

    monkeypatch.setattr(pipelines, "_load", load)
    return found


def test_an_attached_blob_is_taken(store: Store, blob: Path) -> None:
    pipe = open_on_npu(store)
    assert used(pipe) == [("attached", True)]
    assert pipe.report.from_cache
    assert "import_blob" in pipe.report.phases
    bundle = store.resolve("decoder")
    read = sum(entry.size for path, entry in bundle.manifest.files.items() if path != "golden.safetensors")
    assert pipe.report.verified_bytes == read + blob.stat().st_size
    assert say(pipe) == say_on_cpu(store)
    del pipe
    gc.collect()
    if os.name != "nt":  # NPUW keeps the weights' file open, so that Windows leaves its folder to `prune`
        assert not [*(store.home / "staging").iterdir()]


def test_a_damaged_blob_costs_a_compilation_which_is_kept(store: Store, blob: Path) -> None:
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1  # what the blob says of itself is at its ends
    blob.write_bytes(data)
    first = open_on_npu(store, SHORT)
    assert used(first) == [("attached", False), ("cache", False), ("graph", True)]
    assert "expected blake3:" in first.report.attempts[0].reason
    expected = say_on_cpu(store)
    assert say(first) == expected
    (entry,) = CompileCache(store.home).entries()
    assert entry.artifact is not None
    assert (entry.artifact.weightless, entry.artifact.npuw, entry.artifact.kind) == (True, "0.31", "blob")
    second = open_on_npu(store, SHORT)
    assert used(second) == [("attached", False), ("cache", True)]
    assert second.report.key == entry.key
    assert say(second) == expected


def test_what_load_compiled_is_taken_from_the_cache(store: Store, blob: Path) -> None:
    shutil.rmtree(blob.parent)
    lengths = {"NPUW_LLM_MAX_PROMPT_LEN": "64", "NPUW_LLM_MIN_RESPONSE_LEN": "64"}
    model = npu_persist.load("decoder", "NPU", config=ON_THE_CPU | lengths, store=store)
    pipe = open_on_npu(store, lengths)
    assert used(pipe) == [("cache", True)]
    assert pipe.report.key == model.report.key
    assert say(pipe) == say_on_cpu(store)


def test_a_damaged_entry_of_the_cache_is_made_again(store: Store, blob: Path) -> None:
    shutil.rmtree(blob.parent)
    open_on_npu(store, SHORT)
    (entry,) = CompileCache(store.home).entries()
    spoil(entry.path / BLOB_FILE)
    pipe = open_on_npu(store, SHORT)
    assert used(pipe) == [("cache", False), ("graph", True)]
    assert say(pipe) == say_on_cpu(store)
    assert CompileCache(store.home).entries()[0].stamp != entry.stamp


def test_a_blob_is_as_long_as_is_asked_for(store: Store, given: list[dict[str, Any]]) -> None:
    for config, fits in (({}, True), (SHORT, True), ({"MAX_PROMPT_LEN": 32}, True), ({"MIN_RESPONSE_LEN": 65}, False)):
        given.clear()
        reason = "GenAI refuses it: out of order" if fits else "prompt 64, response 64; prompt 1024, .* requested"
        with pytest.raises(NpuPersistError, match=reason):
            open_on_npu(store, config, cache=False)
        assert ("BLOB_PATH" in given[0]) is fits
        assert given[-1] == ON_THE_CPU | config


@pytest.mark.parametrize("count", [20, pytest.param(334, marks=pytest.mark.faults)])
def test_no_flipped_bit_reaches_genai(count: int, store: Store, blob: Path, given: list[dict[str, Any]]) -> None:
    chance = random.Random(0)  # noqa: S311
    bundle = store.resolve("decoder").path
    for path in (blob, bundle / "assets/openvino_tokenizer.bin", bundle / "model.xml"):
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        for _ in range(count):
            bit = chance.randrange(8 * len(data))
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            with pytest.raises(
                NpuPersistError if path == blob else FileIntegrityError, match=rf"{path.name}.*expected"
            ):
                open_on_npu(store, cache=False)
            data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
    assert len(given) == count
    assert all("BLOB_PATH" not in properties for properties in given)


def test_a_blob_whose_other_weights_are_in_memory_is_not_taken(
    store: Store, given: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: object) -> None:
        raise WeightsInUseError("Close that model first", path="", expected="", got="")

    monkeypatch.setattr(weights_in_memory, "check", check)
    with pytest.raises(NpuPersistError, match="Close that model first"):
        open_on_npu(store, cache=False)
    assert given == [ON_THE_CPU]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"BLOB_PATH": "model.blob"}, "BLOB_PATH: expected no blob of your own"),
        ({"EXPORT_BLOB": True}, "EXPORT_BLOB: expected no blob of your own"),
        ({"MAX_PROMPT_LEN": "64"}, "MAX_PROMPT_LEN: expected a number of tokens; got '64'"),
        ({"MIN_RESPONSE_LEN": 0}, "MIN_RESPONSE_LEN: expected a number of tokens; got 0"),
    ],
)
def test_what_is_no_property_is_refused(store: Store, config: dict[str, Any], message: str) -> None:
    with pytest.raises(PropertyError, match=message):
        open_on_npu(store, config)
