"""Lets tests on Windows remove and replace read-only files as on Linux, and skips those that want symbolic links.

Only what the tests call is changed, not what the package calls.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


def change_windows(patch: pytest.MonkeyPatch) -> None:
    """Let tests work on files as on Linux; nothing changes elsewhere."""
    if os.name != "nt":
        return
    patch.setattr(Path, "unlink", _on_writable(Path.unlink, lambda arguments: arguments[0]))
    patch.setattr(Path, "replace", _on_writable(Path.replace, lambda arguments: arguments[1]))
    patch.setattr(shutil, "rmtree", _removing_all(shutil.rmtree))
    if not _makes_links():
        patch.setattr(Path, "symlink_to", _skip)


def _makes_links() -> bool:
    """Tell whether this system makes symbolic links. wine says that it did, and made none."""
    with tempfile.TemporaryDirectory() as folder, suppress(OSError):
        link = Path(folder, "link")
        link.symlink_to(folder, target_is_directory=True)
        return link.is_symlink()
    return False


def _on_writable(change: Callable[..., Any], find: Callable[[Any], Path]) -> Callable[..., Any]:
    def changed(*arguments: Any, **options: Any) -> Any:
        if _is_a_tests(1):
            with suppress(OSError):
                os.chmod(find(arguments), stat.S_IWRITE)  # noqa: PTH101
        return change(*arguments, **options)

    return changed


def _removing_all(rmtree: Callable[..., Any]) -> Callable[..., Any]:
    def changed(path: Any, *arguments: Any, **options: Any) -> Any:
        for file in Path(path).rglob("*") if _is_a_tests(1) else ():
            file.chmod(stat.S_IWRITE)
        return rmtree(path, *arguments, **options)

    return changed


def _skip(*_: object, **__: object) -> None:
    if _is_a_tests(1):  # and not pytest's, which can do without
        pytest.skip("this system makes no symbolic links: Windows needs a privilege for them, and wine has none")


def _is_a_tests(depth: int) -> bool:
    """Tell whether a test called the caller of this function."""
    return str(sys._getframe(depth + 1).f_globals["__name__"]).startswith("tests.")
