"""Killed at any step, no verb leaves a file that no prune removes."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import npu_persist
from npu_persist.errors import UsageError
from npu_persist.store import Store
from tests.support.artifacts import publish
from tests.support.attached import attach_npu
from tests.support.bundles import publish_tiny, tiny_golden
from tests.support.processes import finish, start_python

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed the POSIX way")

KILLED_AT_EVERY_STEP = """
import os, shutil, sys
from pathlib import Path
from tests.faults.test_leftovers import VERBS
from tests.support.faults import before_call

act, old, homes = VERBS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
number = 0
while True:
    number += 1
    home = homes / str(number)
    shutil.copytree(old, home, symlinks=True)
    child = os.fork()
    if child == 0:
        with before_call(lambda call, _: os._exit(9) if call == number else None):
            act(home)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""
"""Runs the verb in copies of a home, 1, 2, 3, …, each time in a process that is killed before its n-th change."""


def add_key(home: Path) -> None:
    from npu_persist.trust.keys import KeyRing, PublicKey

    KeyRing(home).add("acme", PublicKey(bytes(32)))


def remove_key(home: Path) -> None:
    from npu_persist.trust.keys import KeyRing

    KeyRing(home).remove("old")


def write_stamps(home: Path) -> None:
    from npu_persist.bundle.verification import Verification

    bundle = Store(home).resolve("tiny:1")
    with Verification("stamp", home) as checks:
        checks._began += 3600
        for relative, entry in bundle.manifest.files.items():
            checks.check(bundle.path / relative, entry)
        checks.write_stamps()


def export(home: Path) -> None:
    npu_persist.export("tiny:1", "openvino", home / "exported", store=home)


def export_entry(home: Path) -> None:
    cache = npu_persist.CompileCache(home)
    cache.export(cache.entries()[0], home / "exported")


VERBS = {
    "publish": lambda home: publish_tiny(Store(home), golden=tiny_golden("second"), alias="prod"),
    "alias": lambda home: Store(home).alias("tiny:1", "dev"),
    "unalias": lambda home: Store(home).unalias("tiny", "prod"),
    "remove": lambda home: Store(home).remove("tiny:1", force=True),
    "attach": lambda home: attach_npu(Store(home).resolve("tiny:1")),
    "keys add": add_key,
    "keys remove": remove_key,
    "stamps": write_stamps,
    "cache publish": lambda home: publish(npu_persist.CompileCache(home), graph="second"),
    "cache prune": lambda home: npu_persist.CompileCache(home).prune(max_size=0),
    "export": export,
    "cache export": export_entry,
}


def shape(home: Path) -> set[str]:
    """Return the files of a home, and the folders that should go; stamps, named after paths, count as one."""
    found = {
        (path.parent if path.parent.name == "stamps" and path.suffix == "" else path).relative_to(home).as_posix()
        for path in home.rglob("*")
        if path.is_file() or path.parent.name in {"staging", "bundles", "compiled", "quarantine"}
    }
    return found - {"bundles/tiny/1/compiled/.staging"}


@pytest.mark.parametrize("verb", VERBS)
def test_prune_leaves_what_was_there_before_or_what_is_there_afterwards(tmp_path: Path, verb: str) -> None:
    old = tmp_path / "old"
    publish_tiny(Store(old), alias="prod")
    publish(npu_persist.CompileCache(old))
    (old / "keys").mkdir()
    (old / "keys" / "old.pem").write_text("ab" * 32)
    npu_persist.prune(store=old)
    finish(start_python(KILLED_AT_EVERY_STEP, verb, old, tmp_path / "homes"))
    homes = sorted((tmp_path / "homes").iterdir(), key=lambda path: int(path.name))
    assert len(homes) > (1 if verb in {"unalias", "keys remove"} else 3)
    for home in homes:
        if "export" in verb:  # outside of a store the next export removes what was left
            with suppress(UsageError):  # it was exported before
                VERBS[verb](home)
        npu_persist.prune(store=home)
    first, last = shape(homes[0]), shape(homes[-1])
    assert first != last or "export" in verb
    for home in homes:
        assert shape(home) in (first, last), home.name
