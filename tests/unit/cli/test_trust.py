from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from npu_persist.bundle.manifest import MANIFEST_SIGNATURE_FILE
from npu_persist.store import Store
from tests.support.attached import attach_npu
from tests.support.bundles import publish_tiny
from tests.support.graphs import publish_affine
from tests.support.loads import entries, spoil
from tests.support.signers import public_key, pulled, write_private_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def key(tmp_path: Path) -> str:
    return str(write_private_key(tmp_path, "ada"))


def test_keys_are_added_listed_and_removed(run: Run, tmp_path: Path) -> None:
    code, out, err = run("keys", "list")
    assert (code, out) == (0, "")
    assert "no keys in" in err
    pem = tmp_path / "ada.pem"
    pem.write_bytes(public_key("ada").to_pem())
    assert run("keys", "add", "ada", str(pem))[:2] == (0, f"ada is {public_key('ada').hex}\n")
    assert run("keys", "add", "bob", public_key("bob").hex)[0] == 0
    _, out, _ = run("keys", "list", "--json")
    assert json.loads(out) == [
        {"name": name, "key": public_key(name).hex, "for": [], "for_repo": []} for name in ("ada", "bob")
    ]
    assert run("keys", "list")[1].splitlines()[1].split() == ["ada", public_key("ada").hex, "all"]
    assert run("keys", "remove", "ada")[:2] == (0, "removed ada\n")
    assert run("keys", "remove", "ada")[0] == 3
    assert run("keys", "list")[1].count("\n") == 2


def test_what_is_no_key_is_not_added(run: Run, tmp_path: Path, key: str) -> None:
    (tmp_path / "text").write_text("ada\n")
    for source, code, problem in (
        (str(tmp_path / "text"), 2, "expected a PEM file"),
        (str(tmp_path / "missing"), 3, "no such file"),
        (key, 2, "got a private key"),
    ):
        found, _, err = run("keys", "add", "ada", source)
        assert found == code
        assert problem in err
    assert run("keys", "add", "../ada", public_key("ada").hex)[0] == 2
    assert run("keys", "list")[1] == ""


def test_a_bundle_is_signed_and_verified(run: Run, key: str) -> None:
    bundle = publish_tiny(Store())
    folder = attach_npu(bundle, b"a blob")
    code, out, _ = run("sign", "tiny", "--key", key, "--json")
    assert code == 0
    assert json.loads(out) == {
        "signed": [str(bundle.path / MANIFEST_SIGNATURE_FILE), str(folder / "artifact.json.sig")]
    }
    code, out, _ = run("verify", "tiny", "--key", public_key("ada").hex)
    assert code == 0
    assert f"ok, signed by {public_key('ada').hex}" in out
    code, _, err = run("verify", "tiny", "--signed")
    assert code == 4
    assert "by a known key (there is none)" in err
    assert "keys add NAME FILE" in err
    run("keys", "add", "ada", public_key("ada").hex)
    for reference in (["tiny"], []):
        code, out, _ = run("verify", *reference, "--signed", "--json")
        assert code == 0
        assert [result["signers"] for result in json.loads(out)] == [["ada"]]


def test_verify_goes_past_what_is_not_signed(run: Run, key: str) -> None:
    publish_tiny(Store(), "first")
    publish_tiny(Store(), "second")
    run("keys", "add", "ada", public_key("ada").hex)
    assert run("sign", "second", "--key", key)[0] == 0
    code, out, err = run("verify", "--signed", "--json")
    assert code == 4
    assert [(result["ok"], result["signers"]) for result in json.loads(out)] == [(False, None), (True, ["ada"])]
    assert "it is not signed" in err
    code, out, _ = run("verify")
    assert code == 0
    assert "signed" not in out


def test_what_is_damaged_is_not_signed(run: Run, key: str) -> None:
    bundle = publish_tiny(Store())
    spoil(bundle.path / "model.xml")
    assert run("sign", "tiny", "--key", key)[0] == 4
    assert not (bundle.path / MANIFEST_SIGNATURE_FILE).exists()


def test_a_password_comes_from_the_environment_or_a_terminal(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_tiny(Store())
    key = str(write_private_key(tmp_path, "ada", "secret"))
    code, _, err = run("sign", "tiny", "--key", key)
    assert code == 2
    assert "set NPU_PERSIST_KEY_PASSWORD" in err
    assert err.count(key) == 1
    monkeypatch.setenv("NPU_PERSIST_KEY_PASSWORD", "Secret")
    assert run("sign", "tiny", "--key", key)[0] == 2
    monkeypatch.setenv("NPU_PERSIST_KEY_PASSWORD", "secret")
    assert run("sign", "tiny", "--key", key)[0] == 0
    monkeypatch.delenv("NPU_PERSIST_KEY_PASSWORD")
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)

    def ask(prompt: str, _: object) -> str:
        asked.append(prompt)
        return "secret"

    monkeypatch.setattr("getpass.getpass", ask)
    assert run("sign", "tiny", "--key", key)[0] == 0
    assert asked == ["password of ada.key: "]


def test_without_the_extra_the_error_names_it(run: Run, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_tiny(Store())
    monkeypatch.setitem(sys.modules, "cryptography", None)
    code, _, err = run("sign", "tiny", "--key", key)
    assert code == 1
    assert "npu_persist[sign]" in err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed; Debian's and CI's have it")
def test_the_keys_that_the_help_tells_of(run: Run, tmp_path: Path) -> None:
    publish_tiny(Store())
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)  # noqa: S607
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)  # noqa: S607
    assert run("sign", "tiny", "--key", str(private))[0] == 0
    assert run("verify", "tiny", "--key", str(public))[0] == 0
    assert run("keys", "add", "me", str(public))[0] == 0
    assert run("verify", "tiny", "--signed")[0] == 0


def test_run_imports_what_was_pulled_only_where_it_is_allowed(run: Run, key: str) -> None:
    store = Store()
    bundle = publish_affine(store)
    made = run("run", "affine", "--device", "CPU", "--random")
    assert made[0] == 0
    folder = bundle.path / "compiled" / "cpu"
    shutil.copytree(entries(store)[0], folder, ignore=lambda *_: ["used"])
    pulled(bundle.path, folder)

    def attempts(*options: str) -> list[tuple[str, bool]]:
        code, out, err = run("run", "affine", "--device", "CPU", "--random", "--no-cache", "--json", *options)
        assert code == 0, err
        return [(attempt["source"], attempt["is_used"]) for attempt in json.loads(out)["report"]["attempts"]]

    assert attempts() == [("attached", False), ("graph", False), ("graph", True)]  # first in a process of its own
    assert attempts("--trust", "other/*", "--trust", "org/unet") == [("attached", True)]
    assert attempts("--trust", "all") == [("attached", True)]
    assert run("run", "affine", "--trust", "unet")[0] == 2
    assert run("run", "affine", "--device", "CPU", "--random", "--require-signature")[0] == 4
    run("keys", "add", "ada", public_key("ada").hex)
    assert run("sign", "affine", "--key", key)[0] == 0
    assert attempts("--require-signature") == [("attached", True)]
