"""The toolchain for wine, with programs in place of wine and its compiler."""

from __future__ import annotations

import json
import os
import platform
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from npu_persist.compilation.process.supervisor import Limits
from npu_persist.compilation.toolchains import wine
from npu_persist.compilation.toolchains.native import (
    installed_version,
)
from npu_persist.compilation.toolchains.toolchain import CompilerRequest, State
from npu_persist.compilation.toolchains.wine import WineToolchain
from npu_persist.errors import (
    CompilationError,
    CompileMemoryError,
    CompileTimeoutError,
    StoreError,
    ToolchainError,
    UsageError,
)
from tests.support.programs import BEHAVIOUR
from tests.support.programs import installed as installed  # noqa: PLC0414 (a fixture is found by its name here)
from tests.support.programs import programs as programs  # noqa: PLC0414


def describe(**members: Any) -> str:
    texts = dict.fromkeys(("openvino", "build", "compiler", "wine", "source"), "")
    return json.dumps({"format_version": 1, **texts, "wheels": {}, "files": {}, **members})


@pytest.fixture
def job(tmp_path: Path) -> CompilerRequest:
    (tmp_path / "g.xml").write_text("a graph")
    (tmp_path / "g.bin").write_text("weights")
    (tmp_path / "out").mkdir()
    graph, weights, output = (str(tmp_path / name) for name in ("g.xml", "g.bin", "out/model.blob"))
    return CompilerRequest(graph, weights, output, "4000")


def change(job: CompilerRequest, **members: Any) -> CompilerRequest:
    return msgspec.structs.replace(job, **members)


