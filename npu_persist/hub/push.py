"""The verb `push`: a bundle, verified and sent to a repository on the hub in one commit.

The promise: what is sent is what the manifest vouches for, byte by byte, and only what the repository lacks. The branch
shows the old bundle or the whole new one. Where somebody else changed the branch meanwhile, or the tag is taken by
another bundle, nothing changes and a `HubConflictError` says so. Pushing the same again changes nothing.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from npu_persist.bundle.manifest import MANIFEST_FILE
from npu_persist.bundle.reference import HUB_SCHEME, HubReference, parse
from npu_persist.errors import HubConflictError, HubError, HubNotFoundError, ReferenceFormatError, UsageError
from npu_persist.hub.card import CARD_FILE, MAX_CARD_SIZE, make_section, renew_card
from npu_persist.hub.client import hub_errors, open_client, progress_bars
from npu_persist.hub.inventory import kept_artifacts, list_stale, take_inventory
from npu_persist.hub.pulled import resolve
from npu_persist.hub.upload import from_bytes, list_outgoing
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    import os
    from dataclasses import dataclass
    from pathlib import Path

    from huggingface_hub import CommitOperationAdd, HfApi

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.hub.inventory import Inventory
    from npu_persist.hub.upload import Outgoing
    from npu_persist.store.api import AnyStore
else:
    from npu_persist.files.frozen import dataclass

log = logging.getLogger(__name__)

MAIN = "main"
"""The branch that a repository begins with."""

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did.

    Attributes:
        repo: The repository: `org/unet`.
        commit: The commit that holds the bundle: a new one, or the one that held it already.
        tag: The tag that names it; None without one.
        url: The page of the commit, or of the pull request.
        uploaded_bytes: Bytes of the files that the repository lacked.
        skipped_bytes: Bytes of those that it had.
    """

    repo: str
    commit: str
    tag: str | None
    url: str
    uploaded_bytes: int
    skipped_bytes: int


def push(  # noqa: PLR0913 (what a user can say; all but two have a default)
    reference: str | os.PathLike[str],
    repo: str,
    *,
    revision: str | None = None,
    tag: str | None = None,
    message: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    compiled: bool = True,
    store: AnyStore = None,
    progress: bool = False,
) -> Pushed:
    """Send a bundle to a repository on the hub; the repository and the branch are made where they are missing.

    Args:
        reference: The bundle: `unet`, `unet:3`, a directory.
        repo: The repository: `org/unet`.
        revision: The branch; None for `main`.
        tag: The tag for the commit; None for `v3` if the bundle is version 3 of a store, else for none.
        message: The commit's message.
        private: Whether a new repository is private; None for what the hub does by default. A repository that is
            there and public refuses True.
        create_pr: Open a pull request instead of changing the branch; no tag then.
        compiled: With the compiled artifacts that are attached.
        store: A store, its directory, or None for the default one.
        progress: Let huggingface_hub draw its progress bars on stderr.

    Raises:
        UsageError: The arguments do not fit together.
        BundleNotFoundError: There is no such bundle.
        IntegrityError: A file is not what the manifest or its artifact says; nothing is sent.
        MissingExtraError: huggingface_hub is not installed.
        HubAccessError: The token is missing, or does not allow it.
        HubConflictError: The branch moved meanwhile, or the tag names another bundle.
        HubError: The hub refused, or cannot be reached.

    Example:
        >>> import npu_persist
        >>> pushed = npu_persist.push("unet:3", "org/unet", private=True)  # doctest: +SKIP
        >>> pushed.tag, pushed.uploaded_bytes  # doctest: +SKIP
        ('v3', 1722304211)
    """
    target = _parse_target(repo)
    _check_arguments(revision, tag, message, create_pr=create_pr)
    bundle = resolve(open_store(store), reference)
    if tag is None and bundle.version is not None and not create_pr:
        tag = f"v{bundle.version}"
    reference_on_hub = _with_tag(target, tag)
    client = open_client()
    files, artifacts = list_outgoing(bundle, compiled=compiled)
    name, branch = target.repository, revision or MAIN
    commit, tags = _open_repository(client, name, branch, private=private, create_pr=create_pr)
    there = take_inventory(client, name, commit)
    names_this = _check_tag(client, bundle, tag, tags, there, files)
    with hub_errors(f"read {name}", name, branch):
        stale = list_stale(client, there, files)
        shown = kept_artifacts(client, there, stale, artifacts) | artifacts
        card = _make_card(client, there, bundle, reference_on_hub, shown)
    files |= {} if card is None else {CARD_FILE: card}
    lacking = {path: file for path, file in files.items() if not there.holds(path, file)}
    url = f"{client.endpoint}/{name}/commit/{commit}"
    if lacking or stale:
        said = message or f"{bundle.reference if bundle.version else bundle.name} ({bundle.digest})"
        with hub_errors(f"push {bundle.reference}", name, branch), progress_bars(shown=progress):
            new, url = _commit(client, there, branch, lacking, stale, said, create_pr=create_pr)
    else:
        new = commit
        log.info("%s: %s holds all of it already, at %s", bundle.reference, name, commit)
    if tag is not None and (new != commit or not names_this):
        _tag(client, name, tag, new, replace=names_this)
    sent = sum(file.size for file in lacking.values())
    return Pushed(name, new, tag, url, sent, sum(file.size for file in files.values()) - sent)


