from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from npu_persist.bundle.document import dump
from npu_persist.bundle.origin import read_origin
from npu_persist.bundle.reference import HubReference
from npu_persist.errors import (
    BundleNotFoundError,
    FileIntegrityError,
    HubError,
    HubNotFoundError,
    InvalidNameError,
    ManifestError,
    ReferenceFormatError,
    UsageError,
)
from npu_persist.files.digest import digest_bytes
from npu_persist.hub.pull import fetch, pull
from npu_persist.hub.pulled import resolve_offline
from npu_persist.store import Store
from npu_persist.trust.signing import sign_bundle
from tests.support.attached import attach_npu
from tests.support.bundles import WEIGHTS, publish_tiny, write_tiny
from tests.support.pulls import (
    REPO,
    all_files,
    asked,
    digest_of,
    list_artifacts,
    make_fixed,
    put_compiled,
    put_folder,
    put_tiny,
)
from tests.support.signers import private_key

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.progress import Progress
    from tests.support.hub_server import HubServer


READER = "hf_reader"


def test_a_bundle_comes_whole_with_its_origin_and_nothing_else(hub: HubServer, store: Store, tmp_path: Path) -> None:
    commit = put_tiny(hub, tmp_path / "a", tag="v1")
    hub.put(REPO, {"README.md": b"# tiny", "origin.json": b"{}", "model.bin": b"x", "pickle.pkl": b"x"})
    hub.repos[REPO].tags["v1"] = hub.repos[REPO].branches["main"]

    bundle = pull("org/tiny", revision="v1", store=store)

    bundle.verify()
    assert (bundle.reference, store.list()[0].problem) == ("tiny:1", None)
    names = {path.name for path in bundle.path.iterdir()}
    assert names == {
        "manifest.json", "model.xml", "weights.safetensors", "golden.safetensors", "model.bin", "origin.json"
    }  # fmt: skip
    assert (bundle.path / "model.bin").read_bytes() == WEIGHTS
    origin = read_origin(bundle.path)
    assert origin is not None
    assert (origin.repo, origin.revision, origin.endpoint) == (REPO, "v1", hub.url)
    assert origin.commit == hub.repos[REPO].tags["v1"] != commit
    assert not [path for path in asked(hub, "/resolve/") if "README" in path or "origin" in path or "pickle" in path]


