from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from npu_persist.cache import QUOTA_VARIABLE, CompileCache
from npu_persist.cache.amounts import parse_age, parse_size
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "quota"), [("20GB", 20 * 10**9), ("500 MB", 5 * 10**8), ("0", 0), ("1.5kib", 1536), ("", 20 * 10**9)]
)
def test_the_quota_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, quota: int
) -> None:
    monkeypatch.setenv(QUOTA_VARIABLE, text)
    assert CompileCache(tmp_path).quota == quota
    assert CompileCache(tmp_path, quota=7).quota == 7


@pytest.mark.parametrize("text", ["lots", "-1", "1e9", "nan", "5 XB", "GB", "1 000", "9" * 30, "1GB2"])
def test_a_size_that_is_none_names_where_it_stood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(QUOTA_VARIABLE, text)
    with pytest.raises(UsageError, match=f"{QUOTA_VARIABLE}: expected a size such as 20GB"):
        CompileCache(tmp_path)
    with pytest.raises(UsageError, match="--max-size"):
        parse_size(text, "--max-size")


def test_ages_are_read() -> None:
    assert [parse_age(text) for text in ("30d", "12h", "1.5m", "2 w", "9s")] == [2592000, 43200, 90, 1209600, 9]
    for text in ("30", "d", "3 days", "-1d", ""):
        with pytest.raises(UsageError, match="expected an age such as 30d"):
            parse_age(text)
