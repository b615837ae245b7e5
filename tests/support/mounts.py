"""File systems of other kinds, in image files: exFAT and NTFS through FUSE."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEGABYTES = 48
FORMATS = {"exfat": ("mkfs.exfat",), "ntfs": ("mkntfs", "-F", "-Q", "-s", "512", "-p", "0", "-H", "0", "-S", "0")}
DRIVERS = {"exfat": "mount.exfat-fuse", "ntfs": "ntfs-3g"}


@dataclass(frozen=True)
class Disk:
    """A file system that is mounted."""

    kind: str
    device: str
    path: Path

    def mount(self, *options: str) -> None:
        """Mount it so that nobody but root may write to its files, as a desktop does for its user."""
        _run(DRIVERS[self.kind], "-o", ",".join(("umask=022", *options)), self.device, str(self.path))

    def unmount(self) -> None:
        """Unmount it; what is open fails the test."""
        subprocess.run(["umount", self.path], check=True)  # noqa: S607

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Mount it for reading only while the block runs."""
        self.unmount()
        self.mount("ro")
        try:
            yield
        finally:
            self.unmount()
            self.mount()


@contextmanager
def made(kind: str, folder: Path) -> Iterator[Disk]:
    """Make a small file system and mount it; skip the test, with the reason, where that is impossible."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting wants root, and Linux")
    for program in (FORMATS[kind][0], DRIVERS[kind], "losetup"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; Debian has it in exfatprogs, exfat-fuse, ntfs-3g or mount")
    image = folder / f"{kind}.img"
    image.touch()
    os.truncate(image, MEGABYTES * 1024 * 1024)
    _run(*FORMATS[kind], str(image))
    device = _run("losetup", "--find", "--show", str(image))
    try:
        disk = Disk(kind, device, folder / kind)
        disk.path.mkdir()
        disk.mount()
        try:
            yield disk
        finally:
            disk.unmount()
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)  # noqa: S607


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()
