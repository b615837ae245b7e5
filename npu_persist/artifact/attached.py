"""Compiled artifacts that are attached to a bundle: added to its folder after it was published, without changing it.

    unet/3/compiled/
      npu-4000/                     an attached artifact: artifact.json and its files, read-only
      npu-4000-5f0c12ab/            one of another graph, of other sizes or with properties
      npu-4000.9d31e07c/            a new one, until it has replaced the older one for the same
      .staging/                     artifacts that are being made (see `stage`), and the lock while one is replaced

An artifact appears by one rename, after all of its bytes are on the disk. The one that it replaces (same target, graph,
sizes and properties) is removed after that, so that a crash leaves the old one, the new one, or both.
"""

from __future__ import annotations

import logging
import os
import re
import time
from contextlib import contextmanager, suppress
from errno import EXDEV
from typing import TYPE_CHECKING, NamedTuple

from npu_persist.artifact.artifact import ARTIFACT_FILE, Artifact, check_files, check_layout, read_artifact
from npu_persist.bundle.bundle import gone_errors
from npu_persist.bundle.document import dump
from npu_persist.bundle.manifest import COMPILED_DIRECTORY
from npu_persist.errors import ArtifactError, StoreError
from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import (
    PRIVATE_FOLDER_MODE,
    component_problem,
    fsync_directory,
    fsync_file,
    is_directory,
    is_in_use,
    is_obstructed,
    list_directory,
    make_folder,
    make_read_only,
    move_directory,
    refuse_links,
    remove_file,
    remove_unused,
    rename_new,
    store_errors,
    write_file,
)
from npu_persist.files.locks import LOCK_SUFFIX, try_lock
from npu_persist.files.staging import prune_staging, staged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle

log = logging.getLogger(__name__)

_STAGING = ".staging"
_LOCK = f"attach{LOCK_SUFFIX}"

MAX_ATTACHED = 1000
"""Most entries of the folder that are read."""

MAX_DESCRIPTIONS = 16 * 1024 * 1024
"""Most bytes of all `artifact.json` together that are read."""

_ATTEMPTS = 100
"""How often artifacts may be replaced while they are listed."""

_LOCK_TIMEOUT, _LOCK_POLL = 30.0, 0.01
"""Seconds to wait for another process that replaces an artifact, and between two attempts."""

_SUFFIX = 8
"""Hex digits that tell folders of one target apart."""

_LONGEST_NAME = 64
"""Most characters of a target in its folder's name."""

_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


def list_attached(bundle: Bundle) -> list[tuple[Path, Artifact | ArtifactError]]:
    """Return the folder of each attached artifact with the content of its `artifact.json`, or why it cannot be read.

    Neither the other files nor the digest of the bundle that it was compiled from (`subject`) are checked. If there are
    more than `MAX_ATTACHED` entries, or more than `MAX_DESCRIPTIONS` bytes of descriptions, the last element is an
    error that says so: a bundle from elsewhere must not keep a load busy.
    """
    found: list[tuple[Path, Artifact | ArtifactError | None]] = []
    for _ in range(_ATTEMPTS):
        found = list(_read_all(bundle.path / COMPILED_DIRECTORY))
        if all(artifact is not None for _, artifact in found):
            break
    return [(folder, artifact) for folder, artifact in found if artifact is not None]


def _read_all(root: Path) -> Iterator[tuple[Path, Artifact | ArtifactError | None]]:
    """Yield the attached artifacts; None for one that another process replaced after the folder was listed."""
    try:
        listed = list_directory(root)
    except OSError as error:  # another user's
        yield root, _unreadable(root, error)
        return
    names = [name for name in listed if not name.startswith(".")]
    left = MAX_DESCRIPTIONS
    for number, name in enumerate(names):
        folder = root / name
        if number >= MAX_ATTACHED:
            yield root, _too_many(root, len(names))
            return
        if not is_directory(folder):
            continue
        try:
            left -= (folder / ARTIFACT_FILE).lstat().st_size
            if left < 0:
                yield root, _too_many(root, len(names))
                return
            yield folder, read_artifact(folder)
        except ArtifactError as error:
            yield folder, error
        except OSError as error:
            yield folder, _unreadable(folder, error) if folder.exists() else None


