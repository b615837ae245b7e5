from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from npu_persist.compilation.toolchains import install as installing
from npu_persist.compilation.toolchains.available import probe
from npu_persist.compilation.toolchains.install import install, sweep, uninstall
from npu_persist.compilation.toolchains.native import installed_version
from npu_persist.compilation.toolchains.wine import ToolchainRecord, WineToolchain, read_record, verify, write_record
from npu_persist.errors import CompilationError, StoreError, ToolchainError
from tests.support.programs import BEHAVIOUR
from tests.support.programs import installed as installed  # noqa: PLC0414 (a fixture is found by its name here)
from tests.support.programs import programs as programs  # noqa: PLC0414
from tests.support.wheels import OPENVINO, write_wheel

if TYPE_CHECKING:
    from pathlib import Path

FETCH = installing._fetch


def left_in(home: Path) -> list[str]:
    return sorted(path.name for path in home.rglob("*") if path.parent.name == "staging" or path.parent == home)


@pytest.mark.usefixtures("programs")
def test_makes_all_of_it(tmp_path: Path) -> None:
    told: list[str] = []
    path = install(tmp_path / "home", told.append)
    assert path == tmp_path / "home" / f"wine-{installed_version()}"
    assert sorted(each.name for each in path.iterdir()) == ["bin", "prefix", "toolchain.json"]
    record = read_record(path)
    assert set(record.files) == {"host.exe", *installing.LIBRARIES, *installing.RUNTIME}
    assert (record.wine, record.compiler) == ("wine-8.0 (of a test)", "2026.5.0-of-a-test")
    assert [wheel.tested for wheel in record.wheels.values()] == [False, False]
    assert len(told) == 4
    assert WineToolchain(tmp_path / "home").examine().usable
    assert left_in(tmp_path / "home") == ["staging", path.name]


def test_is_done_once(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "_fetch", None)
    assert install(installed) == WineToolchain(installed).folder


def test_a_frozen_program_has_no_pip(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(installing, "_fetch", FETCH)
    with pytest.raises(ToolchainError, match="from a Python with npu_persist"):
        install(tmp_path / "home")
    assert programs.is_dir()


@pytest.mark.parametrize("damage", ["library", "description", "prefix", "in the prefix", "all"])
def test_puts_a_damaged_one_right(installed: Path, damage: str) -> None:
    folder = WineToolchain(installed).folder
    if damage == "library":
        (folder / "bin" / "tbb12.dll").write_bytes(b"something else")
    elif damage == "description":
        (folder / "toolchain.json").write_text("{}")
    elif damage == "in the prefix":
        shutil.rmtree(folder / "prefix" / "drive_c")
    else:
        shutil.rmtree(folder / "prefix" if damage == "prefix" else folder)
    install(installed)
    verify(folder, read_record(folder))
    assert WineToolchain(installed).examine().usable
    assert probe(WineToolchain(installed).compile, "4000").log
    assert left_in(installed) == ["staging", folder.name]


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("step", ["_fetch", "_build", "_make_prefix", "probe", "list_files", "write_record"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ToolchainError("no"), OSError(28, "No space left on device")])
def test_that_stops_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: BaseException | type[BaseException],
) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(installing, step, stop)
    with pytest.raises((KeyboardInterrupt, ToolchainError, StoreError)):
        install(tmp_path / "home")
    assert left_in(tmp_path / "home") == ["staging"]


