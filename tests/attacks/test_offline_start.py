"""A machine starts where there is no hub: no route, a name server that hangs, a proxy that refuses, a hotel's portal.

Before: `load("hf://org/tiny@v1")` retried five times, 24 s and more, before it used what was pulled long ago; and a
portal's page in place of the hub's answer was an error. Now: one request, one second. What is not the hub's own answer
is no answer, and what was pulled before is used.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.bundle.reference import HubReference
from npu_persist.errors import HubAccessError, HubError, HubNotFoundError
from npu_persist.hub.pull import fetch, pull
from npu_persist.store import Store
from tests.support.pulls import REPO, asked, digest_of, put_compiled, put_tiny
from tests.support.pulls import waits as waits  # noqa: PLC0414 (a fixture is found by its name here)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.hub_server import HubServer

TAG = HubReference(REPO, "v1")
PORTAL = b"<html><body>Welcome to the Grand Hotel. Please log in.</body></html>"


@pytest.fixture
def store(hub: HubServer, tmp_path: Path) -> Store:
    """A store that has pulled the tag v1 and the default branch."""
    store = Store(tmp_path / "home")
    put_tiny(hub, tmp_path / "a", tag="v1")
    for revision in (None, "v1"):
        pull(REPO, revision=revision, store=store)
    hub.forget()
    return store


@pytest.fixture
def hanging_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let no name be looked up until the test ends, or for 10 s; return those for which it was waited so long."""
    from huggingface_hub import close_session

    ended, given_up = threading.Event(), []

    def hang(host: str, *_: Any, **__: Any) -> Any:
        if not ended.wait(10):
            given_up.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    close_session()
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield given_up
    ended.set()


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_name_server_that_hangs(
    store: Store, hanging_names: list[str], waits: list[float], revision: str | None
) -> None:
    assert fetch(HubReference(REPO, revision), ["CPU"], store).reference == "tiny:1"
    assert (hanging_names, waits) == ([], [])


def test_a_proxy_that_is_not_there(
    hub: HubServer, store: Store, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import close_session

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free.getsockname()[1]}")
        close_session()  # which read the settings when it was made
        assert fetch(TAG, ["CPU"], store).reference == "tiny:1"
    assert (asked(hub), waits) == ([], [])


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        {"status": 429, "headers": {"Retry-After": "30"}},
        {"status": 511},
        {"status": 407, "headers": {"Proxy-Authenticate": "Basic"}},
        {"status": 403},
        {"status": 401},
        {"status": 404},
        {"status": 302, "headers": {"Location": "/portal"}},
        {"body": PORTAL},
        {"body": b"{}"},
        {"body": b'{"sha": "../../x"}'},
        {"stall": True},
        {"short": 5},
    ],
    ids=str,
)
def test_an_answer_that_is_not_the_hubs(
    hub: HubServer, store: Store, waits: list[float], fault: dict[str, Any]
) -> None:
    hub.fail("GET /api", times=99, **fault)
    hub.fail("GET /portal", times=99, body=PORTAL)
    assert fetch(TAG, ["CPU"], store).reference == "tiny:1"
    assert waits == []
    assert len(asked(hub, "/api/")) == 1


def test_by_commit_and_by_digest_nobody_is_asked(hub: HubServer, store: Store) -> None:
    commit, digest = hub.repos[REPO].tags["v1"], digest_of(hub)
    for reference in (HubReference(REPO, commit), HubReference(REPO, "v1", digest), HubReference(REPO, None, digest)):
        assert fetch(reference, ["CPU"], store).reference == "tiny:1"
    assert asked(hub) == []


def test_what_only_lacks_artifacts_is_used_without_them(hub: HubServer, tmp_path: Path, waits: list[float]) -> None:
    """What the device could use besides is asked for once, also by commit."""
    put_compiled(hub, tmp_path / "maker")
    commit, store = hub.repos[REPO].branches["main"], Store(tmp_path / "home")
    pull(REPO, compiled="none", store=store)
    hub.fail("GET ", status=503, times=99)
    assert fetch(HubReference(REPO, commit), ["NPU:4000"], store).reference == "tiny:1"
    hub.repair()
    pull(REPO, target="NPU:3720", store=store)
    hub.fail("GET ", status=503, times=99)
    hub.forget()
    assert fetch(HubReference(REPO, commit), ["NPU:4000"], store).reference == "tiny:1"
    assert len(asked(hub)) == 1
    assert waits == []


def test_what_the_hub_itself_says_counts(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "b", tag="v1", model=b"<net name='other'/>\n")
    assert fetch(TAG, ["CPU"], store).reference == "tiny:2"
    del hub.repos[REPO].tags["v1"]
    with pytest.raises(HubNotFoundError, match="v1"):
        fetch(TAG, ["CPU"], store)
    hub.fail("GET /api", status=403, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(HubAccessError):
        fetch(TAG, ["CPU"], store)


def test_what_is_not_here_is_tried_again_and_so_is_a_pull(hub: HubServer, store: Store, waits: list[float]) -> None:
    """Who asks for what is new wants it, and no older one."""
    hub.fail("GET /api", status=503, times=99)
    with pytest.raises(HubError, match="503"):
        fetch(HubReference(REPO, "v2"), ["CPU"], store)
    assert len(waits) == 5
    with pytest.raises(HubError, match="503"):
        pull(REPO, store=store)
    assert len(waits) == 10


def test_a_damaged_bundle_is_not_what_is_used(hub: HubServer, store: Store, waits: list[float]) -> None:
    (store.resolve("tiny:1").path / "model.xml").unlink()
    hub.fail("GET /api", status=503, times=2)
    assert fetch(TAG, ["CPU"], store).reference == "tiny:2"
    assert len(waits) == 2
