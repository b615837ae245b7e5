"""Compiler libraries in a folder of the user's. Real ones are not at hand: these only tell that they were loaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from npu_persist.compilation.toolchains.available import choose_toolchain, probe
from npu_persist.compilation.toolchains.native import (
    COMPILER_VARIABLE,
    LibrariesToolchain,
    PluginToolchain,
    find_libraries,
)
from npu_persist.compilation.toolchains.toolchain import CompilerRequest
from npu_persist.errors import CompilationError, ToolchainError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("compiler", "compiler_loader", "vm_runtime")
SOURCE = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void note(void) {
    FILE *file = fopen(getenv("OF_THE_TEST"), "a");
    if (file != NULL) { fputs(NAME "\\n", file); fclose(file); }
}
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO brings its compiler elsewhere")


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of libraries that note in `notes` when they are loaded, and can do nothing else."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build libraries with")
    folder = tmp_path / "libraries"
    folder.mkdir()
    (tmp_path / "note.c").write_text(SOURCE)
    for name in NAMES:
        target = folder / f"libopenvino_intel_npu_{name}.so"
        command = [compiler, "-shared", "-fPIC", f'-DNAME="{name}"', str(tmp_path / "note.c"), "-o", str(target)]
        subprocess.run(command, check=True)
    monkeypatch.setenv("OF_THE_TEST", str(tmp_path / "notes"))
    monkeypatch.setenv(COMPILER_VARIABLE, str(folder))
    return folder


def test_the_plugin_loads_them_from_there(libraries: Path, tmp_path: Path) -> None:
    toolchain = choose_toolchain("libraries")
    assert toolchain.examine().usable
    own = find_libraries()
    assert own is not None
    before = sorted(path.name for path in own.iterdir())
    with pytest.raises(CompilationError, match=r"npu_persist-\w+/libopenvino_intel_npu_compiler_loader\.so: undefined"):
        probe(toolchain.compile, "4000")
    assert (tmp_path / "notes").read_text().split()[0] == "compiler_loader"
    assert sorted(path.name for path in own.iterdir()) == before
    assert libraries.is_dir()


def test_some_are_missing(libraries: Path, tmp_path: Path) -> None:
    (libraries / "libopenvino_intel_npu_compiler.so").unlink()
    state = LibrariesToolchain().examine()
    assert not state.usable
    assert f"{libraries} has no libopenvino_intel_npu_compiler.so" in state.reason
    graph, weights, output = (str(tmp_path / f"g.{end}") for end in ("xml", "bin", "blob"))
    job = CompilerRequest(graph, weights, output, "4000")
    with pytest.raises(ToolchainError, match=f"toolchain libraries: .*export {COMPILER_VARIABLE}="):
        LibrariesToolchain().compile(job)


def test_the_plugin_as_installed(libraries: Path, tmp_path: Path) -> None:
    state = PluginToolchain(libraries).examine()
    assert state.usable
    assert state.openvino is not None
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "pip's OpenVINO for Linux does not contain it" in PluginToolchain(empty).examine().reason


def test_the_plugin_without_a_compiler_says_so(libraries: Path, tmp_path: Path) -> None:
    # As if somebody removed it between the look and the use: what OpenVINO says is the error.
    own = find_libraries()
    if own is None or PluginToolchain().examine().usable:
        pytest.skip("this OpenVINO has its compiler")
    with pytest.raises(CompilationError, match=r"libopenvino_intel_npu_compiler_loader\.so"):
        probe(PluginToolchain(libraries).compile, "4000")
    assert list(tmp_path.glob("*.blob")) == []
