"""A store that was baked into an image: overlayfs above a lower layer, or its refusal to rename directories of that."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def mounted(kind: str, place: Path, *options: str) -> Iterator[Path]:
    """Mount a file system at a new folder, or skip the test and say why it cannot be."""
    place.mkdir()
    command = ["mount", "-t", kind, kind, *options, str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount {kind}: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount {kind}: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)  # noqa: S607


@pytest.fixture(params=["overlayfs", "overlayfs on tmpfs", "refused renames"])
def bake(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Path], Path]]:
    """Return a function that makes a folder the lower layer, and returns the folder to use from then on."""
    if os.name == "nt":
        pytest.skip("overlayfs is Linux's")
    with ExitStack() as stack:

        def overlay(lower: Path) -> Path:
            above = tmp_path / "above"
            if request.param == "overlayfs on tmpfs":
                stack.enter_context(mounted("tmpfs", above))
            else:
                above.mkdir()
            upper, work = above / "upper", above / "work"
            upper.mkdir()
            work.mkdir()
            options = f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off"
            return stack.enter_context(mounted("overlay", tmp_path / "merged", "-o", options))

        def refuse(lower: Path) -> Path:
            fixed = set()
            for folder, _, _ in os.walk(lower):
                descriptor = os.open(folder, os.O_RDONLY)  # while it is open, no new folder gets its number
                stack.callback(os.close, descriptor)
                fixed.add(os.fstat(descriptor).st_ino)
            rename = os.rename

            def rename_unless_fixed(source: str, target: str, *, src_dir_fd: int | None, **folder: int | None) -> None:
                if os.stat(source, dir_fd=src_dir_fd, follow_symlinks=False).st_ino in fixed:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                rename(source, target, src_dir_fd=src_dir_fd, **folder)

            monkeypatch.setattr(os, "rename", rename_unless_fixed)
            return lower

        yield refuse if request.param == "refused renames" else overlay
