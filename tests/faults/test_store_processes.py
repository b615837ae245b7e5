"""The store among processes: killed at any step, several at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from npu_persist.store import Store
from tests.support.bundles import publish_tiny, write_tiny
from tests.support.processes import finish, start_python

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed the POSIX way")

KILLED_AT_EVERY_STEP = """
import os, shutil, sys
from pathlib import Path
from npu_persist.store import Store
from tests.support.bundles import publish_tiny
from tests.support.faults import before_call, killed

verb, old, homes = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])

def act(store):
    if verb == "publish":
        publish_tiny(store, golden=b"second", alias="prod")
    elif verb == "first publish":
        publish_tiny(store, "new", alias="prod")
    elif verb == "remove":
        store.remove("tiny:1", force=True)
    else:
        store.alias("tiny:1", "dev")

number = 0
while True:
    number += 1
    shutil.copytree(old, homes / str(number))
    child = os.fork()
    if child == 0:
        def kill(call, name):
            if call == number:
                print(number, name, flush=True)
                killed()
        with before_call(kill):
            act(Store(homes / str(number)))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""
"""Runs the verb in copies of a store, 1, 2, 3, …, each time in a process that is killed before its n-th change."""


def killed_stores(tmp_path: Path, verb: str) -> Iterator[tuple[Store, Store]]:
    """Yield, for each step, a store in which the verb was killed there, and one in which it was never started."""
    old = Store(tmp_path / "old")
    publish_tiny(old, alias="prod")
    homes = tmp_path / "homes"
    steps = finish(start_python(KILLED_AT_EVERY_STEP, verb, old.home, homes)).splitlines()
    assert len(steps) > 3
    for step in steps:
        yield Store(homes / step.split()[0]), old


def seen(store: Store) -> list[tuple[str, str, tuple[str, ...], str | None]]:
    return [(entry.reference, entry.digest, entry.aliases, entry.problem) for entry in store.list()]


def check_pruned(store: Store) -> None:
    """Check that prune removes all leftovers, changes nothing that can be seen, and that the store works on."""
    before = seen(store)
    store.verify()
    store.prune()
    assert seen(store) == before
    assert list((store.home / "staging").iterdir()) == []
    assert store.prune() == []
    held = {entry.path for entry in store.list()}
    for path in (store.home / "bundles").rglob("*"):
        if path.is_file() and path.parent.name != "aliases":
            assert path.parent in held
    newest = max(store.versions("tiny"), default=1)
    bundle = publish_tiny(store, golden=b"third", alias="prod")
    assert bundle.version is not None
    assert bundle.version > newest
    store.verify()


@pytest.mark.parametrize("verb", ["publish", "first publish"])
def test_a_publish_that_is_killed_leaves_the_old_state_or_the_new_one(tmp_path: Path, verb: str) -> None:
    name, number = ("new", 1) if verb == "first publish" else ("tiny", 2)
    states = set()
    for store, old in killed_stores(tmp_path, verb):
        new = [entry for entry in seen(store) if entry[0] == f"{name}:{number}"]
        rest = [entry for entry in seen(store) if entry not in new]
        if not new:
            assert rest == seen(old)
            states.add("old")
        elif new[0][2] == ("prod",):
            assert name in store.names()
            states.add("new")
        else:  # the alias is the second step: the new version is there, and the alias where it was
            assert rest == seen(old)
            states.add("new, not yet tagged")
        check_pruned(store)
    assert states == {"old", "new", "new, not yet tagged"}


def test_a_removal_that_is_killed_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    states = set()
    for store, old in killed_stores(tmp_path, "remove"):
        states.add(len(seen(store)))
        if seen(store):
            assert [entry[:2] for entry in seen(store)] == [entry[:2] for entry in seen(old)]
        check_pruned(store)
        assert store.versions("tiny")[-1] == 2
    assert states == {0, 1}


