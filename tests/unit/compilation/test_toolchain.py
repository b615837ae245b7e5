from __future__ import annotations

import pytest

from npu_persist.compilation.toolchains.toolchain import CompilerLog, extract_reason


class TestLog:
    LINES = (
        ("[INFO] 06:58:12.250 [vpux-compiler] Verifiers are disabled", "vpux-compiler: Verifiers are disabled"),
        ("[WARNING] 06:58:18.4 [NPU_VCL] careful", "NPU_VCL: careful"),
        ("[INFO] 06:58:18.4 [VCLCompilerImpl] again", None),
        ("0.0005 (  0.0%)  some-pass", None),
        ("===-----------------------===", None),
        ("... Execution time report ...", None),
        ("platform = NPU4000", "platform = NPU4000"),
    )

    @pytest.mark.parametrize(("line", "kept"), LINES)
    def test_keeps_what_says_something(self, line: str, kept: str | None) -> None:
        assert CompilerLog()(line) == kept

    def test_knows_the_compiler(self) -> None:
        log = CompilerLog()
        assert log("[INFO] 06:58:11.951 [NPU_VCL] Current compiler ID: 2026.5.0-1-a4b") is None
        assert log.compiler == "2026.5.0-1-a4b"

    @pytest.mark.parametrize(
        ("message", "words"),
        [
            ("Exception from src\\a.cpp:1:\nvclX 0x4 - [NPU_VCL] Compiler returned msg:\ntoo bad\n\n", "too bad"),
            ("Exception from src/a.cpp:1:\nException from src/b.cpp:2:\nno device\n", "no device"),
            ("Exception from src/a.cpp:1:\n", "Exception from src/a.cpp:1:"),
            ("", "OpenVINO gave no reason"),
            ("Compiler returned msg:\n", "Compiler returned msg:"),
        ],
    )
    def test_an_error_is_the_compilers_own_words(self, message: str, words: str) -> None:
        assert extract_reason(message) == words
