from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.artifact.artifact import check_files, describe_files
from npu_persist.bundle.manifest import ORIGIN_FILE
from npu_persist.bundle.origin import MAX_ORIGIN_SIZE, Origin, read_origin, write_origin
from npu_persist.errors import ArtifactError, FileIntegrityError
from tests.support.artifacts import fill

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = Origin(
    repo="org/unet",
    commit="0123456789abcdef" * 2 + "01234567",
    revision="v3",
    endpoint="https://huggingface.co",
    pulled_at=datetime(2026, 11, 21, 7, 40, 4, tzinfo=timezone.utc),
    name=None,
)


@pytest.mark.parametrize("revision", ["v3", None])
def test_what_is_written_is_read(tmp_path: Path, revision: str | None) -> None:
    east = timezone(timedelta(hours=5))
    fields = {name: getattr(ORIGIN, name) for name in Origin.__struct_fields__}
    written = Origin(**fields | {"revision": revision, "pulled_at": ORIGIN.pulled_at.astimezone(east)})
    write_origin(tmp_path, written)
    assert read_origin(tmp_path) == Origin(**fields | {"revision": revision})
    assert json.loads((tmp_path / ORIGIN_FILE).read_bytes())["pulled_at"] == "2026-11-21T07:40:04Z"


def test_a_folder_without_one_has_no_origin(tmp_path: Path) -> None:
    assert read_origin(tmp_path) is None


def test_it_is_never_overwritten(tmp_path: Path) -> None:
    write_origin(tmp_path, ORIGIN)
    with pytest.raises(FileExistsError):
        write_origin(tmp_path, ORIGIN)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format_version": "2.0"}, "format_version: expected a known value, got '2.0'"),
        ({"commit": "v3"}, "expected commit: 40 hex digits; got v3"),
        ({"commit": 7}, "commit: expected text"),
        ({"repo": ""}, "repo: expected text"),
        ({"endpoint": None}, "endpoint: expected text"),
        ({"revision": 3}, "revision: expected text"),
        ({"name": ""}, "name: expected text"),
        ({"pulled_at": "2026-13-21T07:40:04Z"}, "pulled_at: invalid RFC3339 encoded datetime"),
        ({"pulled_at": "yesterday"}, "pulled_at: invalid RFC3339 encoded datetime, got 'yesterday'"),
        ({"trusted": True}, "trusted: unknown"),
    ],
)
def test_a_damaged_one_is_an_error(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    write_origin(tmp_path, ORIGIN)
    path = tmp_path / ORIGIN_FILE
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
    with pytest.raises(FileIntegrityError, match=problem):
        read_origin(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"repo": "a", "repo": "b"}', b" " * MAX_ORIGIN_SIZE * 2]
)
def test_what_is_none_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / ORIGIN_FILE).write_bytes(data)
    with pytest.raises(FileIntegrityError, match=r"origin\.json: expected"):
        read_origin(tmp_path)


def test_a_link_or_folder_in_its_place_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / ORIGIN_FILE
    path.mkdir()
    with pytest.raises(FileIntegrityError, match="a regular file"):
        read_origin(tmp_path)
    path.rmdir()
    path.symlink_to("nowhere")
    with pytest.raises(FileIntegrityError, match="a regular file"):
        read_origin(tmp_path)


def test_an_artifact_s_folder_may_have_one(tmp_path: Path) -> None:
    artifact = fill(tmp_path)
    write_origin(tmp_path, ORIGIN)
    check_files(tmp_path, artifact)
    assert describe_files(tmp_path) == artifact.files
    (tmp_path / "stranger").touch()
    with pytest.raises(ArtifactError, match="only the files"):
        check_files(tmp_path, artifact)
