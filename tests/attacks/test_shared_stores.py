"""A store that other users may write to, or that is another user's.

What the compile cache, the known keys and the stamps said was believed whoever wrote it: an entry of the cache is code
that runs here, a key makes others' code run, and a stamp lets changed weights through. A process with the umask 0 made
every folder of its store writable by all.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import npu_persist
from npu_persist.cli.main import main
from npu_persist.errors import FileIntegrityError, SignatureError, StoreError
from npu_persist.files import owners
from npu_persist.files.stamps import Stamps
from npu_persist.store import Store
from npu_persist.trust.keys import KeyRing
from npu_persist.trust.signing import sign_bundle
from tests.support.attached import attach_npu
from tests.support.graphs import AFFINE_OF_GRID, GRID, publish_affine
from tests.support.signers import private_key, public_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has neither owners nor modes of this kind")
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")

SOMEBODY, SOMEBODY_ELSE = 12345, 12346


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process look at all folders again, as a new one does."""
    monkeypatch.setattr(owners, "_believed", set())


@pytest.fixture
def bundle() -> Bundle:
    return publish_affine(Store())


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def load(**options: Any) -> npu_persist.Model:
    owners._believed.clear()
    model = npu_persist.load("affine", device="CPU", **options)
    assert np.array_equal(model(GRID), AFFINE_OF_GRID)
    return model


def open_to_others(home: Path) -> list[Path]:
    """Return what others may write to; in a folder that they do not get into, they may not."""
    found = []
    for folder, folders, files in os.walk(home):
        mode = os.stat(folder).st_mode  # noqa: PTH116
        if not mode & 0o055:
            folders.clear()
            continue
        found += [home / folder] if mode & 0o022 else []
        found += [path for name in files if stat.S_IMODE((path := home / folder / name).lstat().st_mode) & 0o022]
    return found


@pytest.mark.usefixtures("no_umask")
def test_without_a_umask_nothing_is_open_to_others(tmp_path: Path) -> None:
    home = tmp_path / "made" / "home"
    store = Store(home)
    bundle = publish_affine(store)
    npu_persist.alias(bundle.reference, "prod", store=store)
    attach_npu(bundle)
    npu_persist.load(bundle.reference, device="CPU", store=store).close()
    weights = bundle.path / bundle.manifest.weights.path
    Stamps(home).write([(weights, bundle.digest, weights.stat())])
    KeyRing(home).add("acme", public_key("acme"))
    list(sign_bundle(bundle, private_key("acme")))
    npu_persist.remove(publish_affine(store).reference, store=store)
    with store.stage() as staging:
        (staging / "file").write_bytes(b"")
        assert not stat.S_IMODE(staging.parent.stat().st_mode) & 0o077
        assert open_to_others(tmp_path / "made") == []
    names = {path.name for path in home.iterdir()}
    assert names >= {"bundles", "compile-cache", "keys", "staging", "stamps"}
    assert open_to_others(tmp_path / "made") == []


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
@pytest.mark.usefixtures("bundle")
def test_a_cache_that_others_may_write_to_is_not_used(mode: int, capsys: pytest.CaptureFixture[str]) -> None:
    load().close()
    assert load().report.from_cache
    cache = npu_persist.CompileCache(Store().home)
    cache.path.chmod(mode)
    model = load()
    assert not model.report.from_cache
    assert f"chmod go-w {cache.path}" in str(model.report)
    assert [attempt.source for attempt in model.report.attempts] == ["graph"]
    assert not npu_persist.is_compiled("affine", "CPU")
    with pytest.raises(StoreError, match="chmod go-w"):
        cache.find(model.report.key or "0" * 64)
    with pytest.raises(StoreError, match="chmod go-w"):
        cache.export(cache.entries()[0], cache.home / "exported")
    assert main(["cache", "list"]) == 0
    assert "does not use this cache" in capsys.readouterr().err
    cache.path.chmod(0o755)
    assert load().report.from_cache


@pytest.mark.parametrize("mode", [0o777, 0o775])
@pytest.mark.usefixtures("bundle")
def test_a_home_that_others_may_write_to_has_no_cache(mode: int) -> None:
    load().close()
    Store().home.chmod(mode)
    assert f"chmod go-w {Store().home}" in str(load().report)
    Store().home.chmod(0o1777)  # as /tmp: nobody may rename what is another's
    assert load().report.from_cache


