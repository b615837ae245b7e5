"""Buckets and padding as a command line has them."""

from __future__ import annotations

import pytest

from npu_persist.bundle.manifest import Padding
from npu_persist.cli.arguments import parse_buckets, parse_padding
from npu_persist.errors import UsageError


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
