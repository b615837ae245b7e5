"""The store: bundles by name and version, with aliases.

Readers never lock and never see half a change. Whatever fails or is killed leaves the old state or the new one, and at
most leftovers that `prune` removes.
"""

from __future__ import annotations

import logging
import os
from errno import ELOOP
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.artifact.attached import prune_attached, verify_attached
from npu_persist.bundle.bundle import Bundle, gone_errors
from npu_persist.bundle.origin import read_origin
from npu_persist.bundle.reference import (
    HubReference,
    PathReference,
    Reference,
    StoreReference,
    parse,
    validate_alias,
    validate_name,
)
from npu_persist.errors import BundleNotFoundError, StoreError, UsageError
from npu_persist.files.filesystem import (
    check_path,
    fsync_directory,
    is_directory,
    refuse_links,
    remove_file,
    replace_file,
    store_errors,
)
from npu_persist.files.staging import prune_staging, staged
from npu_persist.files.stamps import Stamps
from npu_persist.store.folder import NameFolder, check_case, default_home, list_names
from npu_persist.store.lookup import (
    find_name,
    find_version,
    list_versions,
    missing_alias,
    missing_version,
    open_version,
)
from npu_persist.store.ownership import check_alias, check_name
from npu_persist.store.publish import find_same, prepare, rename_to_next_version

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    from npu_persist.bundle.origin import Origin
    from npu_persist.store.lookup import StoredBundle

    AnyReference: TypeAlias = str | os.PathLike[str] | Reference


log = logging.getLogger(__name__)


