"""Attached artifacts: there as a whole or not at all, one of a kind, and no trace of those that failed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from npu_persist.artifact.artifact import ARTIFACT_FILE, BLOB_FILE, Artifact
from npu_persist.artifact.attached import attach, list_attached, prune_attached, stage, verify_attached
from npu_persist.bundle.bundle import Bundle
from npu_persist.cli.main import main
from npu_persist.errors import ArtifactError, StoreError
from npu_persist.store import Store
from tests.support.artifacts import BLOB, fill
from tests.support.bundles import publish_tiny, tiny_golden, write_tiny
from tests.support.faults import ALLOCATING, before_call, disk_full
from tests.support.processes import finish, start_python

NPU: dict[str, Any] = {
    "target": "NPU:4000",
    "device": "NPU",
    "identity": {"DEVICE_ARCHITECTURE": "4000"},
    "properties": {},
}

needs_owner = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not hold back root, nor Windows"
)


def attach_npu(bundle: Bundle, data: bytes = BLOB, **changes: Any) -> Path:
    with stage(bundle) as staging:
        fields = {**NPU, "subject": bundle.digest, **changes}
        return attach(bundle, fill(staging, {BLOB_FILE: data}, **fields), staging)


def found(bundle: Bundle) -> dict[str, bytes | str]:
    """Return the blob of each attached artifact, or what is wrong with it, by the name of its folder."""
    return {
        path.name: (path / BLOB_FILE).read_bytes() if isinstance(artifact, Artifact) else str(artifact)
        for path, artifact in list_attached(bundle)
    }


def inside(bundle: Bundle) -> list[str]:
    """Return the names in the folder of attached artifacts; an empty staging folder may stay."""
    compiled = bundle.path / "compiled"
    names = {path.name for path in compiled.iterdir()} if compiled.exists() else set()
    if ".staging" in names and not any((compiled / ".staging").iterdir()):
        names.remove(".staging")
    return sorted(names)


def test_an_attached_artifact_is_listed_and_leaves_the_bundle_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bundle = publish_tiny(store)
    place = attach_npu(bundle)
    assert place == bundle.path / "compiled" / "npu-4000"
    assert found(bundle) == {"npu-4000": BLOB}
    assert inside(bundle) == ["npu-4000"]
    assert store.resolve("tiny").digest == bundle.digest
    store.verify()
    assert store.prune() == []
    for path in place.iterdir():
        assert not path.stat().st_mode & stat.S_IWUSR


def test_it_works_in_a_folder_outside_of_a_store(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    bundle = Bundle.open(tmp_path)
    attach_npu(bundle)
    assert found(bundle) == {"npu-4000": BLOB}
    verify_attached(bundle)


def test_a_bundle_without_any_has_none(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))
    assert found(bundle) == {}
    verify_attached(bundle)
    assert prune_attached(bundle.path, below=bundle.root) == []


def test_targets_shapes_graphs_and_properties_stand_beside_each_other(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))
    attach_npu(bundle, b"default")
    attach_npu(bundle, b"other", target="NPU:3720")
    attach_npu(bundle, b"bucket", shapes={"x.0": (1, 2, 4)})
    attach_npu(bundle, b"larger", shapes={"x.0": (8, 2, 4)})
    attach_npu(bundle, b"second", graph="second")
    attach_npu(bundle, b"turbo", properties={"NPU_TURBO": "YES"})
    assert sorted(map(str, found(bundle).values())) == sorted(
        map(str, [b"default", b"other", b"bucket", b"larger", b"second", b"turbo"])
    )
    assert {name.rpartition("-")[0] for name in found(bundle)} == {"npu", "npu-4000"}


def test_a_newer_one_takes_the_place_of_the_older(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))
    first = attach_npu(bundle, b"old")
    assert attach_npu(bundle, b"new", openvino="2026.5.0", seconds=1.0) == first
    assert found(bundle) == {"npu-4000": b"new"}
    attach_npu(bundle, b"old", shapes={"x.0": (1, 2, 4)})
    attach_npu(bundle, b"new", shapes={"x.0": (1, 2, 4)})
    assert list(found(bundle).values()) == [b"new", b"new"]
    assert len(inside(bundle)) == 2


def test_what_cannot_be_read_is_listed_with_its_reason_and_replaced(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))
    place = attach_npu(bundle)
    (place / ARTIFACT_FILE).chmod(0o644)
    (place / ARTIFACT_FILE).write_bytes(b"{")
    assert "expected the description" in str(found(bundle)["npu-4000"])
    attach_npu(bundle, b"new")
    assert found(bundle) == {"npu-4000": b"new"}
    (place / ARTIFACT_FILE).unlink()
    attach_npu(bundle, b"newer")
    assert found(bundle) == {"npu-4000": b"newer"}


def test_a_place_that_something_else_has_is_left_to_it(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))
    stranger = bundle.path / "compiled" / "npu-4000"
    stranger.parent.mkdir()
    stranger.write_bytes(b"a file")
    place = attach_npu(bundle)
    assert place.name.startswith("npu-4000.")
    assert found(bundle) == {place.name: BLOB}
    assert stranger.read_bytes() == b"a file"
    attach_npu(bundle, b"new")
    assert list(found(bundle).values()) == [b"new"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path / "store"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    try:
        (bundle.path / "compiled").symlink_to(elsewhere)
    except OSError as error:
        pytest.skip(f"no symbolic links here: {error}")
    with pytest.raises(StoreError, match="got a link"):
        attach_npu(bundle)
    assert prune_attached(bundle.path, below=bundle.root) == []
    assert list(elsewhere.iterdir()) == []


def test_what_is_staged_goes_when_the_block_does(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))

    def interrupted() -> None:
        with stage(bundle) as staging:
            (staging / BLOB_FILE).write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert inside(bundle) == []


def test_what_was_compiled_from_another_bundle_is_refused(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))
    with pytest.raises(ArtifactError, match="expected an artifact compiled from tiny:1"):
        attach_npu(bundle, subject="blake3:" + "0" * 64)
    assert inside(bundle) == []


def test_files_that_the_description_does_not_name_are_refused(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))
    with stage(bundle) as staging:
        artifact = fill(staging, subject=bundle.digest, **NPU)
        (staging / "more").write_bytes(b"")
        with pytest.raises(ArtifactError, match="only the files that"):
            attach(bundle, artifact, staging)
    assert inside(bundle) == []


def test_verify_reads_the_attached_artifacts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    bundle = publish_tiny(store)
    blob = attach_npu(bundle) / BLOB_FILE
    blob.chmod(0o644)
    blob.write_bytes(b"x" * len(BLOB))
    for reference in (None, "tiny", bundle.path):
        with pytest.raises(ArtifactError, match=r"compile again: `npu-persist compile .* --target") as caught:
            store.verify(reference)
        assert caught.value.path == str(blob)
    for arguments in (["tiny"], []):
        assert main(["verify", "--json", "--store", str(tmp_path), *arguments]) == 4
    assert json.loads(capsys.readouterr().out)[0]["ok"] is False


def test_verify_counts_the_bytes_of_attached_artifacts(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))
    attach_npu(bundle)
    seen: list[int] = []
    verify_attached(bundle, progress=seen.append)
    assert sum(seen) == len(BLOB)


def test_verify_refuses_what_was_copied_from_another_bundle(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = publish_tiny(store), publish_tiny(store, golden=tiny_golden("other"))
    shutil.copytree(attach_npu(first), second.path / "compiled" / "npu-4000")
    store.verify(first.reference)
    with pytest.raises(ArtifactError, match="expected an artifact compiled from tiny:2"):
        store.verify(second.reference)


@needs_owner
def test_a_folder_that_cannot_be_written_to_says_so(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))
    bundle.path.chmod(0o555)
    try:
        with pytest.raises(StoreError, match="permissions"):
            attach_npu(bundle)
    finally:
        bundle.path.chmod(0o755)


def test_a_read_only_file_system_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = publish_tiny(Store(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StoreError, match="could not make ") as caught:
        attach_npu(bundle)
    assert caught.value.errno == errno.EROFS


def test_a_disk_that_is_full_at_any_step_leaves_what_was_there(tmp_path: Path) -> None:
    states = set()
    for number in range(1, 100):
        bundle = publish_tiny(Store(tmp_path / str(number)))
        attach_npu(bundle, b"old")

        def fill_disk(call: int, _: str, number: int = number) -> None:
            if call >= number:
                disk_full()

        full = False
        with before_call(fill_disk, ALLOCATING):
            try:
                attach_npu(bundle, b"new")
            except StoreError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 (only some steps raise)
                full = True
        states.add(tuple(found(bundle).values()))
        assert full == (list(found(bundle).values()) == [b"old"])
        assert len(inside(bundle)) == 1
        if not full:
            break
    assert states == {(b"old",), (b"new",)}


def test_a_small_disk_that_is_full_leaves_nothing(small_disk: Path) -> None:
    bundle = publish_tiny(Store(small_disk))
    with pytest.raises(StoreError, match="No space left"), stage(bundle) as staging:
        (staging / BLOB_FILE).write_bytes(b"x" * 2_000_000)
    assert inside(bundle) == []
    attach_npu(bundle)


def test_prune_removes_what_was_left_and_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bundle = publish_tiny(store)
    left = bundle.path / "compiled" / ".staging" / "0123456789abcdef"
    left.mkdir(parents=True)
    (left / BLOB_FILE).write_bytes(b"half")
    assert found(bundle) == {}
    assert store.prune() == [left]
    assert inside(bundle) == []


def test_prune_leaves_what_a_living_process_fills(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bundle = publish_tiny(store)
    code = (
        "import sys; from npu_persist.bundle.bundle import Bundle; from npu_persist.artifact.attached import stage\n"
        "with stage(Bundle.open(sys.argv[1])) as staging: print(staging, flush=True); sys.stdin.readline()"
    )
    with start_python(code, bundle.path) as living:
        assert living.stdout is not None
        path = Path(living.stdout.readline().strip())
        assert store.prune() == []
        with stage(bundle):
            assert path.is_dir()
        assert path.is_dir()
        living.kill()
        living.wait()
        assert store.prune() == [path]


ATTACH_TEN = """
import sys
from npu_persist.bundle.bundle import Bundle
from tests.unit.artifact.test_attached import attach_npu

bundle = Bundle.open(sys.argv[1])
sys.stdin.readline()
for turn in range(10):
    attach_npu(bundle, f"{sys.argv[2]} {turn}".encode())
"""


def test_of_several_that_are_attached_at_once_all_succeed_and_one_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bundle = publish_tiny(store)
    processes = [start_python(ATTACH_TEN, bundle.path, str(number)) for number in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    while any(process.poll() is None for process in processes):
        verify_attached(bundle)  # what is replaced while it is read is no damage
        prune_attached(bundle.path, below=bundle.root)
    for process in processes:
        finish(process)
    assert inside(bundle) == ["npu-4000"]
    assert [str(blob)[-2:-1] for blob in found(bundle).values()] == ["9"]
    verify_attached(bundle)
    assert store.prune() == []
