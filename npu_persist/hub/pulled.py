"""Records of what was pulled into a store, so that a hub reference can be resolved without the hub.

    $NPU_PERSIST_HOME/hub/<32 hex digits of the digest of https://huggingface.co/org/unet>/
      revision-<32 hex digits of the revision's digest>.json     {"format_version": "1.0", "commit": "<40 hex digits>"}
      commit-<40 hex digits>.json                                `CommitSummary`

A file is replaced in one step; a damaged one counts as missing.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec

from npu_persist.bundle.document import MAX_SIZE, Document, decode, encode
from npu_persist.bundle.reference import HubReference, StoreReference, parse
from npu_persist.errors import BundleNotFoundError
from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import make_folder, refuse_links, replace_file, store_errors
from npu_persist.files.staging import staged
from npu_persist.hub.client import get_endpoint, is_commit

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store.store import AnyReference, Store

T = TypeVar("T")
log = logging.getLogger(__name__)

Commit = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}$")]


class CommitSummary(Document, frozen=True, kw_only=True):
    """The bundle of a commit, in summary.

    Attributes:
        repo_id: `org/unet`.
        commit: 40 hex digits.
        name: The bundle's name in the store.
        digest: The bundle's digest.
        sizes: Bytes of the bundle's files and of everything in `compiled/`, by path, as the hub lists them.
        descriptions: The text of each `artifact.json`, by the name of its folder; None if they were not read.
    """

    repo_id: str
    commit: Commit
    name: str
    digest: Annotated[str, msgspec.Meta(pattern="^blake3:[0-9a-f]{64}$")]
    sizes: dict[str, int]
    descriptions: dict[str, str] | None


class _Revision(Document, frozen=True):
    commit: Commit


def resolve_offline(store: Store, reference: AnyReference) -> Bundle:
    """Open the bundle of a reference; for a hub reference what was pulled, without asking the hub."""
    parsed = parse(reference)
    return find_pulled(store, parsed) if isinstance(parsed, HubReference) else store.resolve(parsed)


def find_pulled(store: Store, reference: HubReference) -> Bundle:
    """Open the bundle that a hub reference meant when it was last pulled; with a digest any bundle that has it."""
    repo_id, revision, digest = reference.repo_id, reference.revision, reference.digest
    commit = read_revision(store.home, repo_id, revision) or revision
    summary = None if commit is None else read_commit(store.home, repo_id, commit)
    wanted: list[tuple[str, str]] = []
    if summary is not None and digest in {None, summary.digest.partition(":")[2]}:
        wanted = [(summary.name, summary.digest.partition(":")[2])]
    elif digest is not None:
        wanted = [(name, digest) for name in store.names()]
    for name, known in wanted:
        with suppress(BundleNotFoundError):
            return store.resolve(StoreReference(name, digest=known))
    raise BundleNotFoundError(
        f"{reference} is not in the store {store.home}. `npu-persist pull {reference}` downloads it"
    )


def read_commit(home: Path, repo_id: str, commit: str) -> CommitSummary | None:
    """Return the summary of a commit, if it was pulled."""
    return _read(_folder(home, repo_id) / f"commit-{commit}.json", CommitSummary) if is_commit(commit) else None


def write_commit(home: Path, summary: CommitSummary) -> None:
    """Record the summary of a commit."""
    _write(home, _folder(home, summary.repo_id) / f"commit-{summary.commit}.json", summary)


def read_revision(home: Path, repo_id: str, revision: str | None) -> str | None:
    """Return the commit that a branch or tag was at the last pull."""
    found = _read(_revision_path(home, repo_id, revision), _Revision)
    return None if found is None else found.commit


def write_revision(home: Path, repo_id: str, revision: str | None, commit: str) -> None:
    """Remember the commit of a branch or tag."""
    _write(home, _revision_path(home, repo_id, revision), _Revision(commit))


def _folder(home: Path, repo_id: str) -> Path:
    # With the hub's address: what one hub said of a commit is nothing that another one said.
    return home / "hub" / _shorten(f"{get_endpoint()}/{repo_id}")


def _revision_path(home: Path, repo_id: str, revision: str | None) -> Path:
    return _folder(home, repo_id) / f"revision-{_shorten(revision or '')}.json"


def _shorten(text: str) -> str:
    # The names themselves may be too long for a file system, or have letters that it does not allow.
    return digest_bytes(text.encode()).partition(":")[2][:32]


def _write(home: Path, path: Path, record: Document) -> None:
    with staged(home / "staging", below=home) as staging, store_errors(f"write {path}"):
        refuse_links(path.parent, below=home)
        make_folder(path.parent.parent)
        replace_file(path, encode(record), temporary=staging / path.name, below=home)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        with path.open("rb") as file:
            return decode(file.read(MAX_SIZE + 1), kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # a DocumentError is a ValueError
        log.warning("%s is not used: %s", path, error)
        return None
