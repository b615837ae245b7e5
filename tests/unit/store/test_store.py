from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import suppress
from datetime import timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from npu_persist.bundle.reference import StoreReference
from npu_persist.errors import (
    AmbiguousReferenceError,
    BundleNotFoundError,
    FileIntegrityError,
    IntegrityError,
    InvalidNameError,
    ManifestError,
    NpuPersistError,
    ReferenceFormatError,
    StoreError,
    UsageError,
)
from npu_persist.files.digest import digest_bytes
from npu_persist.store import Store, default_home
from npu_persist.store.folder import NameFolder
from tests.support.bundles import TINY_GRAPH, WEIGHTS, publish_tiny, tiny_files, tiny_golden, tiny_manifest, write_tiny
from tests.support.faults import ALLOCATING, CHANGING, before_call, disk_full

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def snapshot(store: Store) -> dict[str, Any]:
    """Return all that a reader can see of the store, and the content of every file."""
    bundles = store.home / "bundles"
    files = {str(path.relative_to(bundles)): path.read_bytes() for path in bundles.rglob("*") if path.is_file()}
    return {"files": files, "entries": store.list()}


def staging_of(store: Store) -> list[str]:
    path = store.home / "staging"
    return sorted(found.name for found in path.iterdir()) if path.exists() else []


# Where it is


