from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npu_persist.artifact.artifact import (
    ARTIFACT_FILE,
    MAX_ARTIFACT_SIZE,
    Artifact,
    check_files,
    check_layout,
    describe_files,
    make_key,
    read_artifact,
)
from npu_persist.bundle.graph_records import DTYPES, Dimension, Port
from npu_persist.bundle.manifest import FileEntry
from npu_persist.errors import ArtifactError
from tests.support.artifacts import fill, make_artifact

if TYPE_CHECKING:
    from pathlib import Path

SOUND = make_artifact(files={"model.blob": FileEntry(3, "blake3:" + "0" * 64)})
JSON = json.loads(SOUND.to_json())

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
mappings = st.dictionaries(texts, st.text(st.characters(codec="utf-8"), max_size=20), max_size=4)
names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True).filter(lambda name: name != "used")
digests = st.from_regex(r"blake3:[0-9a-f]{64}", fullmatch=True)
axes = st.integers(0, 2**40) | st.builds(
    Dimension, st.none() | texts, st.integers(0, 9), st.none() | st.integers(9, 2**63 - 1)
)
ports = st.lists(
    st.builds(Port, texts, st.sampled_from(DTYPES), st.lists(axes, max_size=3).map(tuple)), max_size=2
).map(tuple)
artifacts = st.builds(
    Artifact,
    subject=digests,
    name=st.just("unet"),
    graph=texts,
    shapes=st.none() | st.dictionaries(texts, st.lists(st.integers(0, 2**40), max_size=3).map(tuple), max_size=2),
    target=texts,
    device=texts,
    identity=mappings,
    openvino=texts,
    properties=mappings,
    inputs=ports,
    outputs=ports,
    kind=st.sampled_from(["blob", "cache_dir"]),
    weightless=st.booleans(),
    requirements=st.none() | texts,
    toolchain=texts,
    compiler=st.none() | texts,
    files=st.dictionaries(
        st.builds("x{}/y{}".format, names, names), st.builds(FileEntry, st.integers(0, 2**63 - 1), digests), max_size=3
    ),
    seconds=st.floats(0, 1e9),
    peak_memory=st.none() | st.integers(0, 2**60),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(artifacts)
@settings(deadline=None)
def test_what_is_written_reads_as_the_same(artifact: Artifact) -> None:
    data = artifact.to_json()
    assert Artifact.from_json(data) == artifact
    assert Artifact.from_json(data).to_json() == data


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(deadline=None)
def test_any_bytes_are_an_artifact_or_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        Artifact.from_json(data)


@given(st.integers(0, len(SOUND.to_json()) - 1), st.binary(max_size=4), st.integers(0, 40))
@settings(deadline=None)
def test_a_change_of_some_bytes_is_another_sound_artifact_or_an_error_of_ours(
    start: int, inserted: bytes, removed: int
) -> None:
    data = SOUND.to_json()
    changed = data[:start] + inserted + data[start + removed :]
    try:
        found = Artifact.from_json(changed)
    except ArtifactError:
        return
    assert found.key == SOUND.key  # what decides is as it was: the key is in there, and would not fit


@given(st.sampled_from(sorted(JSON)), values)
@settings(deadline=None)
def test_any_value_in_any_place_is_an_error_of_ours_or_decides_nothing(member: str, value: Any) -> None:
    data = json.dumps({**JSON, member: value}).encode("utf-8", "surrogatepass")
    try:
        found = Artifact.from_json(data)
    except ArtifactError:
        return
    assert found.key == SOUND.key


@pytest.mark.parametrize("member", sorted(JSON))
def test_a_member_that_is_missing_is_an_error_that_names_it(member: str) -> None:
    document = {name: value for name, value in JSON.items() if name != member}
    with pytest.raises(ArtifactError, match=member):
        Artifact.from_json(json.dumps(document).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": "2.0"},
        {"unknown": 1},
        {"key": "0" * 64},
        {"device": "GPU"},  # and so another key
        {"kind": "exe"},
        {"weightless": 1},
        {"identity": {"FULL_DEVICE_NAME": 3}},
        {"identity": []},
        {"seconds": "3"},
        {"files": {"../x": {"size": 1, "digest": "blake3:" + "0" * 64}}},
        {"files": {"used": {"size": 0, "digest": "blake3:" + "0" * 64}}},
        {"files": {"artifact.json": {"size": 0, "digest": "blake3:" + "0" * 64}}},
        {"files": {"model.blob": {"size": -1, "digest": "blake3:" + "0" * 64}}},
        {"name": "../unet"},
    ],
    ids=str,
)
def test_what_does_not_fit_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError) as caught:
        Artifact.from_json(json.dumps({**JSON, **changes}).encode(), source="here/artifact.json")
    assert caught.value.path == "here/artifact.json"
    assert "here/artifact.json" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "blake3:" + "1" * 64},
        {"graph": "other"},
        {"shapes": {"x": (1, 8)}},
        {"device": "GPU"},
        {"identity": {"FULL_DEVICE_NAME": "Another processor", "DEVICE_ARCHITECTURE": "intel64"}},
        {"identity": {}},
        {"openvino": "2026.4.2"},
        {"properties": {}},
        {"properties": {"PERFORMANCE_HINT": "THROUGHPUT"}},
    ],
    ids=str,
)
def test_everything_that_decides_is_in_the_key(change: dict[str, Any]) -> None:
    assert make_artifact(**change).key != SOUND.key


