"""Ctrl-C at each call of a publish, an alias and a removal leaves the old state or the new one, and never half of it.

A removal may leave aliases that point to nothing, which a prune removes.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.errors import StoreError
from npu_persist.store import Store
from tests.support.bundles import publish_tiny, write_tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from typing_extensions import Self

ROOMS = ("/npu_persist/store/", "/npu_persist/files/")


class Interrupt:
    """Raise in the code of the store at one event: a function starts, or a call of the operating system is done."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error, self.events = at, error, 0

    def __enter__(self) -> Self:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _argument: Any) -> None:
        path = frame.f_code.co_filename.replace("\\", "/")
        if event not in {"call", "c_return"} or not any(room in path for room in ROOMS):
            return
        self.events += 1
        if self.events == self.at:
            sys.setprofile(None)
            raise self.error


def is_interrupted(act: Callable[[Store], None], store: Store, interrupt: Interrupt) -> bool:
    """Act in a forked child, whose end releases its locks; tell whether the interrupt came before that end."""
    child = os.fork()
    if not child:
        code = 2
        try:
            with interrupt:
                act(store)
            code = 0 if interrupt.events < interrupt.at else 1
        except (type(interrupt.error), StoreError):
            code = 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, 1}
    return code == 1


def publish_with_alias(store: Store) -> None:
    with store.stage() as staging:
        write_tiny(staging)
        store.publish(staging, alias="prod")


def point_alias(store: Store) -> None:
    store.alias("tiny:2", "prod")


def remove_with_alias(store: Store) -> None:
    store.remove("tiny:1", force=True)


def published(store: Store) -> tuple[tuple[int, ...], dict[str, int]]:
    return store.versions("tiny"), store.aliases("tiny")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the store's code runs in forked children")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "not now")], ids=["interrupt", "error"])
@pytest.mark.parametrize(
    ("act", "states"),
    [
        (publish_with_alias, {((1, 2), (1,)), ((1, 2, 3), (3,))}),
        (point_alias, {((1, 2), (1,)), ((1, 2), (2,))}),
        (remove_with_alias, {((1, 2), (1,)), ((2,), (1,)), ((2,), ())}),
    ],
    ids=["publish", "alias", "remove"],
)
def test_it_is_done_whole_or_not_at_all(
    act: Callable[[Store], None], states: set[Any], error: BaseException, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    publish_tiny(Store(before), alias="prod")
    publish_tiny(Store(before))
    seen, at = set(), 0
    while True:
        at += 1
        home = tmp_path / "home"
        shutil.copytree(before, home, symlinks=True)
        store = Store(home)
        if not is_interrupted(act, store, Interrupt(at, error)):
            break
        store.verify()
        versions, aliases = published(store)
        seen.add((versions, tuple(aliases.values())))
        assert seen <= states, f"at event {at}"
        store.prune()
        assert published(store) == (versions, {name: number for name, number in aliases.items() if number in versions})
        assert [path.name for path in (home / "staging").iterdir()] == []
        shutil.rmtree(home)
    assert seen == states