def test_nothing_is_made_before_something_is_published(store: Store) -> None:
    assert (store.names(), store.list(), store.versions("tiny"), store.aliases("tiny")) == ((), [], (), {})
    assert store.prune() == []
    store.verify()
    assert not store.home.exists()
    assert repr(store) == f"Store({str(store.home)!r})"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"NPU_PERSIST_HOME": "/srv/npup", "XDG_DATA_HOME": "/data"}, "/srv/npup"),
        ("linux", {"NPU_PERSIST_HOME": "", "XDG_DATA_HOME": "/data"}, "/data/npu_persist"),
        ("linux", {}, "/home/ada/.local/share/npu_persist"),
        ("darwin", {}, "/home/ada/Library/Application Support/npu_persist"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/npu_persist"),
        ("win32", {}, "/home/ada/AppData/Local/npu_persist"),
    ],
)
def test_the_default_home_is_the_platforms(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("NPU_PERSIST_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    assert default_home() == Path(expected)
    assert Store().home == Path(expected).absolute()


def test_the_home_does_not_move_with_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERPROFILE" if os.name == "nt" else "HOME", str(tmp_path / "ada"))
    assert Store("store").home == tmp_path / "store"
    assert Store("~/store").home == tmp_path / "ada" / "store"


def test_importing_and_listing_stay_light(store: Store) -> None:
    publish_tiny(store)
    code = (
        "import sys; from npu_persist.store import Store\n"
        "print(*sys.modules)\n"
        f"assert [entry.reference for entry in Store({str(store.home)!r}).list()] == ['tiny:1']\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported, listed = (set(line.split()) for line in done.stdout.splitlines())
    for heavy in ("numpy", "openvino", "torch", "asyncio", "jsonschema", "tempfile", "urllib.request"):
        assert heavy not in listed
    assert "blake3" not in imported


# Publishing


def test_a_published_bundle_is_there_whole_and_read_only(store: Store) -> None:
    bundle = publish_tiny(store, alias="prod")
    assert (bundle.reference, bundle.version, bundle.path) == ("tiny:1", 1, store.home / "bundles" / "tiny" / "1")
    assert bundle.created.tzinfo is timezone.utc
    assert sorted(path.name for path in bundle.path.iterdir()) == [
        "golden.safetensors",
        "manifest.json",
        "model.bin",
        "model.xml",
        "weights.safetensors",
    ]
    assert not any(path.stat().st_mode & 0o222 for path in bundle.path.iterdir())
    assert (bundle.path / "model.bin").samefile(bundle.path / "weights.safetensors")
    assert staging_of(store) == []
    for reference in ("tiny", "tiny:1", "tiny:prod", f"tiny@{bundle.digest[7:15]}", bundle.path):
        found = store.resolve(reference)
        assert (found.digest, found.path, found.created) == (bundle.digest, bundle.path, bundle.created)
        found.verify()


def test_versions_count_up_and_an_alias_moves(store: Store) -> None:
    publish_tiny(store, alias="prod")
    publish_tiny(store, golden=tiny_golden("second"))
    publish_tiny(store, golden=tiny_golden("third"), alias="prod")
    publish_tiny(store, "other", alias="prod")
    assert store.names() == ("other", "tiny")
    assert store.versions("tiny") == (1, 2, 3)
    assert store.aliases("tiny") == {"prod": 3}
    assert store.resolve("tiny").version == 3
    assert store.resolve("tiny:2").version == 2
    assert [(entry.reference, entry.aliases, entry.problem) for entry in store.list()] == [
        ("other:1", ("prod",), None),
        ("tiny:1", (), None),
        ("tiny:2", (), None),
        ("tiny:3", ("prod",), None),
    ]
    first = store.list("tiny")[0]
    opened = store.resolve("tiny:1")
    assert (first.name, first.version, first.path) == ("tiny", 1, opened.path)
    assert (first.digest, first.size, first.created) == (opened.digest, opened.size, opened.created)


def test_files_that_an_earlier_version_has_are_linked(store: Store) -> None:
    first = publish_tiny(store)
    second = publish_tiny(store, golden=tiny_golden("second"))
    third = publish_tiny(store, weights=WEIGHTS + b"more", golden=tiny_golden("second"))
    weights, graph, golden = "weights.safetensors", "model.xml", "golden.safetensors"
    assert (second.path / weights).samefile(first.path / weights)
    assert (second.path / graph).samefile(first.path / graph)
    assert not (second.path / golden).samefile(first.path / golden)
    assert (third.path / golden).samefile(second.path / golden)
    assert not (third.path / weights).samefile(first.path / weights)
    assert (third.path / "model.bin").samefile(third.path / weights)
    store.verify()


def test_a_damaged_version_gives_no_file_to_a_new_one(store: Store) -> None:
    first = publish_tiny(store)
    for name in ("weights.safetensors", "model.xml"):
        path = first.path / name
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        path.chmod(0o644)
        path.write_bytes(damaged)
    (first.path / "golden.safetensors").unlink()
    second = publish_tiny(store)
    second.verify()
    assert not (second.path / "model.xml").samefile(first.path / "model.xml")
    third = publish_tiny(store)
    third.verify()
    assert (third.path / "weights.safetensors").samefile(second.path / "weights.safetensors")
    with pytest.raises(IntegrityError):
        store.verify()


def test_files_are_copied_where_links_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMLINK, "too many links")

    first = publish_tiny(store)
    monkeypatch.setattr(os, "link", refuse)
    second = publish_tiny(store)
    store.verify()
    assert not (second.path / "model.xml").samefile(first.path / "model.xml")
    assert not (second.path / "model.bin").samefile(second.path / "weights.safetensors")
    assert not any(path.stat().st_mode & 0o222 for path in second.path.iterdir())


def test_a_staged_file_that_is_a_link_to_the_earlier_one_already_is_kept(store: Store) -> None:
    first = publish_tiny(store)
    with store.stage() as staging:
        write_tiny(staging)
        (staging / "weights.safetensors").unlink()
        (staging / "weights.safetensors").hardlink_to(first.path / "weights.safetensors")
        second = store.publish(staging)
    second.verify()
    assert {path.name for path in second.path.iterdir()} == {path.name for path in first.path.iterdir()}


def test_files_in_folders_are_published_linked_and_flushed(store: Store) -> None:
    graph = replace(TINY_GRAPH, path="graphs/deep/model.xml")
    content = tiny_files()
    content["graphs/deep/model.xml"] = content.pop("model.xml")
    manifest = replace(tiny_manifest(files=content), graphs=(graph,))
    flushed: list[Path] = []
    for _ in range(2):
        with store.stage() as staging:
            (staging / "graphs" / "deep").mkdir(parents=True)
            for name, data in content.items():
                (staging / name).write_bytes(data)
            (staging / "manifest.json").write_bytes(manifest.to_json())
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("npu_persist.store.publish.fsync_directory", flushed.append)
                store.publish(staging)
        assert flushed[:3] == [staging / "graphs" / "deep", staging / "graphs", staging]
        flushed.clear()
    second = store.resolve("tiny:2")
    assert (second.path / "graphs/deep/model.bin").samefile(store.resolve("tiny:1").path / "weights.safetensors")
    store.verify()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(errno.EACCES, "not ours"), MemoryError])
