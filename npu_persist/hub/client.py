"""Access to the hub through huggingface_hub: one repository, bounded reads, retries, and its errors as ours."""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

from npu_persist.bundle.origin import HUGGING_FACE
from npu_persist.errors import (
    FileIntegrityError,
    HubAccessError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    MissingExtraError,
    NpuPersistError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias, TypeGuard

    from huggingface_hub import HfApi

    Token: TypeAlias = str | bool | None
    """As in huggingface_hub: a token, True to require the one of the login, False for none, None for one if known."""

T = TypeVar("T")
log = logging.getLogger(__name__)

EXTRA = "hub"
"""The extra that brings huggingface_hub."""

MAIN = "main"
"""The default branch of a new repository."""

MAX_ENTRIES = 100_000
"""Most files and folders of a repository."""

MAX_PAGES = 100
"""Most pages of the list of files; a page of Hugging Face's hub has a thousand entries."""

MAX_LIST_SIZE = 32 * 1024 * 1024
"""Most bytes of the list of files, all pages together."""

MAX_LIST_SECONDS = 30.0
"""Longest time that the list of files may take, in seconds: a hostile hub would send it byte by byte."""

ANSWER_SECONDS = 1.0
"""How long a load waits for the hub where it can go on without it, in seconds."""

MAX_FAILURES = 5
"""How often in a row a request may fail before we give up."""

MAX_WAIT = 60.0
"""Longest wait between two requests, in seconds; if the hub asks for more, we give up."""

_MAX_BACKOFF = 8.0
_TEMPORARY = frozenset({None, 408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which a retry may succeed; None: there was no response."""

_MAX_MESSAGE = 500
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN or token="


def get_endpoint() -> str:
    """Return the address of the hub that huggingface_hub is configured for, also where that is not installed."""
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        return os.environ.get("HF_ENDPOINT", HUGGING_FACE).rstrip("/")
    return constants.ENDPOINT


class RemoteFile(NamedTuple):
    """A file of a commit.

    Attributes:
        size: Its size in bytes.
        oid: Its git object id; for a file in LFS that of its pointer.
        sha256: Its LFS object id; None for a file in git itself.
    """

    size: int
    oid: str | None
    sha256: str | None


class Repository:
    """A repository on the hub that huggingface_hub is configured for (HF_ENDPOINT).

    Attributes:
        repo_id: `org/unet`.
        token: As in huggingface_hub.
        answer_within: Seconds in which the first request must be answered, without another try; None for as long as
            the client waits, with retries.
    """

    def __init__(self, repo_id: str, token: Token = None, *, answer_within: float | None = None) -> None:
        self.repo_id = repo_id
        self.token = token
        self.answer_within = answer_within

    @cached_property
    def client(self) -> HfApi:
        """huggingface_hub's client; `MissingExtraError` without the package."""
        try:
            from huggingface_hub import HfApi
        except ModuleNotFoundError as error:
            if error.name != "huggingface_hub":
                raise
            raise MissingExtraError(
                f"huggingface_hub is not installed. Install it with: python -m pip install 'npu_persist[{EXTRA}]'",
                extra=EXTRA,
                name=error.name,
            ) from error
        return HfApi(library_name="npu_persist", token=self.token)

    @property
    def is_offline(self) -> bool:
        """Whether HF_HUB_OFFLINE is set; `MissingExtraError` without huggingface_hub."""
        _ = self.client
        return _is_offline()

    def find_commit(self, revision: str | None) -> str:
        """Return the commit of a branch or tag; None for the default branch."""

        def ask() -> str | None:
            with hub_errors(f"look up {self.repo_id}", self.repo_id, revision):
                # Only the commit: otherwise the response lists all files, and nothing limits its size.
                return client.model_info(
                    self.repo_id, revision=revision, expand=["sha"], timeout=self.answer_within or _get_timeout()
                ).sha

        client = self.client  # imported before the clock starts
        if self.answer_within is None:
            sha = retry(ask)
        else:
            sha = _call_within(self.answer_within, ask, f"look up {self.repo_id}", self.repo_id)
            self.answer_within = None
        if not is_commit(sha):
            raise self.malformed(revision, "a commit of 40 hex digits", repr(sha))
        return sha

    def require_answer(self, commit: str) -> None:
        """Raise `HubError` if `answer_within` is set, no request was answered yet, and the hub does not answer now."""
        if self.answer_within is not None:
            self.find_commit(commit)

    def malformed(self, revision: str | None, expected: str, got: str) -> HubError:
        """Return the error for a response that no hub should give."""
        return HubError(
            f"{self.repo_id} at {self.client.endpoint}: expected {expected}, got {got[:200]}. Check HF_ENDPOINT and "
            "the repository",
            repo_id=self.repo_id,
            revision=revision,
        )


class RemoteCommit:
    """One commit of a repository.

    Attributes:
        repository: The repository.
        commit: 40 hex digits.
    """

    def __init__(self, repository: Repository, commit: str) -> None:
        self.repository = repository
        self.commit = commit

    @cached_property
    def files(self) -> dict[str, RemoteFile]:
        """The files by path, as the hub lists them."""
        repository = self.repository
        tree = f"{repository.client.endpoint}/api/models/{repository.repo_id}/tree/{quote(self.commit, safe='')}"
        url: str | None = f"{tree}?recursive=true"
        files: dict[str, RemoteFile] = {}
        paths: set[str] = set()
        left, pages, until = MAX_LIST_SIZE, 0, monotonic() + MAX_LIST_SECONDS
        while url is not None:
            page, url, size = self._read_page(url, left, until)
            left, pages, known = left - size, pages + 1, len(paths)
            paths.update(str(entry.get("path")) for entry in page)
            if len(paths) > MAX_ENTRIES:
                raise self._malformed(f"at most {MAX_ENTRIES} files and folders", "more")
            if url is not None and pages == MAX_PAGES:
                raise self._malformed(f"a list of at most {MAX_PAGES} pages", "more")
            if url is not None and len(paths) == known:
                raise self._malformed("a list of files of which each page has others", "the same again, or nothing")
            files.update(self._parse_entry(entry) for entry in page if entry.get("type") == "file")
        return files

    def read(self, path: str, size: int | None = None) -> bytes:
        """Return a small file, which must have this size; None for the size in the list."""
        size = self.files[path].size if size is None else size
        data, _ = self._read_bounded(self._get_url(path), f"download {path}", size)
        if len(data) > size:
            raise self.damaged(path, f"{size} bytes", "more")
        if len(data) < size:
            raise self.incomplete(path, size, len(data))
        return data

    @contextmanager
    def open(self, path: str, start: int) -> Iterator[Stream]:
        """Request a file from byte `start` on."""
        with self._stream(self._get_url(path), f"download {path}", start) as stream:
            yield stream

    def damaged(self, path: str, expected: str, got: str) -> FileIntegrityError:
        """Return the error for a file that is not what the manifest or `artifact.json` says."""
        where = f"{path} of {self.repository.repo_id} at {self.commit}"
        advice = "The repository is damaged, or a proxy changes its files. Nothing was added to the store"
        return FileIntegrityError.mismatch(where, expected, got, advice)

    def incomplete(self, path: str, expected: int, got: int) -> HubError:
        """Return the error for a response that ended early."""
        repo_id = self.repository.repo_id
        text = f"could not download {path} of {repo_id}: expected {expected} bytes, got {got}. Try again later"
        return HubError(text, repo_id=repo_id, revision=self.commit)

    def _malformed(self, expected: str, got: str) -> HubError:
        return self.repository.malformed(self.commit, expected, got)

    def _get_url(self, path: str) -> str:
        from huggingface_hub import hf_hub_url

        repository = self.repository
        return hf_hub_url(repository.repo_id, path, revision=self.commit, endpoint=repository.client.endpoint)

    @contextmanager
    def _stream(self, url: str, doing: str, start: int = 0) -> Iterator[Stream]:
        from huggingface_hub import get_session, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        repository = self.repository
        headers = build_hf_headers(library_name="npu_persist", token=repository.token)
        headers |= {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        about = f"{doing} of {repository.repo_id}", repository.repo_id, self.commit
        with ExitStack() as stack:
            with hub_errors(*about):
                request = get_session().stream("GET", url, headers=headers, timeout=_get_timeout())
                response = stack.enter_context(request)
                hf_raise_for_status(response)
            yield Stream(response, about)

    def _read_bounded(self, url: str, doing: str, limit: int, until: float = float("inf")) -> tuple[bytes, str | None]:
        """Return a body, or a little more than `limit` bytes of it, or what came in time; and the next page's URL."""

        def read() -> tuple[bytes, str | None]:
            body = bytearray()
            with self._stream(url, doing) as stream:
                for piece in stream.pieces():
                    body += piece
                    if len(body) > limit or monotonic() > until:
                        break
                return bytes(body), stream.next_url

        return retry(read)

    def _read_page(self, url: str, limit: int, until: float) -> tuple[list[dict[str, Any]], str | None, int]:
        """Return a page's entries, the next page's URL, and the bytes of the page."""
        body, next_url = self._read_bounded(url, "list the files", limit, until)
        if monotonic() > until:
            raise self._malformed(f"the list of files within {MAX_LIST_SECONDS:.0f} seconds", "a part of it")
        try:
            page = json.loads(body) if len(body) <= limit else None
        except (ValueError, RecursionError):
            page = None
        if not isinstance(page, list) or not all(isinstance(entry, dict) for entry in page):
            raise self._malformed(f"a JSON list of files, of at most {MAX_LIST_SIZE} bytes", f"{len(body)} other bytes")
        if next_url is not None and not next_url.startswith(f"{self.repository.client.endpoint}/"):
            raise self._malformed("the next page at the same hub", next_url)  # another host would get the token
        return page, next_url, len(body)

    def _parse_entry(self, entry: dict[str, Any]) -> tuple[str, RemoteFile]:
        path, size, lfs = entry.get("path"), entry.get("size"), entry.get("lfs")
        if not isinstance(path, str) or type(size) is not int or size < 0:
            raise self._malformed("a path and a size for each file", f"{path!r}, {size!r}")
        # A git tree cannot contain these. Names that only some platforms forbid are checked where they are used.
        if "\\" in path or "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise self._malformed("paths inside the repository", repr(path))
        return path, RemoteFile(size, entry.get("oid"), lfs.get("oid") if isinstance(lfs, dict) else None)


class Stream:
    """A response whose body has not been read yet.

    Attributes:
        start: Offset in the file at which the body begins.
        next_url: The URL of the next page; None on the last one.
    """

    def __init__(self, response: Any, about: tuple[str, str, str]) -> None:
        content_range = re.fullmatch(r"bytes (\d+)-.*", response.headers.get("Content-Range", ""))
        self.start = int(content_range[1]) if response.status_code == 206 and content_range else 0  # noqa: PLR2004
        self.next_url: str | None = response.links.get("next", {}).get("url")
        self._response = response
        self._about = about

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives; raise `HubError` if it breaks off."""
        with hub_errors(*self._about):
            yield from self._response.iter_raw()


def is_commit(revision: str | None) -> TypeGuard[str]:
    """Return whether a revision is a whole commit."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def retry(call: Callable[[], T], has_progressed: Callable[[], bool] = lambda: False) -> T:
    """Call a function until it succeeds, fails permanently, or has failed `MAX_FAILURES` times without progress.

    huggingface_hub's `http_backoff` retries neither a body that breaks off nor `model_info`, and waits for as long as
    Retry-After says, be it a day.
    """
    failures = 0
    while True:
        try:
            return call()
        except HubError as error:
            failures = 1 if has_progressed() else failures + 1
            wait = _choose_wait(error, failures)
            if wait is None or failures > MAX_FAILURES:
                raise
            log.warning("%s; retrying in %.0f s (%d of %d)", error, wait, failures, MAX_FAILURES)
        time.sleep(wait)


def is_refusal(error: HubError) -> bool:
    """Return whether the hub itself refused: responses of a proxy or a portal lack the hub's own header."""
    response = getattr(error.__cause__, "response", None)
    return response is not None and "X-Error-Code" in response.headers


def _call_within(seconds: float, call: Callable[[], T], doing: str, repo_id: str) -> T:
    """Call a function in a thread, and wait no longer for it: a name server that hangs cannot be interrupted."""
    results: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(), None))
        except Exception as error:  # noqa: BLE001 (raised by the caller)
            results.put((None, error))

    threading.Thread(target=run, name="npu_persist-hub", daemon=True).start()
    try:
        value, error = results.get(timeout=seconds)
    except queue.Empty as late:
        raise HubError(
            f"could not {doing}: no answer within {seconds:g} s. Check the network", repo_id=repo_id
        ) from late
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


@contextmanager
def hub_errors(doing: str, repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the client raises inside the block into `HubError`: "could not {doing}: …"."""
    try:
        yield
    except (NpuPersistError, MemoryError):
        raise
    except Exception as error:  # the client's, its transport's, and what malformed responses cause: no common root
        raise _translate(error, doing, repo_id, revision) from error


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep the client from drawing progress bars inside the block, unless HF_HUB_DISABLE_PROGRESS_BARS decides."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _is_temporary(error: HubError) -> bool:
    """Return whether a retry may succeed: the network failed, or the hub itself."""
    # A subclass names something to change first; a ValueError is the client's, about a name or malformed JSON.
    return type(error) is HubError and error.status in _TEMPORARY and not isinstance(error.__cause__, ValueError)


def _choose_wait(error: HubError, failures: int) -> float | None:
    """Return how many seconds to wait before the next try; None for no other try."""
    if not _is_temporary(error) or _is_offline():
        return None
    response = getattr(error.__cause__, "response", None)
    wanted = "" if response is None else response.headers.get("Retry-After", "").strip()
    if wanted.isascii() and wanted.isdigit():  # not a date: the backoff is as good a guess
        return float(wanted) if float(wanted) <= MAX_WAIT else None
    return min(2.0 ** (failures - 1), _MAX_BACKOFF)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _get_timeout() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_DOWNLOAD_TIMEOUT


def _translate(error: Exception, doing: str, repo_id: str, revision: str | None) -> HubError:
    from huggingface_hub import constants

    cause = _find_cause(error)
    status = getattr(getattr(cause, "response", None), "status_code", None)
    where = f"{repo_id} at {constants.ENDPOINT}"
    kind, text = _explain(cause, status, where, revision or constants.DEFAULT_REVISION)
    return kind(f"could not {doing}: {text}", repo_id=repo_id, revision=revision, status=status)


def _explain(cause: BaseException, status: int | None, where: str, revision: str) -> tuple[type[HubError], str]:
    from huggingface_hub import errors

    message = " ".join((getattr(cause, "server_message", None) or str(cause)).split())
    message = message[:_MAX_MESSAGE].rstrip(".") or "no message"
    missing = f"{where} does not exist, or your token cannot see it. Check the name; if it is private, {_LOG_IN}"
    for kind, ours, text in (
        (errors.OfflineModeIsEnabled, HubError, "HF_HUB_OFFLINE is set, and this needs the hub. Unset it"),
        (errors.GatedRepoError, HubAccessError, f"{where} is gated. Request access on its page; {_LOG_IN}"),
        (errors.RepositoryNotFoundError, HubNotFoundError, missing),
        (errors.RevisionNotFoundError, HubNotFoundError, f"{where} has no revision {revision}"),
        (errors.RemoteEntryNotFoundError, HubNotFoundError, f"{where} lacks a file at revision {revision}: {message}"),
        (errors.HFValidationError, HubError, f"{message}. Use another name"),
        (errors.LocalTokenNotFoundError, HubAccessError, f"{where} requires a token: {_LOG_IN}"),
    ):
        if isinstance(cause, kind):
            return ours, text
    if status in {401, 403}:
        return HubAccessError, f"{where} denied it: {message}. The token must allow it; {_LOG_IN}"
    if status in {409, 412}:
        return HubConflictError, f"{where}: the branch moved, or the name is taken ({message}). Pull, or push again"
    if status is not None:
        return HubError, f"{where} answered {status}: {message}. Try again later"
    return HubError, f"no usable answer from {where}: {type(cause).__name__}: {message}. Check the network"


def _find_cause(error: Exception) -> BaseException:
    """Return the error that says what happened: the client wraps some in a RuntimeError."""
    from huggingface_hub import errors

    known = (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.LocalTokenNotFoundError)
    current: BaseException | None = error
    last: BaseException = error
    while current is not None:
        if isinstance(current, known):
            return current
        last, current = current, current.__cause__
    return last if isinstance(error, (RuntimeError, FileNotFoundError)) else error
