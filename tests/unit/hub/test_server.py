"""The tests' own hub: the unmodified client gets from it what it gets from the real one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.hub_server import HubServer

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")

REPO = "org/unet"


def test_a_commit_goes_there_and_comes_back(hub: HubServer, tmp_path: Path) -> None:
    api = huggingface_hub.HfApi()
    api.create_repo(REPO)
    weights = os.urandom(100_000)
    add = huggingface_hub.CommitOperationAdd
    made = api.create_commit(
        REPO, [add("weights.safetensors", weights), add("a/model.xml", b"<net/>")], commit_message="first"
    )
    api.create_tag(REPO, tag="v1")
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": made.oid}
    found = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True, revision="v1")}
    assert found["weights.safetensors"].lfs.size == found["weights.safetensors"].size == len(weights)
    assert found["a/model.xml"].lfs is None
    for path, data in {"weights.safetensors": weights, "a/model.xml": b"<net/>"}.items():
        local = api.hf_hub_download(REPO, path, revision="v1", local_dir=tmp_path / "down")
        with open(local, "rb") as file:  # noqa: PTH123 (the client gives a str)
            assert file.read() == data
    assert hub.received("PUT /objects/") == len(weights)
    assert api.repo_info(REPO).sha == made.oid


def test_a_tree_comes_in_pages(hub: HubServer) -> None:
    hub.page = 2
    hub.put(REPO, {f"file{number}": b"x" for number in range(5)})
    found = {entry.path for entry in huggingface_hub.HfApi().list_repo_tree(REPO, recursive=True)}
    assert found == {".gitattributes", *(f"file{number}" for number in range(5))}


def test_a_stale_parent_a_second_tag_and_what_is_missing_are_refused(hub: HubServer) -> None:
    api = huggingface_hub.HfApi()
    first = hub.put(REPO, {"a": b"1"})
    hub.put(REPO, {"a": b"2"})
    api.create_tag(REPO, tag="v1")
    operations = [huggingface_hub.CommitOperationDelete("a")]
    refused: dict[int, Callable[[], object]] = {
        412: lambda: api.create_commit(REPO, operations, commit_message="late", parent_commit=first),
        409: lambda: api.create_tag(REPO, tag="v1"),
        404: lambda: api.repo_info(REPO, revision="nowhere"),
    }
    for status, call in refused.items():
        with pytest.raises(huggingface_hub.errors.HfHubHTTPError) as caught:
            call()
        assert caught.value.response.status_code == status
    with pytest.raises(huggingface_hub.errors.RemoteEntryNotFoundError):
        api.hf_hub_download(REPO, "b")
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        api.repo_info("org/other")


def test_a_private_repository_wants_a_token(hub: HubServer) -> None:
    hub.add_token("hf_writer")
    hub.create(REPO, private=True)
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        huggingface_hub.HfApi(token=False).repo_info(REPO)
    assert huggingface_hub.HfApi(token="hf_writer").repo_info(REPO).private  # noqa: S106 (the test's own)


def test_faults_happen_as_often_as_asked_for(hub: HubServer, tmp_path: Path) -> None:
    data = os.urandom(4000)
    hub.put(REPO, {"weights.safetensors": data})
    api = huggingface_hub.HfApi()
    hub.fail("GET .*/refs", status=429, headers={"Retry-After": "3"})
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError):
        api.list_repo_refs(REPO)
    assert api.list_repo_refs(REPO).branches
    hub.fail("GET /cdn/", corrupt=True)
    with open(api.hf_hub_download(REPO, "weights.safetensors", local_dir=tmp_path / "bad"), "rb") as file:  # noqa: PTH123
        got = file.read()
    assert got != data
    assert len(got) == len(data)
    hub.fail("GET /cdn/", short=1000)
    with open(api.hf_hub_download(REPO, "weights.safetensors", local_dir=tmp_path / "again"), "rb") as file:  # noqa: PTH123
        assert file.read() == data  # resumed with a Range
    # The server notes what it sent after the client may have read it.
    assert wait_for(
        lambda: sum(request.sent for request in hub.requests if request.path.startswith("/cdn")) >= 2 * len(data)
    )