def _unreadable(folder: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{folder}: cannot be read: {error.strerror or error}", path=str(folder))


def _too_many(root: Path, number: int) -> ArtifactError:
    expected = f"at most {MAX_ATTACHED} entries, with {MAX_DESCRIPTIONS} bytes of {ARTIFACT_FILE} together"
    return ArtifactError(
        f"{root}: expected {expected}; got {number} entries. The others are ignored; remove those you do not use",
        path=str(root),
        expected=expected,
        got=f"{number} entries",
    )


def verify_attached(bundle: Bundle, *, progress: Callable[[int], object] | None = None) -> None:
    """Compare every byte of the attached artifacts with their `artifact.json`."""
    for folder, listed in list_attached(bundle):
        stamp = _stamp(folder)
        try:
            if folder.name == COMPILED_DIRECTORY and isinstance(listed, ArtifactError):  # of the whole folder
                raise listed
            size = _verify(bundle, folder)
        except ArtifactError as error:
            if not folder.exists() or _stamp(folder) != stamp:  # replaced by another process meanwhile
                continue
            raise ArtifactError(
                f"{bundle.reference}: the artifact attached in {folder} cannot be used: {error}. The bundle itself is "
                f"intact. Remove that folder, or compile again: `npu-persist compile {bundle.reference} --target …`",
                path=error.path,
                expected=error.expected,
                got=error.got,
            ) from error
        if progress is not None:
            progress(size)


def _verify(bundle: Bundle, folder: Path) -> int:
    """Verify one attached artifact, and return its size."""
    with store_errors(f"read {folder}"):
        try:
            artifact = read_artifact(folder)
            check_subject(bundle, folder, artifact)
            check_files(folder, artifact)
        except FileNotFoundError as error:
            path = error.filename or str(error)
            raise ArtifactError(f"{path}: expected a file, got nothing", path=path) from error
    return artifact.size


@contextmanager
def stage(bundle: Bundle) -> Iterator[Path]:
    """Make an empty folder to fill for `attach`, on the bundle's file system; it is removed at the end of the block."""
    root = bundle.path / COMPILED_DIRECTORY
    if is_obstructed(root):
        raise StoreError(f"{root}: expected a folder, got a link or a file. Remove it and compile again")
    refuse_links(root / _STAGING, below=bundle.root)
    with suppress(OSError):  # leftovers; if they cannot be removed, making a folder fails and says why
        list(prune_staging(root / _STAGING, below=bundle.root))
    with gone_errors(bundle):
        with store_errors(f"make {root}"):
            make_folder(root)  # without parents: a version that was removed meanwhile must not come back
        with staged(root / _STAGING, below=bundle.root, parents=False) as path:
            yield path


def attach(bundle: Bundle, artifact: Artifact, staging: Path) -> Path:
    """Attach the artifact in a filled staging folder to its bundle, and remove an older one for the same."""
    check_subject(bundle, staging, artifact)
    root = bundle.path / COMPILED_DIRECTORY
    place = root / _name(artifact, bundle)
    with _locked(root, bundle.root):
        with store_errors(f"attach the artifact for {artifact.target} to {bundle.reference}"):
            _seal(staging, artifact)
            own = place
            try:
                rename_new(staging, place, below=bundle.root)
            except FileExistsError:
                own = _beside(place)
                rename_new(staging, own, below=bundle.root)
        with suppress(OSError):  # it is attached, even if a power failure could undo that
            fsync_directory(root)
            fsync_directory(root.parent)
        try:
            return _replace_older(place, _slot(artifact), bundle.root, newest=own)[0]
        except OSError as error:  # on Windows, if the older one is in use; or it is another user's
            log.warning("%s: could not remove an older artifact for the same purpose: %s", own, error)
            return own


def prune_attached(directory: Path, *, below: Path) -> list[Path]:
    """Remove leftovers of interrupted attachments in a bundle's folder, and return the removed paths.

    Folders that a living process fills are left alone, and so is the newest artifact of each kind.
    """
    root = directory / COMPILED_DIRECTORY
    if not is_directory(root):
        return []
    removed = list(prune_staging(root / _STAGING, below=below))
    if any("." in path.name for path in _folders(root)):
        with _locked(root, below):
            for path in [path for path in _folders(root) if "." in path.name]:
                try:
                    newest, older = _replace_older(_place_of(path), _slot(read_artifact(path)), below)
                except (ArtifactError, FileNotFoundError):
                    continue
                except OSError as error:
                    if not is_in_use(error):
                        raise
                    log.warning("%s stays until a later `npu-persist prune`: %s", path, error)
                else:
                    removed += [each for each in older if each != newest]
    return removed


class _Member(NamedTuple):
    """An attached artifact as it was found; its `artifact.json` keeps time and inode through every rename."""

    stamp: tuple[int, int]
    path: Path
    is_readable: bool


@contextmanager
def _locked(root: Path, below: Path) -> Iterator[None]:
    """Wait until no other process replaces an artifact; with a limit, and not on a file system without locks.

    Replacing artifacts without the lock loses none; it can leave older ones, which the next `prune_attached` removes.
    """
    path = root / _STAGING / _LOCK
    lock, until = None, time.monotonic() + _LOCK_TIMEOUT
    refuse_links(path.parent, below=below)
    with suppress(OSError):
        make_folder(path.parent, mode=PRIVATE_FOLDER_MODE)
        while (lock := try_lock(path)) is None and time.monotonic() < until:
            time.sleep(_LOCK_POLL)
    try:
        yield
    finally:
        if lock is not None:
            if os.name == "nt":  # where an open file cannot be removed
                lock.release()
            with suppress(OSError):  # before others can have it, so that they lock a new file
                remove_file(path, below=below)
            lock.release()


def _replace_older(place: Path, slot: str, below: Path, newest: Path | None = None) -> tuple[Path, list[Path]]:
    """Remove all but the newest artifact of one kind and move that to its place; return its path, and what was removed.

    What cannot be read at the place is replaced too. `newest` was attached last, whatever its time says.
    """
    members = sorted(_members(place, slot), key=lambda member: member.path == newest)
    if not members:  # without locks, another process may have removed it for a newer one
        return place, []
    *older, last = members
    for member in older:
        _remove(member, below)
    if last.path != place:
        try:
            rename_new(last.path, place, below=below)
        except FileExistsError:  # something that is not an artifact for the same
            place = last.path
        except FileNotFoundError:  # without locks, as above
            pass
        except OSError as error:
            if error.errno != EXDEV:
                raise
            place = last.path  # in a lower layer of overlayfs, where directories cannot be renamed
    return place, [member.path for member in older]


def _members(place: Path, slot: str) -> list[_Member]:
    """Return the artifacts of one kind: those at its place that cannot be read, then the oldest to the newest.

    One from the future is taken for older than any other: a clock was wrong, or someone wants it to stay.
    """
    members, now = [], time.time_ns()
    for path in _folders(place.parent):
        stamp, found = _stamp(path), None
        with suppress(ArtifactError, FileNotFoundError):
            found = _slot(read_artifact(path))
        if found == slot or (found is None and _place_of(path) == place):
            members.append(_Member(stamp, path, is_readable=found is not None))
    return sorted(members, key=lambda member: (member.is_readable, member.stamp[0] <= now, member.stamp))


def _remove(member: _Member, below: Path) -> None:
    """Remove an artifact, unless another one has taken its place since it was found."""
    aside = member.path.parent / _STAGING / os.urandom(_SUFFIX).hex()
    with suppress(FileNotFoundError):  # without locks, another process may have removed it
        is_whole = move_directory(member.path, aside, first=ARTIFACT_FILE, below=below)
        if not is_whole or _stamp(aside) == member.stamp:
            remove_unused(aside, below=below)
        else:
            rename_new(aside, _beside(member.path), below=below)


def _beside(path: Path) -> Path:
    return path.with_name(f"{_place_of(path).name}.{os.urandom(_SUFFIX // 2).hex()}")


def _place_of(path: Path) -> Path:
    return path.with_name(path.name.partition(".")[0])


def _stamp(folder: Path) -> tuple[int, int]:
    try:
        status = (folder / ARTIFACT_FILE).lstat()
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


def _folders(root: Path) -> list[Path]:
    return [path for name in list_directory(root) if not name.startswith(".") and is_directory(path := root / name)]


def _seal(staging: Path, artifact: Artifact) -> None:
    """Write `artifact.json`, and bring all files to the disk, read-only."""
    write_file(staging / ARTIFACT_FILE, artifact.to_json())
    check_layout(staging, artifact)  # the process that filled it computed the digests
    paths = [staging / relative for relative in artifact.files]
    for path in [*paths, staging / ARTIFACT_FILE]:
        fsync_file(path)
        make_read_only(path)
    folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(staging)}
    for folder in sorted({*folders, staging}, reverse=True):
        fsync_directory(folder)


