from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from npu_persist.artifact.artifact import ARTIFACT_FILE
from npu_persist.cli.main import main
from npu_persist.store import Store
from tests.support.attached import REQUIREMENTS, attach_npu
from tests.support.graphs import publish_affine, publish_dynamic
from tests.support.loads import spoil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle

    Run = Callable[..., tuple[int, str, str]]

KNOWN = ("--target", "NPU:4000", "--elf", "1.2", "--mi", "11.4", "--openvino", "2026.4.1")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process; gives its exit code, stdout and stderr."""

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


@pytest.fixture
def bundle(store_home: Path) -> Bundle:
    return publish_affine(Store(store_home))


def test_what_another_machine_would_take(run: Run, bundle: Bundle) -> None:
    place = attach_npu(bundle)
    code, text, note = run("compatibility", "affine", *KNOWN)
    assert (code, note) == (0, "")
    assert text.startswith("npu-4000 (NPU:4000, 193 B): supported\n  It is for the NPU's platform 4000")
    code, text, _ = run("compatibility", "affine", *KNOWN, "--json")
    (entry,) = json.loads(text)
    assert code == 0
    assert (entry["folder"], entry["target"], entry["status"]) == (str(place), "NPU:4000", "supported")
    assert (entry["graph"], entry["shapes"], entry["size"]) == ("main", None, 193)
    assert len(entry["reasons"]) == 5


def test_sizes_are_shown(run: Run, store_home: Path) -> None:
    bundle = publish_dynamic(Store(store_home))
    shapes = {"x": (2, 4), "y": (2, 5), "z": (5,)}
    attach_npu(bundle, shapes=shapes, inputs=tuple(replace(p, shape=shapes[p.name]) for p in bundle.graph().inputs))
    text = run("compatibility", bundle.name, *KNOWN)[1]
    assert "(NPU:4000, x=2x4,y=2x5,z=5, 193 B): supported\n" in text
    assert "x=2x4,y=2x5,z=5" in run("inspect", bundle.name)[1]
    (entry,) = json.loads(run("inspect", bundle.name, "--json")[1])["attached"]
    assert entry["shapes"] == {"x": [2, 4], "y": [2, 5], "z": [5]}


def test_what_is_unknown_is_no_failure(run: Run, bundle: Bundle) -> None:
    attach_npu(bundle)
    code, text, _ = run("compatibility", "affine", "--target", "lunar-lake")
    assert code == 0
    assert "npu-4000 (NPU:4000, 193 B): unknown\n" in text


@pytest.mark.parametrize("where", [("--target", "meteor-lake"), ("--device", "CPU")])
def test_nothing_that_could_run_ends_with_incompatible(run: Run, bundle: Bundle, where: tuple[str, str]) -> None:
    attach_npu(bundle)
    code, text, _ = run("compatibility", "affine", *where)
    assert code == 5
    assert "unsupported\n  It is for the NPU" in text


def test_nothing_attached(run: Run, bundle: Bundle) -> None:
    assert run("compatibility", "affine", *KNOWN) == (
        5, "", f"no compiled artifact is attached to {bundle.reference}\n",
    )  # fmt: skip
    assert json.loads(run("compatibility", "affine", *KNOWN, "--json")[1]) == []


def test_one_that_is_damaged(run: Run, bundle: Bundle) -> None:
    place = attach_npu(bundle)
    spoil(place / ARTIFACT_FILE, b"{}")
    code, text, _ = run("compatibility", "affine", *KNOWN)
    assert code == 5
    assert text.startswith("npu-4000 (damaged): unsupported\n")
    (entry,) = json.loads(run("compatibility", "affine", *KNOWN, "--json")[1])
    assert (entry["target"], entry["graph"], entry["size"]) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--elf", "1.2"), "--elf: only with --target"),
        (("--target", "CPU"), "expected an NPU's platform"),
        (("--target", "NPU:1"), "target: expected one of NPU:3720"),
        (("--target", "NPU:4000", "--mi", "x"), "mi: expected a version"),
        (("--target", "NPU:4000", "--device", "CPU"), "not allowed with"),
    ],
)
def test_usage(run: Run, bundle: Bundle, arguments: tuple[str, ...], text: str) -> None:
    attach_npu(bundle)
    code, _, note = run("compatibility", "affine", *arguments)
    assert code == 2
    assert text in note


def test_inspect_shows_what_is_attached(run: Run, bundle: Bundle) -> None:
    assert "compiled artifacts" not in run("inspect", "affine")[1]
    place = attach_npu(bundle, compiler="8.4-1-a4b1ef7", properties={"NPU_TURBO": "YES"}, folder="npu-4000")
    text = run("inspect", "affine")[1]
    assert "compiled artifacts\n" in text
    line = next(line for line in text.splitlines() if line.strip().startswith("npu-4000 "))
    assert "NPU:4000" in line
    assert "193 B" in line
    assert "wine 8.4" in line
    assert "8.4-1" not in line
    assert f"npu-4000: requires {REQUIREMENTS}; compiled with NPU_TURBO=YES\n" in text
    spoil(place / ARTIFACT_FILE, b"{}")
    assert f"{place / ARTIFACT_FILE}: expected the description" in run("inspect", "affine")[1]


def test_inspect_as_json(run: Run, bundle: Bundle) -> None:
    def attached() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(run("inspect", "affine", "--json")[1])["attached"]
        return found

    assert attached() == []
    place = attach_npu(bundle)
    (entry,) = attached()
    assert (entry["folder"], entry["target"], entry["size"], entry["seconds"]) == (str(place), "NPU:4000", 193, 3.25)
    assert (entry["toolchain"], entry["compiler"], entry["shapes"], entry["problem"]) == ("wine", "8.4", None, None)
    spoil(place / ARTIFACT_FILE, b"{}")
    (entry,) = attached()
    assert "expected the description" in entry["problem"]
