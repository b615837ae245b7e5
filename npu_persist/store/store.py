"""The store: bundles by name and version, with aliases.

Readers never lock and never see half a change. Whatever fails or is killed leaves the old state or the new one, and at
most leftovers that `prune` removes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.artifact.attached import prune_attached, verify_attached
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.reference import (
    HubReference,
    PathReference,
    Reference,
    StoreReference,
    parse,
    validate_alias,
    validate_name,
)
from npu_persist.errors import UsageError
from npu_persist.files.filesystem import is_directory, remove_file, replace_file, store_errors
from npu_persist.files.staging import prune_staging, staged
from npu_persist.store.folder import NameFolder, check_case, default_home, list_names
from npu_persist.store.lookup import (
    find_name,
    find_version,
    list_versions,
    missing_alias,
    missing_version,
    open_version,
)
from npu_persist.store.publish import prepare, rename_to_next_version

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    from npu_persist.store.lookup import StoredBundle

    AnyReference: TypeAlias = str | os.PathLike[str] | Reference


class Store:
    """Bundles by name and version, in one directory.

    Methods that are also functions of `npu_persist` are documented there.

    Attributes:
        home: The directory. It is made when something is published.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Choose a store; nothing is read or made yet."""
        _check_path(path)
        chosen = Path(path) if path is not None else default_home()
        self.home = Path(os.path.abspath(chosen.expanduser()))  # noqa: PTH100 (resolve() would follow links)
        self._bundles = self.home / "bundles"
        self._staging = self.home / "staging"

    def names(self) -> tuple[str, ...]:
        """Return the names that have a version, sorted."""
        with store_errors(f"list {self._bundles}"):
            return tuple(name for name in list_names(self._bundles) if self._folder(name).versions())

    def versions(self, name: str) -> tuple[int, ...]:
        """Return the versions of a name, lowest first; empty if there is none."""
        folder = self._folder(name)
        with store_errors(f"list {folder.path}"):
            return folder.versions()

    def aliases(self, name: str) -> dict[str, int]:
        """Return the aliases of a name, each with its version; empty if there is none."""
        folder = self._folder(name)
        with store_errors(f"list {folder.aliases_path}"):
            return folder.aliases()

    def list(self, name: str | None = None) -> builtins.list[StoredBundle]:
        """Return what is in the store, by name and version: `npu_persist.list`."""
        if name is not None:
            self._find(name)
        found: builtins.list[StoredBundle] = []
        for folder in map(self._folder, self.names() if name is None else (name,)):
            with store_errors(f"list {folder.path}"):
                found += list_versions(folder)
        return found

    def resolve(self, reference: AnyReference) -> Bundle:
        """Open the bundle that a reference means: `npu_persist.open`."""
        parsed = parse(reference)
        if isinstance(parsed, PathReference):
            return Bundle.open(parsed.path)
        return open_version(*self._locate(parsed))

    def verify(self, reference: AnyReference | None = None, *, progress: Callable[[int], object] | None = None) -> None:
        """Compare every byte of one or all bundles with the manifest: `npu_persist.verify`.

        `progress` is called after each piece with the number of bytes in it.
        """
        if reference is not None:
            bundle = self.resolve(reference)
            bundle.verify(progress=progress)
            verify_attached(bundle, progress=progress)
            return
        for name in self.names():
            self.aliases(name)
            for number in self.versions(name):
                self.verify(StoreReference(name, version=number), progress=progress)

    def check_names(self, name: str, alias: str | None = None) -> None:
        """Check that a bundle could be published under a name and alias, before the work of making it is done.

        Raises:
            InvalidNameError: One of them is not valid, or differs from another in upper and lower case only.
        """
        folder = self._folder(name)
        with store_errors(f"list {self._bundles}"):
            check_case(self._bundles, name, "bundle name")
            if alias is not None:
                validate_alias(alias)
                check_case(folder.aliases_path, alias, "alias")

    def stage(self) -> AbstractContextManager[Path]:
        """Give a new, empty directory to fill for `publish`; it is removed at the end of the block.

        Example:
            with store.stage() as staging:
                ...  # write the files, then manifest.json
                bundle = store.publish(staging)

        Raises:
            StoreError: It cannot be made, or the disk is full inside the block.
        """
        return staged(self._staging)

    def publish(self, staged: Path | Bundle, alias: str | None = None) -> Bundle:
        """Make a filled staging directory the next version of the name in its manifest.

        Identical content is published again as a new version, which shares its files with the earlier one. A number is
        never given twice, not even after the version was removed.

        Args:
            staged: What `stage` gave, with `manifest.json` and exactly the files that it names; or the bundle in it.
            alias: An alias for the new version. It is set after the version is in place: a kill between the two leaves
                the version without it.

        Raises:
            InvalidNameError: The name or alias is not valid, or differs from another in upper and lower case only.
            IntegrityError: The directory does not match its manifest.
            StoreError: The file system refuses. The store is as it was.
        """
        staging = staged.path if isinstance(staged, Bundle) else Path(staged)
        if staging.parent != self._staging or not is_directory(staging):
            raise UsageError(f"expected a directory that `stage` of this store made, in {self._staging}; got {staging}")
        bundle = staged if isinstance(staged, Bundle) else Bundle.open(staging)
        self.check_names(bundle.name, alias)
        folder = self._folder(bundle.name)

        def finish(number: int) -> None:
            if alias is not None:
                self._write_alias(folder, alias, number)

        with store_errors(f"publish {bundle.name}"):
            prepare(bundle, folder)
            try:
                number = rename_to_next_version(staging, folder, finish)
            except BaseException:
                folder.remove_if_empty()
                raise
        return bundle.moved(folder.version_path(number), number)

    def alias(self, reference: AnyReference, alias: str) -> str:
        """Point an alias to a version and return its reference: `npu_persist.alias`."""
        folder, number = self._locate(parse(reference))
        self.check_names(folder.name, alias)
        with store_errors(f"let the alias {alias} point to {folder.name}:{number}"):
            self._write_alias(folder, alias, number)
        return str(StoreReference(folder.name, version=number))

    def unalias(self, name: str, alias: str) -> None:
        """Remove an alias: `npu_persist.unalias`."""
        folder = self._folder(name)
        if validate_alias(alias) not in self.aliases(name):
            raise missing_alias(folder, alias)
        with store_errors(f"remove the alias {name}:{alias}"):
            remove_file(folder.aliases_path / alias)

    def remove(self, reference: AnyReference, *, force: bool = False) -> str:
        """Remove a version and return its reference: `npu_persist.remove`."""
        parsed = parse(reference)
        if isinstance(parsed, StoreReference) and str(parsed) == parsed.name:
            newest = self._find(parsed.name).versions()[-1]
            raise UsageError(f"{parsed} names no version: say which one to remove, such as {parsed}:{newest}")
        folder, number = self._locate(parsed)
        name = str(StoreReference(folder.name, version=number))
        with store_errors(f"remove {name}"):
            aliases = folder.aliases_of(number)
            if aliases and not force:
                raise UsageError(
                    f"{name} has the alias {', '.join(aliases)}, which would point to nothing. Let it point to another "
                    f"version first (`npu-persist alias {folder.name}:<version> {aliases[0]}`), or force the removal"
                )
            for alias in aliases:
                remove_file(folder.aliases_path / alias)
            try:
                folder.move_to_removed(number)
            except FileNotFoundError as error:
                raise missing_version(folder, number) from error
            for _ in folder.empty_removed():
                pass
        return name

    def prune(self) -> builtins.list[Path]:
        """Remove what interrupted runs left in the store, and return what was removed.

        What a living process works on is left alone. `npu_persist.prune` prunes the compile cache as well.
        """
        with store_errors(f"prune {self.home}"):
            removed = [*prune_staging(self._staging)]
            for folder in map(self._folder, list_names(self._bundles)):
                removed += folder.prune()
                for number in folder.versions():
                    removed += prune_attached(folder.version_path(number))
        return removed

    def _folder(self, name: str) -> NameFolder:
        return NameFolder(self._bundles / validate_name(name))

    def _find(self, name: str) -> NameFolder:
        with store_errors(f"look up {name} in {self._bundles}"):
            return find_name(self._bundles, name)

    def _locate(self, reference: Reference) -> tuple[NameFolder, int]:
        if isinstance(reference, HubReference):
            raise UsageError(
                f"{reference} is a repository on the hub; expected a bundle in the store. "
                f"`npu-persist pull {reference}` brings it there and prints the reference to use"
            )
        if isinstance(reference, PathReference):
            raise UsageError(
                f"{reference} is a directory; expected a bundle in the store, such as unet:3. `npu-persist list` shows "
                "them"
            )
        with store_errors(f"look up {reference} in {self._bundles}"):
            return find_version(self._bundles, reference)

    def _write_alias(self, folder: NameFolder, alias: str, number: int) -> None:
        with self.stage() as staging:
            replace_file(folder.aliases_path / alias, f"{number}\n".encode(), temporary=staging / alias)

    def __repr__(self) -> str:
        return f"Store({str(self.home)!r})"


def _check_path(path: object) -> None:
    if path is not None and (not isinstance(path, (str, os.PathLike)) or "\0" in str(path)):
        raise UsageError(f"store: expected a directory, for instance '/srv/models', or None; got {path!r}")
