"""Buckets and padding as a command line has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from npu_persist.bundle.graph_records import Padding
from npu_persist.cli.arguments import parse_buckets, parse_padding
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


def test_buckets() -> None:
    assert parse_buckets(["input_ids=1x128,attention_mask=1x128", "x.y=3"]) == [
        {"input_ids": (1, 128), "attention_mask": (1, 128)},
        {"x.y": (3,)},
    ]
    assert parse_buckets([]) is None


@pytest.mark.parametrize("text", ["", "x", "x=", "=1x2", "x=1x", "x=1X2", "x=-1", "x=1x2,", "x=1,x=2", "x=1.5"])
def test_what_is_no_bucket(text: str) -> None:
    with pytest.raises(UsageError, match=r"--bucket: expected NAME=1x128.* got "):
        parse_buckets([text])


def test_padding() -> None:
    assert parse_padding(["input_ids=7:left", "x.y=-1e9", "z=0:right"]) == {
        "input_ids": Padding(7, "left"),
        "x.y": Padding(-1e9),
        "z": Padding(),
    }
    assert parse_padding([]) is None


@pytest.mark.parametrize("texts", [["x"], ["x="], ["=1"], ["x=1:top"], ["x=left"], ["x=1", "x=2"]])
def test_what_is_no_padding(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="--pad: expected NAME=VALUE"):
        parse_padding(texts)


def test_a_missing_inputs_file_is_3(run: Run) -> None:
    assert run("run", "tiny", "--inputs", "absent.npz")[0] == 3


@pytest.mark.parametrize("verb", [("run", "tiny"), ("persist", "json:JSONDecoder", "--name", "x")])
def test_inputs_that_are_no_npz_are_a_usage_error(run: Run, tmp_path: Path, verb: tuple[str, ...]) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("1 2 3\n")
    (tmp_path / "empty.npz").touch()
    for name, got in {
        "one.npy": "got a .npy file, which holds one array without a name",
        "objects.npz": "got an array of Python objects",
        "text.npz": "File is not a zip file",
        "empty.npz": "File is not a zip file",
    }.items():
        code, out, err = run(*verb, "--inputs", str(tmp_path / name))
        assert (code, out) == (2, "")
        assert (
            f"{name}: expected an .npz file of named arrays, as numpy.savez(path, name=array) writes it; {got}" in err
        )
        assert "pickle" not in err