def test_an_interrupted_block_leaves_nothing(store: Store, error: Any) -> None:
    publish_tiny(store)
    before = snapshot(store)
    with pytest.raises(error if isinstance(error, type) else type(error)) as caught:  # noqa: PT012, SIM117
        with store.stage() as staging:
            write_tiny(staging)
            raise error
    assert not isinstance(caught.value, NpuPersistError)
    assert snapshot(store) == before
    assert staging_of(store) == []


def test_a_block_that_publishes_nothing_leaves_nothing(store: Store) -> None:
    with store.stage() as staging:
        write_tiny(staging)
    assert (store.names(), staging_of(store)) == ((), [])


def _link_weights(staging: Path) -> None:
    (staging / "weights.safetensors").rename(staging.parent.parent / "outside")
    (staging / "weights.safetensors").symlink_to(staging.parent.parent / "outside")


@pytest.mark.parametrize(
    ("spoil", "error", "why"),
    [
        (lambda staging: (staging / "manifest.json").unlink(), BundleNotFoundError, r"has no manifest\.json"),
        (lambda staging: (staging / "manifest.json").write_bytes(b"{"), ManifestError, "not a valid manifest"),
        (lambda staging: (staging / "model.xml").unlink(), FileIntegrityError, "expected a regular file, got nothing"),
        (
            lambda staging: (staging / "model.xml").write_bytes(b""),
            FileIntegrityError,
            "expected 19 bytes, got 0 bytes",
        ),
        (lambda staging: (staging / "notes.txt").touch(), FileIntegrityError, "is not in the manifest"),
        (_link_weights, FileIntegrityError, "got a symbolic link"),
    ],
)
def test_what_is_not_as_its_manifest_says_is_not_published(
    store: Store, spoil: Callable[[Path], Any], error: type[Exception], why: str
) -> None:
    publish_tiny(store)
    before = snapshot(store)
    with store.stage() as staging:
        write_tiny(staging)
        spoil(staging)
        with pytest.raises(error, match=why):
            store.publish(staging)
    assert snapshot(store) == before
    assert staging_of(store) == []