def test_nothing_is_left_in_staging(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    pull("org/tiny", store=store)
    assert list((store.home / "staging").iterdir()) == []


def test_a_repeat_by_commit_asks_for_nothing(hub: HubServer, store: Store, tmp_path: Path) -> None:
    commit = put_tiny(hub, tmp_path / "a")
    first = pull("org/tiny", revision=commit, store=store)
    hub.forget()
    again = pull(f"hf://org/tiny@{commit}", store=store, alias="prod")
    assert (again.reference, asked(hub)) == (first.reference, [])
    assert store.aliases("tiny") == {"prod": 1}
    assert pull("org/tiny", revision=commit, compiled="none", store=store).version == 1
    assert asked(hub) == []


def test_a_repeat_by_tag_asks_for_the_commit_only(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a", tag="v1")
    pull("org/tiny@v1", store=store)
    hub.forget()
    assert pull("org/tiny@v1", store=store).version == 1
    assert asked(hub) == ["GET /api/models/org/tiny/revision/v1"]


def test_a_second_version_downloads_what_changed_only(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a", tag="v1")
    pull("org/tiny@v1", store=store)
    put_tiny(hub, tmp_path / "b", tag="v2", model=b"<net name='other'/>\n")
    hub.forget()

    plan = pull("org/tiny@v2", store=store, dry_run=True)
    assert {file.path for file in plan.files if not file.is_here} == {"manifest.json", "model.xml"}
    second = pull("org/tiny@v2", store=store)

    second.verify()
    assert second.reference == "tiny:2"
    assert not asked(hub, "weights")
    first = store.resolve("tiny:1")
    assert (first.path / "weights.safetensors").samefile(second.path / "weights.safetensors")


def test_a_damaged_file_of_an_earlier_version_is_not_reused(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a", tag="v1")
    first = pull("org/tiny@v1", store=store)
    weights = first.path / "weights.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"\1" * len(WEIGHTS))
    put_tiny(hub, tmp_path / "b", tag="v2", model=b"<net name='other'/>\n")
    pull("org/tiny@v2", store=store).verify()
    weights.unlink()
    assert pull("org/tiny@v1", store=store).reference == "tiny:3"  # the first is of no use any more


def test_own_content_is_not_downloaded_again(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    own = publish_tiny(store)
    bundle = pull("org/tiny", store=store)
    assert bundle.reference == own.reference
    assert read_origin(bundle.path) is None
    assert not asked(hub, "model.xml")
    assert resolve_offline(store, "hf://org/tiny").reference == "tiny:1"


def test_a_dry_run_changes_nothing(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    plan = pull("org/tiny", store=store, dry_run=True)
    sizes = {file.path: file.size for file in plan.files}
    assert sizes["weights.safetensors"] == len(WEIGHTS)
    assert plan.download_size == sum(sizes.values())
    assert (plan.name, plan.reference, plan.digest) == ("tiny", None, f"blake3:{digest_of(hub)}")
    assert not store.home.exists()
    pull("org/tiny", store=store)
    assert pull("org/tiny", store=store, dry_run=True).download_size == 0


def test_artifacts_are_judged_before_any_of_them_is_downloaded(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_compiled(hub, tmp_path / "maker")
    plan = pull("org/tiny", target="NPU:4000", store=store, dry_run=True)
    assert [chosen.folder for chosen in plan.artifacts] == ["compiled/npu-4000"]
    assert [(passed.folder, "platform 3720" in passed.reason) for passed in plan.skipped] == [("npu-3720", True)]
    bundle = pull("org/tiny", target="lunar-lake", store=store)
    store.verify(bundle.reference)
    assert list_artifacts(bundle) == {"npu-4000"}
    origin = read_origin(bundle.path / "compiled" / "npu-4000")
    assert origin is not None
    assert origin.repo == REPO
    assert len(asked(hub, "model.blob")) == len(asked(hub, "npu-4000/model.blob")) > 0


def test_other_artifacts_can_be_pulled_later_and_no_file_twice(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_compiled(hub, tmp_path / "maker")
    bundle = pull("org/tiny", compiled="none", store=store)
    assert not (bundle.path / "compiled").exists()
    pull("org/tiny", target="NPU:4000", store=store)
    hub.forget()
    assert pull("org/tiny", compiled="all", store=store).reference == bundle.reference
    assert not asked(hub, "weights")
    assert not asked(hub, "npu-4000/model.blob")
    assert list_artifacts(bundle) == {"npu-3720", "npu-4000"}


def test_artifacts_compiled_here_stay(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_compiled(hub, tmp_path / "maker")
    own = publish_tiny(store)
    folder = attach_npu(own, inputs=make_fixed(own), seconds=1.0)
    plan = pull("org/tiny", target="NPU:4000", store=store, dry_run=True)
    pull("org/tiny", target="NPU:4000", store=store)
    assert "compiled here" in next(passed.reason for passed in plan.skipped if passed.folder == "npu-4000")
    assert read_origin(folder) is None


def test_signatures_come_with_what_they_sign(hub: HubServer, store: Store, tmp_path: Path) -> None:
    bundle = put_compiled(hub, tmp_path / "maker")
    pull("org/tiny", compiled="none", store=store)
    list(sign_bundle(bundle, private_key("ada")))
    put_folder(hub, bundle.path)
    signed, signed_too = (
        hub.read(REPO, f"{path}.sig") for path in ("manifest.json", "compiled/npu-4000/artifact.json")
    )
    pulled = pull("org/tiny", target="NPU:4000", store=store)
    assert pulled.digest == bundle.digest
    assert (pulled.path / "manifest.json.sig").read_bytes() == signed
    assert (pulled.path / "compiled" / "npu-4000" / "artifact.json.sig").read_bytes() == signed_too
    other = Store(tmp_path / "other")
    assert (pull("org/tiny", store=other, compiled="none").path / "manifest.json.sig").read_bytes() == signed


def test_an_empty_description_is_not_requested_again(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_compiled(hub, tmp_path / "maker")
    commit = hub.put(REPO, {"compiled/empty/artifact.json": b""})
    pull(f"org/tiny@{commit}", compiled="all", store=store)
    hub.forget()
    pull(f"org/tiny@{commit}", compiled="all", store=store)
    assert asked(hub) == []


@pytest.mark.parametrize("target", ["npu" * 200, "con", "..", "-\x1b"])
def test_a_target_of_any_text_gets_a_folder_that_every_platform_has(
    hub: HubServer, store: Store, tmp_path: Path, target: str
) -> None:
    maker = publish_tiny(Store(tmp_path / "maker"))
    attach_npu(maker, inputs=make_fixed(maker), target=target, folder="strange")
    put_folder(hub, maker.path)
    (name,) = list_artifacts(pull("org/tiny", compiled="all", store=store))
    assert name.startswith("target-")


def test_a_lock_that_was_uploaded_with_a_folder_is_ignored(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_compiled(hub, tmp_path / "maker")
    hub.put(REPO, {"compiled/.lock": b""})
    assert list_artifacts(pull("org/tiny", target="NPU:4000", store=store)) == {"npu-4000"}


@pytest.mark.parametrize("name", ["origin.json/x", "ORIGIN.JSON", "artifact.json/x", "used/x"])
def test_an_artifact_with_files_of_its_folder_s_own_names_is_skipped(
    hub: HubServer, store: Store, tmp_path: Path, name: str
) -> None:
    maker = publish_tiny(Store(tmp_path / "maker"))
    folder = attach_npu(maker, inputs=make_fixed(maker), folder="strange")
    document = json.loads((folder / "artifact.json").read_bytes())
    document["files"][name] = {"size": 1, "digest": digest_bytes(b"x")}
    put_folder(hub, maker.path)
    described = dump(document)
    hub.put(REPO, {f"compiled/strange/{name}": b"x", "compiled/strange/artifact.json": described})
    plan = pull("org/tiny", compiled="all", store=store, dry_run=True)
    assert [passed.folder for passed in plan.skipped] == ["strange"]
    pull("org/tiny", compiled="all", store=store).verify()


@pytest.mark.parametrize("name", ["origin.json", "model.blob"])
def test_an_artifact_that_was_damaged_since_is_pulled_again(
    hub: HubServer, store: Store, tmp_path: Path, name: str
) -> None:
    put_compiled(hub, tmp_path / "maker")
    path = pull("org/tiny", target="NPU:4000", store=store).path / "compiled" / "npu-4000" / name
    was = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(b"x")
    pull("org/tiny", target="NPU:4000", store=store)
    assert len(path.read_bytes()) == len(was)
    store.verify()


def test_an_artifact_of_another_bundle_is_skipped(hub: HubServer, store: Store, tmp_path: Path) -> None:
    maker = publish_tiny(Store(tmp_path / "maker"))
    attach_npu(maker, inputs=make_fixed(maker), subject=f"blake3:{'0' * 64}", folder="strange")
    (maker.path / "compiled" / "broken").mkdir()
    (maker.path / "compiled" / "broken" / "artifact.json").write_bytes(b"{")
    put_folder(hub, maker.path)
    plan = pull("org/tiny", compiled="all", store=store, dry_run=True)
    assert [passed.folder for passed in plan.skipped] == ["broken", "strange"]
    assert not (pull("org/tiny", compiled="all", store=store).path / "compiled").exists()


def test_a_pinned_digest_holds_when_the_tag_moves(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a", tag="v1")
    digest = digest_of(hub)
    assert pull(f"hf://org/tiny@v1#{digest}", store=store).digest == f"blake3:{digest}"
    put_tiny(hub, tmp_path / "b", tag="v1", weights=WEIGHTS[:-1] + b"x")
    # What is here is what is wanted, wherever the tag is.
    assert pull(f"hf://org/tiny@v1#{digest}", store=store).version == 1
    fresh = Store(tmp_path / "fresh")
    with pytest.raises(FileIntegrityError, match="moved") as caught:
        pull(f"hf://org/tiny@v1#{digest}", store=fresh)
    assert caught.value.expected == f"blake3:{digest}"
    assert not asked(hub, f"resolve/{hub.repos[REPO].tags['v1']}/weights")
    assert all_files(fresh) == {}


def test_offline_uses_what_was_pulled(
    hub: HubServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    put_tiny(hub, tmp_path / "a", tag="v1")
    pull("org/tiny@v1", store=store)
    hub.forget()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pull("org/tiny@v1", store=store).version == 1
    for revision in ("v2", None, "0" * 40):
        with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
            pull("org/tiny", revision=revision, store=store)
    assert asked(hub) == []


def test_the_store_knows_what_was_pulled(hub: HubServer, store: Store, tmp_path: Path) -> None:
    commit = put_tiny(hub, tmp_path / "a", tag="v1")
    pull("org/tiny@v1", store=store)
    digest = digest_of(hub)
    for reference in (
        "hf://org/tiny@v1",
        f"hf://org/tiny@{commit}",
        f"hf://org/tiny@v1#{digest}",
        f"hf://a/b#{digest}",
    ):
        assert resolve_offline(store, reference).reference == "tiny:1"
    for reference in ("hf://org/tiny", "hf://org/other@v1", f"hf://org/tiny@v1#{'0' * 64}", "hf://org/tiny@../../x"):
        with pytest.raises(BundleNotFoundError, match="npu-persist pull"):
            resolve_offline(store, reference)
    store.remove("tiny:1")
    with pytest.raises(BundleNotFoundError, match="npu-persist pull"):
        resolve_offline(store, "hf://org/tiny@v1")
    assert pull(f"org/tiny@{commit}", store=store).reference == "tiny:2"


def test_damaged_notes_are_ignored(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a", tag="v1")
    pull("org/tiny@v1", store=store)
    for note in (store.home / "hub").rglob("*.json"):
        note.write_bytes(b'{"commit": 3}')
    with pytest.raises(BundleNotFoundError):
        resolve_offline(store, "hf://org/tiny@v1")
    assert pull("org/tiny@v1", store=store).version == 1
    assert resolve_offline(store, "hf://org/tiny@v1").version == 1


def test_progress_tells_bytes(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    reports: list[Progress] = []
    pull("org/tiny", store=store, progress=reports.append)
    assert reports
    assert all((report.stage, report.unit) == ("pull", "bytes") for report in reports)
    assert all(report.total is not None and 0 <= report.done <= report.total for report in reports)
    assert reports[-1].is_finished
    assert any(report.detail == "weights.safetensors" for report in reports)


def test_local_files_only_never_asks_the_hub(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a", tag="v1")
    with pytest.raises(BundleNotFoundError, match="npu-persist pull"):
        pull("org/tiny", revision="v1", local_files_only=True, store=store)
    pull("org/tiny", revision="v1", store=store)
    reference = HubReference("org/tiny", "v1")
    hub.forget()
    assert pull("org/tiny", revision="v1", local_files_only=True, alias="prod", store=store).reference == "tiny:1"
    assert store.aliases("tiny") == {"prod": 1}
    assert fetch(reference, ["CPU"], store, local_files_only=True).reference == "tiny:1"
    with pytest.raises(UsageError, match="dry_run"):
        pull("org/tiny", revision="v1", local_files_only=True, dry_run=True, store=store)
    assert asked(hub) == []


def test_a_token_is_used(hub: HubServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tiny(hub, tmp_path / "a")
    hub.repos[REPO].private = True
    hub.add_token(READER)
    with pytest.raises(HubNotFoundError):
        pull("org/tiny", token=READER[:-1], store=store)
    assert pull("org/tiny", token=READER, store=store).version == 1
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(HubNotFoundError):
        fetch(HubReference("org/tiny"), ["CPU"], Store(tmp_path / "other"), token=False)


def test_a_twin_of_a_name_is_refused_before_anything_is_downloaded(
    hub: HubServer, store: Store, tmp_path: Path
) -> None:
    put_tiny(hub, tmp_path / "a")
    publish_tiny(store, "TINY")
    with pytest.raises(InvalidNameError):
        pull("org/tiny", store=store)
    assert not asked(hub, "weights")


@pytest.mark.parametrize(
    ("reference", "arguments", "error"),
    [
        ("unet:3", {}, ReferenceFormatError),
        ("./unet", {}, ReferenceFormatError),
        ("org/tiny@v1", {"revision": "v2"}, UsageError),
        ("org/tiny", {"revision": "a b"}, ReferenceFormatError),
        ("org/tiny", {"compiled": "some"}, UsageError),
        ("org/tiny", {"device": "NPU", "target": "NPU:4000"}, UsageError),
    ],
)
def test_malformed_arguments_are_refused(
    hub: HubServer, store: Store, reference: str, arguments: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        pull(reference, store=store, **arguments)  # type: ignore[call-overload]
    assert asked(hub) == []


def test_two_repositories_may_have_the_same_bundle(hub: HubServer, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    write_tiny(folder)
    put_folder(hub, folder)
    put_folder(hub, folder, repo="org/twin")
    first, second = pull("org/tiny", store=store), pull("org/twin", store=store)
    assert first.reference == second.reference == "tiny:1"
    assert resolve_offline(store, "hf://org/twin").reference == "tiny:1"


def test_an_invalid_manifest_names_the_repository(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "a")
    commit = hub.put(REPO, {"manifest.json": b"{"})
    with pytest.raises(ManifestError, match=f"manifest.json of org/tiny at {commit} is not a valid manifest"):
        pull("org/tiny", store=store)
