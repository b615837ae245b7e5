"""Every verb that changes files, killed, interrupted or refused at its system calls: nothing is lost or left.

A run of the `faults` tests takes some of the calls of each verb; `NPU_PERSIST_FAULTS=1` takes every one, and another
number every n-th.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

import npu_persist
from npu_persist.cache import CompileCache
from npu_persist.cli.main import EXIT_INTERRUPTED as INTERRUPTED
from npu_persist.errors import NpuPersistError
from npu_persist.store import Store
from tests.support.hub_server import HubServer
from tests.support.injection import MEETS, UNTYPED, Fault, Injector
from tests.support.loads import is_right
from tests.support.verbs import MODULES, VERBS, fill_hub, see, tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.injection import Run
    from tests.support.verbs import Verb

STRIDE = int(os.environ.get("NPU_PERSIST_FAULTS", "11"))

SLOW = 6
"""How many times fewer calls of a slow verb are taken."""


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    folder = tmp_path_factory.mktemp("hub")
    with HubServer(folder / "hub") as hub:
        fill_hub(hub, folder)
        settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder)}
        with Injector(*MODULES, env=settings) as found:
            if found.problem is not None:
                pytest.skip(found.problem)
            yield found


class Attack:
    """One verb, run with faults in copies of a place."""

    def __init__(self, injector: Injector, verb: Verb, folder: Path) -> None:
        self.injector, self.verb, self.folder = injector, verb, folder
        self.template = folder / "template"
        verb.prepare(self.template)
        if verb.first is not None:
            assert self.run(self.template, verb=verb.first).code == 0
        self.before, self.paths = verb.see(self.template), tree(self.template)
        place = self.copy("whole")
        self.whole = self.run(place)
        assert self.whole.code == 0, self.whole.output
        self.after = verb.see(place)
        self.paths |= tree(place)

    def copy(self, name: str) -> Path:
        place = self.folder / name / "place"
        place.parent.mkdir()
        subprocess.run(["cp", "-a", self.template, place], check=True)  # noqa: S607 (keeps hard links)
        return place

    def run(self, place: Path, fault: Fault | None = None, verb: Verb | None = None) -> Run:
        verb = verb or self.verb
        return self.injector.run(verb.function, verb.arguments(place), roots=verb.roots(place), fault=fault)

    def find_violations(self, fault: Fault) -> list[str]:
        place = self.copy(str(fault))
        run = self.run(place, fault)
        met = "nothing" if run.met is None else f"{run.met[0]} {run.met[1].removeprefix(f'{place}/')}"
        found = [*check_run(run), *self.check_whole(place), *self.check_state(place, run), *self.check_prune(place)]
        found += [*self.check_repeated(place), *self.check_whole(place), *check_load(place)]
        subprocess.run(["rm", "-rf", place.parent], check=True)  # noqa: S607
        return [f"{fault} ({met}): {what}" for what in found]

    def check_state(self, place: Path, run: Run) -> Iterator[str]:
        seen = self.verb.see(place)
        for key in {**self.before, **self.after, **seen}:
            allowed = {self.before.get(key), self.after.get(key), *([None] if key[0] == "cache" else [])}
            if seen.get(key) not in allowed:
                yield f"{key} is {seen.get(key)}, not one of {allowed}"
        undone, done = differences(self.before, seen), differences(seen, self.after)
        if run.code == 0 and done:
            yield f"exit code 0, but {done} did not change: {run.output}"
        # Ctrl-C may come too late, and of a flush that fails is told: a power cut might undo what is done.
        is_late = not done and (run.code == INTERRUPTED or (run.met is not None and Path(run.met[1]).is_dir()))
        if run.code > 0 and undone and not self.verb.steps and not is_late:
            yield f"exit code {run.code}, but {undone} changed: {run.output}"

    def check_whole(self, place: Path) -> Iterator[str]:
        store = Store(place / "home")
        try:
            store.verify()
        except NpuPersistError as error:
            yield f"verify: {error}"
        for name in store.names():
            for alias, number in store.aliases(name).items():
                if number not in store.versions(name) and ("version", f"{name}:{number}") not in self.before:
                    yield f"{name}:{alias} points to {number}, which never was there"
        for entry, problem in CompileCache(store.home).verify():
            if problem is not None:
                yield f"cache {entry.key}: {problem}"

    def check_prune(self, place: Path) -> Iterator[str]:
        seen, store = see(place), Store(place / "home")
        with mock.patch("time.time", lambda now=time.time: now() + 48 * 3600):
            npu_persist.prune(store=store)
            if again := npu_persist.prune(store=store):
                yield f"a second prune removed {again}"
        if pruned := differences(seen, see(place)):
            yield f"prune removed {pruned}"
        paths = self.paths | (set() if self.verb.newest is None else tree_of_version(place, self.verb.newest + 1))
        if left := sorted(path for path in tree(place) - paths if path.startswith("home")):
            yield f"left by prune: {left}"

    def check_repeated(self, place: Path) -> Iterator[str]:
        if not differences(self.verb.see(place), self.after):
            return  # some verbs refuse to do twice what is done
        again = self.run(place)
        if again.code:
            yield f"repeated, exit code {again.code}: {again.output}"
        if left := sorted(path for path in tree(place) - self.paths if path.startswith("out")):
            yield f"left by a repetition: {left}"


def tree_of_version(place: Path, number: int) -> set[str]:
    folder = f"home/bundles/affine/{number}"
    return {path for path in tree(place) if path == folder or path.startswith(f"{folder}/")}


def check_run(run: Run) -> Iterator[str]:
    if run.hung:
        yield "it hung"
    if run.changed_elsewhere:
        yield f"it changed {run.changed_elsewhere}"
    if run.code not in {0, 1, 2, 3, 4, 5, 6, 130, -9}:
        yield f"exit code {run.code}: {run.output}"
    elif "Traceback" in run.output or "shows the traceback" in run.output or run.code == UNTYPED:
        yield f"untyped: {run.output}"


def check_load(place: Path) -> Iterator[str]:
    if not is_right(npu_persist.load("affine:1", "CPU", store=place / "home")):
        yield "a load answers wrong"


def differences(old: dict[tuple[str, str], object], new: dict[tuple[str, str], object]) -> list[tuple[str, str]]:
    """Return what differs, but for the compile cache, which may forget."""
    return sorted(key for key in {**old, **new} if key[0] != "cache" and old.get(key) != new.get(key))


@pytest.mark.parametrize("name", VERBS)
def test_nothing_is_lost_or_left(injector: Injector, tmp_path: Path, name: str) -> None:
    attack = Attack(injector, VERBS[name], tmp_path)
    stride = STRIDE * SLOW if attack.verb.slow and STRIDE > 1 else STRIDE
    faults = [
        Fault(kind, number)
        for place, kind in enumerate(MEETS)
        if (count := attack.whole.count(kind))
        for number in range(min(1 + place % stride, count), count + 1, stride)
    ]
    violations = [violation for fault in faults for violation in attack.find_violations(fault)]
    print(f"{name}: {len(faults)} faults")  # noqa: T201 (seen with -s)
    assert not violations, "\n".join([f"{len(violations)} after {len(faults)} faults:", *violations])