def test_only_what_was_staged_here_is_published(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write_tiny(tmp_path / "mine")
    published = publish_tiny(store)
    for path in (tmp_path / "mine", published.path, store.home / "staging" / "gone"):
        with pytest.raises(UsageError, match="expected a directory that `stage`"):
            store.publish(path)
    assert (tmp_path / "mine" / "manifest.json").exists()
    published.verify()


@pytest.mark.parametrize("alias", ["", "../x", "a/b", "3", "nul", "Prod", "a b"])
def test_a_bad_alias_publishes_nothing(store: Store, alias: str) -> None:
    publish_tiny(store, alias="prod")
    before = snapshot(store)
    with pytest.raises(InvalidNameError):
        publish_tiny(store, alias=alias)
    with pytest.raises(InvalidNameError):
        store.alias("tiny:1", alias)
    with pytest.raises(InvalidNameError):
        store.check_names("tiny", alias)
    assert snapshot(store) == before


@pytest.mark.parametrize("name", ["Tiny", "TINY"])
def test_a_twin_in_upper_and_lower_case_is_refused(store: Store, name: str) -> None:
    publish_tiny(store)
    before = snapshot(store)
    for attempt in (lambda: publish_tiny(store, name), lambda: store.check_names(name)):
        with pytest.raises(InvalidNameError, match="'tiny', which would be the same on Windows"):
            attempt()
    assert snapshot(store) == before
    with pytest.raises(BundleNotFoundError, match="did you mean 'tiny'"):
        store.resolve(name)


def test_of_two_twins_that_are_published_at_once_one_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # The other one comes when this one has made sure that there is none.
    def check_names(self: Store, *_: object) -> None:
        monkeypatch.undo()
        publish_tiny(self, "TINY")

    monkeypatch.setattr(Store, "check_names", check_names)
    with pytest.raises(InvalidNameError, match="'TINY', which would be the same"):
        publish_tiny(store)
    assert [path.name for path in (store.home / "bundles").iterdir()] == ["TINY"]


def test_a_number_that_another_publisher_took_is_passed_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_tiny(store)
    monkeypatch.setattr(NameFolder, "next_number", lambda _: 1)
    assert publish_tiny(store).version == 2
    (store.home / "bundles" / "tiny" / "3").touch()
    (store.home / "bundles" / "tiny" / "4").symlink_to("1")
    assert publish_tiny(store).version == 5


def test_a_number_that_was_given_and_removed_meanwhile_is_not_given_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_tiny(store)
    publish_tiny(store)
    store.remove("tiny:2")
    right = NameFolder.next_number

    def late(_: NameFolder) -> int:
        monkeypatch.setattr(NameFolder, "next_number", right)
        return 2

    monkeypatch.setattr(NameFolder, "next_number", late)
    assert publish_tiny(store).version == 3
    assert store.versions("tiny") == (1, 3)


# Finding


def test_what_is_not_there_is_not_found_and_the_error_says_what_is(store: Store) -> None:
    with pytest.raises(BundleNotFoundError, match="no bundle 'tiny' in the store"):
        store.resolve("tiny")
    publish_tiny(store, alias="prod")
    publish_tiny(store, golden=tiny_golden("second"))
    for reference, why in {
        "tyni": "did you mean 'tiny'",
        "whisper": "it has tiny",
        "tiny:3": "no version 3 of 'tiny' in the store .*; it has the versions 1, 2",
        "tiny:dev": r"no alias 'dev' of 'tiny' in the store .*; it has prod \(version 1\)",
        "tiny@00000000": "no version of 'tiny' has a digest that starts with '00000000'",
    }.items():
        for verb in (store.resolve, store.verify, store.remove, lambda ref: store.alias(ref, "x")):
            with pytest.raises(BundleNotFoundError, match=why):
                verb(reference)
    with pytest.raises(BundleNotFoundError, match="did you mean"):
        store.list("tyni")
    with pytest.raises(BundleNotFoundError, match="no bundle at"):
        store.resolve("./nowhere")


def test_an_alias_of_nothing_is_not_found_and_can_be_set_again(store: Store) -> None:
    publish_tiny(store)
    publish_tiny(store, alias="prod")
    # As if a tag and a remove had crossed.
    NameFolder(store.home / "bundles" / "tiny").move_to_removed(2)
    with pytest.raises(BundleNotFoundError, match="alias tiny:prod points to version 2, which is not in the store"):
        store.resolve("tiny:prod")
    store.alias("tiny:1", "prod")
    assert store.resolve("tiny:prod").version == 1


def test_half_copied_files_are_pruned_when_nobody_copies_any_more(store: Store) -> None:
    bundle = publish_tiny(store)
    partial = bundle.path / "model.bin.1234.partial"
    partial.touch()
    assert store.prune() == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("npu_persist.store.folder.PARTIAL_AGE", -1.0)
        assert store.prune() == [partial]
    assert store.prune() == []
    store.verify()


def test_a_digest_prefix_of_several_is_ambiguous(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # Four hex digits: among a few hundred bundles two share them. Simpler: let all digests be alike at the start.
    publish_tiny(store)
    publish_tiny(store, golden=tiny_golden("second"))
    publish_tiny(store)
    alike = {store.resolve(f"tiny:{number}").digest: f"blake3:abcd{number % 2}" + "0" * 59 for number in (2, 3)}
    monkeypatch.setattr("npu_persist.store.lookup.digest_bytes", lambda data: alike[digest_bytes(data)])
    with pytest.raises(
        AmbiguousReferenceError, match=r"tiny@abcd is the start of 2 digests: .*Give more digits"
    ) as caught:
        store.resolve("tiny@abcd")
    assert caught.value.matches == ("tiny:3", "tiny:2")
    assert store.resolve("tiny@abcd0").version == 2
    assert store.resolve("tiny@abcd1").version == 3


@pytest.mark.parametrize("reference", ["..", "tiny:", "CON", "a:b:c", "", "x@1", 3, None])
def test_what_is_no_reference_finds_nothing(store: Store, reference: Any) -> None:
    publish_tiny(store)
    with pytest.raises((ReferenceFormatError, InvalidNameError, BundleNotFoundError)):
        store.resolve(reference)


@pytest.mark.parametrize("name", ["..", "../tiny", "/etc", "a/b", "", "nul"])
def test_names_do_not_lead_out_of_the_store(store: Store, name: str) -> None:
    publish_tiny(store)
    calls: list[Callable[[], object]] = [
        lambda: store.versions(name),
        lambda: store.aliases(name),
        lambda: store.list(name),
        lambda: store.unalias(name, "prod"),
        lambda: store.check_names(name),
        lambda: store.resolve(StoreReference(name)),
    ]
    for call in calls:
        with pytest.raises(InvalidNameError):
            call()


def test_a_hub_reference_is_refused(store: Store) -> None:
    for verb in (store.resolve, store.remove, store.verify):
        with pytest.raises(UsageError, match="npu-persist pull hf://intel/unet"):
            verb("hf://intel/unet")


def test_what_is_removed_while_it_is_looked_up_is_not_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_tiny(store)
    publish_tiny(store, alias="prod")
    monkeypatch.setattr(NameFolder, "versions", lambda _: (1, 2, 3))
    (store.home / "bundles" / "tiny" / "aliases" / "gone").symlink_to("nowhere")
    for verb in (store.resolve, store.verify):
        with pytest.raises(BundleNotFoundError, match="no version 3 of 'tiny'"):
            verb("tiny")
    assert all("aliases/gone" in (entry.problem or "") for entry in store.list())
    store.alias("tiny:1", "gone")
    assert [entry.reference for entry in store.list()] == ["tiny:1", "tiny:2"]


def test_a_moved_folder_is_refused(store: Store) -> None:
    publish_tiny(store)
    (store.home / "bundles" / "tiny").rename(store.home / "bundles" / "unet")
    with pytest.raises(FileIntegrityError, match="holds the bundle 'tiny': it was moved here"):
        store.resolve("unet")


def test_foreign_things_in_the_store_are_no_bundles(store: Store, tmp_path: Path) -> None:
    bundle = publish_tiny(store)
    folder = store.home / "bundles" / "tiny"
    (folder / "2").symlink_to(bundle.path)
    (folder / "03").mkdir()
    (folder / ".DS_Store").touch()
    (folder / "7").touch()
    (store.home / "bundles" / ".DS_Store").touch()
    (store.home / "bundles" / "Thumbs.db").touch()
    (store.home / "bundles" / "link").symlink_to(tmp_path)
    assert store.names() == ("tiny",)
    assert store.versions("tiny") == (1,)
    store.verify()


def test_an_empty_directory_is_no_version(store: Store) -> None:
    publish_tiny(store)
    stray = store.home / "bundles" / "tiny" / "8"
    stray.mkdir()
    assert store.versions("tiny") == (1,)
    assert store.resolve("tiny").version == 1
    assert publish_tiny(store).version == 2
    assert store.prune() == [stray]
    assert not stray.exists()
    assert store.versions("tiny") == (1, 2)


# Damage


@pytest.mark.parametrize("damage", ["truncated", "missing", "link"])
def test_a_damaged_version_is_listed_and_can_be_removed(store: Store, tmp_path: Path, damage: str) -> None:
    publish_tiny(store)
    second = publish_tiny(store, golden=tiny_golden("second"), alias="prod")
    path = second.path / "manifest.json"
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:100])
    elif damage == "link":
        (tmp_path / "outside").write_bytes(content)
        path.symlink_to(tmp_path / "outside")
    first, broken = store.list()
    assert (first.problem, broken.size, broken.aliases) == (None, 0, ("prod",))
    assert broken.problem is not None
    assert "manifest.json" in broken.problem
    for reference in ("tiny", "tiny:2", "tiny:prod"):
        with pytest.raises(IntegrityError):
            store.resolve(reference)
    with pytest.raises(IntegrityError):
        store.verify()
    assert store.resolve(f"tiny@{first.digest[7:17]}").version == 1
    assert publish_tiny(store).version == 3
    assert store.remove("tiny:2", force=True) == "tiny:2"
    store.verify()