class Store:
    """Bundles by name and version, in one directory.

    Methods that are also functions of `npu_persist` are documented there.

    Attributes:
        home: The directory. It is created when something is published.
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
            return tuple(name for name in list_names(self._bundles) if self._folder(name).has_versions())

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
        """Return the bundles in the store, by name and version: `npu_persist.list`."""
        if name is not None:
            self._find(name)
        found: builtins.list[StoredBundle] = []
        for folder in map(self._folder, self.names() if name is None else (name,)):
            with store_errors(f"list {folder.path}"):
                found += list_versions(folder)
        return found

    def resolve(self, reference: AnyReference) -> Bundle:
        """Open the bundle at a reference: `npu_persist.open`."""
        parsed = parse(reference)
        if isinstance(parsed, PathReference):
            return Bundle.open(parsed.path)
        return open_version(*self._locate(parsed))

    def verify(self, reference: AnyReference | None = None, *, progress: Callable[[int], object] | None = None) -> None:
        """Compare every byte of one or all bundles with the manifest: `npu_persist.verify`.

        `progress` is called after each piece with the number of bytes in it.
        """
        if reference is not None:
            _verify(self.resolve(reference), progress)
            return
        for name in self.names():
            self.aliases(name)
            for number in self.versions(name):
                try:
                    _verify(open_version(self._folder(name), number), progress)
                except BundleNotFoundError as error:  # removed since it was listed
                    log.info("not verified: %s", error)

    def check_names(self, name: str, alias: str | None = None) -> None:
        """Check that a bundle could be published under a name and alias, before it is made.

        Raises:
            InvalidNameError: One of them is not valid, or differs from another only in case.
        """
        folder = self._folder(name)
        with store_errors(f"list {self._bundles}"):
            check_case(self._bundles, name, "bundle name")
            if alias is not None:
                validate_alias(alias)
                check_case(folder.aliases_path, alias, "alias")

    def stage(self) -> AbstractContextManager[Path]:
        """Yield a new, empty directory to fill for `publish`; it is removed at the end of the block.

        Example:
            with store.stage() as staging:
                ...  # write the files, then manifest.json
                bundle = store.publish(staging)

        Raises:
            StoreError: It cannot be made, or the disk is full inside the block.
        """
        return staged(self._staging, below=self.home)

    def check_origin(self, name: str, origin: Origin, alias: str | None = None, version: int | None = None) -> None:
        """Check that a pulled bundle may become a version of a name, or that an alias may be moved to it.

        Args:
            name: The name.
            origin: The bundle's origin.
            alias: The alias, if it is to be moved.
            version: The version with this content, if the store already has it: no other is added then.

        Raises:
            OriginError: The name's versions, or the one that the alias points to, have another origin.
        """
        folder = self._folder(name)
        with store_errors(f"look up {name} in {self._bundles}"):
            if version is None:
                check_name(folder, origin)
            if alias is not None:
                check_alias(folder, alias, origin, version)

    def publish(self, staged: Path | Bundle, alias: str | None = None, *, adopt: bool = False) -> Bundle:
        """Make a filled staging directory the next version of its name.

        The name is that in the manifest, or in `origin.json`.

        Identical content is published again, as a new version that shares its files with the earlier one; `reuse` looks
        for it first. A number is never used twice, not even after the version was removed.

        Args:
            staged: The directory from `stage`, with `manifest.json` and exactly the files that it names; or its bundle.
            alias: An alias for the new version. Either both are published or, whatever is raised, neither; only a kill
                between the two leaves the version without its alias.
            adopt: Whether a pulled bundle may get a name whose versions all have other origins.

        Raises:
            InvalidNameError: The name or alias is not valid, or differs from another only in case.
            IntegrityError: The directory does not match its manifest.
            OriginError: A pulled bundle has a name whose versions all have other origins.
            StoreError: The file system reports an error. The store is as it was.
        """
        staging = staged.path if isinstance(staged, Bundle) else Path(staged)
        if staging.parent != self._staging or not is_directory(staging):
            raise UsageError(f"expected a directory that `stage` of this store made, in {self._staging}; got {staging}")
        bundle = staged if isinstance(staged, Bundle) else Bundle.open(staging)
        origin = read_origin(staging)
        name = bundle.name if origin is None or origin.name is None else origin.name
        self.check_names(name, alias)
        folder = self._folder(name)

        def finish(number: int) -> None:
            if origin is not None and not adopt:  # here, so that of two that are published at once one sees the other
                check_name(folder, origin, below=number)
            if alias is not None:
                self._write_alias(folder, alias, number)

        def is_finished(number: int) -> bool:
            return alias is not None and folder.points_to(alias, number)

        with store_errors(f"publish {name}"):
            prepare(bundle, folder)
            try:
                number = rename_to_next_version(staging, folder, finish, is_finished)
            except BaseException:
                folder.remove_if_empty()
                raise
        return bundle.moved(folder.version_path(number), number)

    def reuse(self, staged: Bundle, alias: str | None = None) -> Bundle | None:
        """Return the newest version of a staged bundle's name if that has the same content; None if it does not.

        Compared are graph, weights, call, precision, golden sample, tolerance, warnings, metadata and the version of
        OpenVINO that wrote the graph. The version must have been made here and be intact: every byte of it is read.

        Args:
            staged: A bundle in a directory from `stage`, as for `publish`.
            alias: An alias to point to that version.

        Raises:
            InvalidNameError: The name or alias is not valid, or differs from another only in case.
            StoreError: The file system reports an error.
        """
        self.check_names(staged.name, alias)
        folder = self._folder(staged.name)
        with store_errors(f"look up {staged.name} in {self._bundles}"):
            found = find_same(staged, folder)
            if found is None or found.version is None:
                return None
            if alias is not None and not folder.points_to(alias, found.version):
                self._write_alias(folder, alias, found.version)
            # Removed by another process meanwhile? Then the caller publishes, and the alias is pointed to that.
            return found if folder.has_version(found.version) else None

    def alias(self, reference: AnyReference, alias: str) -> str:
        """Point an alias to a version and return its reference: `npu_persist.alias`."""
        folder, number = self._locate(parse(reference))
        self.check_names(folder.name, alias)
        with store_errors(f"point the alias {alias} to {folder.name}:{number}"):
            self._write_alias(folder, alias, number)
        return str(StoreReference(folder.name, version=number))

    def unalias(self, name: str, alias: str) -> None:
        """Remove an alias: `npu_persist.unalias`."""
        folder = self._folder(name)
        if validate_alias(alias) not in self.aliases(name):
            raise missing_alias(folder, alias)
        with store_errors(f"remove the alias {name}:{alias}"):
            folder.refuse_links()
            remove_file(folder.aliases_path / alias, below=self.home)
            fsync_directory(folder.aliases_path)

    def remove(self, reference: AnyReference, *, force: bool = False) -> str:
        """Remove a version and return its reference: `npu_persist.remove`."""
        parsed = parse(reference)
        if isinstance(parsed, StoreReference) and str(parsed) == parsed.name:
            newest = max(self._find(parsed.name).versions(), default=1)
            raise UsageError(f"{parsed} names no version: choose one to remove, for example {parsed}:{newest}")
        folder, number = self._locate(parsed)
        name = str(StoreReference(folder.name, version=number))
        with store_errors(f"remove {name}"):
            aliases = folder.aliases_of(number)
            if aliases and not force:
                raise UsageError(
                    f"{name} has the alias {', '.join(aliases)}, which would point to nothing. Point it to another "
                    f"version first (`npu-persist alias {folder.name}:<version> {aliases[0]}`), or force the removal"
                )
            try:
                folder.move_to_removed(number)
            except FileNotFoundError as error:
                raise missing_version(folder, number) from error
        try:
            for _ in (*folder.remove_dangling_aliases(), *folder.empty_removed()):
                pass
        except OSError as error:
            log.warning("%s is removed, but not all of its files: %s. `npu-persist prune` removes them", name, error)
        return name

    def prune(self) -> builtins.list[Path]:
        """Remove what interrupted runs left behind in the store, and return the removed paths.

        Files of running processes stay. A name in which a folder was replaced by a link is left unchanged,
        with a warning. `npu_persist.prune` prunes the compile cache as well.
        """
        with store_errors(f"prune {self.home}"):
            removed = [*prune_staging(self._staging, below=self.home), *Stamps(self.home).prune()]
            refuse_links(self._bundles, below=self.home)
            for folder in map(self._folder, list_names(self._bundles)):
                try:
                    removed += folder.prune()
                    for number in folder.versions():
                        removed += prune_attached(folder.version_path(number), below=self.home)
                except StoreError as error:
                    if error.errno != ELOOP:
                        raise
                    log.warning("%s is not pruned: %s", folder.name, error)
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
                f"`npu-persist pull {reference}` downloads it and prints the reference to use"
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
            path = folder.aliases_path / alias
            replace_file(path, f"{number}\n".encode(), temporary=staging / alias, below=self.home)

    def __repr__(self) -> str:
        return f"Store({str(self.home)!r})"


def _verify(bundle: Bundle, progress: Callable[[int], object] | None) -> None:
    with gone_errors(bundle):
        bundle.verify(progress=progress)
        verify_attached(bundle, progress=progress)


def _check_path(path: object) -> None:
    if path is None:
        return
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"store: expected a directory, for instance '/srv/models', or None; got {path!r}")
    check_path(path, "store")
