"""Never another model's answer: what OpenVINO does with changed files, and what `load` does with the same."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest

from npu_persist import load
from npu_persist.artifact.artifact import BLOB_FILE
from npu_persist.cache import CompileCache
from npu_persist.device.core import get_core
from npu_persist.errors import CompilationError, FileIntegrityError, IntegrityError
from npu_persist.store import Store
from tests.support.graphs import WEIGHTS, XML, publish_scaled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 64
ONES = np.ones((1, SIZE), np.float32)
FLIPS = 350
"""For each of three files: more than 1000 together."""

COMPILED_EVERY = 35


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "home")
    publish_scaled(found, SIZE, factor=1.0)
    publish_scaled(found, SIZE, factor=3.0)
    return found


@pytest.fixture
def place(store: Store, tmp_path: Path) -> Path:
    """A directory for one model after another, all with the same path and times."""
    return put(store, 1, tmp_path / "place")


def put(store: Store, version: int, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(store.resolve(f"scaled:{version}").path, place, copy_function=shutil.copyfile)
    for path in place.iterdir():
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return place


def answer(model: Callable[[Any], Any]) -> float:
    """Return by what the model multiplies, 0 if not all are the same."""
    outputs = model(ONES)
    values = np.unique(outputs if isinstance(outputs, np.ndarray) else outputs[0])
    return float(values[0]) / SIZE if len(values) == 1 else 0.0


def flip(path: Path, position: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        value = file.read(1)[0]
        file.seek(position)
        file.write(bytes([value ^ 1 << bit]))


class TestOpenVINO:
    """If one of these fails, OpenVINO has learned something, and the README should say so."""

    def test_answers_as_the_old_model_after_a_retraining(self, store: Store, place: Path, tmp_path: Path) -> None:
        config = {"CACHE_DIR": str(tmp_path / "cache")}
        assert answer(get_core().compile_model(place / XML, "CPU", config)) == 1
        shutil.copyfile(store.resolve("scaled:2").path / WEIGHTS, place / "model.bin")
        assert answer(get_core().compile_model(place / XML, "CPU", config)) == 1  # and not 3

    def test_reads_other_weights_into_a_weightless_blob(self, store: Store) -> None:
        first, second = (store.resolve(f"scaled:{version}").path for version in (1, 2))
        graph = get_core().read_model(first / XML, first / WEIGHTS)
        compiled = get_core().compile_model(graph, "CPU", {"CACHE_MODE": "OPTIMIZE_SIZE"})
        blob = compiled.export_model().getvalue()
        properties = {"CACHE_MODE": "OPTIMIZE_SIZE", "WEIGHTS_PATH": str(second / WEIGHTS)}
        assert answer(get_core().import_model(blob, "CPU", properties)) == 3

    def test_answers_from_a_damaged_blob(self, place: Path, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        graph = get_core().read_model(place / XML, place / WEIGHTS)
        get_core().compile_model(graph, "CPU", {"CACHE_DIR": str(cache)})
        (blob,) = cache.iterdir()
        weight = blob.read_bytes().index(np.ones(SIZE, np.float32).tobytes())
        flip(blob, weight + 2, 7)
        assert answer(get_core().compile_model(graph, "CPU", {"CACHE_DIR": str(cache)})) != 1


class TestLoad:
    def test_sees_a_retraining_under_the_same_path_and_time(self, store: Store, place: Path) -> None:
        assert answer(load(place, "CPU", store=store)) == 1
        put(store, 2, place)
        assert answer(load(place, "CPU", store=store)) == 3
        put(store, 1, place)
        assert answer(load(place, "CPU", store=store)) == 1

    def test_refuses_another_models_weights_of_the_same_shapes(self, store: Store, place: Path) -> None:
        load(place, "CPU", store=store)
        shutil.copyfile(store.resolve("scaled:2").path / WEIGHTS, place / WEIGHTS)
        for cache in (True, False):
            with pytest.raises(FileIntegrityError, match="weights"):
                load(place, "CPU", cache=cache, store=store)

    @pytest.mark.parametrize("name", [XML, WEIGHTS])
    def test_refuses_a_flipped_bit(self, store: Store, place: Path, name: str) -> None:
        random = np.random.default_rng(len(name))
        load(place, "CPU", store=store)
        path = place / name
        before = path.read_bytes()
        for _ in range(FLIPS):
            flip(path, int(random.integers(len(before))), int(random.integers(8)))
            with pytest.raises(IntegrityError):
                # The graph is read when there is nothing to import.
                load(place, "CPU", cache=name != XML, store=store)
            path.write_bytes(before)

    def test_compiles_again_after_a_flipped_bit_in_a_blob(
        self, store: Store, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        random = np.random.default_rng(len(BLOB_FILE))
        load(place, "CPU", store=store)
        (entry,) = CompileCache(store.home).entries()
        kept = shutil.copytree(entry.path, tmp_path / "kept")

        def compile_nothing(*_: object) -> NoReturn:
            raise CompilationError("here it would be compiled")

        for number in range(FLIPS):
            blob = entry.path / BLOB_FILE
            blob.chmod(0o644)
            flip(blob, int(random.integers(blob.stat().st_size)), int(random.integers(8)))
            # Most of the time goes into compiling: that the answer is right then is looked at now and then.
            if number % COMPILED_EVERY == 0:
                assert answer(load(place, "CPU", store=store)) == 1
                continue
            with monkeypatch.context() as patched:
                patched.setattr("npu_persist.runtime.sources.compile_graph", compile_nothing)
                with pytest.raises(CompilationError, match="would be compiled"):
                    load(place, "CPU", store=store)
            assert not entry.path.exists()
            shutil.copytree(kept, entry.path)

    @pytest.mark.parametrize("name", [BLOB_FILE, XML, WEIGHTS])
    def test_is_never_wrong_after_a_truncation(self, store: Store, place: Path, name: str) -> None:
        load(place, "CPU", store=store)
        for keep in (0.0, 0.3, 0.9, 1.0):
            path = place / name
            if name == BLOB_FILE:
                (entry,) = CompileCache(store.home).entries()
                path = entry.path / name
                path.chmod(0o644)
            before = path.read_bytes()
            path.write_bytes(before[: int(keep * (len(before) - 1))])
            if name == BLOB_FILE:
                assert answer(load(place, "CPU", store=store)) == 1
                continue
            with pytest.raises(IntegrityError):
                load(place, "CPU", cache=name != XML, store=store)
            path.write_bytes(before)