@pytest.mark.parametrize("content", [b"", b"x", b"0", b"-1", b"1\n2\n", b"9" * 100, b"\xff"])
def test_a_damaged_alias_is_refused_and_can_be_set_again(store: Store, content: bytes) -> None:
    publish_tiny(store, alias="prod")
    path = store.home / "bundles" / "tiny" / "aliases" / "prod"
    path.write_bytes(content)
    with pytest.raises(FileIntegrityError, match="npu-persist alias tiny:<version> prod") as caught:
        store.resolve("tiny:prod")
    assert caught.value.path == str(path)
    assert store.prune() == []
    assert store.alias("tiny:1", "prod") == "tiny:1"
    assert store.resolve("tiny:prod").version == 1


def test_verify_reads_every_bundle(store: Store) -> None:
    publish_tiny(store)
    last = publish_tiny(store, "zeta")
    seen: list[int] = []
    store.verify(progress=seen.append)
    assert sum(seen) == 2 * sum(len(data) for data in tiny_files().values())
    path = last.path / "golden.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().swapcase())
    store.verify("tiny")
    for reference in ("zeta", None):
        with pytest.raises(FileIntegrityError, match=r"zeta.1.golden\.safetensors: expected blake3:"):
            store.verify(reference)


# Aliases and removal


