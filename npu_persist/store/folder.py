"""The directory of a store: versions, aliases and numbers, and what interrupted runs leave in it.

    $NPU_PERSIST_HOME/
      bundles/unet/3/               a version: a bundle, read-only
      bundles/unet/aliases/prod     the version that the alias points to: `3` and a newline
      bundles/unet/removed/2/       the highest number among those removed, as an empty directory
      staging/5f0c…/                a bundle that is being filled
      staging/5f0c….lock            locked by the process that fills it

A number is given once: the next one is above every version that is there and every one that was removed. Removing
renames `3/` to `removed/3/`, so that at no moment both are missing.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.bundle.bundle import PARTIAL_SUFFIX
from npu_persist.errors import FileIntegrityError, InvalidNameError
from npu_persist.files.filesystem import component_problem, is_directory, remove, remove_file, rename_new

if TYPE_CHECKING:
    from collections.abc import Iterator

HOME_VARIABLE = "NPU_PERSIST_HOME"
"""Environment variable that says where the store is."""

PARTIAL_AGE = 3600.0
"""Age in seconds after which nobody is copying to a file any more."""

_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_MAX_ALIAS_SIZE = 32


def default_home() -> Path:
    """Return the default store's directory: `$NPU_PERSIST_HOME`, or one in the user's data directory."""
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home)
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "npu_persist"


class NameFolder:
    """The folder of one bundle name, which need not exist.

    Attributes:
        path: `bundles/<name>`.
        aliases_path: `bundles/<name>/aliases`.
        removed_path: `bundles/<name>/removed`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.aliases_path = path / "aliases"
        self.removed_path = path / "removed"

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.path.name

    def version_path(self, number: int) -> Path:
        """Return the directory of a version."""
        return self.path / str(number)

    def versions(self) -> tuple[int, ...]:
        """Return the numbers of the versions, lowest first. An empty directory is none."""
        return tuple(number for number in _numbers(self.path) if not _is_empty(self.version_path(number)))

    def highest_removed(self) -> int:
        """Return the highest number that was removed, or 0."""
        return max(_numbers(self.removed_path), default=0)

    def next_number(self) -> int:
        """Return a number that was never given."""
        # In this order: what is moved to `removed` between the two calls is seen by the second.
        newest = max(self.versions(), default=0)
        return max(newest, self.highest_removed()) + 1

    def aliases(self) -> dict[str, int]:
        """Return the version that each alias points to, whether that is there or not."""
        names = sorted(name for name in _list(self.aliases_path) if component_problem(name) is None)
        found = {name: self._read_alias(name) for name in names}
        return {name: number for name, number in found.items() if number is not None}

    def aliases_of(self, number: int) -> tuple[str, ...]:
        """Return the aliases that point to a version."""
        return tuple(alias for alias, version in self.aliases().items() if version == number)

    def move_to_removed(self, number: int) -> None:
        """Remove a version in one step; a FileNotFoundError if there is none. `empty_removed` frees its space."""
        self.removed_path.mkdir(exist_ok=True)
        target = self.removed_path / str(number)
        try:
            rename_new(self.version_path(number), target)
        except FileExistsError:  # only if someone put the version back by hand
            remove(target)
            rename_new(self.version_path(number), target)

    def empty_removed(self) -> Iterator[Path]:
        """Delete the files of removed versions and all but the highest number; yield each that had files."""
        # Listed once: a number that another process adds meanwhile is left to that process.
        numbers = _numbers(self.removed_path)
        for number in numbers:
            path = self.removed_path / str(number)
            if names := _list(path):
                for name in names:
                    remove(path / name)
                yield path
            if number != numbers[-1]:
                remove(path)

    def prune(self) -> Iterator[Path]:
        """Remove what interrupted runs left, but nothing that a living process works on; yield what was removed."""
        yield from self.empty_removed()
        for path in map(self.version_path, _numbers(self.path)):
            if _is_empty(path):
                with suppress(OSError):  # a version was published there meanwhile
                    os.rmdir(path)  # noqa: PTH106
                    yield path
        for number in self.versions():
            yield from _remove_partial_copies(self.version_path(number))
        if self.remove_if_empty():
            yield self.path

    def remove_if_empty(self) -> bool:
        """Remove the folder if nothing was ever published in it; tell whether it was removed."""
        if self.versions() or not is_directory(self.path):
            return False
        with suppress(OSError):
            os.rmdir(self.aliases_path)  # noqa: PTH106
        with suppress(OSError):
            os.rmdir(self.path)  # noqa: PTH106
            return True
        return False

    def _read_alias(self, alias: str) -> int | None:
        path = self.aliases_path / alias
        text = ""
        try:
            if stat.S_ISREG(path.lstat().st_mode):
                with path.open("rb") as file:
                    text = file.read(_MAX_ALIAS_SIZE).decode("ascii", "replace")
        except FileNotFoundError:  # removed since it was listed
            return None
        if _NUMBER.fullmatch(text.removesuffix("\n")):
            return int(text)
        got = repr(text) if text else "nothing readable"
        raise FileIntegrityError(
            f"{path}: expected a file with a version number, got {got}. Set the alias again: "
            f"`npu-persist alias {self.name}:<version> {alias}`",
            path=str(path),
            expected="a version number",
            got=got,
        )


def list_names(bundles: Path) -> tuple[str, ...]:
    """Return the names that have a folder, sorted."""
    return tuple(
        sorted(name for name in _list(bundles) if component_problem(name) is None and is_directory(bundles / name))
    )


def check_case(folder: Path, name: str, what: str) -> None:
    """Refuse a name that differs from another one in `folder` in upper and lower case only."""
    for other in _list(folder):
        if other != name and other.lower() == name.lower():
            raise InvalidNameError(
                f"invalid {what} {name!r}: {folder} has {other!r}, which would be the same on Windows and macOS. Use "
                f"{other!r} or another name; `npu-persist prune` removes {other!r} if an interrupted run left it"
            )


def _numbers(folder: Path) -> tuple[int, ...]:
    return tuple(sorted(int(name) for name in _list(folder) if _NUMBER.fullmatch(name) and is_directory(folder / name)))


def _is_empty(folder: Path) -> bool:
    try:
        return not os.listdir(folder)  # noqa: PTH208
    except OSError:  # opening it tells what is wrong
        return False


def _list(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except FileNotFoundError:
        return []


def _remove_partial_copies(directory: Path) -> Iterator[Path]:
    for path in directory.rglob(f"*{PARTIAL_SUFFIX}"):
        with suppress(FileNotFoundError):
            found = path.lstat()
            # Linking changes ctime only, copying mtime.
            if time.time() - max(found.st_mtime, found.st_ctime) > PARTIAL_AGE:
                remove_file(path)
                yield path
