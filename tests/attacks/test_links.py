"""Somebody puts a symbolic link into the store, in place of a folder or a file, that leads to files outside of it.

Attack: every verb that changes files runs once for every folder and file that it finds or makes below the home, with a
link there. Outside is a copy of what was there, so that the verb finds what it looks for, and names that prune, the
keys, the stamps or the cache take for their own.

Before: `prune` emptied an outside folder through `removed`, `remove` moved versions there and deleted them, `alias` and
`keys` wrote and deleted files, `compile` and `pull` locked, renamed and deleted artifacts; a download went on in the
file that a link in `staging` led to. Now nothing outside changes, and the verb did what it was asked or ends with an
error that names the link. The home itself, and the compile cache in it, may be links.
"""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import stat
import time
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import npu_persist
from npu_persist.cache import CompileCache
from npu_persist.compilation.toolchains.install import uninstall
from npu_persist.errors import FileIntegrityError, NpuPersistError, StoreError, ToolchainError, UsageError
from npu_persist.files import filesystem
from npu_persist.store import Store
from tests.support.artifacts import publish as publish_entry
from tests.support.bundles import publish_tiny, write_tiny
from tests.support.verbs import VERBS, fill_hub, make_leftovers, make_store, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.hub_server import HubServer
    from tests.support.verbs import Verb

OWN = ("home", "home/compile-cache")
"""What may be a link."""

BAIT = (
    "1", "2", "3", "9", "prod", "old", "acme.pem", "owner.pem", "0123456789abcdef", "0123456789abcdef.lock",
    "attach.lock", "0" * 32, "0" * 64, f"{'0' * 64}.lock", f"{'0' * 64}-{'0' * 16}", "model.bin.0123abcd.partial",
    "npu-4000.0123abcd", "manifest.json.sig",
)  # fmt: skip
"""Names that some verb takes for its own somewhere."""

SLOW = [name for name in VERBS if VERBS[name].slow or name.startswith(("pull", "load"))]


