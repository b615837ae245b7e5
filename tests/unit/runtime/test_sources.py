from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

import npu_persist
from npu_persist import is_compiled, load
from npu_persist.artifact.artifact import ARTIFACT_FILE, BLOB_FILE, read_artifact
from npu_persist.cache import CompileCache
from npu_persist.compilation import recipe as recipes
from npu_persist.compilation.process import python as processes
from npu_persist.errors import (
    CompileTimeoutError,
    DeviceNotFoundError,
    FileIntegrityError,
    PropertyError,
    UsageError,
)
from npu_persist.store import Store
from tests.support.graphs import WEIGHTS, XML, publish_affine, publish_scaled
from tests.support.loads import GRID, attempts, copy_bundle, entries, is_right, spoil


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "home")
    publish_affine(found)
    return found


class TestCache:
    def test_the_first_load_compiles_and_the_next_imports(self, store: Store) -> None:
        first = load("affine", "CPU", store=store)
        assert attempts(first) == [("cache", "CPU", False), ("graph", "CPU", True)]
        assert not first.report.from_cache
        second = load("affine", "CPU", store=store)
        assert attempts(second) == [("cache", "CPU", True)]
        assert second.report.from_cache
        assert is_right(first)
        assert is_right(second)

    def test_what_is_kept_leaves_the_weights_out(self, store: Store) -> None:
        large = publish_scaled(store, 512)
        load(large.path, "CPU", store=store)
        (path,) = entries(store)
        assert read_artifact(path).weightless
        assert (path / BLOB_FILE).stat().st_size < large.manifest.weights.data_size // 10

    def test_an_import_does_not_read_the_graph(self, store: Store, tmp_path: Path) -> None:
        load("affine", "CPU", store=store)
        moved = copy_bundle(store, tmp_path / "copy")
        spoil(moved / XML)
        assert load(moved, "CPU", store=store).report.from_cache
        with pytest.raises(FileIntegrityError):
            load(moved, "CPU", store=store, cache=False)

    def test_a_moved_folder_is_a_hit(self, store: Store, tmp_path: Path) -> None:
        load("affine", "CPU", store=store)
        moved = copy_bundle(store, tmp_path / "elsewhere")
        model = load(moved, "CPU", store=store)
        assert model.report.from_cache
        assert is_right(model)

    def test_retrained_weights_under_the_same_path_and_time_are_another_model(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "home")
        place = tmp_path / "model"
        for factor in (1.0, 3.0):
            bundle = publish_scaled(store, 4, factor=factor)
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(bundle.path, place)
            for path in place.iterdir():
                os.utime(path, (1_600_000_000, 1_600_000_000))
            with load(place, "CPU", store=store) as model:
                assert not model.report.from_cache
                assert np.array_equal(model(np.ones((1, 4), np.float32)), np.full((1, 4), factor * 4, np.float32))
        assert len(entries(store)) == 2

    def test_another_openvino_compiles_again(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        load("affine", "CPU", store=store)
        monkeypatch.setattr(recipes, "get_version", lambda: "2027.0.0-1-other")
        model = load("affine", "CPU", store=store)
        assert not model.report.from_cache
        assert is_right(model)

    def test_properties_and_hints_have_entries_of_their_own(self, store: Store) -> None:
        keys = {
            load("affine", "CPU", store=store, **options).report.key
            for options in (
                {},
                {"hint": "THROUGHPUT"},
                {"config": {"NUM_STREAMS": 2}},
                {"config": {"INFERENCE_PRECISION_HINT": "f32"}},
            )
        }
        assert len(keys) == 4
        model = load("affine", "CPU", hint="THROUGHPUT", store=store)
        assert model.report.from_cache
        assert str(model.compiled.get_property("PERFORMANCE_HINT")).endswith("THROUGHPUT")

    @pytest.mark.parametrize("name", [BLOB_FILE, ARTIFACT_FILE])
    @pytest.mark.parametrize("data", [None, b"", b"{}", b"\0" * 100])
    def test_a_damaged_entry_is_made_again(
        self, store: Store, name: str, data: bytes | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        load("affine", "CPU", store=store)
        (path,) = entries(store)
        spoil(path / name, data)
        with caplog.at_level(logging.WARNING):
            model = load("affine", "CPU", store=store)
        assert is_right(model)
        assert not model.report.from_cache
        assert "was quarantined" in caplog.text
        assert load("affine", "CPU", store=store).report.from_cache

    def test_a_blob_that_the_device_does_not_take_is_made_again(self, store: Store) -> None:
        from msgspec.structs import replace

        from npu_persist.bundle.manifest import FileEntry
        from npu_persist.files.digest import digest_bytes

        load("affine", "CPU", store=store)
        (path,) = entries(store)
        spoil(path / BLOB_FILE, b"another device's blob")
        described = {BLOB_FILE: FileEntry(21, digest_bytes(b"another device's blob"))}
        spoil(path / ARTIFACT_FILE, replace(read_artifact(path), files=described).to_json())
        model = load("affine", "CPU", store=store)
        assert is_right(model)
        assert "rejects it" in model.report.attempts[0].reason
        assert load("affine", "CPU", store=store).report.from_cache

    def test_an_entry_under_another_key_is_not_used(self, store: Store, tmp_path: Path) -> None:
        other = Store(tmp_path / "other")
        publish_scaled(other, 3, name="affine")
        load("affine", "CPU", store=store)
        load("affine", "CPU", store=other)
        (ours,), (theirs,) = entries(store), entries(other)
        shutil.rmtree(ours)
        shutil.copytree(theirs, ours)
        model = load("affine", "CPU", store=store)
        assert not model.report.from_cache
        assert is_right(model)

    def test_none_is_used_or_made_without_it(self, store: Store) -> None:
        load("affine", "CPU", store=store, cache=False)
        assert entries(store) == []
        load("affine", "CPU", store=store)
        assert not load("affine", "CPU", store=store, cache=False).report.from_cache

    def test_what_was_not_verified_is_not_kept(self, store: Store) -> None:
        model = load("affine", "CPU", store=store, verify="none")
        assert entries(store) == []
        assert "verify='none'" in model.report.notes[0]

    def test_damaged_weights_are_not_kept(self, store: Store, tmp_path: Path) -> None:
        moved = copy_bundle(store, tmp_path / "copy")
        spoil(moved / WEIGHTS)
        with pytest.raises(FileIntegrityError):
            load(moved, "CPU", store=store)
        assert entries(store) == []

    def test_damaged_weights_are_seen_beside_an_import(self, store: Store, tmp_path: Path) -> None:
        load("affine", "CPU", store=store)
        moved = copy_bundle(store, tmp_path / "copy")
        spoil(moved / WEIGHTS)
        with pytest.raises(FileIntegrityError, match="weights"):
            load(moved, "CPU", store=store)
        assert len(entries(store)) == 1

    @pytest.mark.parametrize("key", ["CACHE_DIR", "WEIGHTS_PATH", "CACHE_BLOB_ID", "CACHE_MODE", "ENABLE_WEIGHTLESS"])
    def test_openvinos_own_caching_is_refused(self, store: Store, key: str, tmp_path: Path) -> None:
        with pytest.raises(PropertyError, match=key):
            load("affine", "CPU", store=store, config={key: str(tmp_path)})

    def test_a_property_without_a_text_is_not_cached(self, store: Store) -> None:
        callbacks = {"CACHE_ENCRYPTION_CALLBACKS": [lambda text: text, lambda text: text]}
        model = load("affine", "CPU", store=store, config=callbacks)
        assert is_right(model)
        assert "CACHE_ENCRYPTION_CALLBACKS" in model.report.notes[0]
        assert entries(store) == []

    def test_nested_properties_are_told_apart(self, store: Store) -> None:
        keys = []
        for inner in ({"NUM_STREAMS": 1}, {"NUM_STREAMS": 2}, {"NUM_STREAMS": 1, "LOG_LEVEL": "LOG_NONE"}):
            for order in (1, -1):
                config = {"DEVICE_PROPERTIES": {"CPU": dict(list(inner.items())[::order])}}
                model = load("affine", "HETERO:CPU", config=config, store=store)
                assert is_right(model)
                keys.append(model.report.key)
        assert None not in keys
        assert len(set(keys)) == 3


class TestAttached:
    @pytest.fixture
    def bundle(self, store: Store, tmp_path: Path) -> Path:
        """A bundle's directory with an artifact for this machine, outside of the store."""
        load("affine", "CPU", store=store)
        (made,) = entries(store)
        directory = copy_bundle(store, tmp_path / "copy")
        shutil.copytree(made, directory / "compiled" / "cpu")
        (directory / "compiled" / "cpu" / "used").unlink()
        return directory

    def test_comes_first(self, bundle: Path, tmp_path: Path) -> None:
        model = load(bundle, "CPU", store=tmp_path / "empty")
        assert attempts(model) == [("attached", "CPU", True)]
        assert model.report.from_cache
        assert is_right(model)
        assert not (tmp_path / "empty").exists()

    def test_does_not_change_the_digest(self, bundle: Path, store: Store) -> None:
        assert npu_persist.open(bundle).digest == store.resolve("affine").digest
        npu_persist.verify(bundle)

    def test_a_damaged_one_is_passed_over(self, bundle: Path, tmp_path: Path) -> None:
        spoil(bundle / "compiled" / "cpu" / BLOB_FILE)
        model = load(bundle, "CPU", store=tmp_path / "empty")
        assert attempts(model) == [("attached", "CPU", False), ("cache", "CPU", False), ("graph", "CPU", True)]
        assert "expected blake3:" in model.report.attempts[0].reason
        assert is_right(model)

    def test_one_for_something_else_is_passed_over_with_the_difference(self, bundle: Path, tmp_path: Path) -> None:
        model = load(bundle, "CPU", hint="THROUGHPUT", store=tmp_path / "empty")
        assert not model.report.attempts[0].is_used
        assert (
            "with the properties {}; {'PERFORMANCE_HINT': 'THROUGHPUT'} was requested"
            in model.report.attempts[0].reason
        )
        assert is_right(model)

    def test_one_of_another_bundle_is_passed_over(self, bundle: Path, tmp_path: Path) -> None:
        other = Store(tmp_path / "other")
        scaled = publish_scaled(other, 3, name="affine")
        target = tmp_path / "scaled"
        shutil.copytree(scaled.path, target)
        shutil.copytree(bundle / "compiled", target / "compiled")
        model = load(target, "CPU", store=other)
        assert "bundle blake3:" in model.report.attempts[0].reason
        assert np.array_equal(model(np.ones((1, 3), np.float32)), np.full((1, 3), 3, np.float32))

    def test_a_link_is_not_followed(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / "compiled").rename(tmp_path / "real")
        (bundle / "compiled").symlink_to(tmp_path / "real")
        assert attempts(load(bundle, "CPU", store=tmp_path / "empty"))[0] == ("cache", "CPU", False)

    def test_a_folder_that_cannot_be_listed_is_passed_over(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        list_all = os.listdir

        def refuse(path: Path) -> list[str]:
            if Path(path).name == "compiled":
                raise PermissionError(13, "Permission denied", str(path))
            return list_all(path)

        monkeypatch.setattr(os, "listdir", refuse)
        model = load(bundle, "CPU", store=tmp_path / "empty")
        assert attempts(model)[0] == ("attached", "CPU", False)
        assert "Permission denied" in model.report.attempts[0].reason
        assert is_right(model)
        assert not is_compiled(bundle, "CPU", store=tmp_path / "none")


class TestIsCompiled:
    def test_tells_before_and_after(self, store: Store) -> None:
        assert not is_compiled("affine", "CPU", store=store)
        model = load("affine", "CPU", store=store)
        assert is_compiled("affine", "CPU", store=store)
        found = CompileCache(store.home).find(model.report.key or "")
        assert found is not None
        assert found.artifact is not None
        assert found.artifact.subject == model.bundle.digest
        assert not is_compiled("affine", "CPU", hint="THROUGHPUT", store=store)

    def test_reads_neither_graph_nor_weights(self, store: Store, tmp_path: Path) -> None:
        load("affine", "CPU", store=store)
        moved = copy_bundle(store, tmp_path / "copy")
        (moved / WEIGHTS).unlink()
        (moved / XML).unlink()
        assert is_compiled(moved, "CPU", store=store)


class TestFallback:
    def test_a_device_that_is_not_there(self, store: Store) -> None:
        model = load("affine", "NPU", fallback=("CPU",), store=store)
        assert model.report.loaded_device == "CPU"
        assert model.report.execution_devices == ("CPU",)
        assert [attempt.device for attempt in model.report.attempts if not attempt.is_used][:2] == ["NPU", "NPU"]
        assert is_right(model)

    def test_without_one_it_is_an_error(self, store: Store) -> None:
        with pytest.raises(DeviceNotFoundError):
            load("affine", "NPU", store=store)

    def test_all_that_failed_are_named(self, store: Store) -> None:
        with pytest.raises(DeviceNotFoundError, match=r"none of the devices could be used[\s\S]*NPU[\s\S]*GPU"):
            load("affine", "NPU", fallback=("GPU",), store=store)

    def test_properties_of_the_first_device_are_not_passed_on(self, store: Store) -> None:
        model = load("affine", "NPU", config={"NPU_TURBO": True}, fallback=["CPU"], store=store)
        assert is_right(model)

    def test_damage_is_no_reason_to_fall_back(self, store: Store, tmp_path: Path) -> None:
        moved = copy_bundle(store, tmp_path / "copy")
        spoil(moved / WEIGHTS)
        with pytest.raises(FileIntegrityError):
            load(moved, "NPU", fallback=("CPU",), store=store)

    @pytest.mark.parametrize("fallback", ["CPU", 5, (1,), None])
    def test_must_be_device_strings(self, store: Store, fallback: Any) -> None:
        with pytest.raises(UsageError, match="fallback"):
            load("affine", "CPU", fallback=fallback, store=store)


class TestCompileTimeout:
    def test_compiles_in_a_process_of_its_own(self, store: Store) -> None:
        events: list[npu_persist.Progress] = []
        model = load("affine", "CPU", compile_timeout=120, progress=events.append, store=store)
        assert is_right(model)
        assert not model.report.from_cache
        assert {event.stage for event in events} == {"compile"}
        assert events[-1].is_finished
        assert sum(event.is_finished for event in events) == 1
        assert load("affine", "CPU", compile_timeout=1e-9, store=store).report.from_cache

    def test_ends_one_that_takes_too_long(self, store: Store) -> None:
        with pytest.raises(CompileTimeoutError, match=r"compile_timeout=0\.01"):
            load("affine", "CPU", compile_timeout=0.01, store=store)
        assert entries(store) == []
        assert not list((store.home / "compile-cache").rglob("model.blob"))

    def test_the_report_says_which_device_was_not_there(self, store: Store) -> None:
        model = load("affine", "NPU", compile_timeout=120, fallback=("CPU",), store=store)
        reasons = [each.reason for each in model.report.attempts if (each.source, each.device) == ("graph", "NPU")]
        assert len(reasons) == 1
        assert "no NPU on this machine" in reasons[0]

    def test_falls_back_after_it(self, store: Store) -> None:
        load("affine", "CPU", store=store)
        model = load("affine", "HETERO:CPU", compile_timeout=0.01, fallback=("CPU",), store=store)
        assert model.report.loaded_device == "CPU"

    @pytest.mark.parametrize("timeout", [0, -1, "5", True, float("nan")])
    def test_must_be_seconds(self, store: Store, timeout: Any) -> None:
        with pytest.raises(UsageError, match="compile_timeout"):
            load("affine", "CPU", compile_timeout=timeout, store=store)

    def test_needs_the_cache(self, store: Store) -> None:
        with pytest.raises(UsageError, match="cache"):
            load("affine", "CPU", compile_timeout=5, cache=False, store=store)

    @pytest.mark.parametrize("value", [b"2", ov.properties.hint.PerformanceMode.LATENCY])
    def test_needs_properties_that_another_process_can_be_given(self, store: Store, value: Any) -> None:
        with pytest.raises(UsageError, match=r"compile_timeout: .*; PERFORMANCE_HINT is neither\. Write it as a"):
            load("affine", "CPU", config={"PERFORMANCE_HINT": value}, compile_timeout=5, store=store)

    def test_progress_must_be_a_function(self, store: Store) -> None:
        with pytest.raises(UsageError, match="progress: expected a function"):
            load("affine", "CPU", compile_timeout=5, progress=3, store=store)  # type: ignore[arg-type]

    def test_an_interrupt_leaves_nothing_behind(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object, **__: object) -> None:
            (store.home / "compile-cache" / "staging" / "0123456789abcdef").mkdir(parents=True)
            raise KeyboardInterrupt

        monkeypatch.setattr(processes, "run_module", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load("affine", "CPU", compile_timeout=5, store=store)
        assert not list((store.home / "compile-cache" / "staging").iterdir())


class TestTogether:
    def test_one_of_many_threads_compiles(self, store: Store) -> None:
        found: list[npu_persist.Model] = []
        threads = [threading.Thread(target=lambda: found.append(load("affine", "CPU", store=store))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert sum(not model.report.from_cache for model in found) == 1
        assert all(map(is_right, found))


class TestReport:
    def test_says_everything(self, store: Store) -> None:
        model = load("affine", "CPU", store=store)
        model(GRID)
        shown = model.report.to_dict()
        assert shown["execution_devices"] == ["CPU"]
        assert set(shown["phases"]) >= {"import", "read", "compile", "keep", "verify", "load", "first_inference"}
        assert shown["verified_bytes"] == sum(model.bundle.manifest.files[path].size for path in (XML, WEIGHTS))
        for part in ("affine:1 for CPU", "skipped  cache", "used     graph", "verified: full"):
            assert part in str(model.report)