def _parse_target(repo: str) -> HubReference:
    try:
        found = parse(repo if repo.startswith(HUB_SCHEME) else f"{HUB_SCHEME}{repo}")
    except ReferenceFormatError as error:
        raise UsageError(f"not a repository on the hub: expected org/unet, got {repo!r}") from error
    if not isinstance(found, HubReference) or found.revision is not None or found.digest is not None:
        raise UsageError(
            f"not a repository on the hub: expected org/unet and nothing after it, got {repo!r}. `revision` "
            "(--revision) is the branch, `tag` (--tag) the tag"
        )
    return found


def _with_tag(target: HubReference, tag: str | None) -> HubReference:
    found = HubReference(target.repository, tag)
    try:
        parse(str(found))
    except ReferenceFormatError as error:
        raise UsageError(
            f"not a tag that a reference can name: expected letters, digits, '.', '_', '-' and '/', got {tag!r}"
        ) from error
    return found


def _check_arguments(revision: str | None, tag: str | None, message: str | None, *, create_pr: bool) -> None:
    if revision is not None and (_COMMIT.fullmatch(revision) or not revision.strip()):
        raise UsageError(f"revision: expected a branch to push to, such as main, got {revision!r}")
    if message is not None and not message.strip():
        raise UsageError("message: expected a text, or None for the usual one, got an empty one")
    if create_pr and tag is not None:
        raise UsageError(
            f"a pull request gets no tag, got {tag!r}: what it proposes is on no branch yet. Push again with the tag "
            "when it is merged"
        )


def _open_repository(
    client: HfApi, repo: str, branch: str, *, private: bool | None, create_pr: bool
) -> tuple[str, dict[str, str]]:
    """Return the branch's commit and the tags; a missing repository or branch is made."""
    with hub_errors(f"look at {repo}", repo):
        try:
            with hub_errors(f"look at {repo}", repo):
                refs = client.list_repo_refs(repo)
        except HubNotFoundError:
            if create_pr:
                raise
            with hub_errors(f"create {repo}", repo):
                client.create_repo(repo, private=private, exist_ok=True)
            refs = client.list_repo_refs(repo)
        else:
            if private and not client.repo_info(repo).private:
                raise HubError(
                    f"{repo} is there and public, and private=True (--private) makes only a new repository private. "
                    "Make it private on its page, or push to it as it is",
                    repo=repo,
                )
        branches = {ref.name: ref.target_commit for ref in refs.branches}
        tags = {ref.name: ref.target_commit for ref in refs.tags}
    if branch not in branches:
        if branch in tags:
            raise UsageError(f"revision: expected a branch of {repo}, got {branch!r}, which is a tag there")
        with hub_errors(f"make the branch {branch} of {repo}", repo, branch):
            client.create_branch(repo, branch=branch, exist_ok=True)
            branches[branch] = client.repo_info(repo, revision=branch).sha or ""
    return branches[branch], tags