class TestExamine:
    def test_another_openvino(self, installed: Path) -> None:
        (installed / f"wine-{installed_version()}").rename(installed / "wine-2025.1.0")
        state = WineToolchain(installed).examine()
        assert state.reason == f"it is installed for OpenVINO 2025.1.0, not for {installed_version()}"
        assert state.advice == "npu-persist toolchain install"

    def test_another_openvino_under_this_name(self, installed: Path) -> None:
        path = WineToolchain(installed).folder / "toolchain.json"
        path.write_text(path.read_text().replace(f'"openvino": "{installed_version()}"', '"openvino": "2025.1.0"'))
        state = WineToolchain(installed).examine()
        assert not state.usable
        assert f"holds OpenVINO 2025.1.0, and {installed_version()} is installed here" in state.reason

    def test_another_host_program(self, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wine, "digest_source", lambda: "blake3:another")
        state = WineToolchain(installed).examine()
        assert "was written by another version of npu_persist" in state.reason
        assert state.advice == "npu-persist toolchain install"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            "{}",
            "[" * 100_000,
            describe(format_version=2),
            describe(openvino=5),
            describe(wheels=[]),
            describe(files=[]),
            describe(files={"a.dll": {"size": 1}}),
            describe(files={"a.dll": {"size": "1", "digest": f"blake3:{'0' * 64}"}}),
            describe(files={"../x": {"size": 1, "digest": f"blake3:{'0' * 64}"}}),
        ],
    )
    def test_a_damaged_description(self, installed: Path, job: CompilerRequest, text: str) -> None:
        toolchain = WineToolchain(installed)
        (toolchain.folder / "toolchain.json").write_text(text)
        state = toolchain.examine()
        assert not state.usable
        assert "toolchain.json: " in state.reason
        with pytest.raises(ToolchainError, match="npu-persist toolchain install"):
            toolchain.compile(job)

    def test_parts_that_are_missing(self, installed: Path, programs: Path) -> None:
        toolchain = WineToolchain(installed)
        (toolchain.folder / "prefix" / "system.reg").unlink()
        assert "wine's own folder is missing" in toolchain.examine().reason
        (programs / "wine").unlink()
        (toolchain.folder / "prefix" / "system.reg").touch()
        assert toolchain.examine() == State(usable=False, reason="wine is not installed", advice="apt-get install wine")
        (toolchain.folder / "toolchain.json").unlink()
        assert "toolchain.json: it cannot be read" in toolchain.examine().reason

    def test_another_machine(self, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        assert WineToolchain(installed).examine() == State(usable=False, reason="for Linux on x86-64 only")


class TestCompile:
    def test_gives_blob_and_facts(self, installed: Path, job: CompilerRequest) -> None:
        reported: list[str] = []
        outcome = WineToolchain(installed).compile(job, Limits(report=reported.append))
        assert Path(job.output).read_bytes().endswith(b"OVNPU")
        assert (outcome.compiler, outcome.openvino) == ("2026.5.0-of-a-test", f"{installed_version()}-22982-of-a-test")
        assert outcome.seconds > 0
        assert "a-pass: Inserted 3 barriers" in outcome.log
        assert reported

    @pytest.mark.parametrize("how", ["mute", "mute until ended"])
    def test_wine_that_does_not_answer_is_ended_and_started_again(
        self, installed: Path, job: CompilerRequest, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        (mark,) = installed.glob("wine-*/prefix")
        (mark / "ended").unlink(missing_ok=True)
        monkeypatch.setenv(BEHAVIOUR, how)
        monkeypatch.setattr(wine, "FIRST_LINE", 1.0)
        if how == "mute":
            with pytest.raises(ToolchainError, match=r"wine does not start: .* 1 s.*toolchain install"):
                WineToolchain(installed).compile(job)
            assert not Path(job.output).exists()
        else:
            WineToolchain(installed).compile(job)
            assert Path(job.output).read_bytes().endswith(b"OVNPU")
        assert (mark / "ended").exists()

    def test_wine_that_dies_at_once_is_started_again(
        self, installed: Path, job: CompilerRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The programs of other compilations, which share its background processes, go on."""
        (prefix,) = installed.glob("wine-*/prefix")
        (prefix / "ended").unlink(missing_ok=True)
        monkeypatch.setenv(BEHAVIOUR, "dead once")
        WineToolchain(installed).compile(job)
        assert Path(job.output).read_bytes().endswith(b"OVNPU")
        assert (prefix / "dead").exists()
        Path(job.output).unlink()
        monkeypatch.setenv(BEHAVIOUR, "dead")
        with pytest.raises(ToolchainError, match=r"wine does not start: .* exit code 1 .*before it wrote anything"):
            WineToolchain(installed).compile(job)
        assert not Path(job.output).exists()
        assert not (prefix / "ended").exists()

    def test_request(
        self, installed: Path, job: CompilerRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_NOTES", str(tmp_path))
        properties = {"NPU_COMPILATION_MODE_PARAMS": "optimization-level=2 a=b", "LOG_LEVEL": "LOG_NONE"}
        shapes: dict[str, tuple[int, ...]] = {"a=b é": (1, 128), "scalar": ()}
        WineToolchain(installed).compile(change(job, properties=properties, shapes=shapes, weightless=True))
        request = json.loads((tmp_path / "request.json").read_text())
        assert not Path(request.pop("cwd")).exists()
        assert request == {
            "model": "model.xml",
            "weights": "model.bin",
            "output": "out/model.blob",
            "property.NPU_PLATFORM": "4000",
            "property.ENABLE_WEIGHTLESS": "YES",
            "property.NPU_COMPILATION_MODE_PARAMS": "optimization-level=2 a=b",
            "property.LOG_LEVEL": "LOG_NONE",
            "shape.a=b é": "1,128",
            "shape.scalar": "",
            "graph": "a graph",
            "bin": "weights",
        }

    @pytest.mark.parametrize(
        "members",
        [
            {"platform": None},
            {"shapes": {"a\nend": (1,)}},
            {"properties": {"A": "1\nmodel=other"}},
            {"properties": {"A=B": "1"}},
        ],
    )
    def test_what_cannot_be_said(self, installed: Path, job: CompilerRequest, members: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            WineToolchain(installed).compile(change(job, **members))

    @pytest.mark.parametrize(
        ("behaviour", "message"),
        [
            ("refuse", r"^the NPU compiler rejected the graph: no .$"),
            ("garbage", r"rejected the graph: \ufffd\ufffd is bad"),
            ("start", r"does not start, or rejects a property: Unsupported configuration key: FOO"),
            ("crash", r"signal 6 \(Aborted\).*on the edge"),
            ("cut", r"the blob is incomplete"),
            ("no file", r"the blob is incomplete"),
            ("other platform", r"expected a blob for NPU platform 4000, got one for 3720"),
        ],
    )
    def test_that_goes_wrong_leaves_no_blob(
        self, installed: Path, job: CompilerRequest, monkeypatch: pytest.MonkeyPatch, behaviour: str, message: str
    ) -> None:
        monkeypatch.setenv(BEHAVIOUR, behaviour)
        with pytest.raises(CompilationError, match=message):
            WineToolchain(installed).compile(job)
        assert not Path(job.output).exists()

    def test_limits(self, installed: Path, job: CompilerRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(BEHAVIOUR, "hang")
        toolchain = WineToolchain(installed)
        with pytest.raises(CompileTimeoutError):
            toolchain.compile(job, Limits(timeout=0.3))
        with pytest.raises(CompileMemoryError):
            toolchain.compile(job, Limits(memory_limit=1_000_000))
        cancelled = threading.Event()
        with pytest.raises(CompilationError, match="cancelled"):
            toolchain.compile(job, Limits(cancelled=cancelled, report=lambda _: cancelled.set()))

    def test_a_full_disk(
        self, small_disk: Path, installed: Path, job: CompilerRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(BEHAVIOUR, "fill the disk")
        with pytest.raises(StoreError, match="the disk is full"):
            WineToolchain(installed).compile(change(job, output=str(small_disk / "model.blob")))
        assert list(small_disk.iterdir()) == []
        monkeypatch.setenv("PATH", os.defpath)  # where umount is

    def test_damage_is_seen_before_anything_runs(self, installed: Path, job: CompilerRequest) -> None:
        toolchain = WineToolchain(installed)
        for path in sorted((toolchain.folder / "bin").iterdir()):
            sound = path.read_bytes()
            path.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
            with pytest.raises(ToolchainError, match=f"{path.name}: expected blake3:.* npu-persist toolchain install"):
                toolchain.compile(job)
            path.write_bytes(sound + b"more")
            with pytest.raises(ToolchainError, match=f"{path.name}: expected {len(sound)} bytes"):
                toolchain.compile(job)
            path.unlink()
            with pytest.raises(ToolchainError, match=f"missing or unexpected: {path.name}"):
                toolchain.compile(job)
            path.write_bytes(sound)
        (toolchain.folder / "bin" / "version.dll").touch()  # Windows takes libraries from the program's folder first
        with pytest.raises(ToolchainError, match=r"missing or unexpected: version\.dll"):
            toolchain.compile(job)
        shutil.rmtree(toolchain.folder / "bin")
        with pytest.raises(ToolchainError, match="it cannot be read"):
            toolchain.compile(job)
