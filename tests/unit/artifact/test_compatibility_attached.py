from __future__ import annotations

import json
import shutil
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest

import npu_persist
from npu_persist import compatibility, load
from npu_persist.artifact.artifact import ARTIFACT_FILE, BLOB_FILE, read_artifact
from npu_persist.bundle.manifest import FileEntry
from npu_persist.device.core import get_version
from npu_persist.device.machine import Machine
from npu_persist.errors import BundleNotFoundError, DeviceNotFoundError, TargetError
from tests.support.artifacts import make_artifact
from tests.support.attached import attach_npu
from tests.support.blobs import real_blob
from tests.support.graphs import WEIGHTS, XML, publish_affine
from tests.support.loads import entries, spoil
from tests.support.processes import run_python

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store

LUNAR = Machine("NPU", "2026.4.1", "4000", 6, elf="1.2", mi="11.4")


@pytest.fixture
def bundle(store: Store) -> Bundle:
    return publish_affine(store)


def statuses(bundle: Bundle, device: str | Machine) -> dict[str, str]:
    return {entry.folder.name: entry.verdict.status for entry in compatibility(bundle.path, device)}


def test_a_bundle_without_artifacts(bundle: Bundle, store: Store) -> None:
    assert compatibility("affine", "CPU", store=store) == ()
    assert compatibility(bundle.path, LUNAR) == ()


def test_each_artifact_has_its_verdict(bundle: Bundle, store: Store) -> None:
    place = attach_npu(bundle)
    attach_npu(
        bundle, real_blob("3720"), target="NPU:3720", identity={"DEVICE_ARCHITECTURE": "3720"}, requirements=None
    )
    assert statuses(bundle, LUNAR) == {"npu-3720": "unsupported", "npu-4000": "supported"}
    entry = compatibility("affine", LUNAR, store=store)[1]
    assert (entry.target, entry.folder, entry.artifact) == ("NPU:4000", place, read_artifact(place))
    assert len(entry.verdict.reasons) == 5


@pytest.mark.parametrize("device", ["NPU:4000", "npu:4000", "4000", "lunar-lake"])
def test_a_target_is_a_machine_of_which_only_that_is_known(bundle: Bundle, device: str) -> None:
    attach_npu(bundle)
    (entry,) = compatibility(bundle.path, device)
    assert entry.verdict.status == "unknown"
    assert not any("platform" in reason for reason in entry.verdict.reasons)
    assert statuses(bundle, "meteor-lake") == {"npu-4000": "unsupported"}


def test_devices_of_this_machine(bundle: Bundle, store: Store) -> None:
    attach_npu(bundle)
    load("affine", "CPU", store=store)
    (made,) = entries(store)
    place = bundle.path / "compiled" / "cpu"
    place.mkdir()
    for name in (ARTIFACT_FILE, BLOB_FILE):
        (place / name).write_bytes((made / name).read_bytes())
    assert statuses(bundle, "CPU") == {"cpu": "supported", "npu-4000": "unsupported"}
    assert statuses(bundle, "AUTO") == {"cpu": "unsupported", "npu-4000": "unsupported"}
    if not any(device.name == "NPU" for device in npu_persist.devices()):
        assert statuses(bundle, "NPU") == {"cpu": "unsupported", "npu-4000": "unsupported"}


