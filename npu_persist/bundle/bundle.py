"""One bundle: a directory with a manifest and the files that it names.

Opening reads the manifest and nothing else; `verify` reads every byte that the manifest names. A bundle is never
changed; only `model.bin`, which is derived and not in the manifest, is made again where it is missing.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.bundle.assets import asset_names, asset_path
from npu_persist.bundle.manifest import MANIFEST_FILE, MAX_MANIFEST_SIZE, PARTIAL_SUFFIX, RESTORE, Manifest, derived_bin
from npu_persist.bundle.reference import PathReference, StoreReference
from npu_persist.errors import (
    BundleNotFoundError,
    FileIntegrityError,
    GraphIntegrityError,
    NotFoundError,
    NpuPersistError,
    UsageError,
)
from npu_persist.files.digest import digest_bytes, digest_file
from npu_persist.files.filesystem import (
    link_or_copy,
    make_read_only,
    refuse_links,
    remove_file,
    replace,
    store_errors,
    to_datetime,
    write_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from npu_persist.bundle.graph_records import Graph


class Bundle:
    """A bundle in a directory, with its manifest read and checked.

    Attributes:
        path: The directory, absolute.
        manifest: Its manifest.
        digest: The digest of the manifest's bytes: the bundle's identity.
        version: Its version number, if it was found through a store.
    """

    def __init__(
        self, path: Path, data: bytes, modified: float, version: int | None = None, *, manifest: Manifest | None = None
    ) -> None:
        """Make a bundle of what `read_manifest` gave, or of a manifest and its bytes; use `Bundle.open`."""
        self.path = path
        self.manifest = Manifest.from_json(data, source=str(path / MANIFEST_FILE)) if manifest is None else manifest
        self.digest = digest_bytes(data)
        self.version = version
        self._manifest_size = len(data)
        self._modified = modified

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, version: int | None = None) -> Bundle:
        """Open the bundle in a directory. Its files are not read; `verify` does that.

        Args:
            path: The directory.
            version: The version number that a store gave it.

        Raises:
            BundleNotFoundError: There is no such directory, or no manifest in it.
            ManifestError: The manifest is damaged or hostile.
            FormatVersionError: The manifest is of a format that this version does not read.
            FileIntegrityError: The manifest is no regular file.
        """
        directory = Path(os.path.abspath(path))  # noqa: PTH100 (stays right when the working directory changes)
        with store_errors(f"open {directory}"):
            if not os.path.lexists(directory / MANIFEST_FILE):
                missing = "has no manifest.json" if directory.is_dir() else "is no directory"
                raise BundleNotFoundError(
                    f"no bundle at {directory}: expected a directory with a manifest.json, but it {missing}. "
                    "`npu-persist list` shows the bundles in the store"
                )
        return cls(directory, *read_manifest(directory), version)

    @classmethod
    def write(cls, directory: Path, manifest: Manifest) -> Bundle:
        """Write the manifest of the files in a directory, which makes it a bundle."""
        path, data = directory / MANIFEST_FILE, manifest.to_json()
        with store_errors(f"write {path}"):
            write_file(path, data)
            return cls(directory, data, path.lstat().st_mtime, manifest=manifest)

    @property
    def name(self) -> str:
        """The bundle's name: in a store, its name there; elsewhere the one in its manifest."""
        return self.manifest.name if self.version is None else self.path.parent.name

    @property
    def reference(self) -> str:
        """The reference of the bundle: `unet:3` in a store, its path elsewhere."""
        if self.version is not None:
            return str(StoreReference(self.name, version=self.version))
        return str(PathReference(self.path))

    @property
    def root(self) -> Path:
        """The folder below which no link is followed: the store's home, or the bundle's own folder elsewhere."""
        return self.path if self.version is None else self.path.parents[2]

    @property
    def size(self) -> int:
        """Bytes of the manifest and the files that it names."""
        return self._manifest_size + sum(entry.size for entry in self.manifest.files.values())

    @property
    def created(self) -> datetime:
        """When it was persisted, in UTC: the modification time of the manifest."""
        return to_datetime(self._modified)

    def graph(self, name: str | None = None) -> Graph:
        """Return a graph: the one of that name, or the only one.

        Raises:
            NotFoundError: There is none of that name.
            UsageError: No name is given, and there are several.
        """
        graphs = {graph.name: graph for graph in self.manifest.graphs}
        if name is None and len(graphs) > 1:
            raise UsageError(f"{self.reference} has several graphs: choose one of {', '.join(graphs)}")
        if name is not None and name not in graphs:
            raise NotFoundError(f"{self.reference} has no graph {name!r}; it has {', '.join(graphs)}")
        return graphs[name] if name is not None else self.manifest.graphs[0]

    def file(self, relative: str) -> Path:
        """Return the path of one of the bundle's files, after checking that it is a regular file of the right size.

        Args:
            relative: A path as in `manifest.files`.

        Raises:
            NotFoundError: The manifest does not name it.
            FileIntegrityError: It is missing, no regular file, reached through a link, or of another size.
        """
        entry = self.manifest.files.get(relative)
        if entry is None:
            raise NotFoundError(f"{self.reference} has no file {relative!r}; it has {', '.join(self.manifest.files)}")
        found = _check_regular(self.path, relative)
        path = self.path / relative
        if found.st_size != entry.size:
            raise _damaged(path, f"{entry.size} bytes", f"{found.st_size} bytes")
        return path

    @property
    def assets(self) -> tuple[str, ...]:
        """Names of the files that it stores for the deployed program, such as a tokenizer's."""
        return asset_names(self.manifest.files)

    def asset(self, name: str) -> Path:
        """Return the path of an asset, after comparing every byte with the manifest.

        Raises:
            NotFoundError: There is none of that name.
            FileIntegrityError: It differs from the manifest.
        """
        if name not in self.assets:
            raise NotFoundError(f"{self.reference} has no asset {name!r}; it has {', '.join(self.assets) or 'none'}")
        return self.verify_file(asset_path(name))

    def moved(self, path: Path, version: int) -> Bundle:
        """Return the bundle in the directory that it was renamed to, without reading it again."""
        from copy import copy

        bundle = copy(self)
        bundle.path, bundle.version = path, version
        return bundle

    def verify(self, *, progress: Callable[[int], object] | None = None) -> None:
        """Read every byte of the bundle, and compare it with the manifest.

        The manifest itself must not have changed since the bundle was opened. A `model.bin` must have the content of
        the weights file, and a golden sample the inputs and outputs of its graph. Other files in the directory are not
        part of the bundle and are ignored.

        Args:
            progress: Called after each piece with the number of bytes in it.

        Raises:
            FileIntegrityError: The first file that differs from the manifest.
            GraphIntegrityError: The golden sample is malformed, or fits no graph.
        """
        data, _ = read_manifest(self.path)
        if digest_bytes(data) != self.digest:
            raise _damaged(self.path / MANIFEST_FILE, f"{self.digest} as when it was opened", digest_bytes(data))
        for relative in sorted(self.manifest.files):
            self.verify_file(relative, progress=progress)
        self._check_golden()
        for path in self.derived_files():
            with store_errors(f"read {path}"):
                if os.path.lexists(path) and not self._holds_weights(path):
                    raise _damaged(path, f"the content of {self.manifest.weights.path}", "something else")

    def _check_golden(self) -> None:
        from npu_persist.bundle.golden import read_golden_tensors

        by_name = {graph.name: graph for graph in self.manifest.graphs}
        for name, one in self.manifest.goldens.items():
            read_golden_tensors(self.path / one.path, by_name[name], one.steps)
        golden = self.manifest.golden
        if golden is None:
            return
        errors = []
        for graph in self.manifest.graphs:
            try:
                read_golden_tensors(self.path / golden.path, graph, golden.steps)
            except GraphIntegrityError as error:
                errors.append(error)
            else:
                return
        raise errors[0]

    def verify_file(self, relative: str, *, progress: Callable[[int], object] | None = None) -> Path:
        """Read every byte of one file, compare it with the manifest, and return its path.

        Args:
            relative: A path as in `manifest.files`.
            progress: Called after each piece with the number of bytes in it.

        Raises:
            NotFoundError: The manifest does not name it.
            FileIntegrityError: It is not what the manifest says.
        """
        path, expected = self.file(relative), self.manifest.files[relative].digest
        with store_errors(f"read {path}"):
            digest = digest_file(path, progress=progress)
        if digest != expected:
            raise _damaged(path, expected, digest)
        return path

    def derived_files(self) -> tuple[Path, ...]:
        """Return where stock OpenVINO looks for the graphs' weights: `model.bin` for `model.xml`."""
        return tuple(self.path / derived_bin(graph.path) for graph in self.manifest.graphs)

    def ensure_bin(self) -> None:
        """Make `model.bin` a hard link to the weights, a copy where links are impossible, if it is not one.

        Raises:
            FileIntegrityError: The weights file is missing, no regular file or of another size.
            StoreError: The file system reports an error.
        """
        weights = self.file(self.manifest.weights.path)
        for path in self.derived_files():
            with store_errors(f"make {path}"):
                if self._holds_weights(path):
                    continue
                refuse_links(path.parent, below=self.root)
                remove_file(path, below=self.root)
                partial = path.with_name(f"{path.name}.{os.urandom(4).hex()}{PARTIAL_SUFFIX}")
                try:
                    if not link_or_copy(weights, partial):
                        make_read_only(partial)
                    replace(partial, path, below=self.root)
                finally:
                    # Also after a replace: POSIX leaves both names if another process made the same link meanwhile.
                    remove_file(partial, below=self.root)

    def _holds_weights(self, path: Path) -> bool:
        weights = self.manifest.weights.path
        entry = self.manifest.files[weights]
        try:
            found = path.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
            return False
        return os.path.samestat(found, (self.path / weights).lstat()) or digest_file(path) == entry.digest

    def __repr__(self) -> str:
        return f"<Bundle {self.reference} {self.digest[:15]}… at {self.path}>"


