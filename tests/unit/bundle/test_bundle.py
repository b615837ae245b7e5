from __future__ import annotations

import errno
import os
import re
import shutil
from datetime import timezone
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.manifest import Manifest
from npu_persist.errors import (
    BundleNotFoundError,
    FileIntegrityError,
    FormatVersionError,
    ManifestError,
    NotFoundError,
    StoreError,
    UsageError,
)
from npu_persist.files.digest import digest_bytes
from tests.support.bundles import GOLDEN, GRAPH, TINY_GRAPH, WEIGHTS, tiny_manifest, write_tiny

if TYPE_CHECKING:
    from pathlib import Path

FILES = ["model.xml", "weights.safetensors", "golden.safetensors"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "tiny"
    path.mkdir()
    write_tiny(path)
    return path


def _nested(directory: Path) -> None:
    """Move the graph of the bundle in a directory to graphs/deep/model.xml."""
    manifest = tiny_manifest()
    files = dict(manifest.files)
    files["graphs/deep/model.xml"] = files.pop("model.xml")
    graph = replace(TINY_GRAPH, path="graphs/deep/model.xml")
    (directory / "graphs" / "deep").mkdir(parents=True)
    (directory / "model.xml").rename(directory / "graphs" / "deep" / "model.xml")
    (directory / "manifest.json").write_bytes(replace(manifest, graphs=(graph,), files=files).to_json())


def test_opens_and_tells_what_it_is(directory: Path) -> None:
    os.utime(directory / "manifest.json", (1_700_000_000, 1_700_000_000))
    bundle = Bundle.open(directory)
    assert bundle.manifest == tiny_manifest()
    assert bundle.digest == digest_bytes((directory / "manifest.json").read_bytes())
    assert (bundle.name, bundle.version, bundle.reference) == ("tiny", None, str(directory))
    assert bundle.size == sum(path.stat().st_size for path in directory.iterdir())
    assert bundle.created.isoformat() == "2023-11-14T22:13:20+00:00"
    assert bundle.created.tzinfo is timezone.utc
    assert repr(bundle) == f"<Bundle {directory} {bundle.digest[:15]}… at {directory}>"
    assert Bundle.open(str(directory), version=3).reference == f"{directory.parent.name}:3"  # its name in the store


def test_a_bundle_does_not_move_with_the_working_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory.parent)
    bundle = Bundle.open("tiny")
    monkeypatch.chdir("/")
    assert bundle.path == directory
    bundle.verify()


def test_opening_reads_no_file_but_the_manifest(directory: Path) -> None:
    for name in FILES:
        (directory / name).unlink()
    assert Bundle.open(directory).name == "tiny"


@pytest.mark.parametrize("name", ["nowhere", "empty", "file", "file/below"])
def test_what_is_no_bundle_is_not_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(BundleNotFoundError, match=r"expected a directory with a manifest\.json"):
        Bundle.open(tmp_path / name)


def test_a_link_to_a_bundle_may_be_opened(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(directory)
    Bundle.open(tmp_path / "link").verify()


@pytest.mark.parametrize("kind", ["link", "dangling", "directory", "pipe"])
def test_a_manifest_that_is_no_regular_file_is_refused(directory: Path, tmp_path: Path, kind: str) -> None:
    path = directory / "manifest.json"
    _replace_by(path, kind, tmp_path)
    with pytest.raises(FileIntegrityError, match="expected a regular file; got a") as caught:
        Bundle.open(directory)
    assert caught.value.path == str(path)


def test_a_damaged_manifest_is_refused_with_its_path(directory: Path) -> None:
    path = directory / "manifest.json"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ManifestError, match=re.escape(str(path))):
        Bundle.open(directory)
    path.write_bytes(b'{"format_version": "7.0"}')
    with pytest.raises(FormatVersionError, match=re.escape(str(path))):
        Bundle.open(directory)


