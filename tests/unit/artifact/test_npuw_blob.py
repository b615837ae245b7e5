"""NPUW's container, and the NPU's blobs in it."""

from __future__ import annotations

import io
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.artifact.artifact import BLOB_FILE, Artifact, Lengths, describe_files
from npu_persist.artifact.attached import attach, stage
from npu_persist.artifact.blob import Blob, read_blob, read_blob_file
from npu_persist.artifact.compatibility import check_all_attached
from npu_persist.device.machine import Machine
from npu_persist.errors import ArtifactError, BlobError
from npu_persist.store import Store
from tests.support.artifacts import make_artifact
from tests.support.blobs import DESCRIPTOR, npu_blob, npu_trailer, npuw_blob, real_blob
from tests.support.bundles import publish_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.artifact.compatibility import Verdict


def read(data: bytes) -> Blob:
    return read_blob_file(io.BytesIO(data), len(data), kind="NPU")


def part(platform: str = "4000", tiles: int = 4) -> bytes:
    return npu_blob(npu_trailer(descriptor=f"compiler=8.4;npu={platform};t={tiles};elf=1.2.2;mi=11.4.10"), 5000)


def test_its_parts_and_what_they_need_together() -> None:
    found = read(npuw_blob([real_blob(), part(tiles=3), part(tiles=6)]))
    assert (found.npuw, found.openvino, found.generates) == ("0.31", "2026.4.1", True)
    assert (found.weightless, found.encrypted, found.unknown) == (True, False, ())
    assert [one.payload_size for one in found.parts] == [64, 5000, 5000]
    assert found.requirements is not None
    assert (found.requirements.platform, found.requirements.tiles) == ("4000", 6)


def test_parts_for_several_platforms_are_refused() -> None:
    with pytest.raises(BlobError, match="expected parts for one platform of the NPU; got parts for 3720, 4000"):
        read(npuw_blob([part(), part("3720", 2)]))


def test_what_was_compiled_for_the_cpu_has_no_parts() -> None:
    found = read(npuw_blob())
    assert (found.kind, found.parts, found.requirements, found.unknown) == ("NPU", (), None, ())


def test_weights_may_look_like_a_part() -> None:
    found = read(npuw_blob([part()], weightless=0, between=b"\x7fELF" * 999))
    assert (len(found.parts), found.weightless) == (1, False)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (npuw_blob([part()], kind=b"GQACMO"), "its container is of the kind b'GQACMO'"),
        (npuw_blob([part()], version=b"0.32"), "its serialization has version 0.32; only 0.31 is known"),
        (npuw_blob([npu_blob(npu_trailer(version=(2, 7)).replace(b"\x07\0\x02\0", b"\x08\0\x02\0", 1))]), "2.8"),
    ],
)
def test_what_is_newer_is_unknown(data: bytes, said: str) -> None:
    found = read(data)
    assert len(found.unknown) == 1
    assert said in found.unknown[0]


@pytest.mark.parametrize(
    "data",
    [
        npuw_blob([part()])[:-1],  # cut short
        npuw_blob([part()])[:20],
        b"\x13\x37npuw",
        npuw_blob(version=b"0.31 or so"),
        npuw_blob(version=b"9" * 200),
        npuw_blob(encrypted=2),
        npuw_blob([npu_blob(npu_trailer() + b"\1")]),
        npuw_blob(between=b"\x7fELF" * 20_000, weightless=0),
    ],
)
def test_damage(data: bytes) -> None:
    with pytest.raises(BlobError):
        read(data)


def test_any_change_is_read_or_refused() -> None:
    data = npuw_blob([real_blob(), part(), part()])
    chance = random.Random(0)  # noqa: S311
    for _ in range(20_000):
        changed = bytearray(data[: chance.choice([len(data), len(data), chance.randrange(len(data))])])
        for _ in range(chance.randint(1, 4)):
            if changed:
                changed[chance.randrange(len(changed))] = chance.choice([0, 1, 255, chance.randrange(256)])
        with suppress(BlobError):
            read(bytes(changed))


LUNAR = Machine("NPU", "2026.4.1-x", "4000", 6, elf="1.2", mi="11.4", is_here=True)


def verdict(tmp_path: Path, blob: bytes, **changes: Any) -> Verdict:
    """Return the verdict on an attached artifact with this blob."""
    bundle = publish_tiny(Store(tmp_path))
    fields: dict[str, Any] = {
        "subject": bundle.digest,
        "inputs": bundle.graph().inputs,
        "outputs": bundle.graph().outputs,
        "target": "NPU:4000",
        "device": "NPU",
        "identity": {"DEVICE_ARCHITECTURE": "4000"},
        "properties": {},
        "requirements": f"meta=2.7;ov=2026.4.1;desc=[{DESCRIPTOR}]",
        "lengths": Lengths(128, 64),
        "npuw": "0.31",
    }
    with stage(bundle) as staging:
        (staging / BLOB_FILE).write_bytes(blob)
        attach(bundle, make_artifact(**(fields | changes), files=describe_files(staging)), staging)
    (found,) = check_all_attached(bundle, LUNAR)
    return found.verdict


def test_an_artifact_that_agrees_with_its_blob(tmp_path: Path) -> None:
    assert verdict(tmp_path, npuw_blob([part()])).status == "supported"


@pytest.mark.parametrize(
    ("blob", "changes", "said"),
    [
        (npuw_blob([part("3720", 2)]), {}, "expected platform 4000, as artifact.json says; got 3720"),
        (npuw_blob([part()], weightless=0), {}, "expected weightless True, as artifact.json says; got False"),
        (npuw_blob(), {}, "expected parts for NPU:4000; got none for an NPU"),
        (npuw_blob([part()]), {"npuw": "0.30"}, "expected serialization 0.30, as artifact.json says; got 0.31"),
        (part(), {"weightless": False}, "expected serialization 0.31, as artifact.json says; got None"),
        (npuw_blob([part()], openvino=(2026, 4, 0)), {}, "expected OpenVINO 2026.4.1"),
        (npuw_blob([part()], encrypted=1), {}, "expected an unencrypted payload"),
    ],
)
def test_an_artifact_that_contradicts_its_blob(tmp_path: Path, blob: bytes, changes: dict[str, Any], said: str) -> None:
    found = verdict(tmp_path, blob, **changes)
    assert found.status == "unsupported"
    assert said in " ".join(found.reasons)


def test_a_newer_container_is_unknown(tmp_path: Path) -> None:
    found = verdict(tmp_path, npuw_blob([part()], version=b"0.40"), npuw="0.40", weightless=True)
    assert found.status == "unknown"


def test_a_description_keeps_what_it_was_compiled_for() -> None:
    plain = make_artifact()
    assert b"lengths" not in plain.to_json()
    assert b"options" not in plain.to_json()
    artifact = make_artifact(lengths=Lengths(64, 64), options={"NPUW_LLM": "YES"}, npuw="0.31", notes=("in one piece",))
    again = Artifact.from_json(artifact.to_json())
    assert again == artifact
    assert again.key != plain.key
    assert again.key != make_artifact(lengths=Lengths(64, 128)).key
    with pytest.raises(ArtifactError, match="lengths"):
        Artifact.from_json(artifact.to_json().replace(b'"prompt": 64', b'"prompt": "64"'))


def test_a_file_is_read_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.blob").write_bytes(npuw_blob([part()], between=bytes(3 * 1024 * 1024)))
    assert len(read_blob(tmp_path / "a.blob").parts) == 1