def test_that_stops_leaves_the_old_one(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = WineToolchain(installed).folder
    (folder / "bin" / "tbb12.dll").write_bytes(b"something else")
    monkeypatch.setenv(BEHAVIOUR, "refuse")
    with pytest.raises(CompilationError, match="rejected the graph"):
        install(installed)
    assert (folder / "bin" / "tbb12.dll").read_bytes() == b"something else"


@pytest.mark.usefixtures("programs")
def test_what_a_killed_one_left_goes_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / "home" / "staging" / "0123456789abcdef"
    (left / "toolchain" / "bin").mkdir(parents=True)
    install(tmp_path / "home")
    assert not left.exists()
    left.mkdir()
    assert sweep(tmp_path / "home") == [left]


@pytest.mark.usefixtures("programs")
def test_one_that_was_slower_takes_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_after_another(folder: Path, record: ToolchainRecord) -> None:
        monkeypatch.setattr(installing, "write_record", write_record)
        install(tmp_path / "home")
        write_record(folder, record)

    monkeypatch.setattr(installing, "write_record", write_after_another)
    folder = install(tmp_path / "home")
    verify(folder, read_record(folder))
    assert left_in(tmp_path / "home") == ["staging", folder.name]


def test_without_the_programs(programs: Path, tmp_path: Path) -> None:
    (programs / "wineboot").unlink()
    with pytest.raises(ToolchainError, match="Run: apt-get install wine && npu-persist toolchain install"):
        install(tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_on_another_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(ToolchainError, match="for Linux on x86-64 only"):
        install(tmp_path / "home")


@pytest.mark.parametrize("program", ["wineboot", "x86_64-w64-mingw32-gcc"])
def test_a_program_that_fails_is_quoted(programs: Path, tmp_path: Path, program: str) -> None:
    (programs / program).write_text("#!/bin/sh\necho it does not work >&2\nexit 7\n")
    with pytest.raises(ToolchainError, match=rf"{program} .*ended with 7\. Last output: it does not work"):
        install(tmp_path / "home")


def test_a_wheel_of_another_version(programs: Path, tmp_path: Path) -> None:
    wine = programs / "wine"
    wine.write_text(wine.read_text().replace(repr(installed_version()), repr("2025.1.0")))
    with pytest.raises(ToolchainError, match=f"expected OpenVINO {installed_version()} in .*, got 2025.1.0-22982"):
        install(tmp_path / "home")


@pytest.mark.usefixtures("programs")
def test_a_wheel_without_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = installing._fetch

    def fetch_less(version: str, folder: Path) -> dict[str, Path]:
        wheels = fetch(version, folder)
        name = "openvino/libs/openvino_intel_npu_compiler.dll"
        write_wheel(wheels["openvino"], {each: data for each, data in OPENVINO.items() if each != name})
        return wheels

    monkeypatch.setattr(installing, "_fetch", fetch_less)
    with pytest.raises(ToolchainError, match=r"it has no openvino/libs/openvino_intel_npu_compiler\.dll"):
        install(tmp_path / "home")


def test_pip_that_finds_nothing_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip", reason="pip is not installed")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ToolchainError, match=r"pip download .*openvino==2026\.4\.1"):
        FETCH("2026.4.1", tmp_path / "wheels")


@pytest.mark.usefixtures("programs")
def test_wines_copies_become_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builtins = tmp_path / "root" / "wine" / "x86_64-windows"
    builtins.mkdir(parents=True)
    (builtins / "own.dll").write_text("a library")
    monkeypatch.setattr(installing, "_BUILTINS", (str((tmp_path / "root" / "wine").relative_to("/")),))
    prefix = install(tmp_path / "home") / "prefix"
    assert (prefix / "drive_c" / "windows" / "own.dll").resolve() == (builtins / "own.dll").resolve()
    assert (prefix / ".update-timestamp").read_text() == "disable\n"
    assert not (prefix / "system.reg").is_symlink()
    uninstall(tmp_path / "home")
    assert (builtins / "own.dll").read_text() == "a library"


class TestUninstall:
    def test_removes_all_or_one(self, installed: Path) -> None:
        folder = WineToolchain(installed).folder
        shutil.copytree(folder, installed / "wine-2025.1.0", symlinks=True)
        (installed / "something-of-mine").mkdir()
        assert uninstall(installed, "2025.1.0") == [installed / "wine-2025.1.0"]
        assert folder.is_dir()
        assert uninstall(installed) == [folder]
        assert uninstall(installed) == []
        assert sorted(os.listdir(installed)) == ["something-of-mine", "staging"]  # noqa: PTH208

    def test_of_one_that_is_not_there(self, installed: Path) -> None:
        with pytest.raises(ToolchainError, match=r"no toolchain for OpenVINO 2025\.1\.0"):
            uninstall(installed, "2025.1.0")
