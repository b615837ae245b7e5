"""Compiled artifacts that are attached to a bundle: they come after it, lie in its folder and are no part of it.

    unet/3/compiled/
      npu-4000/                     an attached artifact: artifact.json and its files, read-only
      npu-4000-5f0c12ab/            one of another graph, of other sizes or with properties
      npu-4000.9d31e07c/            one that has just come, beside the older one whose place it takes
      .staging/                     those that are being made (see `staging`)

The promise: attaching never changes the bundle, whose digest stays. An artifact appears by one rename, with every byte
on the disk by then, and the one that it replaces (same target, graph, sizes and properties) goes after that: a crash
leaves the old one, the new one, or for a moment both. Of several that are attached at once, the newest stays.
"""

from __future__ import annotations

import logging
import os
import re
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from npu_persist.artifact.artifact import ARTIFACT_FILE, Artifact, check_files, check_layout, read_artifact
from npu_persist.bundle.manifest import COMPILED_DIRECTORY, strict_json
from npu_persist.errors import ArtifactError, StoreError
from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import (
    component_problem,
    fsync_directory,
    fsync_file,
    is_directory,
    make_read_only,
    remove_tree,
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
_SHORT = 8
"""Hex digits that tell folders of one target apart."""

MAX_ATTACHED = 1000
"""Most entries of the folder that are looked at."""

MAX_DESCRIPTIONS = 16 * 1024 * 1024
"""Most bytes of all `artifact.json` together that are read."""

_LOST_RACES = 100
"""How often others may attach the same, before one of theirs is taken for the newest."""

_WAIT, _POLL = 30.0, 0.01
"""Seconds to wait for another process that clears up, and between two looks."""

_LONGEST_NAME = 64
"""Most characters of a target that its folder's name takes over."""

_FOREIGN = re.compile(r"[^a-z0-9]+")


def list_attached(bundle: Bundle) -> Iterator[tuple[Path, Artifact | ArtifactError]]:
    """Yield the folder of each attached artifact, with what `artifact.json` says or why it cannot be read.

    Its other files are not looked at, and neither is whether it was compiled from this bundle: `subject` says that.
    Where there are more than `MAX_ATTACHED`, or more than `MAX_DESCRIPTIONS` bytes of descriptions, the last is the
    error that says so: what came with a bundle must not keep a load busy.
    """
    found: list[tuple[Path, Artifact | ArtifactError | None]] = []
    for _ in range(_LOST_RACES):
        found = list(_read_all(bundle.path / COMPILED_DIRECTORY))
        if all(artifact is not None for _, artifact in found):
            break
    yield from ((folder, artifact) for folder, artifact in found if artifact is not None)


def _read_all(root: Path) -> Iterator[tuple[Path, Artifact | ArtifactError | None]]:
    """Yield what is attached; None for one that was replaced between the look at the folder and the look at it."""
    try:
        names = sorted(os.listdir(root)) if is_directory(root) else []  # noqa: PTH208 (no link is followed)
    except OSError as error:  # another user's
        yield root, ArtifactError(f"{root}: cannot be read: {error.strerror}", path=str(root))
        return
    left = MAX_DESCRIPTIONS
    for number, name in enumerate(names):
        folder = root / name
        if number >= MAX_ATTACHED:
            yield root, _too_much(root, len(names))
            return
        if name.startswith(".") or not is_directory(folder):
            continue
        try:
            left -= (folder / ARTIFACT_FILE).lstat().st_size
            if left < 0:
                yield root, _too_much(root, len(names))
                return
            yield folder, read_artifact(folder)
        except ArtifactError as error:
            yield folder, error
        except OSError as error:
            if folder.exists():
                yield folder, ArtifactError(f"{folder}: cannot be read: {error.strerror}", path=str(folder))
            else:
                yield folder, None


def _too_much(root: Path, number: int) -> ArtifactError:
    expected = f"at most {MAX_ATTACHED} entries, with {MAX_DESCRIPTIONS} bytes of {ARTIFACT_FILE} together"
    return ArtifactError(
        f"{root}: expected {expected}; got {number} entries. The others are not looked at; remove what is not used",
        path=str(root),
        expected=expected,
        got=f"{number} entries",
    )


def verify_attached(bundle: Bundle, *, progress: Callable[[int], object] | None = None) -> None:
    """Read every byte of the attached artifacts, and compare it with what their `artifact.json` says.

    Args:
        bundle: The bundle.
        progress: Called after each artifact with the number of bytes in it.

    Raises:
        ArtifactError: The first one that is damaged, or was compiled from another bundle.
    """
    for folder, artifact in list_attached(bundle):
        try:
            try:
                _verify(bundle, folder, artifact)
            except ArtifactError:
                if _is_replaced(folder, artifact):
                    continue
                _verify(bundle, folder, artifact)  # it may have been moved, while another process cleared up
        except ArtifactError as error:
            raise ArtifactError(
                f"{bundle.reference}: the artifact that is attached in {folder} is of no use: {error}. The bundle "
                f"itself is sound. Remove that folder, or compile again: `npu-persist compile {bundle.reference} "
                "--target …`",
                path=error.path,
                expected=error.expected,
                got=error.got,
            ) from error
        if progress is not None and isinstance(artifact, Artifact):
            progress(artifact.size)


def _verify(bundle: Bundle, folder: Path, artifact: Artifact | ArtifactError) -> None:
    if isinstance(artifact, ArtifactError):
        raise artifact
    _check_subject(bundle, folder, artifact)
    with store_errors(f"read {folder}"):
        try:
            check_files(folder, artifact)
        except FileNotFoundError as error:
            raise ArtifactError(f"{error.filename}: expected a file, got nothing", path=error.filename) from error


def _is_replaced(folder: Path, artifact: Artifact | ArtifactError) -> bool:
    """Tell whether another process has put a newer artifact in the place of this one, or removed it."""
    try:
        return read_artifact(folder) != artifact
    except ArtifactError:
        return False
    except FileNotFoundError:
        return not folder.exists()


@contextmanager
def stage(bundle: Bundle) -> Iterator[Path]:
    """Give a new, empty folder to fill for `attach`, on the bundle's file system; it is removed at the block's end.

    Raises:
        StoreError: It cannot be made, or the disk is full inside the block.
    """
    root = bundle.path / COMPILED_DIRECTORY
    if os.path.lexists(root) and not is_directory(root):
        raise StoreError(f"{root}: expected a folder, got a link or a file. Remove it and compile again")
    with suppress(OSError):  # what an earlier one left; where it cannot be removed, making a folder fails and says why
        list(prune_staging(root / _STAGING))
    try:
        with staged(root / _STAGING) as path:
            yield path
    finally:
        _remove_empty(root)


def attach(bundle: Bundle, artifact: Artifact, staging: Path) -> Path:
    """Make a filled staging folder an artifact of the bundle, in place of an older one for the same.

    Args:
        bundle: The bundle.
        artifact: The description of what is in the folder.
        staging: What `stage` gave, with exactly the files that the description names.

    Returns:
        Where the artifact is now; where another process attached a newer one for the same meanwhile, that one's place.

    Raises:
        ArtifactError: The folder is not what the description says, or it was compiled from another bundle.
        StoreError: The file system refuses. What was attached before is as it was.
    """
    _check_subject(bundle, staging, artifact)
    root = bundle.path / COMPILED_DIRECTORY
    with store_errors(f"attach what was compiled for {artifact.target} to {bundle.reference}"):
        _settle(staging, artifact)
        place = root / _name(artifact, bundle)
        own = place
        try:
            rename_new(staging, place)
        except FileExistsError:
            own = _beside(place)
            rename_new(staging, own)
        with suppress(OSError):  # it has happened; that a power failure may undo it is no reason to say that it failed
            fsync_directory(root)
            fsync_directory(root.parent)
    try:
        with _alone(root):
            return _keep_newest(place, _slot(artifact), staging)
    except OSError as error:  # on Windows, where the older one is in use; or it is another user's
        log.warning("%s: an older artifact for the same could not be removed: %s", own, error)
        return own


def sweep(directory: Path) -> Iterator[Path]:
    """Remove what interrupted attachments left in a bundle's folder; yield each thing that was removed.

    What a living process works on is left alone, and so is the newest artifact of each kind.
    """
    root = directory / COMPILED_DIRECTORY
    if not is_directory(root):
        return
    yield from prune_staging(root / _STAGING)
    for late in [path for path in _folders(root) if "." in path.name]:
        place = _place_of(late)
        try:
            slot: str | None = _slot(read_artifact(late))
        except (ArtifactError, FileNotFoundError):
            slot = None
        before = _members(place, slot)
        with staged(root / _STAGING) as aside:
            aside.rmdir()  # where the older one goes
            with _alone(root):
                newest = _keep_newest(place, slot, aside)
        yield from (member.path for member in before[:-1] if member.path != newest)
    _remove_empty(root)


class _Member(NamedTuple):
    """An attached artifact as it was when it was looked at.

    The time and inode of `artifact.json` go with it through every rename: they say which is newer, and which it is.
    """

    stamp: tuple[int, int]
    path: Path
    slot: str | None
    """What it is for; None where that cannot be read."""


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Wait until no other process clears up, for a while: without this it goes well too, but for a crash meanwhile."""
    path = root / _STAGING / f"clear-up{LOCK_SUFFIX}"
    lock, until = None, time.monotonic() + _WAIT
    while lock is None and time.monotonic() < until:
        try:
            lock = try_lock(path)
        except (FileNotFoundError, FileExistsError):  # a sweep removed the folder while the lock file was made
            continue
        except OSError:  # no locks here
            break
        if lock is None:
            time.sleep(_POLL)
        elif not path.exists():  # a sweep took the file for a leftover, between its making and its locking
            lock.release()
            lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _keep_newest(place: Path, slot: str | None, aside: Path) -> Path:
    """Remove all but the newest artifact of one kind, give that its place, and return where it is.

    Several processes may do this at once. All agree on which one is the newest, so that one is never removed.

    Args:
        place: Where it belongs.
        slot: The kind.
        aside: A path where nothing is, for what is being removed.
    """
    for _ in range(_LOST_RACES):
        members = _members(place, slot)
        if not members:
            continue
        *older, newest = members
        if not all(_remove_member(member, aside) for member in older):
            continue
        if newest.path == place:
            return place
        try:
            rename_new(newest.path, place)
        except FileNotFoundError:  # a newer one came, whose process did this
            continue
        except FileExistsError:
            if not any(member.path == place for member in _members(place, slot)):
                return newest.path  # what is there is for something else
            continue
        return place
    return place


def _remove_member(member: _Member, aside: Path) -> bool:
    """Remove an artifact; tell whether it is gone: not if another one had taken its place since the look."""
    try:
        rename_new(member.path, aside)
    except FileNotFoundError:  # another process did
        return True
    if _stamp(aside) != member.stamp:
        rename_new(aside, _beside(member.path))
        return False
    remove_tree(aside)
    return True


def _members(place: Path, slot: str | None) -> list[_Member]:
    """Return the artifacts of one kind, what cannot be read at its place first, then the oldest to the newest."""
    members = []
    for path in _folders(place.parent):
        stamp = _stamp(path)
        try:
            found: str | None = _slot(read_artifact(path))
        except (ArtifactError, FileNotFoundError):
            if not path.exists():  # another process removed it
                continue
            found = None
        if found == slot or (found is None and _place_of(path) == place):
            members.append(_Member(stamp, path, found))
    return sorted(members, key=lambda member: (member.slot is not None, member.stamp))


def _beside(path: Path) -> Path:
    return path.with_name(f"{_place_of(path).name}.{os.urandom(_SHORT // 2).hex()}")


def _place_of(path: Path) -> Path:
    return path.with_name(path.name.partition(".")[0])


def _stamp(folder: Path) -> tuple[int, int]:
    try:
        status = (folder / ARTIFACT_FILE).lstat()
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


def _folders(root: Path) -> list[Path]:
    names = os.listdir(root) if is_directory(root) else []  # noqa: PTH208 (no link is followed)
    return [path for name in sorted(names) if not name.startswith(".") and is_directory(path := root / name)]


def _settle(staging: Path, artifact: Artifact) -> None:
    write_file(staging / ARTIFACT_FILE, artifact.to_json())
    check_layout(staging, artifact)  # the digests are the maker's word
    paths = [staging / relative for relative in artifact.files]
    for path in [*paths, staging / ARTIFACT_FILE]:
        fsync_file(path)
        make_read_only(path)
    folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(staging)}
    for folder in sorted({*folders, staging}, reverse=True):
        fsync_directory(folder)


def _check_subject(bundle: Bundle, folder: Path, artifact: Artifact) -> None:
    if artifact.subject != bundle.digest:
        raise ArtifactError(
            f"{folder}: expected what was compiled from {bundle.reference}, {bundle.digest}; got what was compiled "
            f"from {artifact.subject}",
            path=str(folder),
            expected=bundle.digest,
            got=artifact.subject,
        )


def _slot(artifact: Artifact) -> str:
    """Return what tells artifacts apart that stand beside each other."""
    shapes = {name: list(shape) for name, shape in (artifact.shapes or {}).items()}
    document = [artifact.target, artifact.graph, shapes, dict(artifact.properties)]
    return digest_bytes(strict_json.dump({"for": document})).partition(":")[2]


def _name(artifact: Artifact, bundle: Bundle) -> str:
    folder = _FOREIGN.sub("-", artifact.target.lower()).strip("-")
    if len(folder) > _LONGEST_NAME or component_problem(folder):  # a stranger's: it may be any text
        return f"target-{_slot(artifact)[:_SHORT]}"
    if artifact.graph == bundle.manifest.graphs[0].name and not artifact.shapes and not artifact.properties:
        return folder
    return f"{folder}-{_slot(artifact)[:_SHORT]}"


def _remove_empty(root: Path) -> None:
    with suppress(OSError):
        list(prune_staging(root / _STAGING))  # its lock file
    for path in (root / _STAGING, root):
        with suppress(OSError):  # there is something in it
            os.rmdir(path)  # noqa: PTH106