def test_nothing_else_is_in_the_key() -> None:
    other = make_artifact(
        name="other",
        target="NPU:4000",
        weightless=False,
        requirements=None,
        seconds=0.0,
        kind="cache_dir",
        toolchain="wine",
        compiler="8.4",
        peak_memory=7,
        inputs=(),
        outputs=(),
    )
    assert other.key == SOUND.key


def test_the_key_does_not_depend_on_the_order_of_properties() -> None:
    about: dict[str, Any] = {
        "subject": "s",
        "graph": "g",
        "shapes": None,
        "device": "d",
        "identity": {},
        "openvino": "o",
    }
    assert make_key(**about, properties={"A": "1", "B": "2"}) == make_key(**about, properties={"B": "2", "A": "1"})


def write(folder: Path) -> Artifact:
    folder.mkdir()
    artifact = fill(folder, {"model.blob": b"blob", "openvino/1.blob": b"more"})
    (folder / ARTIFACT_FILE).write_bytes(artifact.to_json())
    (folder / "used").touch()
    return artifact


def test_a_folder_that_is_as_it_was_written_passes(tmp_path: Path) -> None:
    artifact = write(tmp_path / "entry")
    assert read_artifact(tmp_path / "entry") == artifact
    assert describe_files(tmp_path / "entry") == artifact.files
    check_files(tmp_path / "entry", artifact)


def add(folder: Path) -> None:
    (folder / "extra").touch()


def add_deep(folder: Path) -> None:
    (folder / "openvino" / "extra").touch()


def drop(folder: Path) -> None:
    (folder / "openvino" / "1.blob").unlink()


def truncate(folder: Path) -> None:
    (folder / "model.blob").write_bytes(b"blo")


def link(folder: Path) -> None:
    (folder / "model.blob").rename(folder.parent / "elsewhere")
    (folder / "model.blob").symlink_to(folder.parent / "elsewhere")


def link_folder(folder: Path) -> None:
    (folder / "openvino").rename(folder.parent / "elsewhere")
    (folder / "openvino").symlink_to(folder.parent / "elsewhere")


def put_folder(folder: Path) -> None:
    (folder / "model.blob").unlink()
    (folder / "model.blob").mkdir()


@pytest.mark.parametrize("damage", [add, add_deep, drop, truncate, link, link_folder, put_folder])
def test_another_layout_is_an_error_before_any_byte_is_read(
    tmp_path: Path, damage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = write(tmp_path / "entry")
    damage(tmp_path / "entry")
    monkeypatch.setattr("npu_persist.artifact.artifact.digest_file", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(ArtifactError) as caught:
        check_files(tmp_path / "entry", artifact)
    assert caught.value.path is not None
    assert caught.value.expected
    assert caught.value.got
    with pytest.raises(ArtifactError):
        check_layout(tmp_path / "entry", artifact)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    artifact = write(tmp_path / "entry")
    for relative in artifact.files:
        path = tmp_path / "entry" / relative
        data = path.read_bytes()
        for place in range(len(data)):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            check_layout(tmp_path / "entry", artifact)
            with pytest.raises(ArtifactError, match="blake3"):
                check_files(tmp_path / "entry", artifact)
        path.write_bytes(data)
    check_files(tmp_path / "entry", artifact)


def test_a_description_that_is_missing_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_artifact(tmp_path)
    (tmp_path / ARTIFACT_FILE).mkdir()
    with pytest.raises(ArtifactError, match="regular file"):
        read_artifact(tmp_path)


def test_a_description_is_not_read_through_a_link_nor_out_of_a_pipe(tmp_path: Path) -> None:
    write(tmp_path / "entry")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / ARTIFACT_FILE).symlink_to(tmp_path / "entry" / ARTIFACT_FILE)
    with pytest.raises(ArtifactError, match="regular file"):
        read_artifact(linked)
    if hasattr(os, "mkfifo"):
        (linked / ARTIFACT_FILE).unlink()
        os.mkfifo(linked / ARTIFACT_FILE)
        with pytest.raises(ArtifactError, match="regular file"):
            read_artifact(linked)


def test_a_huge_description_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    with (tmp_path / ARTIFACT_FILE).open("wb") as file:
        file.truncate(1024**3)  # a hole
    with pytest.raises(ArtifactError, match=str(MAX_ARTIFACT_SIZE)):
        read_artifact(tmp_path)
