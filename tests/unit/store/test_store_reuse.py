"""`Store.reuse`: the newest version in the place of one that would be the same."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.golden_records import Difference, Golden, Tolerance
from npu_persist.bundle.manifest import Manifest, Producer
from npu_persist.bundle.origin import Origin, write_origin
from npu_persist.errors import InvalidNameError
from npu_persist.store import Store
from tests.support.bundles import WEIGHTS, publish_tiny, tiny_files, tiny_manifest, write_tiny
from tests.support.loads import spoil

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from npu_persist.store.folder import NameFolder

TINY = tiny_manifest()
GOLDEN = TINY.golden
assert GOLDEN is not None


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def staging(store: Store) -> Iterator[Path]:
    with store.stage() as folder:
        yield folder


def stage(folder: Path, manifest: Manifest = TINY, files: dict[str, bytes] | None = None) -> Bundle:
    for path, data in (files or tiny_files()).items():
        (folder / path).write_bytes(data)
    return Bundle.write(folder, manifest)


def test_what_is_there_is_returned_and_gets_the_alias(store: Store, staging: Path) -> None:
    publish_tiny(store, alias="prod")
    newest = publish_tiny(store)
    found = store.reuse(stage(staging), "prod")
    assert found is not None
    assert (found.reference, found.path) == ("tiny:2", newest.path)
    assert store.aliases("tiny") == {"prod": 2}
    assert store.versions("tiny") == (1, 2)
    assert store.reuse(Bundle.open(staging)) is not None
    assert store.aliases("tiny") == {"prod": 2}


SAME = {
    "other makers": replace(TINY, producer=Producer("0.2.0", TINY.producer.openvino, None)),
    "measured on another machine": replace(
        TINY, golden=Golden(GOLDEN.path, GOLDEN.tolerance, (Difference("y", 0.002, 0.0008, 0.9999),))
    ),
}
OTHER = {
    "openvino": replace(TINY, producer=replace(TINY.producer, openvino="2026.5.0")),
    "metadata": replace(TINY, metadata={**TINY.metadata, "epoch": 2}),
    "true is not 1": replace(TINY, metadata={"author": "Ada", "tags": ["a", True, None, {"deep": 0.5}]}),
    "warnings": replace(TINY, warnings=()),
    "tolerance": replace(TINY, golden=Golden(GOLDEN.path, Tolerance(0.1, 0.99), GOLDEN.differences)),
    "no check": replace(TINY, golden=Golden(GOLDEN.path, None, None)),
    "precision": replace(TINY, graphs=(replace(TINY.graphs[0], precision="fp32"),)),
    "weights": tiny_manifest(files=tiny_files(weights=WEIGHTS[:-1] + b"x")),
    "graph": tiny_manifest(files=tiny_files(model=b"<net/>")),
}


@pytest.mark.parametrize("kind", SAME)
def test_what_does_not_count(kind: str, store: Store, staging: Path) -> None:
    publish_tiny(store)
    found = store.reuse(stage(staging, SAME[kind]))
    assert found is not None
    assert found.manifest == TINY


@pytest.mark.parametrize("kind", OTHER)
def test_what_does(kind: str, store: Store, staging: Path) -> None:
    publish_tiny(store)
    assert store.reuse(stage(staging, OTHER[kind]), "prod") is None
    assert store.aliases("tiny") == {}


def test_only_the_newest_counts_since_the_name_means_it(store: Store, staging: Path) -> None:
    publish_tiny(store)
    publish_tiny(store, weights=WEIGHTS[:-1] + b"x")
    assert store.reuse(stage(staging)) is None


def test_another_name_is_another_bundle(store: Store, staging: Path) -> None:
    publish_tiny(store)
    assert store.reuse(stage(staging, replace(TINY, name="other"))) is None


@pytest.mark.parametrize("path", ["weights.safetensors", "model.xml", "golden.safetensors", "manifest.json"])
def test_a_damaged_version_is_not_used(path: str, store: Store, staging: Path) -> None:
    spoil(publish_tiny(store).path / path)
    assert store.reuse(stage(staging), "prod") is None
    assert store.publish(Bundle.open(staging), "prod").version == 2


def test_a_pulled_version_is_not_used(store: Store, staging: Path) -> None:
    with store.stage() as folder:
        write_tiny(folder)
        now = datetime.now(timezone.utc)
        write_origin(folder, Origin("org/tiny", "0" * 40, None, "https://huggingface.co", now, None))
        store.publish(folder)
    assert store.reuse(stage(staging)) is None  # `load` would not trust it


def test_a_version_that_is_removed_meanwhile_is_not_used(
    store: Store, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_tiny(store)
    other = Store(store.home)
    write = Store._write_alias

    def after_removal(self: Store, folder: NameFolder, alias: str, number: int) -> None:
        other.remove("tiny:1")
        write(self, folder, alias, number)

    monkeypatch.setattr(Store, "_write_alias", after_removal)
    assert store.reuse(stage(staging), "prod") is None
    monkeypatch.undo()
    assert store.publish(Bundle.open(staging), "prod").version == 2
    assert store.aliases("tiny") == {"prod": 2}


def test_many_at_once_leave_whole_versions_and_one_alias(store: Store) -> None:
    found: list[Any] = []

    def persist() -> None:
        with store.stage() as folder:
            staged = stage(folder)
            found.append((store.reuse(staged, "prod") or store.publish(staged, "prod")).version)

    threads = [threading.Thread(target=persist) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.verify()
    assert set(found) == set(store.versions("tiny"))
    assert store.aliases("tiny")["prod"] in found


def test_names_are_checked(store: Store, staging: Path) -> None:
    publish_tiny(store, alias="prod")
    with pytest.raises(InvalidNameError):
        store.reuse(stage(staging), "PROD")
