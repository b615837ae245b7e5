"""Names that no file can have, from a program's arguments or a document: half of a surrogate pair, or a zero.

They ended `list`, `load`, `prune`, `export`, `sign`, `keys add`, `run --output` and `cache export` with a
UnicodeEncodeError or a ValueError of Python's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import npu_persist
from npu_persist.cli.main import main
from npu_persist.errors import NpuPersistError, UsageError
from npu_persist.store import Store
from npu_persist.trust.keys import KeyRing, find_public_key, read_private_key
from tests.support.graphs import publish_affine
from tests.support.signers import write_private_key

if TYPE_CHECKING:
    from collections.abc import Callable

BAD = ["a\0b", "/tmp/a\0b", "./x\0/y", *(() if sys.platform == "win32" else ("\ud800", "/tmp/\ud800", "./\udfff/x"))]  # noqa: S108

FUNCTIONS: dict[str, Callable[[str], object]] = {
    "open": npu_persist.open,
    "load": lambda bad: npu_persist.load(bad, device="CPU"),
    "load of a version": lambda bad: npu_persist.load(f"affine:{bad}", device="CPU"),
    "load of a digest": lambda bad: npu_persist.load(f"affine@{bad}", device="CPU"),
    "load on": lambda bad: npu_persist.load("affine", device=bad),
    "load with": lambda bad: npu_persist.load("affine", device="CPU", config={bad: bad}),
    "load from a store": lambda bad: npu_persist.load("affine", device="CPU", store=bad),
    "check": lambda bad: npu_persist.check(bad, "CPU"),
    "list": npu_persist.list,
    "list a store": lambda bad: npu_persist.list(store=bad),
    "a store": Store,
    "alias": lambda bad: npu_persist.alias("affine:1", bad),
    "unalias": lambda bad: npu_persist.unalias(bad, bad),
    "remove": npu_persist.remove,
    "prune": lambda bad: npu_persist.prune(store=bad),
    "verify": npu_persist.verify,
    "export": lambda bad: npu_persist.export("affine", "openvino", bad),
    "export a graph": lambda bad: npu_persist.export("affine", "openvino", "/nowhere", graph=bad),
    "sign": lambda bad: npu_persist.sign("affine", bad),
    "verify_signature": lambda bad: npu_persist.verify_signature("affine", bad),
    "a public key": find_public_key,
    "a private key": lambda bad: read_private_key(Path(bad)),
    "a name of a key": lambda bad: KeyRing(Store().home).add(bad, find_public_key("a" * 64)),
    "compile": lambda bad: npu_persist.compile(bad, ["CPU"]),
    "compile for": lambda bad: npu_persist.compile("affine", [bad]),
    "compatibility": lambda bad: npu_persist.compatibility(bad, "CPU"),
    "is_compiled": lambda bad: npu_persist.is_compiled(bad, "CPU"),
    "push": lambda bad: npu_persist.push("affine", bad),
    "pull": npu_persist.pull,
    "pull as": lambda bad: npu_persist.pull("org/x", alias=bad),
    "import into the cache": lambda bad: npu_persist.CompileCache(Store().home).import_entry(Path(bad)),
    "of the cache": lambda bad: npu_persist.CompileCache(Store().home).lookup(bad),
}

VERBS = [
    ["inspect", "{}"],
    ["path", "{}"],
    ["list", "{}"],
    ["list", "--store", "{}"],
    ["run", "{}", "--device", "CPU"],
    ["run", "affine", "--device", "CPU", "--random", "--output", "{}"],
    ["run", "affine", "--device", "CPU", "--inputs", "{}"],
    ["persist", "{}", "--name", "x"],
    ["persist", "json:{}", "--name", "x"],
    ["alias", "affine:1", "{}"],
    ["unalias", "affine:{}"],
    ["verify", "{}"],
    ["verify", "affine", "--key", "{}"],
    ["remove", "{}"],
    ["prune", "--store", "{}"],
    ["export", "affine", "{}"],
    ["sign", "affine", "--key", "{}"],
    ["keys", "add", "x", "{}"],
    ["keys", "remove", "{}"],
    ["push", "affine", "{}"],
    ["pull", "{}"],
    ["cache", "list", "--store", "{}"],
    ["cache", "export", "{}", "nowhere"],
    ["cache", "import", "{}"],
    ["bench", "affine", "--device", "CPU", "--plot", "{}.svg"],
    ["compile", "affine", "--target", "{}"],
    ["toolchain", "list", "--store", "{}"],
    ["doctor", "--store", "{}"],
    ["{}"],
]


@pytest.fixture(autouse=True)
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    publish_affine(Store())


@pytest.mark.parametrize("bad", BAD, ids=ascii)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_raise_an_error_of_ours(function: str, bad: str) -> None:
    with pytest.raises(NpuPersistError):
        FUNCTIONS[function](bad)


@pytest.mark.parametrize("bad", BAD, ids=ascii)
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_verbs_end_with_a_message(verb: list[str], bad: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([part.format(bad) for part in verb]) != 0
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert "NPU_PERSIST_TRACEBACK" not in error


@pytest.mark.parametrize("bad", BAD, ids=ascii)
def test_an_entry_of_the_cache_is_not_exported_there(bad: str) -> None:
    npu_persist.load("affine", device="CPU").close()
    cache = npu_persist.CompileCache(Store().home)
    with pytest.raises(UsageError, match="which no file can have"):
        cache.export(cache.entries()[0], Path(bad))


@pytest.mark.skipif(sys.platform == "win32", reason="names of files are no bytes on Windows")
def test_names_that_are_no_text_are_names(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    files = npu_persist.export("affine", "openvino", folder)
    assert all(path.exists() for path in files)


@pytest.mark.parametrize("password", ["\ud800", "wrong \udcff"], ids=ascii)
def test_a_password_without_bytes_is_a_wrong_one(password: str, tmp_path: Path) -> None:
    key = write_private_key(tmp_path, "signer", "secret")
    for given in (password, lambda: password):
        with pytest.raises(UsageError, match="password"):
            read_private_key(key, given)
