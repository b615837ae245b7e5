"""What a store has seen on the hub: which commit a revision was, and what of a commit concerns a bundle.

    $NPU_PERSIST_HOME/hub/<32 hex digits of the repository's name>/
      revision-<32 hex digits of the revision>.json     {"commit": "<40 hex digits>"}
      commit-<40 hex digits>.json                       what `Seen` has

The promise: a commit that was pulled is known without asking the hub again, with all that choosing among its artifacts
takes. A note appears in one step; one that is damaged is none, and whoever needs it asks the hub again.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from npu_persist.bundle.manifest import strict_json
from npu_persist.bundle.manifest.values import ValueReader
from npu_persist.bundle.reference import HubReference, StoreReference, parse
from npu_persist.errors import BundleNotFoundError, ManifestError
from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import replace_file, store_errors
from npu_persist.files.staging import staged

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Mapping
    from dataclasses import dataclass
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store
    from npu_persist.store.store import AnyReference
else:
    from npu_persist.files.frozen import dataclass

T = TypeVar("T")
log = logging.getLogger(__name__)

FORMAT_VERSION = "1.0"
"""The format of both notes."""

MAX_NOTE_SIZE = 64 * 1024 * 1024
"""Largest note, in bytes: it holds the descriptions of up to a thousand artifacts."""

_SHORT = 32
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_FIELDS = ("repo", "commit", "name", "digest", "sizes", "descriptions")


@dataclass(frozen=True, slots=True)
class Seen:
    """What of a commit concerns a bundle.

    Attributes:
        repo: `org/unet`.
        commit: 40 hex digits.
        name: The bundle's name.
        digest: The bundle's digest.
        sizes: Bytes of the bundle's files and of all in `compiled/`, by path, as the hub lists them.
        descriptions: The text of each `artifact.json`, by the name of its folder; None: they were not read.
    """

    repo: str
    commit: str
    name: str
    digest: str
    sizes: Mapping[str, int]
    descriptions: Mapping[str, str] | None


def note_commit(home: Path, seen: Seen) -> None:
    """Keep what a commit holds.

    Raises:
        StoreError: The file system refuses.
    """
    _write(home, _folder(home, seen.repo) / f"commit-{seen.commit}.json", asdict(seen))


def note_revision(home: Path, repo: str, revision: str | None, commit: str) -> None:
    """Keep which commit a branch or tag was.

    Raises:
        StoreError: The file system refuses.
    """
    _write(home, _revision_path(home, repo, revision), {"commit": commit})


def find_commit(home: Path, repo: str, commit: str) -> Seen | None:
    """Return what a commit holds, if it was seen; None also of what is no whole commit."""
    if not _COMMIT.fullmatch(commit):
        return None
    return _read(_folder(home, repo) / f"commit-{commit}.json", _parse_seen)


def find_revision(home: Path, repo: str, revision: str | None) -> str | None:
    """Return the commit that a branch or tag was when it was last seen."""
    return _read(_revision_path(home, repo, revision), _parse_revision)


def resolve(store: Store, reference: AnyReference) -> Bundle:
    """Open the bundle that a reference means; of a hub reference what was pulled, without asking the hub.

    Raises:
        BundleNotFoundError: There is no such bundle; a hub reference was not pulled, or was removed since.
    """
    parsed = parse(reference)
    return find_pulled(store, parsed) if isinstance(parsed, HubReference) else store.resolve(parsed)


def find_pulled(store: Store, reference: HubReference) -> Bundle:
    """Open the bundle that a hub reference meant when it was last pulled.

    With a digest it is the bundle that has it, wherever it came from.

    Raises:
        BundleNotFoundError: It was not pulled, or was removed since.
    """
    repo, revision, digest = reference.repository, reference.revision, reference.digest
    commit = find_revision(store.home, repo, revision) or revision
    seen = None if commit is None else find_commit(store.home, repo, commit)
    wanted: list[tuple[str, str]] = []
    if seen is not None and digest in {None, seen.digest.partition(":")[2]}:
        wanted = [(seen.name, seen.digest.partition(":")[2])]
    elif digest is not None:
        wanted = [(name, digest) for name in store.names()]
    for name, known in wanted:
        with suppress(BundleNotFoundError):
            return store.resolve(StoreReference(name, digest=known))
    raise BundleNotFoundError(
        f"{reference} is not in the store {store.home}. `npu-persist pull {reference}` brings it there"
    )


def _folder(home: Path, repo: str) -> Path:
    return home / "hub" / _short(repo)


def _revision_path(home: Path, repo: str, revision: str | None) -> Path:
    return _folder(home, repo) / f"revision-{_short(revision or '')}.json"


def _short(text: str) -> str:
    # Not the names themselves: neither their length nor their letters need suit a file system.
    return digest_bytes(text.encode()).partition(":")[2][:_SHORT]


def _write(home: Path, path: Path, document: Mapping[str, Any]) -> None:
    data = strict_json.dump({"format_version": FORMAT_VERSION, **document})
    with staged(home / "staging") as staging, store_errors(f"write {path}"):
        path.parent.parent.mkdir(exist_ok=True)
        replace_file(path, data, temporary=staging / path.name)


def _read(path: Path, parse: Callable[[Any, ValueReader], T]) -> T | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_NOTE_SIZE + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s cannot be read: %s", path, error)
        return None
    problems = strict_json.Problems(str(path))
    try:
        found = parse(strict_json.load(data, problems), ValueReader(problems))
        problems.raise_if_any()
    except ManifestError as error:
        log.warning("%s is damaged, and not used: %s", path, error)
        return None
    return found


def _parse_revision(document: Any, reader: ValueReader) -> str:
    got = reader.members(document, "", "format_version", "commit")
    reader.choice(got["format_version"], "format_version", (FORMAT_VERSION,))
    return reader.text(got["commit"], "commit")


def _parse_seen(document: Any, reader: ValueReader) -> Seen:
    got = reader.members(document, "", "format_version", *_FIELDS)
    reader.choice(got["format_version"], "format_version", (FORMAT_VERSION,))
    return Seen(
        repo=reader.text(got["repo"], "repo"),
        commit=reader.text(got["commit"], "commit"),
        name=reader.bundle_name(got["name"], "name"),
        digest=reader.digest(got["digest"], "digest"),
        sizes={
            reader.path(path, "sizes"): reader.integer(size, path)
            for path, size in _items(reader, got["sizes"], "sizes")
        },
        descriptions=reader.optional(
            got["descriptions"], "descriptions", lambda value, where: _texts(reader, value, where)
        ),
    )


def _texts(reader: ValueReader, value: Any, where: str) -> dict[str, str]:
    return {folder: reader.any_text(text, folder) for folder, text in _items(reader, value, where)}


def _items(reader: ValueReader, value: Any, where: str) -> ItemsView[str, Any]:
    if isinstance(value, dict):
        return value.items()
    reader.expected("an object", value, where)
    return {}.items()
