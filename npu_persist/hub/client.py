"""The huggingface_hub client: the one place that imports it, and that reads its errors.

The promise: a program without the extra gets a `MissingExtraError` that names it. What happens between this machine and
the hub comes out as a `HubError` with the repository, the revision and the HTTP status, and says what to do next.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from npu_persist.errors import (
    HubAccessError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    MissingExtraError,
    NpuPersistError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import HfApi

EXTRA = "hub"
"""The extra that brings huggingface_hub."""

_REFUSED = frozenset({401, 403})
_MOVED = frozenset({409, 412})
_LONGEST_SAID = 500
"""Characters of what a hub says itself that are passed on."""

_TOKEN = "`hf auth login` or HF_TOKEN gives a token"  # noqa: S105 (no token)


def open_client() -> HfApi:
    """Return a client of the hub that huggingface_hub is set to.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise MissingExtraError(
            "a hub is reached through huggingface_hub, which is not installed here: "
            f"python -m pip install 'npu_persist[{EXTRA}]'",
            extra=EXTRA,
            name=error.name,
        ) from error
    return HfApi(library_name="npu_persist")


@contextmanager
def hub_errors(doing: str, repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the client raises inside into ours.

    Args:
        doing: What is done inside, to follow "could not".
        repo: The repository.
        revision: The revision that is asked for.
    """
    try:
        yield
    except (NpuPersistError, MemoryError):
        raise
    except Exception as error:  # the client's, its transport's and what a strange answer makes of both: no common root
        raise _translate(error, doing, repo, revision) from error


@contextmanager
def progress_bars(*, shown: bool) -> Iterator[None]:
    """Let the client draw its progress bars inside, or not, if HF_HUB_DISABLE_PROGRESS_BARS leaves it to us."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _translate(error: Exception, doing: str, repo: str, revision: str | None) -> HubError:
    from huggingface_hub import constants

    cause = _find_cause(error)
    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    kind, text = _judge(cause, status, f"{repo} at {constants.ENDPOINT}", revision or constants.DEFAULT_REVISION)
    return kind(f"could not {doing}: {text}", repo=repo, revision=revision, status=status)


def _judge(cause: BaseException, status: int | None, at: str, revision: str) -> tuple[type[HubError], str]:
    from huggingface_hub import errors

    said = _said(cause)
    for kind, ours, text in (
        (
            errors.OfflineModeIsEnabled,
            HubError,
            "HF_HUB_OFFLINE is set, and this needs the hub. Unset it and try again",
        ),
        (errors.GatedRepoError, HubAccessError, f"{at} is gated. Ask for access on its page; {_TOKEN}"),
        (
            errors.RepositoryNotFoundError,
            HubNotFoundError,
            f"there is no {at} that this token may see. Check the name; if it is private, {_TOKEN}",
        ),
        (
            errors.RevisionNotFoundError,
            HubNotFoundError,
            f"{at} has no revision {revision}. Its page lists branches and tags",
        ),
        (errors.RemoteEntryNotFoundError, HubNotFoundError, f"{at} lacks a file at revision {revision}: {said}"),
        (errors.HFValidationError, HubError, f"{said}. Use another name"),
        (errors.LocalTokenNotFoundError, HubAccessError, f"{at} wants a token. {_TOKEN}"),
    ):
        if isinstance(cause, kind):
            return ours, text
    if status in _REFUSED:
        return HubAccessError, f"{at} does not allow it: {said}. {_TOKEN}; it has to be one that may"
    if status in _MOVED:
        return HubConflictError, f"{at}: the branch moved, or the name is taken ({said}). Pull, or push again"
    if status is not None:
        return HubError, f"{at} answered {status}: {said}. Try again later"
    return HubError, f"no usable answer from {at}: {type(cause).__name__}: {said}. Check the network and try again"


def _find_cause(error: Exception) -> BaseException:
    """Return the first of an error and its causes that says what happened: the client wraps some in a RuntimeError."""
    from huggingface_hub import errors

    known = (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.LocalTokenNotFoundError)
    current: BaseException | None = error
    last: BaseException = error
    while current is not None:
        if isinstance(current, known):
            return current
        last, current = current, current.__cause__
    return last if isinstance(error, (RuntimeError, FileNotFoundError)) else error


def _said(error: BaseException) -> str:
    """Return what the hub said itself, else the error's own words, in one line of bounded length."""
    text = " ".join((getattr(error, "server_message", None) or str(error)).split())
    return text[:_LONGEST_SAID].rstrip(".") or "nothing"
