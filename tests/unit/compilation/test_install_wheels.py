from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

from npu_persist.compilation.toolchains import install
from npu_persist.compilation.toolchains.install import check_wheel, extract, list_members
from npu_persist.errors import ToolchainError
from tests.support.wheels import write_wheel

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {"pkg/libs/a.dll": b"library", "pkg/include/a.h": b"header"}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return tmp_path / "pkg-1.0-py3-none-win_amd64.whl"


def test_what_is_named_is_written(wheel: Path, tmp_path: Path) -> None:
    write_wheel(wheel, GOOD)
    extract(wheel, {"pkg/libs/a.dll": tmp_path / "out" / "a.dll"})
    assert (tmp_path / "out" / "a.dll").read_bytes() == b"library"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.dll"]
    assert list_members(wheel, "pkg/include/", ".h") == ["pkg/include/a.h"]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({**GOOD, "pkg/libs/a.dll": b"LIBRARY"}, r"a\.dll: expected 7 bytes with sha256="),
        ({**GOOD, "pkg/libs/a.dll": b"lib"}, r"a\.dll: expected 3 bytes, got 7"),
        ({"pkg/include/a.h": b"header"}, r"RECORD has no digest of pkg/libs/a\.dll"),
    ],
)
def test_a_record_that_says_otherwise(wheel: Path, tmp_path: Path, record: dict[str, bytes], problem: str) -> None:
    write_wheel(wheel, GOOD, record=record)
    with pytest.raises(ToolchainError, match=problem):
        extract(wheel, {"pkg/libs/a.dll": tmp_path / "a.dll"})
    assert not (tmp_path / "a.dll").exists()


def test_a_wheel_without_the_file(wheel: Path, tmp_path: Path) -> None:
    write_wheel(wheel, GOOD)
    with pytest.raises(ToolchainError, match=r"it has no pkg/libs/b\.dll"):
        extract(wheel, {"pkg/libs/b.dll": tmp_path / "b.dll"})


@pytest.mark.parametrize("name", ["../../evil.dll", "/evil.dll", "C:/evil.dll", "pkg/libs/../../../evil.dll"])
def test_names_that_lead_elsewhere_are_never_followed(wheel: Path, tmp_path: Path, name: str) -> None:
    write_wheel(wheel, {**GOOD, name: b"evil"})
    before = set(tmp_path.parent.rglob("evil.dll"))
    extract(wheel, {"pkg/libs/a.dll": tmp_path / "in" / "a.dll"})
    assert set(tmp_path.parent.rglob("evil.dll")) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name(wheel: Path, tmp_path: Path) -> None:
    write_wheel(wheel, GOOD, extra={"pkg/libs/a.dll": b"another"})
    with pytest.raises(ToolchainError, match="two files with the same name"):
        extract(wheel, {"pkg/libs/a.dll": tmp_path / "a.dll"})


def test_two_records(wheel: Path, tmp_path: Path) -> None:
    write_wheel(wheel, GOOD, extra={"other-1.0.dist-info/RECORD": b""})
    with pytest.raises(ToolchainError, match=r"expected one \.dist-info/RECORD, got 2"):
        extract(wheel, {"pkg/libs/a.dll": tmp_path / "a.dll"})


def test_a_bomb(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_MAX_SIZE", 1000)
    write_wheel(wheel, {"pkg/libs/a.dll": bytes(1_000_000)})
    with pytest.raises(ToolchainError, match="expected 1000000 bytes"):
        extract(wheel, {"pkg/libs/a.dll": tmp_path / "a.dll"})


def test_no_wheel_at_all(wheel: Path, tmp_path: Path) -> None:
    wheel.write_bytes(b"<html>not found</html>")
    with pytest.raises(ToolchainError, match="it is damaged"):
        extract(wheel, {"pkg/libs/a.dll": tmp_path / "a.dll"})
    with pytest.raises(ToolchainError, match="it is damaged"):
        list_members(wheel, "", "")


def test_any_flipped_byte_is_an_error_or_does_no_harm(wheel: Path, tmp_path: Path) -> None:
    write_wheel(wheel, GOOD)
    sound = wheel.read_bytes()
    for at in range(len(sound)):
        wheel.write_bytes(sound[:at] + bytes([sound[at] ^ 0x41]) + sound[at + 1 :])
        target = tmp_path / f"out-{at}"
        try:
            extract(wheel, {"pkg/libs/a.dll": target})
        except ToolchainError:
            assert not target.exists()
        else:
            assert target.read_bytes() == b"library"


def test_a_wheel_that_was_tested_must_be_that_one(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(wheel, GOOD)
    digest, tested = check_wheel(wheel)
    assert not tested
    monkeypatch.setitem(install.PINNED, wheel.name, digest)
    assert check_wheel(wheel) == (digest, True)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("more", b"more")
    with pytest.raises(ToolchainError, match=f"expected the wheel with SHA-256 {digest}"):
        check_wheel(wheel)