class Attack:
    """A verb, and copies of a place in which it is run.

    Attributes:
        positions: What it finds or makes below the home, and whether that is a file.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.folder, self.verb = folder, VERBS[name]
        self.template = folder / "template" / "place"
        self.verb.prepare(self.template)
        if self.verb.first is not None:
            assert run(self.verb.first, self.template) is None
        positions = tree(self.template)
        place = self.copy("whole")
        assert run(self.verb, place) is None
        random = {path for path in tree(place) - positions if "quarantine/" in path}
        found = sorted(path for path in positions | tree(place) - random if path.startswith("home/"))
        self.positions = {path: any((root / path).is_file() for root in (self.template, place)) for path in found}

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.template, self.folder / name / "place"))

    def try_at(self, position: str, *, bait: bool) -> list[str]:
        """Run the verb with a link at a position; return what is wrong then."""
        place = self.copy("attacked")
        outside = self.folder / "attacked" / "outside"
        try:
            plant(place / position, outside, bait=bait)
            before = look(outside)
            error = run(self.verb, place)
            if position in OWN:
                return [] if error is None else [f"{position}: refused: {error!r}"]
            found = [f"outside, {what}" for what in differences(before, look(outside))]
            if error is not None and not isinstance(error, NpuPersistError):
                found.append(f"untyped: {error!r}")
            if isinstance(error, StoreError) and error.errno == errno.ELOOP and str(place / position) not in str(error):
                found.append(f"does not name the link: {error}")
            return [f"{position}: {what}" for what in found]
        finally:
            shutil.rmtree(self.folder / "attacked")


def run(verb: Verb, place: Path) -> BaseException | None:
    """Run a verb; return what was raised."""
    module, _, name = verb.function.partition(":")
    arguments = [str(one) if isinstance(one, Path) else one for one in verb.arguments(place)]
    errors: list[BaseException] = []

    def report(error: BaseException, _: object) -> int:
        errors.append(error)
        return 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("npu_persist.cli.main.report", report)
        try:
            getattr(importlib.import_module(module), name)(*arguments)
        except Exception as error:  # noqa: BLE001 (the test tells them apart)
            errors.append(error)
    return errors[0] if errors else None


def plant(path: Path, outside: Path, *, bait: bool) -> None:
    """Put a link in place of a folder or file, and what was there, or a folder, outside."""
    if path.is_file():
        shutil.copy2(path, outside)
        path.unlink()
    else:
        if path.is_dir():
            shutil.copytree(path, outside, symlinks=True)
            shutil.rmtree(path)
        outside.mkdir(exist_ok=True)
        if bait:
            fill(outside)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside)


def fill(folder: Path) -> None:
    """Add bait to a folder, a file or a folder of each name."""
    for name in BAIT:
        if (folder / name).exists():
            continue
        if "." in name and not name.startswith("npu"):
            (folder / name).write_text("9\n")
        else:
            (folder / name).mkdir()
            (folder / name / "precious.partial").write_text("precious")
    old = time.time() - 10 * 24 * 3600
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (old, old))


class Look(NamedTuple):
    """What is seen of a file or folder outside."""

    mode: int
    modified: int
    content: bytes


def look(folder: Path) -> dict[str, Look]:
    """Return all that is at a path and below it."""
    found: dict[str, Look] = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(folder))] = Look(status.st_mode, status.st_mtime_ns, content)
    return found


def differences(old: dict[str, Look], new: dict[str, Look]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{name} " + ("is new" if name not in old else "is gone" if name not in new else "was changed")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.faults] * (name in SLOW)) for name in VERBS])
def test_nothing_changes_through_a_link(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name.startswith("pull"):
        fill_hub(request.getfixturevalue("hub"), tmp_path)
    attack = Attack(name, tmp_path / "attack")
    violations = [
        violation
        for position, is_file in {"home": False, **attack.positions}.items()
        for bait in ([False] if is_file else [False, True])
        for violation in attack.try_at(position, bait=bait)
    ]
    assert not violations, "\n".join([f"{len(violations)} at {len(attack.positions)} positions:", *violations])


WATCHED = ("lstat", "open", "listdir", "scandir", "unlink", "rmdir", "rename", "mkdir")
STEP = 3


def exchange_at(number: int, folder: Path, outside: Path, action: Callable[[], object]) -> int:
    """Do something, and exchange a folder for a link before the n-th call; return how many calls there were."""
    calls = 0

    def wrap(original: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == number and folder.is_dir():
                folder.rename(folder.with_name("aside"))
                folder.symlink_to(outside)
            return original(*arguments, **options)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for name in WATCHED:
            patch.setattr(os, name, wrap(getattr(os, name)))
        with suppress(NpuPersistError):
            action()
    return calls


def is_kept(old: Look, new: Look | None) -> bool:
    """Tell whether something is there as it was; a folder may have something new in it."""
    return new is not None and (old == new or (stat.S_ISDIR(old.mode) and old.mode == new.mode))


@pytest.mark.skipif(not filesystem.HAS_DESCRIPTORS, reason="the system has no calls that are safe from an exchange")
@pytest.mark.parametrize("position", ["bundles", "bundles/affine", "bundles/affine/removed", "staging"])
@pytest.mark.parametrize("verb", ["prune", "remove"])
def test_nothing_is_removed_through_a_folder_that_is_exchanged_meanwhile(
    tmp_path: Path, position: str, verb: str
) -> None:
    """At any moment: the link comes when the folder was looked at already."""
    make_leftovers(tmp_path / "place")

    def act(home: Path) -> None:
        if verb == "prune":
            npu_persist.prune(store=home)
        else:
            Store(home).remove("affine:1", force=True)

    for number in count(1, STEP):
        home = Path(shutil.copytree(tmp_path / "place/home", tmp_path / str(number) / "home"))
        outside = tmp_path / str(number) / "outside"
        shutil.copytree(home / position, outside)
        fill(outside)
        before = look(outside)
        calls = exchange_at(number, home / position, outside, partial(act, home))
        after = look(outside)
        assert not [name for name, found in before.items() if not is_kept(found, after.get(name))], number
        if number > calls:
            break
    assert number > 20


def test_prune_goes_on_after_a_name_with_a_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = make_store(tmp_path)
    (tmp_path / "outside/1").mkdir(parents=True)
    (tmp_path / "outside/1/precious").touch()
    (store.home / "bundles/affine/removed").symlink_to(tmp_path / "outside")
    publish_tiny(store)
    left = store.home / "bundles/tiny/7"
    left.mkdir()
    assert npu_persist.prune(store=store) == [left]
    assert (
        f"affine is not pruned: {store.home / 'bundles/affine/removed'}: expected a folder, got a link" in caplog.text
    )
    assert (tmp_path / "outside/1/precious").exists()


@pytest.mark.parametrize("what", ["link", "hard link"])
def test_a_download_does_not_go_on_in_a_file_of_somebody_else(tmp_path: Path, hub: HubServer, what: str) -> None:
    """As what a broken download left: `part-` and the file's digest."""
    store, outside = Store(tmp_path / "pulling"), tmp_path / "outside"
    fill_hub(hub, tmp_path)
    weights = Store(tmp_path / "older").resolve("pulled").manifest.weights.path
    digest = Store(tmp_path / "older").resolve("pulled").manifest.files[weights].digest
    outside.write_text("precious")
    partial = store.home / "staging" / f"part-{digest.partition(':')[2]}"
    partial.parent.mkdir(parents=True)
    if what == "link":
        partial.symlink_to(outside)
    else:
        os.link(outside, partial)
    npu_persist.pull("org/pulled@older", store=store)
    assert outside.read_text() == "precious"
    store.verify()


