"""Which pulled artifacts a load imports, and that it answers right whatever was done to them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

import npu_persist
from npu_persist import load
from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, BLOB_FILE
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.manifest import MANIFEST_SIGNATURE_FILE, ORIGIN_FILE
from npu_persist.bundle.origin import read_origin
from npu_persist.compilation import local
from npu_persist.device.core import get_core
from npu_persist.errors import FileIntegrityError, SignatureError, UsageError
from npu_persist.store import Store
from npu_persist.trust.signing import sign_bundle
from tests.support.attached import attach_npu
from tests.support.graphs import publish_affine, publish_dynamic
from tests.support.loads import entries, is_right, spoil
from tests.support.processes import run_python
from tests.support.signers import know, private_key, pulled

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an artifact for this machine's CPU, both signed by ada."""
    store = Store(tmp_path_factory.mktemp("made"))
    bundle = publish_affine(store)
    load("affine", "CPU", store=store)
    (made,) = entries(store)
    shutil.copytree(made, bundle.path / "compiled" / "cpu", ignore=lambda *_: ["used"])
    list(sign_bundle(bundle, private_key("ada")))
    return bundle.path


@pytest.fixture
def place(signed: Path, tmp_path: Path) -> Path:
    """The same bundle, as it is after a pull."""
    place = tmp_path / "affine"
    shutil.copytree(signed, place)
    pulled(place, place / "compiled" / "cpu")
    return place


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def is_imported(model: npu_persist.Model) -> bool:
    (attempt, *_) = model.report.attempts
    assert attempt.source == "attached"
    assert is_right(model)
    return attempt.is_used


def test_it_is_passed_over_with_the_reason_and_the_bundle_runs(place: Path, home: Path) -> None:
    model = load(place, "CPU", cache=False, store=home)
    assert not is_imported(model)
    reason = model.report.attempts[0].reason
    assert reason.startswith("cpu is for this machine:")
    assert "Not trusted: blobs are executed on the device. It was pulled from org/unet" in reason
    assert reason in str(model.report)
    assert model.report.attempts[-1].source == "graph"


@pytest.mark.parametrize("trust", [True, "org/unet", ["org/*"]])
def test_the_caller_may_allow_it(place: Path, home: Path, trust: Any) -> None:
    assert not npu_persist.is_compiled(place, "CPU", store=home)
    assert npu_persist.is_compiled(place, "CPU", trust=trust, store=home)
    model = load(place, "CPU", cache=False, trust=trust, store=home)
    assert is_imported(model)
    assert "It was pulled from org/unet, and trust=" in model.report.attempts[0].reason
    assert not is_imported(load(place, "CPU", cache=False, store=home))  # it was for that call


def test_a_known_key_allows_it(place: Path, home: Path) -> None:
    know(home, "bob")
    assert not is_imported(load(place, "CPU", cache=False, store=home))
    know(home, "ada")
    model = load(place, "CPU", cache=False, store=home)
    assert is_imported(model)
    assert model.report.attempts[0].reason.endswith("is signed by ada.")


