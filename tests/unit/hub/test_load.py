"""Loading by a reference to the hub: what is lacking is pulled, and then it is a load like any other."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import npu_persist
from npu_persist import compile as compile_bundle
from npu_persist import is_compiled, load
from npu_persist.artifact.attached import list_attached
from npu_persist.bundle.origin import read_origin
from npu_persist.errors import BundleNotFoundError, FileIntegrityError, HubError, HubNotFoundError
from npu_persist.hub import client
from npu_persist.store import Store
from tests.support.attached import attach_npu
from tests.support.graphs import publish_affine, publish_product
from tests.support.loads import attempts, is_right
from tests.support.pulls import asked, put_folder
from tests.support.pulls import waits as waits  # noqa: PLC0414 (a fixture is found by its name here)

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from tests.support.hub_server import HubServer

REPO = "org/affine"


@pytest.fixture
def pushed(hub: HubServer, tmp_path: Path) -> Bundle:
    """A bundle on the hub, compiled for the CPU of this machine and for an NPU."""
    bundle = publish_affine(Store(tmp_path / "maker"))
    compile_bundle(bundle.reference, targets=["CPU"], store=tmp_path / "maker")
    attach_npu(bundle)
    put_folder(hub, bundle.path, repo=REPO, tag="v1")
    return bundle


def test_what_the_device_can_use_is_pulled_and_then_loaded(hub: HubServer, pushed: Bundle, store: Store) -> None:
    model = load("hf://org/affine@v1", "CPU", store=store, trust=f"{hub.url}/org/*")
    assert is_right(model)
    assert attempts(model)[-1] == ("attached", "CPU", True)
    assert "pull" in model.report.phases
    bundle = store.resolve("affine")
    assert bundle.digest == pushed.digest
    ((folder, artifact),) = list_attached(bundle)
    assert getattr(artifact, "target", None) == "CPU"
    assert read_origin(folder) is not None
    assert not asked(hub, "npu-4000/model.blob")
    assert not is_compiled("hf://org/affine@v1", "CPU", store=store)  # without trust it would not be imported


def test_check_pulls_as_load_does(hub: HubServer, store: Store, tmp_path: Path) -> None:
    bundle = publish_product(Store(tmp_path / "maker"))
    put_folder(hub, bundle.path, repo="org/product", tag="v1")
    result = npu_persist.check("hf://org/product@v1", "CPU", store=store)
    assert result.is_right
    assert "pull" in result.report.phases
    assert store.resolve("product").digest == bundle.digest


def test_what_was_pulled_is_not_imported_unless_it_is_trusted(pushed: Bundle, store: Store) -> None:
    model = load(f"hf://org/affine@v1#{pushed.digest.partition(':')[2]}", "CPU", store=store)
    assert is_right(model)
    assert not any(taken for name, _, taken in attempts(model) if name == "attached")


def test_a_load_by_commit_asks_no_hub_again(hub: HubServer, pushed: Bundle, store: Store) -> None:
    commit = hub.repos[REPO].tags["v1"]
    load(f"hf://org/affine@{commit}", "CPU", store=store)
    hub.forget()
    assert is_right(load(f"hf://org/affine@{commit}", "CPU", store=store))
    assert is_right(load(f"hf://org/affine@{commit}#{pushed.digest.partition(':')[2]}", "CPU", store=store))
    assert asked(hub) == []


@pytest.mark.usefixtures("pushed")
def test_auto_is_the_devices_that_are_here(store: Store) -> None:
    model = load("hf://org/affine", store=store, trust=True)
    assert is_right(model)
    assert len(list(list_attached(store.resolve("affine")))) == 1


@pytest.mark.usefixtures("pushed")
def test_without_an_answer_what_was_pulled_is_loaded(
    hub: HubServer, store: Store, waits: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load("hf://org/affine@v1", "CPU", store=store)
    hub.fail("GET /api/models/org/affine/revision/v1", status=503, times=12)
    assert is_right(load("hf://org/affine@v1", "CPU", store=store))
    assert "pulled before" in caplog.text
    assert waits == []
    with pytest.raises(HubError, match="503"):
        load("hf://org/affine@v1", "CPU", store=Store(store.home.parent / "empty"))

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert is_right(load("hf://org/affine@v1", "CPU", store=store))
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        load("hf://org/affine@v2", "CPU", store=store)


@pytest.mark.usefixtures("pushed")
def test_a_deleted_tag_is_an_error_even_if_it_was_pulled(hub: HubServer, store: Store) -> None:
    load("hf://org/affine@v1", "CPU", store=store)
    del hub.repos[REPO].tags["v1"]
    with pytest.raises(HubNotFoundError, match="v1"):
        load("hf://org/affine@v1", "CPU", store=store)


@pytest.mark.usefixtures("pushed")
def test_a_moved_tag_is_refused_where_the_digest_is_pinned(hub: HubServer, store: Store, tmp_path: Path) -> None:
    other = publish_affine(Store(tmp_path / "maker"), name="other")
    put_folder(hub, other.path, repo=REPO, tag="v1")
    with pytest.raises(FileIntegrityError, match="moved"):
        load(f"hf://org/affine@v1#{'1' * 64}", "CPU", store=store)
    assert store.names() == ()


@pytest.mark.usefixtures("pushed")
def test_a_file_changed_after_the_pull_is_an_error(store: Store) -> None:
    bundle = npu_persist.pull(REPO, store=store, compiled="none")
    weights = bundle.path / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    with pytest.raises(FileIntegrityError, match=r"weights\.safetensors"):
        load(f"hf://{REPO}", "CPU", store=store)


@pytest.mark.usefixtures("pushed")
def test_local_files_only_and_token_are_the_pulls(hub: HubServer, store: Store) -> None:
    hub.repos[REPO].private = True
    hub.add_token("hf_reader")
    with pytest.raises(BundleNotFoundError, match="npu-persist pull"):
        load("hf://org/affine@v1", "CPU", local_files_only=True, store=store)
    with pytest.raises(HubNotFoundError):
        load("hf://org/affine@v1", "CPU", token=False, store=store)
    assert is_right(load("hf://org/affine@v1", "CPU", token="hf_reader", store=store))  # noqa: S106 (of this test's hub)
    hub.forget()
    assert is_right(load("hf://org/affine@v1", "CPU", local_files_only=True, store=store))
    assert asked(hub) == []


@pytest.mark.usefixtures("pushed")
def test_without_the_extra_what_was_pulled_loads(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load("hf://org/affine@v1", "CPU", store=store)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(npu_persist.errors.MissingExtraError, match=client.EXTRA):
        npu_persist.pull("org/affine@v1", store=store)
    assert is_right(load("hf://org/affine@v1", "CPU", store=store))
    assert "pulled before" in caplog.text


def test_a_load_from_the_store_imports_no_client(store: Store) -> None:
    publish_affine(store)
    code = (
        "import sys, npu_persist; npu_persist.load('affine', 'CPU', store=sys.argv[1]); "
        "print([name for name in sys.modules if name.startswith(('huggingface_hub', 'npu_persist.hub'))])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.home)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
