from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from npu_persist.cli.main import main
from npu_persist.store import Store
from tests.support.bundles import publish_tiny

if TYPE_CHECKING:
    from tests.support.hub_server import HubServer

REPO = "org/tiny"


def test_says_where_it_is_and_what_was_sent(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    publish_tiny(Store())
    options = ["--private", "--tag", "first", "--commit-message", "hello", "--revision", "trial"]
    assert main(["push", "tiny:1", REPO, *options]) == 0
    out, err = capsys.readouterr()
    repo = hub.repos[REPO]
    assert repo.private
    assert repo.commits[repo.tags["first"]].message == "hello"
    assert repo.branches["trial"] == repo.tags["first"] != repo.branches["main"]
    assert out.startswith(f"{REPO} at {repo.branches['trial'][:12]}, tagged first: ")
    assert "0 B already there" in out
    assert not err


def test_json_is_one_document(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = publish_tiny(Store())
    assert main(["push", str(bundle.path), REPO, "--create-pr", "--json"]) == 3  # nothing to ask for a pull at
    assert not capsys.readouterr().out
    hub.create(REPO)
    assert main(["push", str(bundle.path), REPO, "--create-pr", "--no-compiled", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["commit"] == hub.repos[REPO].pull_requests["refs/pr/1"]
    assert shown["tag"] is None
    assert (shown["repo_id"], shown["skipped_bytes"]) == (REPO, 0)


@pytest.mark.parametrize(("fault", "code", "said"), [(503, 1, "503"), (403, 1, "hf auth"), (412, 1, "pull")])
def test_refusals_say_what_to_do(
    hub: HubServer, capsys: pytest.CaptureFixture[str], fault: int, code: int, said: str
) -> None:
    publish_tiny(Store())
    hub.fail("POST .*/commit/", status=fault, times=100)
    assert main(["push", "tiny", REPO]) == code
    err = capsys.readouterr().err
    assert said in err.lower()


def test_no_such_bundle_ends_as_not_found(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", "none", REPO]) == 3
    assert "none" in capsys.readouterr().err
    assert not hub.requests
