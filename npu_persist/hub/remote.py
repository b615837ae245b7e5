"""One repository as a pull reads it: the commit of a revision, its list of files, and answers that are read in pieces.

The promise: whatever the hub answers, what is read is bounded: no more entries and no more bytes than asked for. What
may pass (a busy or broken hub, an answer that ends early or stalls) is tried again a few times, with waits that
somebody would sit through; what does not pass is a typed error at once.
"""

from __future__ import annotations

import json
import logging
import re
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from npu_persist.errors import HubError
from npu_persist.hub.client import hub_errors, open_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_ENTRIES = 100_000
"""Most entries of a repository that are looked through for a bundle."""

MAX_PAGES = 1000
"""Most pages that list them: the hub's have a thousand entries, and those of another might be empty, without end."""

MAX_PAGE_SIZE = 16 * 1024 * 1024
"""Largest page of the list of files, in bytes; the hub has a thousand entries on one."""

MAX_FAILURES = 5
"""How often in a row a request may fail before it is given up."""

LONGEST_WAIT = 60.0
"""Longest wait between two requests, in seconds; a hub that asks for more is given up."""

_LONGEST_BACKOFF = 8.0
_MAY_PASS = frozenset({None, 408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which another try may do; None: there was no answer."""

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


class Answer:
    """An answer of the hub that has begun.

    Attributes:
        start: Where in the file its body begins.
        following: The address of the next page; None if there is none.
    """

    def __init__(self, response: Any, doing: str, repo: str, commit: str) -> None:
        content_range = re.fullmatch(r"bytes (\d+)-.*", response.headers.get("Content-Range", ""))
        self.start = int(content_range[1]) if response.status_code == 206 and content_range else 0  # noqa: PLR2004
        self.following: str | None = response.links.get("next", {}).get("url")
        self._response = response
        self._about = doing, repo, commit

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes.

        Raises:
            HubError: It does not come to its end.
        """
        with hub_errors(*self._about):
            yield from self._response.iter_raw()


class Remote:
    """A repository of the hub that huggingface_hub is set to.

    Attributes:
        repo: `org/unet`.
        endpoint: The hub's address.
    """

    def __init__(self, repo: str) -> None:
        """Make the client; nothing is asked for yet.

        Raises:
            MissingExtraError: huggingface_hub is not installed.
        """
        self._client = open_client()
        self.repo = repo
        self.endpoint = self._client.endpoint

    def find_commit(self, revision: str | None) -> str:
        """Return the commit of a branch or tag; None asks for the default branch.

        Raises:
            HubNotFoundError: There is no such repository or revision.
            HubError: The hub refuses, or cannot be reached.
        """

        def ask() -> str | None:
            with hub_errors(f"look up {self.repo}", self.repo, revision):
                # Only the commit: a list of files comes with it otherwise, however long.
                found = self._client.model_info(self.repo, revision=revision, expand=["sha"], timeout=_timeout())
                return found.sha

        sha = try_again(ask)
        if sha is None or not is_commit(sha):
            raise self._strange(revision, "a commit of 40 hex digits", repr(sha))
        return sha

    def list_files(self, commit: str) -> dict[str, int]:
        """Return the size of each file of a commit, by its path.

        Raises:
            HubNotFoundError: There is no such commit.
            HubError: The hub refuses or cannot be reached, or its answer is none that a repository can give.
        """
        url: str | None = f"{self.endpoint}/api/models/{self.repo}/tree/{quote(commit, safe='')}?recursive=true"
        sizes: dict[str, int] = {}
        entries = pages = 0
        while url is not None:
            page, url = self._read_page(url, commit)
            entries, pages = entries + len(page), pages + 1
            if pages > MAX_PAGES:
                raise self._strange(commit, f"a list of at most {MAX_PAGES} pages", "more")
            if entries > MAX_ENTRIES:
                raise self._strange(commit, f"at most {MAX_ENTRIES} files and folders", "more")
            sizes.update(self._parse_entry(entry, commit) for entry in page if entry.get("type") == "file")
        return sizes

    @contextmanager
    def open(self, url: str, commit: str, doing: str, start: int = 0) -> Iterator[Answer]:
        """Ask for a file or document, from byte `start` on.

        Raises:
            HubNotFoundError: There is none.
            HubError: The hub refuses, or cannot be reached.
        """
        from huggingface_hub import get_session, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        headers = {**build_hf_headers(library_name="npu_persist"), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with ExitStack() as stack:
            with hub_errors(doing, self.repo, commit):
                answering = get_session().stream("GET", url, headers=headers, timeout=_timeout())
                response = stack.enter_context(answering)
                hf_raise_for_status(response)
            yield Answer(response, doing, self.repo, commit)

    def address(self, path: str, commit: str) -> str:
        """Return the address of a file."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, path, revision=commit, endpoint=self.endpoint)

    def _read_page(self, url: str, commit: str) -> tuple[list[dict[str, Any]], str | None]:
        def read() -> tuple[bytes, str | None]:
            body = bytearray()
            with self.open(url, commit, f"list the files of {self.repo}") as answer:
                for piece in answer.pieces():
                    body += piece
                    if len(body) > MAX_PAGE_SIZE:
                        break
                return bytes(body), answer.following

        body, following = try_again(read)
        try:
            if len(body) > MAX_PAGE_SIZE:
                raise ValueError("more")  # noqa: TRY301 (said below, as what else is wrong with it)
            page = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise self._strange(commit, f"at most {MAX_PAGE_SIZE} bytes of JSON", f"{len(body)} bytes") from error
        if not isinstance(page, list) or not all(isinstance(entry, dict) for entry in page):
            raise self._strange(commit, "a list of files and folders", "something else")
        if following is not None and not following.startswith(f"{self.endpoint}/"):
            raise self._strange(commit, "the next page at the same hub", following)  # it would get the token
        return page, following

    def _parse_entry(self, entry: dict[str, Any], commit: str) -> tuple[str, int]:
        path, size = entry.get("path"), entry.get("size")
        if not isinstance(path, str) or type(size) is not int or size < 0:
            raise self._strange(commit, "a path and a size for each file", f"{path!r}, {size!r}")
        # What no git tree can hold. Names that only some platforms refuse are looked at where they are needed.
        if "\\" in path or "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise self._strange(commit, "paths that stay inside of the repository", repr(path))
        return path, size

    def _strange(self, revision: str | None, expected: str, got: str) -> HubError:
        return HubError(
            f"{self.repo} at {self.endpoint}: expected {expected}, got {got[:200]}. Check HF_ENDPOINT, and whether the "
            "repository is what it should be",
            repo=self.repo,
            revision=revision,
        )


def is_commit(revision: str | None) -> bool:
    """Tell whether a revision is a whole commit."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def is_offline() -> bool:
    """Tell whether huggingface_hub is set to ask no hub."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def try_again(call: Callable[[], T], moved: Callable[[], bool] = lambda: False) -> T:
    """Call a function until it does not fail with what may pass, or has failed too often.

    Args:
        call: The function.
        moved: Tells whether a call that failed brought something, so that its failure is the first one again.

    Raises:
        HubError: It failed with what does not pass, or too often.
    """
    failures = 0
    while True:
        try:
            return call()
        except HubError as error:
            failures = 1 if moved() else failures + 1
            wait = _find_wait(error, failures)
            if wait is None or failures > MAX_FAILURES:
                raise
            log.warning("%s; trying again in %.0f s (%d of %d)", error, wait, failures, MAX_FAILURES)
        time.sleep(wait)


def may_pass(error: HubError) -> bool:
    """Tell whether the same question may be answered another time: what failed is the network, or the hub itself."""
    # Its own kinds say what to change first; a ValueError is the client's about a name, or about what is no JSON.
    return type(error) is HubError and error.status in _MAY_PASS and not isinstance(error.__cause__, ValueError)


def _find_wait(error: HubError, failures: int) -> float | None:
    """Return after how many seconds another try may do; None if none will."""
    if not may_pass(error) or is_offline():
        return None
    response = getattr(error.__cause__, "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "").strip()
    if asked.isascii() and asked.isdigit():  # a date is not read: the backoff is as good a guess
        return float(asked) if float(asked) <= LONGEST_WAIT else None
    return min(2.0 ** (failures - 1), _LONGEST_BACKOFF)


def _timeout() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_DOWNLOAD_TIMEOUT
