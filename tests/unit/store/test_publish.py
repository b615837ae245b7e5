from __future__ import annotations

import errno
import os
from datetime import timezone
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from npu_persist.errors import (
    BundleNotFoundError,
    FileIntegrityError,
    IntegrityError,
    InvalidNameError,
    ManifestError,
    NpuPersistError,
    UsageError,
)
from npu_persist.store import Store
from npu_persist.store.folder import NameFolder
from tests.support.bundles import TINY_GRAPH, WEIGHTS, publish_tiny, tiny_files, tiny_golden, tiny_manifest, write_tiny
from tests.support.stores import snapshot, staging_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
        (lambda staging: (staging / "model.xml").unlink(), FileIntegrityError, "expected a regular file; got nothing"),
        (
            lambda staging: (staging / "model.xml").write_bytes(b""),
            FileIntegrityError,
            "expected 19 bytes; got 0 bytes",
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