def test_own_artifacts_need_no_signature(signed: Path, home: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(signed, own, ignore=shutil.ignore_patterns("*.sig"))
    assert is_imported(load(own, "CPU", cache=False, store=home))


@pytest.mark.parametrize("verify", ["full", "stamp", "none"])
@pytest.mark.parametrize("name", [ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, BLOB_FILE, ORIGIN_FILE])
def test_whatever_is_flipped_nothing_is_imported(
    place: Path, home: Path, name: str, verify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the caller wants nothing verified: the signature is over digests."""
    know(home, "ada")
    assert is_imported(load(place, "CPU", cache=False, verify=verify, store=home))
    imported: list[object] = []

    class Core:
        def import_model(self, *arguments: Any) -> object:
            imported.append(arguments)
            raise RuntimeError("the device was given it")

        def __getattr__(self, attribute: str) -> Any:
            return getattr(get_core(), attribute)

    monkeypatch.setattr(local, "get_core", Core)
    path = place / "compiled" / "cpu" / name
    data = path.read_bytes()
    for position in range(0, len(data), len(data) // 4 or 1):
        spoil(path, data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        if name == ORIGIN_FILE and has_origin(place):
            continue  # another repository or time: it was pulled, and is signed
        model = load(place, "CPU", cache=False, verify=verify, store=home)
        assert not is_imported(model)
        assert imported == []


def has_origin(place: Path) -> bool:
    try:
        return read_origin(place / "compiled" / "cpu") is not None
    except FileIntegrityError:
        return False


def test_a_signature_that_was_required_is_there(place: Path, home: Path) -> None:
    know(home, "ada")
    model = load(place, "CPU", require_signature=True, store=home)
    assert is_right(model)
    assert "its manifest is signed by ada" in model.report.notes


@pytest.mark.parametrize("where", ["pulled", "own"])
def test_a_signature_that_is_missing_is_an_error_before_anything_is_read(
    place: Path, home: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "own":
        (place / ORIGIN_FILE).unlink()
    monkeypatch.setattr("npu_persist.runtime.load._make_recipes", lambda *_: pytest.fail("it went on"))
    monkeypatch.setattr("npu_persist.bundle.verification.Verification.start", lambda *_: pytest.fail("it read"))
    with pytest.raises(SignatureError, match="a known key"):
        load(place, "CPU", require_signature=True, store=home)
    know(home, "ada")
    (place / MANIFEST_SIGNATURE_FILE).unlink()
    with pytest.raises(SignatureError, match="it is not signed"):
        load(place, "CPU", require_signature=True, trust=True, store=home)


def test_a_changed_manifest_is_not_what_was_signed(place: Path, home: Path) -> None:
    know(home, "ada")
    manifest = place / "manifest.json"
    text = manifest.read_text()
    spoil(manifest, text.replace('"metadata": {}', '"metadata": {"a": 1}').encode())
    assert Bundle.open(place).manifest.metadata == {"a": 1}
    with pytest.raises(SignatureError, match="expected a signature over the manifest"):
        load(place, "CPU", require_signature=True, store=home)


def test_sizes_of_what_is_not_trusted_are_no_buckets(tmp_path: Path, home: Path) -> None:
    bundle = publish_dynamic(Store(tmp_path / "made"))
    shapes = {"x": (2, 4), "y": (2, 5), "z": (5,)}
    inputs = tuple(replace(port, shape=shapes[port.name]) for port in bundle.graph().inputs)
    folder = attach_npu(bundle, device="CPU", target="CPU", shapes=shapes, inputs=inputs)
    report = load(bundle.path, "CPU", cache=False, store=home).report
    assert {tuple((attempt.shapes or {}).get("x", ())) for attempt in report.attempts} == {(2, 4)}
    pulled(folder)
    report = load(bundle.path, "CPU", cache=False, store=home).report
    assert {attempt.shapes for attempt in report.attempts} == {None}
    assert "its sizes are not used as a bucket. Not trusted" in report.notes[0]


def test_trust_that_names_no_repository_is_a_usage_error(place: Path, home: Path) -> None:
    for call in (load, npu_persist.is_compiled):
        with pytest.raises(UsageError, match="trust: expected"):
            call(place, "CPU", trust="unet", store=home)


def test_a_load_that_asks_for_no_signature_does_not_import_the_package(place: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "cryptography.py").write_text("raise AssertionError('cryptography was imported')\n")
    know(home, "bob")
    code = f"""
import numpy, npu_persist
model = npu_persist.load({str(place)!r}, "CPU", cache=False, store={str(home)!r})
model(numpy.zeros((2, 3), numpy.float32))
assert "by a known key (bob)" in str(model.report), model.report
"""
    done = run_python("-c", code, path=tmp_path)
    assert done.returncode == 0, done.stderr
