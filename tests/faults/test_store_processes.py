"""The store among processes: several at once."""

from __future__ import annotations

from pathlib import Path

from npu_persist.store import Store
from tests.support.bundles import publish_tiny, write_tiny
from tests.support.processes import finish, start_python


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
from tests.support.bundles import publish_tiny, tiny_golden

store = Store(sys.argv[1])
sys.stdin.readline()
for turn in range(10):
    print(publish_tiny(store, golden=tiny_golden(f"{sys.argv[2]} {turn}"), alias=sys.argv[2]).version)
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
