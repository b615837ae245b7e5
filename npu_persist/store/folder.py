"""The directory of a store: versions, aliases and numbers, and what interrupted runs leave in it.

    $NPU_PERSIST_HOME/
      bundles/unet/3/               a version: a bundle, read-only
      bundles/unet/aliases/prod     the version that the alias points to: `3` and a newline
      bundles/unet/removed/2/       the highest number among those removed, as an empty directory once all is removed
      staging/5f0c…/                a bundle that is being filled
      staging/5f0c….lock            locked by the process that fills it

A number is given once: the next one is above every version that is there and every one that was removed. Removing
renames `3/` to `removed/3/`, so that at no moment both are missing. Where `3/` cannot be renamed, since it is in a
lower layer of overlayfs, its manifest is, to `removed/3/manifest.json`: the rest of `3/` is then a leftover.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
from contextlib import suppress
from errno import ENOTDIR
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.bundle.manifest import MANIFEST_FILE, PARTIAL_SUFFIX
from npu_persist.errors import FileIntegrityError, IntegrityError, InvalidNameError
from npu_persist.files.filesystem import (
    component_problem,
    fsync_directory,
    is_directory,
    is_older,
    list_directory,
    make_folder,
    move_directory,
    refuse_links,
    remove,
    remove_empty,
    remove_file,
    remove_unused,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

HOME_VARIABLE = "NPU_PERSIST_HOME"
"""Environment variable that says where the store is."""

PARTIAL_AGE = 3600.0
"""Age in seconds after which no process is still copying to a file."""

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
        home: The store's directory.
        path: `bundles/<name>`.
        aliases_path: `bundles/<name>/aliases`.
        removed_path: `bundles/<name>/removed`.
    """

    def __init__(self, path: Path) -> None:
        self.home = path.parent.parent
        self.path = path
        self.aliases_path = path / "aliases"
        self.removed_path = path / "removed"

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.path.name

    def refuse_links(self) -> None:
        """Raise a StoreError if one of the folders is a link: call it before anything is changed."""
        for path in (self.aliases_path, self.removed_path):
            refuse_links(path, below=self.home)

    def version_path(self, number: int) -> Path:
        """Return the directory of a version."""
        return self.path / str(number)

    def versions(self) -> tuple[int, ...]:
        """Return the numbers of the versions, lowest first. An empty directory is none."""
        return tuple(number for number in _numbers(self.path) if not self._is_leftover(number))

    def has_version(self, number: int) -> bool:
        """Tell whether a version is there, damaged or not."""
        return is_directory(self.version_path(number)) and not self._is_leftover(number)

    def has_versions(self) -> bool:
        """Tell whether there is a version, with the name spelt as here."""
        # By the listing: where upper and lower case are one, a folder of another spelling would open.
        return self.name in _list(self.path.parent) and any(
            not self._is_leftover(number) for number in reversed(_numbers(self.path))
        )

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

    def points_to(self, alias: str, number: int) -> bool:
        """Tell whether an alias points to a version."""
        with suppress(IntegrityError, OSError):
            return self._read_alias(alias) == number
        return False

    def move_to_removed(self, number: int) -> None:
        """Remove a version in one step; a FileNotFoundError if there is none. `empty_removed` frees its space."""
        self.refuse_links()
        make_folder(self.removed_path)
        path, target = self.version_path(number), self.removed_path / str(number)
        try:
            move_directory(path, target, first=MANIFEST_FILE, below=self.home)
        except FileExistsError:  # only if someone put the version back by hand
            remove(target, below=self.home)
            move_directory(path, target, first=MANIFEST_FILE, below=self.home)
        with suppress(OSError):  # it is removed; that a power failure may undo it is no failure
            fsync_directory(self.removed_path)
            fsync_directory(self.path)

    def empty_removed(self) -> Iterator[Path]:
        """Delete the files of removed versions and all but the highest number; yield each that had files.

        What is in use stays for the next call.
        """
        # Listed once: a number that another process adds meanwhile is left to that process.
        numbers = _numbers(self.removed_path)
        for number in numbers:
            path = self.removed_path / str(number)
            if self._is_leftover(number):
                remove_unused(self.version_path(number), below=self.home)
            if names := _list(path):
                for name in names:
                    remove_unused(path / name, below=self.home)
                if _list(path):
                    log.warning("%s stays until a later `npu-persist prune`: its files are in use", path)
                else:
                    yield path
            if number != numbers[-1]:
                remove_unused(path, below=self.home)

    def prune(self) -> Iterator[Path]:
        """Remove leftovers of interrupted runs, but no files of running processes; yield the removed paths."""
        self.refuse_links()
        yield from self.empty_removed()
        yield from self.remove_dangling_aliases()
        for path in map(self.version_path, _numbers(self.path)):
            if _list_any(path) == [] and remove_empty(path, below=self.home):  # or a version was published there
                yield path
        for number in self.versions():
            yield from self._remove_partial_copies(self.version_path(number))
        if self.remove_if_empty():
            yield self.path

    def remove_if_empty(self) -> bool:
        """Remove the folder if nothing was ever published in it; tell whether it was removed."""
        if self.versions() or not is_directory(self.path):
            return False
        remove_empty(self.aliases_path, below=self.home)
        return remove_empty(self.path, below=self.home)

    def remove_dangling_aliases(self) -> Iterator[Path]:
        """Remove the aliases of versions that were removed; yield their paths."""
        removed = self.highest_removed()
        for alias in list_directory(self.aliases_path):
            with suppress(IntegrityError, OSError):
                number = self._read_alias(alias)
                if number is not None and number <= removed and not self.has_version(number):
                    remove_file(self.aliases_path / alias, below=self.home)
                    yield self.aliases_path / alias

    def _remove_partial_copies(self, directory: Path) -> Iterator[Path]:
        with suppress(FileNotFoundError):  # a folder was removed meanwhile; the next prune looks at the others
            for path in directory.rglob(f"*{PARTIAL_SUFFIX}"):
                found = path.lstat()
                # Linking changes ctime only, copying mtime.
                is_left = is_older(max(found.st_mtime, found.st_ctime), PARTIAL_AGE)
                if is_left and remove_unused(path, below=self.home):
                    yield path

    def _is_leftover(self, number: int) -> bool:
        """Tell whether a version's directory is empty, or what is left of one that was removed but not renamed."""
        names = _list_any(self.version_path(number))
        if names is None or MANIFEST_FILE in names:  # opening it tells what is wrong
            return False
        return not names or os.path.lexists(self.removed_path / str(number) / MANIFEST_FILE)

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


def _list_any(folder: Path) -> list[str] | None:
    """Return the names in a folder; None if it is gone or cannot be read."""
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return None


def _list(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except FileNotFoundError:
        if os.name == "nt":
            _refuse_file_above(folder)
        return []


def _refuse_file_above(folder: Path) -> None:
    """Raise what other systems do if a file is in the place of a folder above: Windows says that nothing is there."""
    above = next((path for path in folder.parents if path.exists()), None)
    if above is not None and not above.is_dir():
        raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), str(above))