@contextmanager
def gone_errors(bundle: Bundle) -> Iterator[None]:
    """Turn an error inside of the block into a `BundleNotFoundError` if the bundle was removed meanwhile."""
    try:
        yield
    except (NpuPersistError, OSError) as error:
        if isinstance(error, BundleNotFoundError) or os.path.lexists(bundle.path / MANIFEST_FILE):
            raise
        raise BundleNotFoundError(
            f"{bundle.reference} was removed while it was in use: {bundle.path} is gone. `npu-persist list` shows what "
            "is there"
        ) from error


def read_manifest(directory: Path) -> tuple[bytes, float]:
    """Return the bytes of a directory's manifest and its modification time."""
    path = directory / MANIFEST_FILE
    found = _check_regular(directory, MANIFEST_FILE)
    with store_errors(f"read {path}"), path.open("rb") as file:
        # One byte more than is allowed: enough for the reader to see that it is too large.
        return file.read(MAX_MANIFEST_SIZE + 1), found.st_mtime


def _check_regular(directory: Path, relative: str) -> os.stat_result:
    path = directory
    *folders, name = relative.split("/")
    with store_errors(f"examine {directory / relative}"):
        try:
            for folder in folders:
                path /= folder
                mode = path.lstat().st_mode
                if not stat.S_ISDIR(mode):
                    raise _damaged(path, "a directory", _kind(mode))
            path /= name
            found = path.lstat()
        except FileNotFoundError as error:
            raise _damaged(path, "a regular file" if path.name == name else "a directory", "nothing") from error
    if not stat.S_ISREG(found.st_mode):
        raise _damaged(path, "a regular file", _kind(found.st_mode))
    return found


def _damaged(path: Path, expected: str, got: str) -> FileIntegrityError:
    return FileIntegrityError.mismatch(path, expected, got, RESTORE)


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a regular file" if stat.S_ISREG(mode) else "a special file"