@pytest.mark.usefixtures("bundle")
def test_nothing_is_put_into_such_a_cache() -> None:
    cache = npu_persist.CompileCache(Store().home)
    cache.path.mkdir()
    cache.path.chmod(0o777)
    assert load(compile_timeout=300).report.attempts[-1].is_used
    assert not cache.entries()


@needs_root
@pytest.mark.usefixtures("bundle")
def test_root_believes_nobody_elses_cache() -> None:
    load().close()
    cache = npu_persist.CompileCache(Store().home)
    os.chown(cache.path, SOMEBODY, SOMEBODY)
    report = load().report
    assert not report.from_cache
    assert f"{cache.path} belongs to user {SOMEBODY}" in str(report)
    assert "NPU_PERSIST_HOME" in str(report)


@needs_root
@pytest.mark.usefixtures("bundle")
def test_a_user_believes_roots_cache_and_no_other_users(monkeypatch: pytest.MonkeyPatch) -> None:
    load().close()
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    assert load().report.from_cache
    cache = npu_persist.CompileCache(Store().home)
    os.chown(cache.path, SOMEBODY_ELSE, SOMEBODY_ELSE)
    assert not load().report.from_cache
    os.chown(cache.path, SOMEBODY, SOMEBODY)
    os.chown(Store().home, SOMEBODY_ELSE, SOMEBODY_ELSE)
    assert f"{Store().home} belongs to user {SOMEBODY_ELSE}" in str(load().report)


@needs_root
@pytest.mark.usefixtures("bundle")
def test_an_entry_that_others_left_is_made_anew() -> None:
    load().close()
    cache = npu_persist.CompileCache(Store().home)
    (entry,) = cache.entries()
    os.chown(entry.path, SOMEBODY, SOMEBODY)
    report = load().report
    assert not report.from_cache
    assert (cache.path / entry.key).stat().st_uid == 0
    assert load().report.from_cache


@pytest.mark.usefixtures("bundle")
def test_an_entry_that_others_may_change_is_made_anew() -> None:
    load().close()
    (entry,) = npu_persist.CompileCache(Store().home).entries()
    entry.path.chmod(0o777)
    assert not load().report.from_cache
    assert load().report.from_cache


@pytest.mark.parametrize("place", ["home", "keys", "key"])
def test_keys_that_others_may_write_are_not_believed(
    place: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    ring = KeyRing(Store().home)
    ring.add("acme", public_key("acme"))
    list(sign_bundle(bundle, private_key("acme")))
    load(require_signature=True).close()
    path = {"home": Store().home, "keys": ring.path, "key": ring.path / "acme.pem"}[place]
    path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o022)
    with pytest.raises(SignatureError, match="not trusted"):
        load(require_signature=True)
    with pytest.raises(SignatureError, match="not trusted"):
        npu_persist.verify_signature(bundle.reference)
    assert main(["keys", "list"]) == SignatureError.exit_code
    assert str(path) in capsys.readouterr().err
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o022)
    load(require_signature=True).close()


@needs_root
def test_root_believes_nobody_elses_keys(bundle: Bundle) -> None:
    ring = KeyRing(Store().home)
    ring.add("acme", public_key("acme"))
    list(sign_bundle(bundle, private_key("acme")))
    os.chown(ring.path / "acme.pem", SOMEBODY, SOMEBODY)
    with pytest.raises(SignatureError, match="not trusted"):
        load(require_signature=True)


@pytest.mark.parametrize("place", ["home", "stamps", "stamp"])
def test_a_stamp_that_others_may_write_lets_no_changed_weights_through(place: str, bundle: Bundle) -> None:
    weights = bundle.path / bundle.manifest.weights.path
    weights.chmod(0o600)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    stamps = Stamps(Store().home)
    stamps.write([(weights, bundle.manifest.files[weights.name].digest, weights.stat())])
    assert stamps.has(weights, bundle.manifest.files[weights.name].digest, weights.stat())
    (stamp,) = stamps.path.iterdir()
    assert json.loads(stamp.read_bytes())[0] == str(weights)
    {"home": Store().home, "stamps": stamps.path, "stamp": stamp}[place].chmod(0o777)
    with pytest.raises(FileIntegrityError, match=r"weights\.safetensors"):
        load(verify="stamp", cache=False)


@pytest.mark.usefixtures("bundle")
def test_the_report_says_that_stamps_are_not_believed() -> None:
    stamps = Stamps(Store().home).path
    stamps.mkdir()
    stamps.chmod(0o777)
    report = load(verify="stamp").report
    assert report.verified_bytes > 0
    assert "the stamps were not used" in str(report)