def test_an_alias_can_be_set_and_removed(store: Store) -> None:
    publish_tiny(store)
    publish_tiny(store)
    assert store.alias("tiny", "prod") == "tiny:2"
    assert store.alias("tiny:1", "prod") == "tiny:1"
    assert store.alias("tiny:prod", "dev") == "tiny:1"
    store.unalias("tiny", "prod")
    assert store.aliases("tiny") == {"dev": 1}
    with pytest.raises(BundleNotFoundError, match="no alias 'prod'"):
        store.unalias("tiny", "prod")
    for path in ("./tiny", store.home):
        with pytest.raises(UsageError, match="is a directory; expected a bundle in the store"):
            store.alias(path, "prod")


def test_a_removed_version_is_gone_and_its_number_is_never_given_again(store: Store) -> None:
    publish_tiny(store)
    publish_tiny(store)
    assert store.remove("tiny:2") == "tiny:2"
    assert store.versions("tiny") == (1,)
    assert publish_tiny(store).version == 3
    for number in (3, 1):
        store.remove(f"tiny:{number}")
    assert (store.names(), store.list()) == ((), [])
    with pytest.raises(BundleNotFoundError, match="no bundle 'tiny'"):
        store.remove("tiny:1")
    assert store.prune() == []
    assert not any(path.is_file() for path in store.home.rglob("*"))
    fourth = publish_tiny(store)
    assert fourth.version == 4
    fourth.verify()


def test_removing_says_which_version(store: Store) -> None:
    bundle = publish_tiny(store)
    with pytest.raises(UsageError, match="tiny names no version: choose one to remove, for example tiny:1"):
        store.remove("tiny")
    with pytest.raises(UsageError, match="is a directory"):
        store.remove(bundle.path)
    assert store.remove(f"tiny@{bundle.digest[7:]}") == "tiny:1"