def check_subject(bundle: Bundle, folder: Path, artifact: Artifact) -> None:
    """Raise ArtifactError if an artifact was compiled from another bundle."""
    if artifact.subject != bundle.digest:
        raise ArtifactError(
            f"{folder}: expected an artifact compiled from {bundle.reference}, {bundle.digest}; got what was compiled "
            f"from {artifact.subject}",
            path=str(folder),
            expected=bundle.digest,
            got=artifact.subject,
        )


def _slot(artifact: Artifact) -> str:
    """Return a digest of what only one attached artifact can be for: target, graph, sizes, properties and lengths."""
    shapes = {name: list(shape) for name, shape in (artifact.shapes or {}).items()}
    document: list[object] = [artifact.target, artifact.graph, shapes, dict(artifact.properties)]
    if artifact.lengths is not None:
        document.append([artifact.lengths.prompt, artifact.lengths.response])
    return digest_bytes(dump({"for": document})).partition(":")[2]


def _name(artifact: Artifact, bundle: Bundle) -> str:
    folder = _NOT_IN_NAMES.sub("-", artifact.target.lower()).strip("-")
    if len(folder) > _LONGEST_NAME or component_problem(folder):  # an artifact from elsewhere may have any target
        return f"target-{_slot(artifact)[:_SUFFIX]}"
    if len(bundle.manifest.graphs) > 1:
        folder = f"{folder}-{_NOT_IN_NAMES.sub('-', artifact.graph.lower()).strip('-')}"[:_LONGEST_NAME]
    if not artifact.shapes and not artifact.properties and artifact.lengths is None:
        return folder
    return f"{folder}-{_slot(artifact)[:_SUFFIX]}"
