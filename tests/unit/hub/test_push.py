"""Push, over loopback, with the unmodified client."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from npu_persist.errors import (
    ArtifactError,
    FileIntegrityError,
    HubAccessError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    UsageError,
)
from npu_persist.store import Store
from tests.support.attached import attach_npu
from tests.support.bundles import GOLDEN, publish_tiny

pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")

from npu_persist.hub.push import push

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.progress import Progress
    from tests.support.hub_server import HubServer

REPO = "org/tiny"
WRITER = "hf_writer"
WEIGHTS = b"\0" * 4096 + os.urandom(200_000)
OWN = {"manifest.json", "model.xml", "weights.safetensors", "golden.safetensors"}


@pytest.fixture
def bundle() -> Bundle:
    return publish_tiny(Store(), weights=WEIGHTS)


def _paths(hub: HubServer, repo: str = REPO) -> set[str]:
    return set(hub.repos[repo].tree) - {".gitattributes", "README.md"}


def _rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_new_repository_gets_the_bundle_a_card_and_a_tag_in_one_commit(hub: HubServer, bundle: Bundle) -> None:
    bundle.ensure_bin()
    pushed = push("tiny:1", REPO, private=True, commit_message="the first")
    repo = hub.repos[REPO]
    assert repo.private
    assert len(repo.commits) == 2  # the hub's own first, and this
    assert repo.tags == {"v1": pushed.commit} == {"v1": repo.branches["main"]}
    assert repo.commits[pushed.commit].message == "the first"
    assert _paths(hub) == OWN
    assert "README.md" in repo.tree
    for path in OWN:
        assert hub.read(REPO, path) == (bundle.path / path).read_bytes()
    assert repo.tree["weights.safetensors"].sha256 is not None
    assert pushed.skipped_bytes == 0
    assert pushed.uploaded_bytes == sum(repo.tree[path].size for path in (*OWN, "README.md"))
    assert pushed.url == f"{hub.url}/{REPO}/commit/{pushed.commit}"


def test_the_same_again_changes_nothing(hub: HubServer, bundle: Bundle) -> None:
    first = push("tiny", REPO)
    hub.forget()
    again = push(bundle.reference, REPO)
    assert again.commit == first.commit
    assert again.uploaded_bytes == 0
    assert again.skipped_bytes == first.uploaded_bytes
    assert not hub.received("POST|PUT")


def test_the_same_weights_do_not_travel_again(hub: HubServer, bundle: Bundle) -> None:
    push("tiny:1", REPO)
    second = publish_tiny(Store(), weights=WEIGHTS, model=b"<net name='tiny'><!-- one more layer --></net>\n")
    hub.forget()
    pushed = push("tiny:2", REPO)
    assert set(hub.repos[REPO].tags) == {"v1", "v2"}
    assert not hub.received("PUT")
    assert hub.received() < 40_000  # graph, manifest and card, and what is said around them
    assert pushed.skipped_bytes == len(WEIGHTS) + len(GOLDEN)
    assert hub.read(REPO, "model.xml", "v2") == (second.path / "model.xml").read_bytes()
    assert hub.read(REPO, "model.xml", "v1") == (bundle.path / "model.xml").read_bytes()


def test_retrained_weights_travel_once(hub: HubServer, bundle: Bundle) -> None:
    push("tiny:1", REPO)
    publish_tiny(Store(), weights=WEIGHTS[::-1])
    hub.forget()
    push("tiny:2", REPO)
    assert hub.received("PUT") == len(WEIGHTS) == bundle.manifest.files["weights.safetensors"].size


def test_files_that_the_new_bundle_lacks_are_deleted_in_the_same_commit(hub: HubServer, bundle: Bundle) -> None:
    attach_npu(bundle)
    push("tiny:1", REPO)
    assert "compiled/npu-4000/model.blob" in _paths(hub)
    hub.put(REPO, {"notes.txt": b"a person's", "manifest.json.sig": b"of the old one"})
    publish_tiny(Store(), weights=WEIGHTS[::-1])
    before = len(hub.repos[REPO].commits)
    push("tiny:2", REPO)
    assert _paths(hub) == {*OWN, "notes.txt"}
    assert len(hub.repos[REPO].commits) == before + 1


def test_what_others_compiled_from_the_same_bundle_stays(hub: HubServer, bundle: Bundle) -> None:
    first = push("tiny:1", REPO, compiled=True)
    theirs = attach_npu(bundle, folder="npu-3720", target="NPU:3720", identity={"DEVICE_ARCHITECTURE": "3720"})
    files = {f"compiled/npu-3720/{path.name}": path.read_bytes() for path in theirs.iterdir()}
    hub.put(REPO, dict(files))
    for path in theirs.iterdir():
        path.unlink()
    theirs.rmdir()
    attach_npu(bundle)
    pushed = push("tiny:1", REPO)
    assert _paths(hub) == {*OWN, *files, "compiled/npu-4000/model.blob", "compiled/npu-4000/artifact.json"}
    card = hub.read(REPO, "README.md").decode()
    assert "npu-3720" in card
    assert "npu-4000" in card
    assert hub.repos[REPO].tags == {"v1": pushed.commit}  # the same bundle: it follows
    assert pushed.commit != first.commit


def test_artifacts_can_be_left_out_and_a_pulled_ones_origin_is(hub: HubServer, bundle: Bundle) -> None:
    folder = attach_npu(bundle)
    (folder / "origin.json").write_bytes(b"{}")
    (folder / "artifact.json.sig").write_bytes(b"signed")
    (bundle.path / "manifest.json.sig").write_bytes(b"signed")
    push("tiny", REPO, compiled=False)
    assert _paths(hub) == {*OWN, "manifest.json.sig"}
    push("tiny", REPO)
    inside = {"artifact.json", "model.blob", "artifact.json.sig"}
    assert _paths(hub) == {*OWN, "manifest.json.sig", *(f"compiled/npu-4000/{name}" for name in inside)}


@pytest.mark.parametrize("name", ["weights.safetensors", "model.xml"])
def test_a_damaged_bundle_is_not_sent(hub: HubServer, bundle: Bundle, name: str) -> None:
    path = bundle.path / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    _rewrite(path, bytes(data))
    with pytest.raises(FileIntegrityError, match=re.escape(name)):
        push("tiny", REPO)
    assert not hub.requests


def test_a_damaged_artifact_is_not_sent(hub: HubServer, bundle: Bundle) -> None:
    blob = attach_npu(bundle) / "model.blob"
    _rewrite(blob, blob.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError):
        push("tiny", REPO)
    assert not hub.requests


def test_a_branch_that_moves_meanwhile_is_a_conflict(hub: HubServer, bundle: Bundle) -> None:
    push("tiny:1", REPO)
    publish_tiny(Store(), weights=WEIGHTS[::-1])
    hub.fail("POST .*/commit/", act=lambda: hub.put(REPO, {"other": b"first"}))
    with pytest.raises(HubConflictError, match="push again") as caught:
        push("tiny:2", REPO)
    assert (caught.value.status, caught.value.repo_id) == (412, REPO)
    assert set(hub.repos[REPO].tags) == {"v1"}
    assert hub.read(REPO, "weights.safetensors") == WEIGHTS == (bundle.path / "weights.safetensors").read_bytes()
    push("tiny:2", REPO)
    assert set(hub.repos[REPO].tags) == {"v1", "v2"}


def test_a_tag_of_another_bundle_is_a_conflict_before_anything_is_sent(hub: HubServer, bundle: Bundle) -> None:
    push("tiny:1", REPO)
    other = publish_tiny(Store(), weights=WEIGHTS[::-1])
    hub.forget()
    with pytest.raises(HubConflictError, match="v1"):
        push("tiny:2", REPO, tag="v1")
    assert not hub.received("POST|PUT")
    assert other.digest != bundle.digest


def test_a_missing_branch_is_created(hub: HubServer, bundle: Bundle) -> None:
    hub.create(REPO)
    pushed = push("tiny", REPO, revision="trial", tag="t1")
    repo = hub.repos[REPO]
    assert repo.branches["trial"] == pushed.commit == repo.tags["t1"]
    assert set(repo.tree) == {".gitattributes"}
    assert bundle.version == 1


def test_a_pull_request_changes_no_branch(hub: HubServer, bundle: Bundle) -> None:
    hub.create(REPO)
    pushed = push("tiny", REPO, create_pr=True)
    repo = hub.repos[REPO]
    assert set(repo.tree) == {".gitattributes"}
    assert repo.pull_requests == {"refs/pr/1": pushed.commit}
    assert pushed.tag is None
    assert pushed.url.endswith("/discussions/1")
    assert not repo.tags
    assert bundle.size > 0
    with pytest.raises(HubNotFoundError):
        push("tiny", "org/none", create_pr=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"repo_id": "tiny"},
        {"repo_id": "org/tiny@v1"},
        {"repo_id": "hf://org/tiny#" + "0" * 64},
        {"revision": "0" * 40},
        {"commit_message": " "},
        {"tag": "a b"},
        {"tag": "v1", "create_pr": True},
    ],
)
def test_malformed_arguments_are_refused(hub: HubServer, bundle: Bundle, arguments: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        push(bundle.reference, **{"repo_id": REPO, **arguments})  # type: ignore[arg-type]
    assert not hub.requests


def test_a_tag_is_no_branch(hub: HubServer, bundle: Bundle) -> None:
    push(bundle.reference, REPO)
    with pytest.raises(UsageError, match="is a tag"):
        push(bundle.reference, REPO, revision="v1")
    assert set(hub.repos[REPO].branches) == {"main"}


def test_without_a_token_nothing_changes(hub: HubServer, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_token("hf_writer")
    hub.create(REPO, private=True)
    with pytest.raises((HubNotFoundError, HubAccessError)):
        push(bundle.reference, REPO)
    hub.create("org/public")
    with pytest.raises(HubAccessError) as caught:
        push(bundle.reference, "org/public")
    assert caught.value.status in {401, 403}
    assert set(hub.repos["org/public"].tree) == {".gitattributes"}
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    push(bundle.reference, REPO)
    assert _paths(hub) == OWN


def test_a_public_repository_is_not_taken_for_a_private_one(hub: HubServer, bundle: Bundle) -> None:
    hub.create(REPO)
    with pytest.raises(HubError, match="public"):
        push(bundle.reference, REPO, private=True)
    assert set(hub.repos[REPO].tree) == {".gitattributes"}


def test_an_upload_that_breaks_off_leaves_the_branch_and_goes_through_again(hub: HubServer, bundle: Bundle) -> None:
    hub.create(REPO)
    hub.fail("PUT /objects/", drop_after=50_000, times=100)
    with pytest.raises(HubError, match="could not push"):
        push(bundle.reference, REPO)
    assert set(hub.repos[REPO].tree) == {".gitattributes"}
    assert not hub.repos[REPO].tags
    hub.repair()
    push(bundle.reference, REPO)
    assert _paths(hub) == OWN


def test_a_push_that_is_killed_leaves_the_branch_and_goes_through_again(hub: HubServer, bundle: Bundle) -> None:
    hub.create(REPO)
    hub.fail("PUT /objects/", stall=True, times=100)
    code = f"import npu_persist; npu_persist.push({str(bundle.path)!r}, {REPO!r})"
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env={**os.environ, **settings}) as process:
        while not any(request.method == "PUT" for request in hub.requests):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert set(hub.repos[REPO].tree) == {".gitattributes"}
    hub.repair()
    push(bundle.reference, REPO)
    assert _paths(hub) == OWN


def test_a_busy_hub_is_retried(hub: HubServer, bundle: Bundle) -> None:
    hub.fail("PUT /objects/", status=500)
    hub.fail("POST .*/preupload/", status=429, headers={"Retry-After": "2"})
    push(bundle.reference, REPO)
    assert _paths(hub) == OWN
    assert hub.waits


def test_a_hub_that_fails_is_an_error_with_its_status(hub: HubServer, bundle: Bundle) -> None:
    hub.create(REPO)
    hub.fail("POST .*/commit/", status=503, times=100)
    with pytest.raises(HubError) as caught:
        push(bundle.reference, REPO)
    assert caught.value.status == 503
    hub.repair()
    hub.fail("GET .*/tree/", body=b"[{")
    with pytest.raises(HubError, match="JSON list"):
        push(bundle.reference, REPO)
    assert set(hub.repos[REPO].tree) == {".gitattributes"}


def test_a_file_that_gitignore_excludes_is_an_error(hub: HubServer, bundle: Bundle) -> None:
    hub.put(REPO, {".gitignore": b"*.xml\n"})
    with pytest.raises(HubError, match=r"gitignore excludes model\.xml"):
        push(bundle.reference, REPO)
    assert "manifest.json" not in hub.repos[REPO].tree


def test_offline_is_an_error(hub: HubServer, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        push(bundle.reference, REPO)
    assert not hub.requests


def test_progress_tells_bytes_and_files(hub: HubServer) -> None:
    publish_tiny(Store(), weights=b"\0" * 4096 + os.urandom(2_000_000))
    reports: list[Progress] = []
    pushed = push("tiny", REPO, progress=reports.append)
    assert all((report.stage, report.unit) == ("push", "bytes") for report in reports)
    assert {report.total for report in reports} == {pushed.uploaded_bytes}
    done = [report.done for report in reports]
    assert done == sorted(done)
    assert reports[-1].is_finished
    assert "weights.safetensors" in {report.detail for report in reports}
    reports.clear()
    push("tiny", REPO, progress=reports.append)
    assert reports == []
    assert hub.repos[REPO].tags


def test_a_token_is_sent(hub: HubServer, bundle: Bundle) -> None:
    hub.add_token(WRITER)
    with pytest.raises(HubAccessError):
        push(bundle.reference, REPO, token=WRITER[:-1])
    push(bundle.reference, REPO, token=WRITER, private=True)
    assert _paths(hub) == OWN


def test_nothing_is_printed(hub: HubServer, bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    push(bundle.reference, REPO)
    out, err = capfd.readouterr()
    assert not out
    assert not err
    assert hub.repos[REPO].tags