def test_a_version_with_an_alias_is_removed_by_force_only(store: Store) -> None:
    publish_tiny(store, alias="prod")
    publish_tiny(store, alias="dev")
    before = snapshot(store)
    for reference in ("tiny:1", "tiny:prod"):
        with pytest.raises(UsageError, match="tiny:1 has the alias prod, which would point to nothing"):
            store.remove(reference)
    assert snapshot(store) == before
    assert store.remove("tiny:1", force=True) == "tiny:1"
    assert store.aliases("tiny") == {"dev": 2}
    assert store.prune() == []


def test_files_shared_with_a_removed_version_stay(store: Store) -> None:
    publish_tiny(store)
    second = publish_tiny(store)
    store.remove("tiny:1")
    second.verify()
    assert not (second.path / "weights.safetensors").stat().st_mode & 0o222


def test_a_removal_that_was_put_back_by_hand_works_again(store: Store) -> None:
    publish_tiny(store)
    publish_tiny(store)
    store.remove("tiny:2")
    folder = store.home / "bundles" / "tiny"
    (folder / "removed" / "2" / "file").touch()
    (folder / "1").rename(folder / "2")
    assert store.remove("tiny:2") == "tiny:2"
    assert not any((folder / "removed" / "2").iterdir())


# A full disk and other refusals


def refusal(act: Callable[[], object]) -> StoreError | None:
    """Return the error if `act` is refused for want of space."""
    try:
        act()
    except StoreError as error:
        return error if error.errno == errno.ENOSPC else None
    return None


def _count_calls(store: Store, names: tuple[str, ...], act: Callable[[], object]) -> int:
    calls: list[str] = []
    with before_call(lambda _, name: calls.append(name), names):
        act()
    assert staging_of(store) == []
    return len(calls)


@pytest.mark.parametrize("lasting", [False, True])
def test_a_full_disk_at_any_step_of_a_publish_leaves_the_store_as_it_was(tmp_path: Path, lasting: bool) -> None:  # noqa: FBT001
    names = ALLOCATING if lasting else tuple(name for name in CHANGING if name not in {"unlink", "rmdir"})
    total, published = 1, 0
    number = 0
    while number <= total:
        store = Store(tmp_path / f"store{number}")
        publish_tiny(store, alias="prod")
        if not number:
            total = _count_calls(store, names, lambda: publish_tiny(store, golden=tiny_golden("second"), alias="prod"))  # noqa: B023
            assert total > 20
        else:
            before = snapshot(store)

            def fail(call: int, _: str, number: int = number) -> None:
                if call == number or (lasting and call > number):
                    disk_full()

            with before_call(fail, names):
                error = refusal(lambda: publish_tiny(store, golden=tiny_golden("second"), alias="prod"))  # noqa: B023
            if error is not None:
                assert "Free some space" in str(error)
                assert snapshot(store) == before
            else:  # a link was refused, and the file copied; or the last flush, when all was done
                published += 1
                assert store.aliases("tiny") == {"prod": 2}
            store.verify()
            assert staging_of(store) == []
            assert store.prune() == []
        number += 1
    assert published < total / 2


def test_a_full_disk_at_the_first_publish_leaves_no_name(tmp_path: Path) -> None:
    total = _count_calls(
        Store(tmp_path / "count"), ALLOCATING, lambda: publish_tiny(Store(tmp_path / "count"), alias="a")
    )
    for number in range(1, total + 1):
        store = Store(tmp_path / f"store{number}")

        def fail(call: int, _: str, number: int = number) -> None:
            if call >= number:
                disk_full()

        with suppress(StoreError), before_call(fail, ALLOCATING):
            publish_tiny(store, alias="a")
            continue
        assert (store.names(), store.list()) == ((), [])
        assert not (store.home / "bundles" / "tiny").exists()
        assert publish_tiny(store, "Tiny").version == 1