def test_a_tag_that_is_killed_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    states = set()
    for store, _ in killed_stores(tmp_path, "tag"):
        states.add(tuple(store.aliases("tiny")))
        check_pruned(store)
    assert states == {("prod",), ("dev", "prod")}


def test_a_staging_directory_of_a_living_process_is_not_pruned(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    code = (
        "import sys; from npu_persist.store import Store\n"
        "with Store(sys.argv[1]).stage() as staging: print(staging, flush=True); sys.stdin.readline()\n"
        "print('done')"
    )
    with start_python(code, store.home) as living, start_python(code, store.home) as killed:
        paths = []
        for process in (living, killed):
            assert process.stdout is not None
            paths.append(Path(process.stdout.readline().strip()))
        for path in paths:
            write_tiny(path)
        assert store.prune() == []
        assert all((path / "manifest.json").exists() for path in paths)
        killed.kill()
        killed.wait()
        assert store.prune() == [paths[1]]
        assert store.prune() == []
        assert (paths[0] / "manifest.json").exists()
        assert finish(living) == "done\n"
    assert list((store.home / "staging").iterdir()) == []


def test_our_own_staging_directory_is_not_pruned(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.stage() as first, store.stage() as second:
        assert store.prune() == []
        write_tiny(first)
        write_tiny(second)
        assert store.publish(first).version == 1
        assert store.prune() == []
        assert store.publish(second).version == 2
    assert store.prune() == []


PUBLISH_TEN = """
import sys
from npu_persist.store import Store
from tests.support.bundles import publish_tiny

store = Store(sys.argv[1])
sys.stdin.readline()
for turn in range(10):
    print(publish_tiny(store, golden=f"{sys.argv[2]} {turn}".encode(), alias=sys.argv[2]).version)
"""

PRUNE = """
import sys
from npu_persist.store import Store

store = Store(sys.argv[1])
sys.stdin.readline()
for _ in range(100):
    for path in store.prune():
        print(path)
"""


def test_publishers_at_once_never_take_the_same_number_and_prune_does_not_hinder_them(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    publishers = [start_python(PUBLISH_TEN, store.home, f"p{number}") for number in range(4)]
    pruner = start_python(PRUNE, store.home)
    for process in (*publishers, pruner):
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    numbers = [[int(line) for line in finish(process).split()] for process in publishers]
    # All that a prune may meet is the name's folder before the first version is in it; its maker makes another.
    assert {*map(Path, finish(pruner).split())} <= {store.home / "bundles" / "tiny"}
    assert sorted(number for own in numbers for number in own) == list(range(1, 41))
    assert all(own == sorted(own) for own in numbers)
    assert store.aliases("tiny") == {f"p{publisher}": own[-1] for publisher, own in enumerate(numbers)}
    store.verify()
    assert store.prune() == []
    inodes = {(entry.path / "weights.safetensors").stat().st_ino for entry in store.list()}
    assert len(inodes) <= 4  # one, but for publishers who started when there was nothing to link to


REMOVE_NEWEST = """
import sys
from contextlib import suppress
from npu_persist.errors import BundleNotFoundError
from npu_persist.store import Store

store = Store(sys.argv[1])
sys.stdin.readline()
for _ in range(60):
    for number in store.versions("tiny")[-1:]:
        with suppress(BundleNotFoundError):
            print(store.remove(f"tiny:{number}", force=True).split(":")[1])
"""


def test_a_number_is_given_once_even_while_versions_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    code = PUBLISH_TEN.replace(", alias=sys.argv[2]", "")
    publishers = [start_python(code, store.home, f"p{number}") for number in range(2)]
    remover = start_python(REMOVE_NEWEST, store.home)
    for process in (*publishers, remover):
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    numbers = [int(line) for process in publishers for line in finish(process).split()]
    removed = [int(line) for line in finish(remover).split()]
    assert len(set(numbers)) == len(numbers) == 20
    assert len(set(removed)) == len(removed)
    assert set(store.versions("tiny")) == set(numbers) - set(removed)
    assert publish_tiny(store).version == max(numbers) + 1
    store.verify()
