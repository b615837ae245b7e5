"""From one machine to another over a hub that may change what it keeps: sign, push, pull, load."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist import load, pull, push, sign, verify, verify_signature
from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, BLOB_FILE, read_artifact
from npu_persist.bundle.manifest import MANIFEST_SIGNATURE_FILE, ORIGIN_FILE, FileEntry
from npu_persist.errors import SignatureError
from npu_persist.files.digest import digest_bytes
from npu_persist.store import Store
from npu_persist.trust.signing import read_signatures
from tests.support.graphs import publish_affine
from tests.support.loads import attempts, entries, is_right
from tests.support.signers import know, public_key, write_private_key

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from tests.support.hub_server import HubServer

REPO = "org/affine"
FOLDER = "compiled/cpu"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with an artifact for this machine's CPU, as its maker has it."""
    store = Store(tmp_path / "made")
    bundle = publish_affine(store)
    load("affine", "CPU", store=store)
    shutil.copytree(entries(store)[0], bundle.path / FOLDER, ignore=lambda *_: ["used"])
    return bundle


@pytest.fixture
def pushed(bundle: Bundle, hub: HubServer, tmp_path: Path) -> HubServer:
    """A hub with that bundle, signed by ada."""
    sign(bundle.path, write_private_key(tmp_path, "ada"))
    push(bundle.path, REPO)
    return hub


def pull_and_load(device: Path, **options: Any) -> list[tuple[str, str, bool]]:
    model = load(f"hf://{REPO}", "CPU", cache=False, store=device, **options)
    assert is_right(model)
    return attempts(model)


IMPORTED = [("attached", "CPU", True)]
SKIPPED = [("attached", "CPU", False), ("graph", "CPU", True)]
COMPILED_ELSEWHERE_FIRST = [("attached", "CPU", False), ("graph", "CPU", False), ("graph", "CPU", True)]


@pytest.mark.usefixtures("pushed")
def test_a_device_runs_what_a_known_key_signed(tmp_path: Path) -> None:
    device = tmp_path / "device"
    assert pull_and_load(device) == COMPILED_ELSEWHERE_FIRST
    with pytest.raises(SignatureError, match="a known key"):
        pull_and_load(device, require_signature=True)
    know(device, "ada")
    assert pull_and_load(device, require_signature=True) == IMPORTED
    verify(store=device)
    assert {signed.signer for signed in verify_signature("affine", store=device)} == {"ada"}


def test_what_is_not_signed_runs_from_its_graph(bundle: Bundle, hub: HubServer, tmp_path: Path) -> None:
    push(bundle.path, REPO)
    assert hub.repos[REPO].tree
    device = tmp_path / "device"
    know(device, "ada")
    assert pull_and_load(device) == COMPILED_ELSEWHERE_FIRST
    assert pull_and_load(device, trust="org/*") == COMPILED_ELSEWHERE_FIRST  # which is of Hugging Face's hub
    assert pull_and_load(device, trust=f"{hub.url}/org/*") == IMPORTED
    with pytest.raises(SignatureError, match="it is not signed"):
        pull_and_load(device, require_signature=True)


@pytest.mark.parametrize("keeps", ["the signature", "no signature"])
def test_another_blob_in_the_repository_is_not_imported(
    bundle: Bundle, pushed: HubServer, tmp_path: Path, keeps: str
) -> None:
    """It fits its description, and the repository says that nobody pulled it."""
    blob = b"\0" * 1000
    files = {BLOB_FILE: FileEntry(len(blob), digest_bytes(blob))}
    artifact = read_artifact(bundle.path / FOLDER)
    fields = {name: getattr(artifact, name) for name in type(artifact).__struct_fields__}
    changed: dict[str, bytes | None] = {
        f"{FOLDER}/{BLOB_FILE}": blob,
        f"{FOLDER}/{ARTIFACT_FILE}": type(artifact)(**fields | {"files": files}).to_json(),
        f"{FOLDER}/{ORIGIN_FILE}": b"{}",
    }
    if keeps == "no signature":
        changed[f"{FOLDER}/{ARTIFACT_SIGNATURE_FILE}"] = None
    pushed.put(REPO, changed)
    device = tmp_path / "device"
    know(device, "ada")
    model = load(f"hf://{REPO}", "CPU", cache=False, require_signature=True, store=device)
    assert is_right(model)
    assert not any(attempt.is_used for attempt in model.report.attempts if attempt.source == "attached")


def test_the_manifest_s_signature_does_not_fit_another(bundle: Bundle, pushed: HubServer, tmp_path: Path) -> None:
    manifest = (bundle.path / "manifest.json").read_bytes()
    pushed.put(REPO, {"manifest.json": manifest.replace(b'"metadata": {}', b'"metadata": {"by": "mallory"}')})
    device = tmp_path / "device"
    know(device, "ada")
    with pytest.raises(SignatureError, match="expected a signature over the manifest"):
        pull_and_load(device, require_signature=True)


def test_a_garbage_signature_is_ignored(pushed: HubServer, tmp_path: Path) -> None:
    garbage = {MANIFEST_SIGNATURE_FILE: b"\0" * 100_000, f"{FOLDER}/{ARTIFACT_SIGNATURE_FILE}": b"[" * 10_000}
    pushed.put(REPO, garbage)
    device = tmp_path / "device"
    know(device, "ada")
    with pytest.raises(SignatureError):
        pull_and_load(device, require_signature=True)
    assert not any(taken for name, _, taken in pull_and_load(device) if name == "attached")


@pytest.mark.parametrize("before", [None, "mallory"])
def test_what_is_signed_after_it_was_pulled_is_signed_by_the_next_pull(
    bundle: Bundle, hub: HubServer, tmp_path: Path, before: str | None
) -> None:
    if before is not None:
        sign(bundle.path, write_private_key(tmp_path, before))
    push(bundle.path, REPO)
    device = tmp_path / "device"
    know(device, "ada")
    pulled = pull(REPO, store=device)
    sign(pulled.path, write_private_key(tmp_path, "device"))
    sign(bundle.path, write_private_key(tmp_path, "ada"))
    push(bundle.path, REPO)

    plan = pull(REPO, store=device, dry_run=True)
    assert [file.path for file in plan.files if not file.is_here] == [
        MANIFEST_SIGNATURE_FILE, f"{FOLDER}/{ARTIFACT_SIGNATURE_FILE}"
    ]  # fmt: skip
    assert pull_and_load(device, require_signature=True) == IMPORTED
    found = read_signatures(pulled.path / MANIFEST_SIGNATURE_FILE)
    assert found is not None
    assert {public_key("ada").hex, public_key("device").hex} <= set(found.signatures)
    hub.forget()
    assert all(file.is_here for file in pull(REPO, store=device, dry_run=True).files)


def test_garbage_does_not_replace_signatures(pushed: HubServer, tmp_path: Path) -> None:
    device = tmp_path / "device"
    know(device, "ada")
    pull(REPO, store=device)
    pushed.put(REPO, {MANIFEST_SIGNATURE_FILE: b"garbage", f"{FOLDER}/{ARTIFACT_SIGNATURE_FILE}": b"\0" * 100_000})
    assert pull_and_load(device, require_signature=True) == IMPORTED