def test_a_huge_manifest_is_not_read_to_its_end(directory: Path) -> None:
    with (directory / "manifest.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ManifestError, match="expected at most"):
        Bundle.open(directory)


# Files


def test_files_and_graphs_are_found_by_name(directory: Path) -> None:
    bundle = Bundle.open(directory)
    assert bundle.file("model.xml") == directory / "model.xml"
    assert bundle.graph() == bundle.graph("main") == TINY_GRAPH
    for name in ("other.xml", "manifest.json", "../tiny/model.xml", ""):
        with pytest.raises(NotFoundError, match="has no file"):
            bundle.file(name)
    with pytest.raises(NotFoundError, match="has no graph 'other'; it has main"):
        bundle.graph("other")


def test_one_of_several_graphs_must_be_named(directory: Path) -> None:
    manifest = tiny_manifest()
    second = replace(TINY_GRAPH, name="decode", path="decode.xml")
    files = {**manifest.files, "decode.xml": manifest.files["model.xml"]}
    (directory / "decode.xml").write_bytes(GRAPH)
    (directory / "manifest.json").write_bytes(replace(manifest, graphs=(TINY_GRAPH, second), files=files).to_json())
    bundle = Bundle.open(directory)
    assert bundle.graph("decode") == second
    with pytest.raises(UsageError, match="choose one of main, decode"):
        bundle.graph()
    bundle.ensure_bin()
    for stem in ("model", "decode"):
        assert (directory / f"{stem}.bin").samefile(directory / "weights.safetensors")
    bundle.verify()


def _replace_by(path: Path, kind: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    if path.is_dir():
        shutil.move(path, outside)
    else:
        path.rename(outside)
    match kind:
        case "link":
            path.symlink_to(outside)
        case "dangling":
            path.symlink_to(tmp_path / "nowhere")
        case "directory":
            path.mkdir()
        case "pipe":
            if not hasattr(os, "mkfifo"):
                pytest.skip("no named pipes here")
            os.mkfifo(path)
        case "other":
            path.write_bytes(b"x")


KINDS = {
    "link": "a symbolic link",
    "dangling": "a symbolic link",
    "directory": "a directory",
    "pipe": "a special file",
    "missing": "nothing",
    "other": "1 bytes",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_the_right_size_is_refused(directory: Path, tmp_path: Path, name: str, kind: str) -> None:
    bundle = Bundle.open(directory)
    _replace_by(directory / name, kind, tmp_path)
    for look in (lambda: bundle.file(name), bundle.verify):
        with pytest.raises(FileIntegrityError) as caught:
            look()
        assert caught.value.path == str(directory / name)
        size = bundle.manifest.files[name].size
        assert caught.value.expected == ("a regular file" if kind != "other" else f"{size} bytes")
        assert caught.value.got == KINDS[kind]
        assert "Persist the model again" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "got"), [("link", "a symbolic link"), ("other", "a regular file"), ("missing", "nothing")]
)
@pytest.mark.parametrize("name", ["graphs", "graphs/deep"])
def test_a_folder_that_is_none_is_refused(directory: Path, tmp_path: Path, name: str, kind: str, got: str) -> None:
    _nested(directory)
    bundle = Bundle.open(directory)
    bundle.verify()
    _replace_by(directory / name, kind, tmp_path)
    with pytest.raises(FileIntegrityError) as caught:
        bundle.verify()
    assert (caught.value.path, caught.value.expected, caught.value.got) == (str(directory / name), "a directory", got)


# Every byte


def test_verify_reads_every_byte(directory: Path) -> None:
    seen: list[int] = []
    Bundle.open(directory).verify(progress=seen.append)
    assert sum(seen) == len(GRAPH) + len(WEIGHTS) + len(GOLDEN)


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_found(directory: Path, name: str) -> None:
    bundle = Bundle.open(directory)
    path = directory / name
    original = path.read_bytes()
    for place in {0, len(original) // 2, len(original) - 1}:
        flipped = bytearray(original)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(FileIntegrityError) as caught:
            bundle.verify()
        assert (caught.value.path, caught.value.expected) == (str(path), digest_bytes(original))
        assert caught.value.got == digest_bytes(flipped)
    path.write_bytes(original)
    bundle.verify()


def test_a_manifest_that_changed_since_it_was_opened_is_found(directory: Path) -> None:
    bundle = Bundle.open(directory)
    path = directory / "manifest.json"
    path.write_bytes(replace(Manifest.from_json(path.read_bytes()), warnings=()).to_json())
    with pytest.raises(FileIntegrityError, match="as when it was opened"):
        bundle.verify()


# model.bin


def test_the_bin_is_a_link_to_the_weights(directory: Path) -> None:
    bundle = Bundle.open(directory)
    bundle.ensure_bin()
    before = sorted(path.name for path in directory.iterdir())
    bundle.ensure_bin()
    assert (directory / "model.bin").samefile(directory / "weights.safetensors")
    assert sorted(path.name for path in directory.iterdir()) == before == sorted([*FILES, "manifest.json", "model.bin"])
    bundle.verify()


def test_the_bin_is_a_copy_where_links_are_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    bundle = Bundle.open(directory)
    bundle.ensure_bin()
    path = directory / "model.bin"
    assert path.read_bytes() == WEIGHTS
    assert not path.samefile(directory / "weights.safetensors")
    inode = path.stat().st_ino
    bundle.ensure_bin()
    bundle.verify()
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("content", [b"short", bytes(reversed(WEIGHTS))])
def test_a_wrong_bin_is_found_and_replaced(directory: Path, content: bytes) -> None:
    bundle = Bundle.open(directory)
    (directory / "model.bin").write_bytes(content)
    with pytest.raises(FileIntegrityError, match=r"model\.bin: expected the content of weights\.safetensors"):
        bundle.verify()
    bundle.ensure_bin()
    bundle.verify()
    assert (directory / "model.bin").read_bytes() == WEIGHTS


def test_a_linked_bin_is_replaced_and_what_it_points_to_stays(directory: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(WEIGHTS)
    (directory / "model.bin").symlink_to(outside)
    bundle = Bundle.open(directory)
    with pytest.raises(FileIntegrityError, match=r"model\.bin"):
        bundle.verify()
    bundle.ensure_bin()
    assert not (directory / "model.bin").is_symlink()
    assert outside.read_bytes() == WEIGHTS
    bundle.verify()


def test_a_bin_that_cannot_be_made_is_a_store_error(directory: Path) -> None:
    (directory / "model.bin").mkdir()
    with pytest.raises(StoreError, match="could not make") as caught:
        Bundle.open(directory).ensure_bin()
    assert isinstance(caught.value.__cause__, OSError)
    assert not list(directory.glob("*.partial"))


def test_a_full_disk_leaves_no_half_bin(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="Free some space") as caught:
        Bundle.open(directory).ensure_bin()
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in directory.iterdir()) == sorted([*FILES, "manifest.json"])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_a_store_error(directory: Path) -> None:
    (directory / "model.xml").chmod(0)
    with pytest.raises(StoreError, match="Check the permissions"):
        Bundle.open(directory).verify()
