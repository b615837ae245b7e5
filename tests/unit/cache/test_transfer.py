from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from npu_persist.artifact.artifact import ARTIFACT_FILE, BLOB_FILE
from npu_persist.cache import CompileCache
from npu_persist.errors import ArtifactError, NotFoundError, UsageError
from tests.support.artifacts import BLOB, KEY, damage, publish

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path) -> CompileCache:
    return CompileCache(tmp_path / "home")


def test_an_exported_entry_is_found_on_an_identical_machine(cache: CompileCache, tmp_path: Path) -> None:
    entry = publish(cache, {"openvino/1.blob": b"one", "openvino/2.blob": b"two"}, kind="cache_dir")
    cache.export(entry, tmp_path / "deep" / "exported")
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"exported"}
    other = CompileCache(tmp_path / "other")
    imported = other.import_entry(tmp_path / "deep" / "exported")
    assert other.find(entry.key) == imported
    assert imported.artifact == entry.artifact
    imported.verify()
    assert list((other.path / "staging").iterdir()) == []
    again = other.import_entry(tmp_path / "deep" / "exported")
    assert again == imported


def test_a_damaged_entry_is_not_exported(cache: CompileCache, tmp_path: Path) -> None:
    entry = publish(cache)
    damage(entry)
    with pytest.raises(ArtifactError):
        cache.export(entry, tmp_path / "exported")
    damage(entry, ARTIFACT_FILE, b"{")
    with pytest.raises(ArtifactError):
        cache.export(cache.entries()[0], tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_nothing_is_exported_over_something(cache: CompileCache, tmp_path: Path) -> None:
    (tmp_path / "exported").mkdir()
    with pytest.raises(UsageError, match="expected a new folder"):
        cache.export(publish(cache), tmp_path / "exported")


def harm_blob(folder: Path) -> None:
    (folder / BLOB_FILE).write_bytes(b"x" * len(BLOB))


def harm_key(folder: Path) -> None:
    """A description that claims another machine's key."""
    data = (folder / ARTIFACT_FILE).read_text().replace(KEY, "0" * 64)
    (folder / ARTIFACT_FILE).write_text(data)


def harm_device(folder: Path) -> None:
    """A blob that is passed off as another device's."""
    data = (folder / ARTIFACT_FILE).read_text().replace('"device": "CPU"', '"device": "NPU"')
    (folder / ARTIFACT_FILE).write_text(data)


def harm_by_link(folder: Path) -> None:
    (folder / BLOB_FILE).rename(folder.parent / "elsewhere")
    (folder / BLOB_FILE).symlink_to(folder.parent / "elsewhere")


def harm_by_extra(folder: Path) -> None:
    (folder / "extra.blob").touch()


def harm_by_escape(folder: Path) -> None:
    data = (folder / ARTIFACT_FILE).read_text().replace('"model.blob"', '"../model.blob"')
    (folder / ARTIFACT_FILE).write_text(data)


@pytest.mark.parametrize("harm", [harm_blob, harm_key, harm_device, harm_by_link, harm_by_extra, harm_by_escape])
def test_nothing_comes_in_that_is_not_what_was_exported(
    cache: CompileCache, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    cache.export(publish(cache), tmp_path / "exported")
    harm(tmp_path / "exported")
    other = CompileCache(tmp_path / "other")
    with pytest.raises(ArtifactError):
        other.import_entry(tmp_path / "exported")
    assert other.entries() == ()
    assert other.sweep() == []


@pytest.mark.parametrize("what", ["nothing", "empty", "file"])
def test_what_is_no_exported_entry_is_not_found(cache: CompileCache, tmp_path: Path, what: str) -> None:
    source = tmp_path / "source"
    if what == "empty":
        source.mkdir()
    elif what == "file":
        source.touch()
    with pytest.raises(NotFoundError, match="npu-persist cache export"):
        cache.import_entry(source)


def test_a_damaged_entry_gives_way_to_an_imported_one(cache: CompileCache, tmp_path: Path) -> None:
    entry = publish(cache)
    cache.export(entry, tmp_path / "exported")
    damage(entry)
    cache.import_entry(tmp_path / "exported").verify()


def test_an_entry_is_looked_up_by_the_start_of_its_key(cache: CompileCache) -> None:
    entry = publish(cache)
    assert cache.lookup(entry.key) == cache.lookup(entry.key[:4]) == entry
    for digits in (entry.key[:3], "", "xyzw", "0" * 64):
        with pytest.raises(NotFoundError, match="cache list"):
            cache.lookup(digits)
