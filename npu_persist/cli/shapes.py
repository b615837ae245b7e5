"""Buckets and padding as a command line has them: `input_ids=1x128,attention_mask=1x128` and `input_ids=0:left`.

The promise: what has another form is a usage error that shows the right one; whether it fits the graph is for others.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from npu_persist.bundle.manifest import Padding
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

BUCKET_FORM = "NAME=1x128[,NAME=1x128...]"
PADDING_FORM = "NAME=VALUE[:left|:right]"

_SHAPE = re.compile(r"[0-9]{1,18}(x[0-9]{1,18})*", re.ASCII)


def parse_buckets(texts: Sequence[str]) -> list[dict[str, tuple[int, ...]]] | None:
    """Return what `--bucket` gives, once a bucket; None where it is not given.

    Raises:
        UsageError: A text has another form, or names an input twice.
    """
    return [_parse_bucket(text) for text in texts] or None


def parse_padding(texts: Sequence[str]) -> dict[str, Padding] | None:
    """Return what `--pad` gives, once an input; None where it is not given.

    Raises:
        UsageError: A text has another form, or an input comes twice.
    """
    padding: dict[str, Padding] = {}
    for text in texts:
        name, _, rest = text.rpartition("=")
        value, _, side = rest.partition(":")
        try:
            number = float(value)
        except ValueError as error:
            raise UsageError(f"--pad: expected {PADDING_FORM}, such as input_ids=0:left; got {text!r}") from error
        if not name or name in padding or side not in {"", "left", "right"}:
            raise UsageError(f"--pad: expected {PADDING_FORM}, once for an input; got {text!r}")
        padding[name] = Padding(number, "left" if side == "left" else "right")
    return padding or None


def _parse_bucket(text: str) -> dict[str, tuple[int, ...]]:
    bucket: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        name, _, shape = part.strip().rpartition("=")
        if not name or name in bucket or not _SHAPE.fullmatch(shape):
            raise UsageError(
                f"--bucket: expected {BUCKET_FORM}, such as input_ids=1x128,attention_mask=1x128; got {text!r}"
            )
        bucket[name] = tuple(map(int, shape.split("x")))
    return bucket
