"""What a pull does when the hub, the network or the repository is not as it should be.

Each ends in a typed error and a store as it was, or in success after another try.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from errno import ENOSPC
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.bundle.manifest import MAX_MANIFEST_SIZE
from npu_persist.errors import (
    ArtifactError,
    FileIntegrityError,
    HubAccessError,
    HubError,
    HubNotFoundError,
    ManifestError,
    NpuPersistError,
    StoreError,
)
from npu_persist.hub import client, summary, transfer
from npu_persist.hub.pull import pull
from npu_persist.store import Store
from npu_persist.trust import signing
from tests.support.bundles import WEIGHTS, publish_tiny, tiny_golden
from tests.support.pulls import REPO, all_files, asked, came_from, change_manifest, digest_of, put_compiled, put_tiny
from tests.support.pulls import waits as waits  # noqa: PLC0414 (a fixture is found by its name here)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.hub_server import HubServer

BIG = bytes(range(256)) * 20_000
"""Weights that come in several pieces: 5 MB."""


@pytest.fixture
def store(hub: HubServer, tmp_path: Path) -> Store:
    store = Store(tmp_path / "home")
    came_from(hub, publish_tiny(store, weights=WEIGHTS[:-1] + b"o", model=b"<net/>", golden=tiny_golden("older")))
    return store


def refuse(store: Store, error: type[NpuPersistError], match: str, reference: str = "org/tiny", **options: Any) -> Any:
    """Let a pull fail, and see that the store is as it was."""
    before = all_files(store)
    with pytest.raises(error, match=match) as caught:
        pull(reference, store=store, **{"compiled": "all", **options})
    assert all_files(store) == before
    assert store.versions("tiny") == (1,)
    return caught.value


@pytest.mark.parametrize("pattern", ["GET /cdn/.*weights", "GET .*/resolve/.*model.xml"])
def test_a_changed_byte_is_downloaded_again_once(
    hub: HubServer, store: Store, tmp_path: Path, waits: list[float], pattern: str
) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.fail(pattern, corrupt=True)
    pull("org/tiny", store=store).verify()
    assert waits == []
    assert sum("/cdn/" in request or "model.xml" in request for request in asked(hub)) == 4


def test_a_changed_manifest_is_an_error_where_the_digest_is_pinned(
    hub: HubServer, store: Store, tmp_path: Path
) -> None:
    put_tiny(hub, tmp_path / "a")
    manifest = hub.read(REPO, "manifest.json").replace(b"Ada", b"Eve")
    hub.fail("GET .*manifest.json", body=manifest)
    refuse(store, FileIntegrityError, "moved", f"hf://org/tiny#{digest_of(hub)}")


def test_a_changed_byte_that_stays_is_an_error(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.fail("GET /cdn/", corrupt=True, times=9)
    error = refuse(store, FileIntegrityError, r"golden.safetensors of org/tiny at .*twice|weights.*twice")
    assert error.expected.startswith("blake3:")


def test_a_body_that_ends_early_is_resumed(hub: HubServer, store: Store, tmp_path: Path, waits: list[float]) -> None:
    put_tiny(hub, tmp_path / "a", weights=WEIGHTS[:4096] + BIG)
    hub.fail("GET /cdn/.*weights", short=3_000_000)
    hub.forget()
    pull("org/tiny", store=store).verify()
    assert waits == [1.0]
    sent = sorted(request.sent for request in hub.requests if "/cdn/" in request.path and "weights" in request.path)
    assert sum(sent) == len(BIG) + 4096


def test_a_body_that_always_ends_early_is_an_error(
    hub: HubServer, store: Store, tmp_path: Path, waits: list[float]
) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.fail("GET .*model.xml", short=1, times=99)
    refuse(store, HubError, "download model.xml")
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0]


@pytest.mark.usefixtures("waits")
def test_an_interrupted_pull_resumes(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a", weights=WEIGHTS[:4096] + BIG)
    hub.fail("GET /cdn/.*weights", short=3_000_000)
    hub.fail("GET /cdn/.*weights", status=503, times=99)
    with pytest.raises(HubError, match="503"):
        pull("org/tiny", store=store)
    kept = [path for path in (store.home / "staging").iterdir() if path.name.startswith("part-")]
    assert [path.stat().st_size >= transfer.WORTH_KEEPING for path in kept] == [True]
    came = kept[0].stat().st_size
    hub._faults.clear()
    hub.forget()
    pull("org/tiny", store=store).verify()
    sent = sum(request.sent for request in hub.requests if "/cdn/" in request.path and "weights" in request.path)
    assert sent == len(BIG) + 4096 - came
    assert list((store.home / "staging").iterdir()) == []


@pytest.mark.usefixtures("waits")
def test_a_partial_file_that_is_never_resumed_is_pruned(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a", weights=WEIGHTS[:4096] + BIG)
    hub.fail("GET /cdn/.*weights", short=3_000_000)
    hub.fail("GET /cdn/.*weights", status=503, times=99)
    with pytest.raises(HubError):
        pull("org/tiny", store=store)
    assert len(store.prune()) == 1
    assert list((store.home / "staging").iterdir()) == []


def test_a_damaged_partial_file_is_downloaded_again(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a", weights=WEIGHTS[:4096] + BIG)
    digest = json.loads(hub.read(REPO, "manifest.json"))["files"]["weights.safetensors"]["digest"]
    kept = store.home / "staging" / f"part-{digest.partition(':')[2]}"
    for beginning in (b"x" * 2_000_000, BIG * 2):
        kept.write_bytes(beginning)
        bundle = pull("org/tiny", store=store)
        bundle.verify()
        store.remove(bundle.reference)
        assert not kept.exists()


@pytest.mark.parametrize("place", ["/api/models/org/tiny/revision", "/api/models/org/tiny/tree", "manifest", "/cdn/"])
@pytest.mark.parametrize(
    ("status", "headers", "waited"), [(500, {}, [1.0, 2.0]), (429, {"Retry-After": "7"}, [7.0, 7.0])]
)
def test_a_busy_hub_is_retried(  # noqa: PLR0913, PLR0917
    hub: HubServer,
    store: Store,
    tmp_path: Path,
    waits: list[float],
    place: str,
    status: int,
    headers: dict[str, str],
    waited: list[float],
) -> None:
    put_tiny(hub, tmp_path / "a", tag="v1")
    hub.fail(f"GET .*{place}", status=status, headers=headers, times=2)
    pull("org/tiny@v1", store=store).verify()
    assert waits == waited


def test_a_hub_that_stays_busy_is_given_up(hub: HubServer, store: Store, tmp_path: Path, waits: list[float]) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.fail("GET /cdn/", status=500, times=99)
    error = refuse(store, HubError, "500")
    assert (error.status, error.repo_id, len(waits)) == (500, REPO, client.MAX_FAILURES)


def test_a_retry_after_of_a_day_is_an_error_at_once(
    hub: HubServer, store: Store, tmp_path: Path, waits: list[float]
) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.fail("GET /cdn/", status=429, headers={"Retry-After": "86400"}, times=99)
    assert refuse(store, HubError, "429").status == 429
    assert waits == []


@pytest.mark.parametrize("times", [1, 99])
def test_a_stall_ends_after_the_clients_timeout(  # noqa: PLR0913, PLR0917
    hub: HubServer, store: Store, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    put_tiny(hub, tmp_path / "a")
    hub.fail("GET /cdn/.*weights", stall=True, times=times)
    if times == 1:
        pull("org/tiny", store=store).verify()
    else:
        refuse(store, HubError, "download weights")
    assert len(waits) == min(times, client.MAX_FAILURES)


@pytest.mark.parametrize("path", ["model.xml", "manifest.json", "weights"])
def test_a_longer_body_is_cut_off(hub: HubServer, store: Store, tmp_path: Path, path: str) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.fail(f"GET /(cdn/|org/tiny/resolve/).*{path}", body=b"x" * 50_000, times=9)
    assert refuse(store, FileIntegrityError, "got more").got == "more"


def test_a_hub_without_ranges_sends_everything_again(
    hub: HubServer, store: Store, tmp_path: Path, waits: list[float]
) -> None:
    put_tiny(hub, tmp_path / "a", weights=WEIGHTS[:4096] + BIG)
    hub.fail("GET /cdn/.*weights", short=3_000_000)
    hub.fail("GET /cdn/.*weights", body=WEIGHTS[:4096] + BIG)
    pull("org/tiny", store=store).verify()
    assert waits == [1.0]


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", "C:\\x", "a//b", "./x", "compiled/../../x"])
def test_a_listing_that_leads_out_of_the_repository_is_refused(
    hub: HubServer, store: Store, tmp_path: Path, path: str
) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.put(REPO, {path: b"x"})
    refuse(store, HubError, "paths inside the repository")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "paths", [["compiled/con/artifact.json"], ["compiled/a/x.y:z"], ["compiled/A/x", "compiled/a/x"], ["compiled/.a/b"]]
)
def test_names_that_some_platform_forbids_are_refused(
    hub: HubServer, store: Store, tmp_path: Path, paths: list[str]
) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.put(REPO, dict.fromkeys(paths, b"x"))
    refuse(store, ArtifactError, "every platform")
    assert pull("org/tiny", compiled="none", store=store).version == 2


@pytest.mark.parametrize(
    "path", ["../x", "C:\\x", "con", "MODEL.XML", "origin.json", "manifest.json.sig", "compiled/x"]
)
def test_a_manifest_with_hostile_paths_is_refused(hub: HubServer, store: Store, tmp_path: Path, path: str) -> None:
    put_tiny(hub, tmp_path / "a")
    files = json.loads(hub.read(REPO, "manifest.json"))["files"]
    change_manifest(hub, files=files | {path: files["model.xml"]})
    refuse(store, ManifestError, "files")
    assert not asked(hub, "weights")


def test_a_manifest_of_ten_million_files_is_refused_unread(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    content = hub.repos[REPO].tree["manifest.json"]
    hub.repos[REPO].tree["manifest.json"] = content._replace(size=10**7 * 100)
    refuse(store, ManifestError, f"at most {MAX_MANIFEST_SIZE} bytes")
    assert not asked(hub, "/resolve/")


def test_a_manifest_of_too_many_files_is_refused(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    files = json.loads(hub.read(REPO, "manifest.json"))["files"]
    change_manifest(hub, files=files | {f"f{number}": files["model.xml"] for number in range(10_001)})
    refuse(store, ManifestError, "files: expected an object of at most 10000 members, got 10004")


def test_a_repository_of_too_many_files_is_refused(
    hub: HubServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ENTRIES", 40)
    put_tiny(hub, tmp_path / "a")
    hub.page = 10
    hub.put(REPO, {f"f{number}": b"" for number in range(200)})
    refuse(store, HubError, "at most 40 files")
    assert len(asked(hub, "/tree/")) == 5


@pytest.mark.parametrize("name", ["MAX_ATTACHED", "MAX_DESCRIPTIONS", "MAX_ARTIFACT_SIZE"])
def test_too_many_or_too_large_artifacts_are_refused(
    hub: HubServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put_compiled(hub, tmp_path / "maker")
    monkeypatch.setattr(summary, name, 1)
    refuse(store, ArtifactError, "at most")
    assert not asked(hub, "artifact.json")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}",
        b"[3]",
        b'[{"type": "file", "path": 3, "size": 3}]',
        b'[{"type": "file", "path": "a", "size": -1}]',
        b'[{"type": "file", "path": "a", "size": true}]',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_strange_list_of_files_is_refused(hub: HubServer, store: Store, tmp_path: Path, body: bytes) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.fail("GET .*/tree/", body=body)
    refuse(store, HubError, "expected")


def test_a_page_elsewhere_is_not_followed(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    link = {"Link": '<http://127.0.0.2:9/x>; rel="next"'}
    hub.fail("GET .*/tree/", body=b"[]", headers=link)
    refuse(store, HubError, r"expected.*127\.0\.0\.2")


def test_a_file_of_another_size_than_the_manifest_says_is_not_asked_for(
    hub: HubServer, store: Store, tmp_path: Path
) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.put(REPO, {"weights.safetensors": WEIGHTS + b"x"})
    refuse(store, FileIntegrityError, "weights.safetensors of org/tiny")
    hub.put(REPO, {"weights.safetensors": None})
    refuse(store, FileIntegrityError, "got nothing")
    assert not asked(hub, "weights")


def test_a_link_in_place_of_a_file_is_refused(hub: HubServer, store: Store, tmp_path: Path) -> None:
    # What git keeps of a link is the path that it leads to, and the hub sends that.
    put_tiny(hub, tmp_path / "a")
    hub.put(REPO, {"model.xml": b"../../../etc/passwd"})
    refuse(store, FileIntegrityError, "model.xml")


def test_a_damaged_blob_leaves_no_version(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_compiled(hub, tmp_path / "maker")
    hub.fail("GET .*model.blob", corrupt=True, times=99)
    refuse(store, FileIntegrityError, "model.blob")


def test_a_missing_repository_revision_or_bundle(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    assert refuse(store, HubNotFoundError, "org/none", "org/none").status == 401
    assert refuse(store, HubNotFoundError, "v9", "org/tiny@v9").status == 404
    refuse(store, HubNotFoundError, "0000000", f"org/tiny@{'0' * 40}")
    hub.put("org/empty", {"README.md": b""})
    refuse(store, HubNotFoundError, "has no bundle", "org/empty")


def test_a_name_that_no_repository_has_is_not_asked_for(hub: HubServer, store: Store, waits: list[float]) -> None:
    refuse(store, HubError, "another name", "a--b/c")
    assert (asked(hub), waits) == ([], [])


def test_a_pull_that_is_killed(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.fail("GET /cdn/.*weights", stall=True)
    code = "import sys; from npu_persist.hub.pull import pull; pull('org/tiny', store=sys.argv[1], compiled='none')"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
    }
    process = subprocess.Popen([sys.executable, "-c", code, str(store.home)], env=environment)
    while not asked(hub, "/cdn/"):
        assert process.poll() is None
        time.sleep(0.01)
    while not any(path.is_dir() for path in (store.home / "staging").iterdir()):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert store.versions("tiny") == (1,)
    assert store.prune()
    pull("org/tiny", store=store).verify()
    assert list((store.home / "staging").iterdir()) == []


def test_two_pulls_at_once_are_one_version(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.fail("GET /cdn/.*weights", act=lambda: publish_tiny(store))
    assert pull("org/tiny", store=store).reference == "tiny:2"
    assert store.versions("tiny") == (1, 2)


def test_a_private_repository_needs_a_token(
    hub: HubServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.repos[REPO].private = True
    hub.add_token("hf_reader")
    refuse(store, HubNotFoundError, "token")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    refuse(store, HubNotFoundError, "token")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert pull("org/tiny", store=store).version == 2


def test_a_forbidden_file(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.fail("GET .*weights", status=403, times=9)
    assert refuse(store, HubAccessError, "token").status == 403


def test_a_full_disk(hub: HubServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tiny(hub, tmp_path / "a")

    def fill(_: transfer._Transfer) -> None:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer._Transfer, "_hash_beginning", fill)
    refuse(store, StoreError, "Free some space")


def test_signatures_that_are_too_large_are_ignored(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.put(REPO, {"manifest.json.sig": b"x" * (signing.MAX_SIGNATURES_SIZE + 1)})
    assert not (pull(REPO, store=store).path / "manifest.json.sig").exists()
    assert not asked(hub, "manifest.json.sig")
