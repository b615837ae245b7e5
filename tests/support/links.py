"""Symbolic links in tests, on a system that may make none: Windows without a privilege, or wine."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest


def makes_links() -> bool:
    """Tell whether this system makes symbolic links. wine says that it did, and made none."""
    if os.name != "nt":
        return True
    with tempfile.TemporaryDirectory() as folder, suppress(OSError):
        link = Path(folder, "link")
        link.symlink_to(folder, target_is_directory=True)
        return link.is_symlink()
    return False


def skip_instead(*_: object, **__: object) -> None:
    """Stand in for `Path.symlink_to` where no links are made: the test that wanted one is skipped."""
    caller = sys._getframe(1).f_globals["__name__"]
    if not caller.startswith("_pytest."):  # which names the newest of its folders by a link, and can do without
        pytest.skip("this system makes no symbolic links: Windows needs a privilege for them, and wine has none")
