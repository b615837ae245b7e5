from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from npu_persist.compilation.toolchains.available import choose_toolchain, find_nearest, find_toolchains
from npu_persist.compilation.toolchains.native import (
    COMPILER_VARIABLE,
    LibrariesToolchain,
    PluginToolchain,
)
from npu_persist.compilation.toolchains.toolchain import State
from npu_persist.compilation.toolchains.wine import HOME_VARIABLE, find_home
from npu_persist.errors import (
    ToolchainError,
    UsageError,
)
from tests.support.programs import installed as installed  # noqa: PLC0414 (a fixture is found by its name here)
from tests.support.programs import programs as programs  # noqa: PLC0414

if TYPE_CHECKING:
    from pathlib import Path


class TestChoice:
    def test_none_names_what_each_lacks_and_the_nearest_command(self, programs: Path) -> None:
        with pytest.raises(ToolchainError) as caught:
            choose_toolchain()
        for part in ("plugin: ", "libraries: NPU_PERSIST_NPU_COMPILER is not set", "wine: not installed"):
            assert part in str(caught.value)
        assert str(caught.value).endswith("Run: npu-persist toolchain install")
        for name in programs.iterdir():
            name.unlink()
        command = "Run: apt-get install gcc-mingw-w64-x86-64 wine && npu-persist toolchain install"
        with pytest.raises(ToolchainError, match=command):
            choose_toolchain()

    @pytest.mark.skipif(sys.platform == "win32", reason="OpenVINO brings its compiler there, and that is taken first")
    def test_who_names_a_folder_wants_that_one(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(COMPILER_VARIABLE, str(tmp_path))
        with pytest.raises(ToolchainError, match=f"Run: export {COMPILER_VARIABLE}="):
            choose_toolchain()

    @pytest.mark.parametrize("name", ["plugin", "libraries", "wine"])
    def test_by_name_says_what_that_one_lacks(self, name: str) -> None:
        if next(each for each in find_toolchains() if each.name == name).examine().usable:
            pytest.skip(f"toolchain {name} can be used here")
        with pytest.raises(ToolchainError, match=f"^toolchain {name}: "):
            choose_toolchain(name)

    def test_of_an_unknown_name(self) -> None:
        with pytest.raises(UsageError, match="expected one of plugin, libraries, wine, got 'gcc'"):
            choose_toolchain("gcc")

    def test_finds_the_one_for_wine(self, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert choose_toolchain(home=installed).name == "wine"
        monkeypatch.setenv(HOME_VARIABLE, str(installed))
        assert find_home() == installed
        assert choose_toolchain().name == "wine"
        assert choose_toolchain("wine").examine().compiler == "2026.5.0-of-a-test"

    def test_on_windows_the_plugin_is_nearest(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("sys.platform", "win32")
        states = {each.name: each.examine() for each in (PluginToolchain(tmp_path), LibrariesToolchain())}
        assert find_nearest({**states, "wine": State(False, "")}) == states["plugin"]  # noqa: FBT003
        assert "force-reinstall openvino" in str(states["plugin"].advice)
        for name in ("openvino_intel_npu_compiler.dll", "openvino_intel_npu_compiler_loader.dll"):
            (tmp_path / name).touch()
        assert PluginToolchain(tmp_path).examine().usable

    def test_home_is_in_the_store(self, store_home: Path, tmp_path: Path) -> None:
        assert find_home() == store_home / "toolchains"
        assert find_home(tmp_path) == tmp_path / "toolchains"