def _check_tag(  # noqa: PLR0913, PLR0917 (all that the answer depends on)
    client: HfApi, bundle: Bundle, tag: str | None, tags: dict[str, str], there: Inventory, files: dict[str, Outgoing]
) -> bool:
    """Tell whether the tag is there and names this bundle.

    Raises:
        HubConflictError: It names another one.
    """
    if tag is None or tag not in tags:
        return False
    tagged = there if tags[tag] == there.commit else take_inventory(client, there.repo, tags[tag])
    if tagged.holds(MANIFEST_FILE, files[MANIFEST_FILE]):
        return True
    raise HubConflictError(
        f"could not push {bundle.reference}: the tag {tag} of {there.repo} is taken: it names commit {tags[tag]}, "
        f"which holds something else than {bundle.digest}. Nothing was sent. Choose another tag (--tag), or delete "
        "that one",
        repo=there.repo,
        revision=tag,
    )


def _make_card(
    client: HfApi, there: Inventory, bundle: Bundle, reference: HubReference, artifacts: dict[str, Artifact]
) -> Outgoing | None:
    """Return the card as it should be; None where that on the hub is a person's."""
    old = None
    if CARD_FILE in there.files:
        data = there.read(client, CARD_FILE, MAX_CARD_SIZE)
        try:
            old = None if data is None else data.decode()
        except UnicodeDecodeError:
            data = None
        if data is None:
            return None
    card = renew_card(old, make_section(bundle, reference, artifacts), bundle.name)
    return None if card is None else from_bytes(card.encode())


def _commit(  # noqa: PLR0913, PLR0917 (a commit is made of all this)
    client: HfApi,
    there: Inventory,
    branch: str,
    lacking: dict[str, Outgoing],
    stale: list[str],
    message: str,
    *,
    create_pr: bool,
) -> tuple[str, str]:
    """Upload what is lacking, commit, and return the commit and its page."""
    from huggingface_hub import CommitOperationDelete

    additions = {path: _addition(path, file) for path, file in lacking.items()}
    client.preupload_lfs_files(
        there.repo, list(additions.values()), revision=branch, create_pr=create_pr, free_memory=False
    )
    for path, addition in additions.items():
        _check_taken(there.repo, path, addition, lacking[path].content)
    deletions = [CommitOperationDelete(path, is_folder=False) for path in stale]
    done = client.create_commit(
        there.repo,
        [*additions.values(), *deletions],
        commit_message=message,
        revision=branch,
        create_pr=create_pr,
        parent_commit=there.commit,
    )
    return done.oid, (done.pr_url or done.commit_url) if create_pr else done.commit_url


def _addition(path: str, file: Outgoing) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    addition = CommitOperationAdd(path, file.content)
    # Known from the pass that compared the bytes with the manifest: it is not computed again, and what is uploaded
    # under it cannot be other bytes.
    addition.upload_info.sha256 = bytes.fromhex(file.sha256)
    return addition


def _check_taken(repo: str, path: str, addition: CommitOperationAdd, content: bytes | Path) -> None:
    """Check what the hub means to do with a file; there is no public name for it."""
    if addition._should_ignore:  # noqa: SLF001
        raise HubError(
            f"could not push to {repo}: its .gitignore keeps {path} out, and the bundle is nothing without it. Remove "
            "that line there and push again",
            repo=repo,
        )
    if addition._upload_mode != "lfs" and not isinstance(content, bytes):  # noqa: SLF001
        raise HubError(
            f"could not push to {repo}: it wants {path} as text in git itself, not in LFS. Its .gitattributes needs "
            f"the line '{path} filter=lfs diff=lfs merge=lfs -text'; add it there and push again",
            repo=repo,
        )


def _tag(client: HfApi, repo: str, tag: str, commit: str, *, replace: bool) -> None:
    """Let the tag name the commit; `replace` where it names an older one with the same bundle."""
    with hub_errors(f"tag commit {commit} of {repo}, which is pushed, as {tag}", repo, tag):
        if replace:
            client.delete_tag(repo, tag=tag)
        client.create_tag(repo, tag=tag, revision=commit)
