"""A hub lists a repository's files without end, so that a pull never gets to the bundle.

Before: a thousand pages were read, empty ones and the same ones again too: 45 s; and a page that comes byte by byte was
waited for. Now: each page must bring other files, all of them together have a limit in number, bytes and seconds.
"""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING

import pytest

from npu_persist.errors import HubError
from npu_persist.hub import client
from npu_persist.hub.pull import pull
from npu_persist.store import Store
from tests.support.pulls import REPO, asked, put_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.hub_server import HubServer


def list_for_ever(hub: HubServer, body: bytes) -> None:
    """Answer every page with the same entries and one more page."""
    link = {"Link": f'<{hub.url}/api/models/{REPO}/tree/main?cursor=1>; rel="next"'}
    hub.fail("GET .*/tree/", body=body, headers=link, times=10_000)


@pytest.mark.parametrize("body", [b"[]", b'[{"type": "file", "path": "x", "size": 1}]', b'[{"type": "directory"}]'])
def test_the_same_page_again(hub: HubServer, tmp_path: Path, body: bytes) -> None:
    put_tiny(hub, tmp_path / "a")
    list_for_ever(hub, body)
    with pytest.raises(HubError, match="each page has others"):
        pull(REPO, store=Store())
    assert len(asked(hub, "/tree/")) <= 2


def test_other_files_for_ever(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tiny(hub, tmp_path / "a")
    list_for_ever(hub, b"[]")
    numbers, loads = count(), json.loads

    def other(_: bytes) -> object:
        return [{"type": "file", "path": f"file{next(numbers)}", "size": 1}]

    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", lambda data: other(data) if data == b"[]" else loads(data))
        with pytest.raises(HubError, match=f"at most {client.MAX_PAGES} pages"):
            pull(REPO, store=Store())
    assert len(asked(hub, "/tree/")) == client.MAX_PAGES <= 100


def test_a_page_that_takes_for_ever(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tiny(hub, tmp_path / "a")
    times = count(step=20.0)
    monkeypatch.setattr(client, "monotonic", lambda: next(times))
    with pytest.raises(HubError, match="within 30 seconds"):
        pull(REPO, store=Store())


def test_pages_that_are_large(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.page = 1
    monkeypatch.setattr(client, "MAX_LIST_SIZE", 200)
    with pytest.raises(HubError, match="at most 200 bytes"):
        pull(REPO, store=Store())
    assert len(asked(hub, "/tree/")) < 5