@pytest.mark.parametrize(
    ("device", "error"),
    [("NPU:1234", TargetError), ("tiger-lake", TargetError), (4000, TargetError), ("AUTO:XPU", DeviceNotFoundError)],
)
def test_what_is_no_device(bundle: Bundle, device: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        compatibility(bundle.path, device)


def test_a_bundle_that_is_not_there(store: Store) -> None:
    with pytest.raises(BundleNotFoundError):
        compatibility("nothing", LUNAR, store=store)


class TestDamage:
    def test_a_description(self, bundle: Bundle) -> None:
        place = attach_npu(bundle)
        spoil(place / ARTIFACT_FILE, b"{")
        (entry,) = compatibility(bundle.path, LUNAR)
        assert (entry.target, entry.artifact, entry.verdict.status) == (None, None, "unsupported")
        assert str(place) in entry.verdict.reasons[0]

    def test_a_blob_of_another_size(self, bundle: Bundle) -> None:
        place = attach_npu(bundle)
        spoil(place / BLOB_FILE, real_blob() + b"OVNPU")
        (entry,) = compatibility(bundle.path, LUNAR)
        assert entry.verdict.status == "unsupported"
        assert (
            f"a regular file of {len(real_blob())} bytes; got {len(real_blob()) + 5} bytes" in entry.verdict.reasons[0]
        )

    def test_a_blob_that_says_something_else(self, bundle: Bundle) -> None:
        attach_npu(bundle, real_blob("5010"))
        (entry,) = compatibility(bundle.path, LUNAR)
        assert entry.verdict.reasons == ("model.blob: expected platform 4000, as artifact.json says; got 5010.",)

    @pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
    def test_a_link_is_not_followed(self, bundle: Bundle, tmp_path: Path) -> None:
        place = attach_npu(bundle)
        (place / BLOB_FILE).rename(tmp_path / "blob")
        (place / BLOB_FILE).symlink_to(tmp_path / "blob")
        (entry,) = compatibility(bundle.path, LUNAR)
        assert "got something else" in entry.verdict.reasons[0]

    def test_a_blob_that_was_not_downloaded_needs_none(self, bundle: Bundle) -> None:
        place = attach_npu(bundle)
        (place / BLOB_FILE).unlink()
        assert statuses(bundle, LUNAR) == {"npu-4000": "supported"}

    def test_neither_graph_nor_weights_are_needed(self, bundle: Bundle) -> None:
        attach_npu(bundle)
        for name in (XML, WEIGHTS, "model.bin"):
            (bundle.path / name).unlink(missing_ok=True)
        assert statuses(bundle, LUNAR) == {"npu-4000": "supported"}


def test_of_400_megabytes_only_the_ends_are_read(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file, whose digest nobody computes: here neither."""
    size = 400_000_000
    place = bundle.path / "compiled" / "npu-4000"
    place.mkdir(parents=True)
    data = real_blob()
    with (place / BLOB_FILE).open("wb") as file:
        file.write(data[:64])
        file.seek(size)
        file.write(data[64:-13] + struct.pack("<Q", size) + b"OVNPU")
    made = attach_npu(bundle, folder="small")
    small = read_artifact(made)
    shutil.rmtree(made)
    entry = FileEntry((place / BLOB_FILE).stat().st_size, "blake3:" + "0" * 64)
    fields = {name: getattr(small, name) for name in small.__struct_fields__}
    (place / ARTIFACT_FILE).write_bytes(make_artifact(**(fields | {"files": {BLOB_FILE: entry}})).to_json())

    read = []
    import npu_persist.artifact.blob as blob_module

    read_at = blob_module._read_at

    def note(file: Any, offset: int, length: int, source: str) -> bytes:
        read.append((offset, length))
        return read_at(file, offset, length, source)

    monkeypatch.setattr(blob_module, "_read_at", note)
    assert statuses(bundle, LUNAR)["npu-4000"] == "supported"
    assert all(offset + length <= 20 or offset >= size for offset, length in read)
    assert sum(length for _, length in read) < 200


def test_another_machine_needs_no_openvino(bundle: Bundle) -> None:
    attach_npu(bundle)
    code = (
        "import json, sys\n"
        "from npu_persist import compatibility\n"
        f"found = compatibility({str(bundle.path)!r}, 'NPU:4000')\n"
        "print(json.dumps([found[0].verdict.status, 'openvino' in sys.modules, 'numpy' in sys.modules]))\n"
    )
    done = run_python("-c", code)
    assert json.loads(done.stdout) == ["unknown", False, False], done.stderr


def test_the_version_that_the_plugin_made_it_with_is_this_one(bundle: Bundle) -> None:
    attach_npu(bundle)
    (entry,) = compatibility(bundle.path, Machine("NPU", get_version(), "4000", 6, elf="1.2", mi="11.4"))
    assert entry.verdict.status == ("supported" if get_version().startswith("2026.4.1") else "unknown")
