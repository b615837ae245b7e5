"""Loading where there are several devices, or one that caches for itself."""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import openvino as ov
import pytest

from npu_persist import load
from npu_persist.compilation import cache_dir as own_cache
from npu_persist.device import core
from npu_persist.errors import (
    CompilationError,
    DeviceWarning,
)
from npu_persist.runtime import sources
from npu_persist.store import Store
from tests.support.graphs import publish_affine
from tests.support.loads import attempts, entries, is_right, spoil
from tests.support.second_device import SECOND, write_plugins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "home")
    publish_affine(found)
    return found


class TestSecondDevice:
    """AUTO, HETERO and the like with two devices: the CPU's plugin under two names."""

    @pytest.fixture(autouse=True)
    def two_devices(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        core.get_core()
        monkeypatch.setattr(core, "_cores", [ov.Core(str(write_plugins(tmp_path)))])
        return iter(())

    # MULTI names only one of the two as executing: they are one plugin.
    @pytest.mark.filterwarnings("ignore::npu_persist.errors.DeviceWarning")
    @pytest.mark.parametrize("device", [f"AUTO:{SECOND},CPU", f"MULTI:{SECOND},CPU", f"HETERO:{SECOND},CPU"])
    def test_is_cached(self, store: Store, device: str) -> None:
        for expected in (False, True):
            model = load("affine", device, store=store)
            assert is_right(model)
            wait_for_threads()
            assert model.report.from_cache is expected, str(model.report)
            assert entries(store)
        assert len(entries(store)) == 1

    @pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
    @pytest.mark.parametrize("device", ["CPU", f"AUTO:{SECOND},CPU"])
    def test_is_cached_in_a_folder_whose_name_is_not_utf_8(self, tmp_path: Path, device: str) -> None:
        """OpenVINO takes paths as UTF-8 only."""
        store = Store(tmp_path / os.fsdecode(b"home\xff"))
        publish_affine(store)
        for expected in (False, True):
            model = load("affine", device, store=store)
            assert is_right(model)
            wait_for_threads()
            assert model.report.from_cache is expected, str(model.report)
        assert len(entries(store)) == 1

    def test_a_damaged_file_of_auto_is_made_again(self, store: Store) -> None:
        device = f"AUTO:{SECOND},CPU"
        load("affine", device, store=store)
        wait_for_threads()
        (path,) = entries(store)
        (blob,) = (path / "openvino").iterdir()
        spoil(blob)
        model = load("affine", device, store=store)
        assert is_right(model)
        assert not model.report.from_cache
        wait_for_threads()
        assert load("affine", device, store=store).report.from_cache

    def test_a_file_that_was_put_there_is_not_read(self, store: Store) -> None:
        device = f"AUTO:{SECOND},CPU"
        load("affine", device, store=store)
        wait_for_threads()
        (path,) = entries(store)
        (path / "openvino" / "1234.blob").write_bytes(b"evil")
        model = load("affine", device, store=store)
        assert not model.report.from_cache
        assert is_right(model)

    def test_a_second_device_that_fails_to_compile_is_fallen_back_from(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = core.get_core()
        monkeypatch.setattr(core, "_cores", [Failing(real, SECOND)])
        model = load("affine", SECOND, fallback=("CPU",), store=store)
        assert model.report.loaded_device == "CPU"
        assert any("out of order" in attempt.reason for attempt in model.report.attempts)
        with pytest.raises(CompilationError, match="out of order"):
            load("affine", SECOND, store=store, cache=False)

    def test_what_auto_compiles_in_the_background_is_kept_when_it_is_done(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = threading.Event()
        monkeypatch.setattr(own_cache, "is_settled", lambda _: done.is_set())
        model = load("affine", f"AUTO:{SECOND},CPU", store=store)
        assert is_right(model)
        assert entries(store) == []
        done.set()
        wait_for_threads()
        assert len(entries(store)) == 1
        assert load("affine", f"AUTO:{SECOND},CPU", store=store).report.from_cache

    def test_what_auto_compiles_for_a_model_that_is_gone_is_not_kept(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(own_cache, "is_settled", lambda _: False)
        model = load("affine", f"AUTO:{SECOND},CPU", store=store)
        assert [thread for thread in threading.enumerate() if thread.name == "compile cache of AUTO"]
        del model
        gc.collect()
        wait_for_threads()
        assert entries(store) == []
        assert not list((store.home / "compile-cache").rglob("*.blob"))

    def test_files_that_openvino_does_not_take_are_no_hit(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        load("affine", f"AUTO:{SECOND},CPU", store=store)
        wait_for_threads()
        monkeypatch.setattr(sources, "is_from_cache", lambda _: False)
        model = load("affine", f"AUTO:{SECOND},CPU", store=store)
        assert not model.report.from_cache
        assert attempts(model)[-1] == ("graph", f"AUTO:{SECOND},CPU", True)

    def test_the_devices_have_entries_of_their_own(self, store: Store) -> None:
        for device in ("CPU", SECOND):
            model = load("affine", device, store=store)
            assert not model.report.from_cache
            assert is_right(model)
        assert len(entries(store)) == 2


class TestAuto:
    def test_is_the_only_device_where_there_is_only_one(self, store: Store) -> None:
        load("affine", "CPU", store=store)
        model = load("affine", "AUTO", store=store)
        if core.get_core().available_devices != ["CPU"]:
            pytest.skip("this machine has more than a CPU")
        assert (model.report.device, model.report.loaded_device) == ("AUTO", "CPU")
        assert model.report.from_cache

    def test_warns_where_it_stays_on_the_cpu(self, store: Store) -> None:
        if any(name.startswith("NPU") for name in core.get_core().available_devices):
            pytest.skip("this machine has an NPU")
        with pytest.warns(DeviceWarning, match=r"AUTO:NPU,CPU was requested, but only CPU executes it"):
            model = load("affine", "AUTO:NPU,CPU", store=store)
        assert model.report.execution_devices == ("CPU",)
        assert "AUTO:NPU,CPU was requested" in str(model.report)
        assert is_right(model)


class TestTheNpusPlugin:
    """The real NPU plugin, which runs on a CPU when it is told to."""

    CONFIG = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU"}  # noqa: RUF012

    def test_exports_and_imports(self, store: Store) -> None:
        first = load("affine", "NPU", config=self.CONFIG, store=store)
        second = load("affine", "NPU", config=self.CONFIG, store=store)
        assert (first.report.from_cache, second.report.from_cache) == (False, True)
        assert is_right(first)
        assert is_right(second)


class Failing:
    """A core with a device that is there and compiles nothing."""

    def __init__(self, core: Any, device: str) -> None:
        self._core = core
        self._device = device

    def compile_model(self, model: Any, device: str, properties: Any) -> Any:
        if device == self._device:
            raise RuntimeError("out of order")
        return self._core.compile_model(model, device, properties)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)


def wait_for_threads() -> None:
    """Wait until what AUTO does in the background is kept."""
    for thread in threading.enumerate():
        if thread.name == "compile cache of AUTO":
            thread.join()
