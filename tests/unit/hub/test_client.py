"""The client in one place: what is missing, and what it raises, as ours."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from npu_persist.errors import HubError, HubNotFoundError, MissingExtraError

if TYPE_CHECKING:
    from tests.support.hub_server import HubServer

_WITHOUT = """
import sys
sys.modules["huggingface_hub"] = None
import npu_persist
from tests.support.bundles import publish_tiny
publish_tiny(npu_persist.Store())
try:
    npu_persist.push("tiny", "org/tiny")
except npu_persist.errors.MissingExtraError as error:
    assert isinstance(error, ModuleNotFoundError)
    assert (error.extra, error.name) == ("hub", "huggingface_hub"), vars(error)
    print(error)
"""


def test_without_the_extra_the_error_names_it() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=True)
    assert "pip install 'npu_persist[hub]'" in done.stdout


def test_the_front_door_and_the_verb_import_no_client() -> None:
    code = "import sys, npu_persist; npu_persist.push; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_errors_carry_repository_revision_and_status(hub: HubServer) -> None:
    from npu_persist.hub.client import Repository, hub_errors

    client = Repository("org/unet").client
    hub.create("org/unet")
    with pytest.raises(HubNotFoundError, match="v9") as caught, hub_errors("look", "org/unet", "v9"):
        client.repo_info("org/unet", revision="v9")
    assert (caught.value.repo_id, caught.value.revision, caught.value.status) == ("org/unet", "v9", 404)
    with pytest.raises(HubNotFoundError, match="lacks a file"), hub_errors("fetch", "org/unet"):
        client.hf_hub_download("org/unet", "none")
    hub.fail("GET .*/refs", status=418)
    with pytest.raises(HubError, match="418") as other, hub_errors("look", "org/unet"):
        client.list_repo_refs("org/unet")
    assert not isinstance(other.value, HubNotFoundError)


def test_our_own_errors_pass_through() -> None:
    from npu_persist.hub.client import hub_errors

    with pytest.raises(MissingExtraError), hub_errors("look", "org/unet"):
        raise MissingExtraError("missing", extra="hub")


def test_a_hub_that_is_not_there_is_an_error(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from npu_persist.hub.client import Repository, hub_errors

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"no usable answer.*network") as caught, hub_errors("look", "org/unet"):
        Repository("org/unet").client.list_repo_refs("org/unet")
    assert caught.value.status is None
    assert not hub.requests


def test_progress_bars_are_as_they_were() -> None:
    pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    from npu_persist.hub.client import without_progress_bars

    before = are_progress_bars_disabled()
    with without_progress_bars():
        assert are_progress_bars_disabled()
    assert are_progress_bars_disabled() == before