def test_a_disk_that_is_full_while_staging_is_a_store_error(store: Store) -> None:
    with pytest.raises(StoreError, match=r"could not write to .*Free some space") as caught, store.stage():
        disk_full()
    assert caught.value.errno == errno.ENOSPC
    assert staging_of(store) == []


def test_a_failed_tag_or_removal_leaves_the_store_as_it_was(store: Store) -> None:
    publish_tiny(store, alias="prod")
    publish_tiny(store)
    before = snapshot(store)
    attempts: list[tuple[tuple[str, ...], Callable[[], object]]] = [
        (("open",), lambda: store.alias("tiny:2", "prod")),
        (("replace",), lambda: store.alias("tiny:2", "prod")),
        (("fsync",), lambda: store.alias("tiny:2", "dev")),
        (("rename",), lambda: store.remove("tiny:2")),
    ]
    for names, verb in attempts:
        with pytest.raises(StoreError, match="Free some space"), before_call(disk_full, names):
            verb()
        assert snapshot(store) == before
        assert staging_of(store) == []


@pytest.mark.parametrize("path", [b"store", 1, "a\0b"])
def test_a_home_that_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(UsageError, match=r"store: expected a (directory|path)"):
        Store(path)


def test_a_home_that_cannot_be_one_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file")
    calls: list[Callable[[], object]] = [store.names, store.list, store.prune, lambda: store.resolve("tiny")]
    calls += [lambda: store.list("tiny"), lambda: publish_tiny(store), lambda: store.versions("tiny")]
    for call in calls:
        with pytest.raises(StoreError, match="Check the folder"):
            call()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everything")
def test_a_home_that_may_not_be_written_is_a_store_error(store: Store) -> None:
    store.home.mkdir()
    store.home.chmod(0o555)
    with pytest.raises(StoreError, match="Check the permissions"):
        publish_tiny(store)


def test_a_really_full_disk_leaves_the_store_as_it_was(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    publish_tiny(store, alias="prod")
    before = snapshot(store)
    filler = small_disk / "filler"
    refused = 0
    # Less and less is left: first the weights do not fit, at last not even a folder.
    for left in (200, 100, 48, 32, 16, 8, 4, 0):
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - left * 1024)
        if refusal(
            lambda: publish_tiny(store, weights=WEIGHTS + bytes(50_000), golden=tiny_golden("x" * 20_000), alias="prod")
        ):
            refused += 1
            assert snapshot(store) == before
        else:
            before = snapshot(store)
        assert staging_of(store) == []
    filler.unlink()
    assert refused >= 6
    store.verify()
    assert publish_tiny(store).reference == f"tiny:{len(before['entries']) + 1}"


def test_a_disk_out_of_inodes_leaves_the_store_as_it_was(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    publish_tiny(store)
    before = snapshot(store)
    refused = 0
    fillers: list[Path] = []
    with suppress(OSError):
        while True:
            filler = small_disk / f"filler{len(fillers)}"
            filler.touch()
            fillers.append(filler)
    while refusal(lambda: publish_tiny(store, golden=tiny_golden("second"), alias="prod")):
        refused += 1
        assert snapshot(store) == before
        assert staging_of(store) == []
        fillers.pop().unlink()
    assert refused > 5
    assert store.aliases("tiny") == {"prod": 2}
    store.verify()


@pytest.mark.parametrize("text", ["", "{", "3x", "-1"])
def test_a_damaged_alias_hides_nothing_and_is_found_by_verify(text: str) -> None:
    store = Store()
    publish_tiny(store)
    store.alias("tiny:1", "prod")
    alias = store.home / "bundles" / "tiny" / "aliases" / "prod"
    alias.chmod(0o644)
    alias.write_text(text)
    (entry,) = store.list()
    assert entry.version == 1
    assert "prod" in (entry.problem or "")
    assert store.resolve("tiny").version == 1
    with pytest.raises(FileIntegrityError, match="prod"):
        store.verify()