def test_a_toolchain_behind_a_link_is_left_alone(tmp_path: Path) -> None:
    home, outside = tmp_path / "toolchains", tmp_path / "outside"
    (outside / "0123456789abcdef" / "prefix").mkdir(parents=True)
    home.mkdir()
    (home / "staging").symlink_to(outside)
    (home / "wine-2026.4.1").symlink_to(outside / "0123456789abcdef")
    before = look(outside)
    assert uninstall(home) == []
    with pytest.raises(ToolchainError, match="no toolchain for OpenVINO"):
        uninstall(home, "2026.4.1")
    assert look(outside) == before


def test_export_to_a_link_is_refused(tmp_path: Path) -> None:
    """And what a killed export left is removed, but not what a link of that name leads to."""
    store, outside, target = Store(), tmp_path / "outside", tmp_path / "folder" / "model"
    publish_tiny(store)
    outside.mkdir()
    fill(outside)
    target.parent.mkdir()
    for name in ("model", ".model.0123456789abcdef", ".model.0123456789abcdee.lock"):
        (target.parent / name).symlink_to(outside)
    before = look(outside)
    with pytest.raises(UsageError, match="expected a new or an empty folder"):
        npu_persist.export("tiny", "openvino", target)
    with pytest.raises(UsageError, match="expected a new folder"):
        CompileCache(store.home).export(publish_entry(CompileCache(store.home)), target)
    assert look(outside) == before
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_a_staged_signature_that_is_a_link_is_not_published(tmp_path: Path) -> None:
    """Publishing makes files read-only: what a link leads to as well, before."""
    store, outside = Store(), tmp_path / "outside"
    outside.write_text("precious")
    mode = outside.stat().st_mode
    with store.stage() as staging:
        write_tiny(staging)
        (staging / "manifest.json.sig").symlink_to(outside)
        with pytest.raises(FileIntegrityError, match="expected a regular file"):
            store.publish(staging)
    assert outside.stat().st_mode == mode
    assert store.names() == ()
