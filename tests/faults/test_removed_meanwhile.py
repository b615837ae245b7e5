"""Another process removes a version at any moment of a verb that reads it, or of one that reads the whole store."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

import npu_persist
from npu_persist.artifact import attached
from npu_persist.artifact.attached import list_attached
from npu_persist.cli.main import main
from npu_persist.errors import BundleNotFoundError, StoreError
from npu_persist.store import Store
from tests.support.attached import attach_npu
from tests.support.bundles import publish_tiny, tiny_golden
from tests.support.graphs import publish_affine
from tests.support.loads import AFFINE_OF_GRID, GRID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows does not remove what is open")

READING = [(os, name) for name in ("stat", "lstat", "open", "listdir", "scandir")] + [(io, "open"), (builtins, "open")]


@contextmanager
def before_reading(number: int, action: Callable[[], object]) -> Iterator[list[int]]:
    """Do something before the n-th call that reads the file system; give a list, which is filled then."""
    calls, done, originals = 0, [], [(module, name, getattr(module, name)) for module, name in READING]

    def restore() -> None:
        for module, name, original in originals:
            setattr(module, name, original)

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                restore()
                action()
                done.append(number)
            return original(*args, **options)

        return wrapped

    for module, name, original in originals:
        setattr(module, name, wrap(original))
    try:
        yield done
    finally:
        restore()


def run_at_each_moment(
    tmp_path: Path, old: Store, reference: str, verb: Callable[[Path], object], *, step: int = 1
) -> int:
    """Run a verb in copies of a store, in each of which the version is removed at another moment; return how many."""
    for number in count(1, step):
        home = tmp_path / str(number)
        shutil.copytree(old.home, home)
        with before_reading(number, lambda home=home: Store(home).remove(reference, force=True)) as done:  # type: ignore[misc]
            verb(home)
        if not done:
            return number
        assert reference not in {found.reference for found in Store(home).list()}
    raise AssertionError


@pytest.fixture
def old(tmp_path: Path) -> Store:
    store = Store(tmp_path / "old")
    publish_tiny(store)
    attach_npu(publish_tiny(store, golden=tiny_golden("second"), alias="prod"))
    publish_tiny(store, golden=tiny_golden("third"))
    return store


@pytest.mark.parametrize("verb", ["verify", "command", "prune", "list"])
def test_what_reads_the_whole_store_goes_on(tmp_path: Path, old: Store, verb: str) -> None:
    verbs: dict[str, Callable[[Path], object]] = {
        "verify": lambda home: Store(home).verify(),
        "command": lambda home: main(["verify", "--store", str(home)]),
        "prune": lambda home: npu_persist.prune(store=home),
        "list": lambda home: Store(home).list(),
    }

    def run(home: Path) -> None:
        assert verbs[verb](home) in (None, 0) or verb in {"prune", "list"}

    assert run_at_each_moment(tmp_path, old, "tiny:2", run) > 10


@pytest.mark.parametrize("verb", ["verify", "export", "open", "attach"])
def test_what_reads_the_version_says_that_it_is_not_there(tmp_path: Path, old: Store, verb: str) -> None:
    verbs: dict[str, Callable[[Path], object]] = {
        "verify": lambda home: Store(home).verify("tiny:2"),
        "export": lambda home: npu_persist.export("tiny:2", "openvino", home.with_suffix(".out"), store=home),
        "open": lambda home: Store(home).resolve("tiny:2"),
        "attach": lambda home: attach_npu(Store(home).resolve("tiny:2")),
    }
    missing = 0

    def run(home: Path) -> None:
        nonlocal missing
        try:
            verbs[verb](home)
        except BundleNotFoundError:
            missing += 1

    assert run_at_each_moment(tmp_path, old, "tiny:2", run) > missing > 2


def test_load_answers_right_or_says_that_it_is_not_there(tmp_path: Path) -> None:
    old = Store(tmp_path / "old")
    publish_affine(old)
    missing = 0

    def run(home: Path) -> None:
        nonlocal missing
        try:
            model = npu_persist.load("affine:1", device="CPU", store=home)
        except BundleNotFoundError:
            missing += 1
        else:
            assert (model(GRID) == AFFINE_OF_GRID).all()

    run(old.home)  # imports what is imported on first use
    assert run_at_each_moment(tmp_path, old, "affine:1", run, step=5) > missing > 2


def test_a_removal_whose_cleaning_up_fails_has_removed(
    tmp_path: Path, old: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        assert old.remove("tiny:2", force=True) == "tiny:2"
    assert "tiny:2 is removed, but not all of its files" in caplog.text
    assert old.versions("tiny") == (1, 3)
    old.prune()
    assert old.aliases("tiny") == {}
    assert list((tmp_path / "old" / "bundles" / "tiny" / "removed").glob("*/*")) == []


@pytest.mark.parametrize("meanwhile", ["prune", "attach", "remove empty folders"])
def test_attaching_is_not_disturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str) -> None:
    """Another process that prunes, attaches the same, or removes what is empty, such as `find -empty -delete`."""

    def remove_empty(home: Path) -> None:
        for folder in (*home.rglob(".staging"), *home.rglob("compiled")):
            with suppress(OSError):
                folder.rmdir()

    verbs: dict[str, Callable[[Path], object]] = {
        "prune": lambda home: npu_persist.prune(store=home),
        "attach": lambda home: attach_npu(Store(home).resolve("tiny"), seconds=1.0),
        "remove empty folders": remove_empty,
    }
    monkeypatch.setattr(attached, "_LOCK_TIMEOUT", 0.0)  # the other one is in this process: it would wait for us
    old = Store(tmp_path / "old")
    (publish_tiny(old).path / "compiled").mkdir()
    for number in count(1):
        home = tmp_path / str(number)
        shutil.copytree(old.home, home)
        bundle = Store(home).resolve("tiny")
        with before_reading(number, lambda home=home: verbs[meanwhile](home)) as done:  # type: ignore[misc]
            try:
                attach_npu(bundle, seconds=2.0)
            except StoreError as error:  # what was made a moment ago is gone: said as it is
                assert meanwhile == "remove empty folders"
                assert "expected a folder, got a link" not in str(error)  # noqa: PT017
        Store(home).verify()
        npu_persist.prune(store=home)
        if not done:
            break
        assert len(list_attached(bundle)) == 1 or meanwhile == "remove empty folders"
    assert number > 10


def test_aliases_of_removed_versions_are_removed_but_not_through_a_link(tmp_path: Path, old: Store) -> None:
    folder, outside = tmp_path / "old" / "bundles" / "tiny" / "aliases", tmp_path / "outside"
    old.remove("tiny:1")
    (folder / "left").write_text("1\n")  # as a killed `remove --force` leaves it
    (folder / "later").write_text("9\n")
    old.prune()
    assert {path.name for path in folder.iterdir()} == {"prod", "later"}
    (folder / "left").write_text("1\n")
    folder.rename(outside)
    folder.symlink_to(outside)
    old.prune()
    assert {path.name for path in outside.iterdir()} == {"prod", "later", "left"}
