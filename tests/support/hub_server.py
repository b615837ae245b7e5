"""A small hub on loopback, which the unmodified huggingface_hub client creates, pushes to and pulls from.

It stores content by digest, and notes every request with its bytes in both directions;
faults happen where and as often as a test asks for them.

    with HubServer(tmp_path / "hub") as server:
        server.add_token("hf_writer")
        server.put("org/unet", {"README.md": b"hello"})
        server.fail("GET .*/resolve/", status=500, times=2)

In a test the fixture `hub` (see `tests.support.hubs`) gives one that the client of this process talks to.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from tests.support.hub_api import HubApi
from tests.support.hub_connection import Fault, HubHttp, Request
from tests.support.hub_repos import GITATTRIBUTES, MAIN, Commit, Content, Repo, Tree, is_lfs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType


class HubServer:
    """The server: in threads of this process, from entering its block to leaving it.

    Attributes:
        url: Its endpoint.
        repos: The repositories by name.
        requests: What was asked for so far.
        errors: Tracebacks of what this server itself did wrong.
        waits: Seconds that the client of the fixture would have slept between retries.
    """

    def __init__(self, folder: Path, *, page: int = 1000) -> None:
        """Make a server that keeps content in a folder, and answers trees in pages of so many entries."""
        self.folder = folder
        self.page = page
        folder.mkdir(parents=True, exist_ok=True)
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.waits: list[float] = []
        self.errors: list[str] = []
        self.lock = threading.RLock()
        self.ended = threading.Event()
        self._tokens: set[str] = set()
        self._faults: list[Fault] = []
        self._http = HubHttp(("127.0.0.1", 0), HubApi)
        self._http.hub = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def cdn_url(self) -> str:
        """The same server under another name: to the client another host, which it follows without its token."""
        return f"http://localhost:{self._http.server_port}"

    def __enter__(self) -> HubServer:  # noqa: PYI034 (Self is Python 3.11's)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def add_token(self, token: str) -> None:
        """Let this token see and change everything. Without any token, everyone may."""
        self._tokens.add(token)

    def create(self, name: str, *, private: bool = False) -> Repo:
        """Make a repository, with the one commit that the hub begins with."""
        with self.lock:
            repo = self.repos[name] = Repo(name, private)
            self.commit(repo, MAIN, {".gitattributes": self.keep(GITATTRIBUTES, lfs=False)}, "initial commit")
        return repo

    def put(self, name: str, files: Mapping[str, bytes | None], *, revision: str = MAIN, message: str = "put") -> str:
        """Commit files without any checks, hostile paths included, None for those to delete; return the commit."""
        with self.lock:
            repo = self.repos.get(name) or self.create(name)
            tree = dict(repo.commits[repo.branches.get(revision, repo.branches[MAIN])].tree)
            for path, data in files.items():
                tree.pop(path, None)
                if data is not None:
                    lfs = is_lfs(path, data[:512], len(data))
                    tree[path] = self.keep(data, lfs=lfs)
                    repo.objects |= {sha256} if (sha256 := tree[path].sha256) else set()
            return self.commit(repo, revision, tree, message)

    def read(self, name: str, path: str, revision: str = MAIN) -> bytes:
        """Return a file's content."""
        commit = self.repos[name].find(revision)
        assert commit is not None
        return self.object_path(commit.tree[path]).read_bytes()

    def fail(
        self,
        pattern: str,
        *,
        times: int = 1,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        **how: Any,
    ) -> None:
        """Let the next `times` requests whose `METHOD /path` the pattern finds go wrong; see `Fault` for how."""
        with self.lock:
            self._faults.append(Fault(re.compile(pattern), times, status, headers or {}, **how))

    def repair(self) -> None:
        """Let nothing go wrong any more."""
        with self.lock:
            self._faults.clear()

    def received(self, pattern: str = "") -> int:
        """Return how many bytes the requests carried whose `METHOD /path` the pattern finds."""
        return sum(request.received for request in self.requests if re.search(pattern, str(request)))

    def forget(self) -> None:
        """Begin the notes of requests anew."""
        with self.lock:
            self.requests.clear()

    # From here on: what the connections call.

    def take_fault(self, request: Request) -> Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.times and fault.pattern.search(str(request)):
                    fault.times -= 1
                    return fault
        return None

    def allows(self, token: str | None) -> bool:
        return not self._tokens or token in self._tokens

    def keep(self, data: bytes, *, lfs: bool) -> Content:
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        content = Content(oid, len(data), hashlib.sha256(data).hexdigest() if lfs else None)
        self.object_path(content).write_bytes(data)
        return content

    def object_path(self, content: Content) -> Path:
        return self.folder / (content.sha256 or content.oid)

    def commit(self, repo: Repo, branch: str, tree: Tree, message: str) -> str:
        parent = repo.branches.get(branch) or repo.branches.get(MAIN)
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        text = json.dumps([parent, message, date, len(repo.commits), {path: list(c) for path, c in tree.items()}])
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        repo.commits[sha] = Commit(sha, tree, parent, message, date)
        (repo.pull_requests if branch.startswith("refs/pr/") else repo.branches)[branch] = sha
        return sha
