"""What a verb did is on the disk when it returns: each folder is flushed after the last change of its entries."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

import npu_persist
from npu_persist.store import Store
from npu_persist.trust.keys import KeyRing, PublicKey
from tests.support.artifacts import publish
from tests.support.bundles import publish_tiny, tiny_golden
from tests.support.faults import path_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows flushes no directories")

VERBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "publish": (lambda home: publish_tiny(Store(home), golden=tiny_golden("second")), "bundles/tiny"),
    "alias": (lambda home: Store(home).alias("tiny:1", "dev"), "bundles/tiny/aliases"),
    "unalias": (lambda home: Store(home).unalias("tiny", "prod"), "bundles/tiny/aliases"),
    "remove": (lambda home: Store(home).remove("tiny:1", force=True), "bundles/tiny"),
    "remove, its number": (lambda home: Store(home).remove("tiny:1", force=True), "bundles/tiny/removed"),
    "keys add": (lambda home: KeyRing(home).add("acme", PublicKey(bytes(32))), "keys"),
    "keys remove": (lambda home: KeyRing(home).remove("old"), "keys"),
    "export": (lambda home: npu_persist.export("tiny:1", "ovms", home / "out" / "x", store=home), "out"),
    "export, inside": (lambda home: npu_persist.export("tiny:1", "ovms", home / "out" / "x", store=home), "out/x"),
    "export, deeper": (lambda home: npu_persist.export("tiny:1", "ovms", home / "out" / "x", store=home), "out/x/1"),
    "cache export": (lambda home: export_entry(home, home / "out"), "."),
    "cache export, inside": (lambda home: export_entry(home, home / "out"), "out"),
}
"""Each verb, and a folder that it changes."""


def export_entry(home: Path, target: Path) -> None:
    cache = npu_persist.CompileCache(home)
    cache.export(cache.entries()[0], target)


@pytest.mark.parametrize("verb", VERBS)
def test_the_folder_is_flushed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    home = tmp_path / "home"
    publish_tiny(Store(home), alias="prod")
    publish(npu_persist.CompileCache(home))
    (home / "keys").mkdir()
    (home / "keys" / "old.pem").write_text("ab" * 32)
    events: list[tuple[str, int]] = []

    def record(name: str) -> None:
        original = getattr(os, name)

        def recorded(*args: Any, **options: Any) -> Any:
            descriptors = options.get("src_dir_fd"), options.get("dst_dir_fd")
            paths = [] if name == "fsync" else [path_at(*pair) for pair in zip(args, descriptors, strict=True)]
            changed = [path.parent.stat().st_ino for path in paths if "staging" not in str(path.parent)]
            result = original(*args, **options)
            if name == "fsync":
                events.append(("flushed", os.fstat(args[0]).st_ino))
            events.extend(("changed", inode) for inode in changed)
            return result

        monkeypatch.setattr(os, name, recorded)

    for name in ("rename", "replace", "link", "fsync"):
        record(name)
    unlink = os.unlink

    def recorded_unlink(path: Any, *, dir_fd: int | None = None) -> None:
        inode = path_at(path, dir_fd).parent.stat().st_ino
        unlink(path, dir_fd=dir_fd)
        if not str(path).endswith(".lock"):  # whose return harms nobody
            events.append(("changed", inode))

    monkeypatch.setattr(os, "unlink", recorded_unlink)
    act, folder = VERBS[verb]
    act(home)
    inode = (home / folder).stat().st_ino
    assert [what for what, where in events if where == inode][-1:] == ["flushed"]
