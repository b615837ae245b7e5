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

import base64
import hashlib
import json
import re
import sys
import threading
import traceback
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

MAIN = "main"
PIECE = 1024 * 1024
REGULAR_LIMIT = 10 * 1024 * 1024
"""Largest file that the hub keeps in git itself."""

_LFS_NAMES = re.compile(r".*\.(safetensors|bin|onnx|npz|gguf|tar|zip)", re.ASCII)
"""What the .gitattributes of a new repository send to LFS."""

GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"


class Content(NamedTuple):
    """A file of a commit: its git object id, its size, and its sha256 where it is kept in LFS."""

    oid: str
    size: int
    sha256: str | None = None


Tree = dict[str, Content]


@dataclass
class Commit:
    """One commit: all its files, and what it came after."""

    sha: str
    tree: Tree
    parent: str | None
    message: str
    date: str


@dataclass
class Repo:
    """One repository."""

    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)
    """The LFS objects that it has."""

    def find(self, revision: str) -> Commit | None:
        revision = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        for refs in (self.branches, self.tags, self.pull_requests):
            if revision in refs:
                return self.commits[refs[revision]]
        return self.commits.get(revision)

    @property
    def tree(self) -> Tree:
        """What is on the main branch."""
        return self.commits[self.branches[MAIN]].tree


@dataclass
class Request:
    """One request, with the bytes of both bodies as they went over the wire."""

    method: str
    path: str
    received: int = 0
    sent: int = 0
    status: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Fault:
    """What goes wrong with requests that a pattern finds."""

    pattern: re.Pattern[str]
    times: int
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    """Hang up when so many bytes of the request's body have come."""
    corrupt: bool = False
    """Change one byte of the answer's body."""
    short: int | None = None
    """Hang up after so many bytes of the answer's body."""
    stall: bool = False
    """Answer nothing until the server ends."""
    body: bytes | None = None
    """Answer this, with 200."""
    act: Callable[[], object] | None = None
    """Call this first: something else that happens in between."""


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
        self._http = _Http(("127.0.0.1", 0), _Connection)
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
                    lfs = _is_lfs(path, data[:512], len(data))
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


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, *_: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was killed is no error of this server's
            self.hub.errors.append(traceback.format_exc())


class _RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code


class _HangUpError(Exception):
    pass


class _Answer(NamedTuple):
    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes | Path = b""


def _json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> _Answer:
    return _Answer(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(document).encode())


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        split = urlsplit(self.path)
        self.hub, self.query = self.server.hub, parse_qs(split.query)
        self.request_note = Request(self.command, split.path)
        with self.hub.lock:
            self.hub.requests.append(self.request_note)
        self.fault = self.hub.take_fault(self.request_note)
        try:
            self._answer(split.path)
        except (_HangUpError, ConnectionError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 (http.server's names)

    def _answer(self, path: str) -> None:
        fault = self.fault
        if fault is not None and fault.act is not None:
            fault.act()
        if fault is not None and fault.stall:
            self.hub.ended.wait()
            raise _HangUpError
        try:
            answer = self._take_object(path) if self.command == "PUT" else self._ask(path, b"".join(self._body()))
        except _RefusalError as refusal:
            self._refuse(refusal)
        else:
            self._send(answer)

    def _ask(self, path: str, body: bytes) -> _Answer:
        if self.fault is not None and self.fault.body is not None:
            return _Answer(200, {"Content-Type": "application/json", **self.fault.headers}, self.fault.body)
        if self.fault is not None and self.fault.status is not None:
            return _Answer(self.fault.status, self.fault.headers, b"the test wants this")
        for method, pattern, call in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                with self.hub.lock:
                    return call(self, body, *(unquote(group) for group in found.groups() if group is not None))
        raise _RefusalError(404, message=f"no such route: {self.command} {path}")

    def _body(self) -> Iterator[bytes]:
        limit = self.fault.drop_after if self.fault is not None else None
        for piece in self._pieces():
            self.request_note.received += len(piece)
            if limit is not None and self.request_note.received >= limit:
                raise _HangUpError
            yield piece

    def _pieces(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            piece = self.rfile.read1(min(PIECE, left))
            if not piece:
                raise _HangUpError
            left -= len(piece)
            yield piece

    def _send(self, answer: _Answer) -> None:
        body, note = answer.body, self.request_note
        size = len(body) if isinstance(body, bytes) else body.stat().st_size
        start, end = 0, size
        status, headers = answer.status, dict(answer.headers)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and status == HTTPStatus.OK and not isinstance(body, bytes):
            start, end = int(wanted[1]), min(int(wanted[2] or size) + 1, size)
            if start >= size:
                status, start, end = 416, 0, 0
                headers["Content-Range"] = f"bytes */{size}"
            else:
                status = 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        note.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(end - start), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for piece in self._broken(_read(body, start, end)):
            self.wfile.write(piece)
            note.sent += len(piece)

    def _broken(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        fault = self.fault
        left = fault.short if fault is not None else None
        for number, piece in enumerate(pieces):
            data = piece
            if fault is not None and fault.corrupt and number == 0:
                middle = len(data) // 2
                data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            if left is not None:
                yield data[:left]
                left -= len(data)
                if left <= 0:
                    raise _HangUpError
                continue
            yield data

    def _refuse(self, refusal: _RefusalError) -> None:
        headers = {"Content-Type": "application/json", "X-Error-Message": str(refusal)}
        if refusal.code:
            headers["X-Error-Code"] = refusal.code
        self._send(_Answer(refusal.status, headers, json.dumps({"error": str(refusal)}).encode()))

    # What is asked for.

    def repo(self, name: str, *, write: bool = False) -> Repo:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.hub.allows(token)):
            # The hub does not tell the two apart; without a token it says 401.
            raise _RefusalError(404 if token else 401, "RepoNotFound", "Repository not found")
        if write and not self.hub.allows(token):
            raise _RefusalError(403 if token else 401, message="You have no write permission")
        return repo

    def revision(self, repo: Repo, revision: str) -> Commit:
        commit = repo.find(revision)
        if commit is None:
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def create_repo(self, body: bytes) -> _Answer:
        document = json.loads(body)
        name = f"{document.get('organization') or 'me'}/{document['name']}"
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not self.hub.allows(token):
            raise _RefusalError(403 if token else 401, message="You may not create a repository here")
        if name in self.hub.repos:
            raise _RefusalError(409, message="You already created this model repo")
        self.hub.create(name, private=document.get("private") is True or document.get("visibility") == "private")
        return _json({"url": f"{self.hub.url}/{name}", "name": name})

    def info(self, _body: bytes, name: str, revision: str = MAIN) -> _Answer:
        repo = self.repo(name)
        commit = self.revision(repo, revision)
        return _json(
            {
                "id": name,
                "modelId": name,
                "sha": commit.sha,
                "private": repo.private,
                "lastModified": commit.date,
                "tags": [],
                "siblings": [{"rfilename": path} for path in commit.tree],
            }
        )

    def refs(self, _body: bytes, name: str) -> _Answer:
        repo = self.repo(name)
        kinds = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
        document: dict[str, Any] = {
            kind: [{"name": ref, "ref": f"refs/{place}/{ref}", "targetCommit": sha} for ref, sha in refs.items()]
            for kind, (place, refs) in kinds.items()
        }
        return _json({**document, "converts": []})

    def tree(self, _body: bytes, name: str, revision: str, under: str = "") -> _Answer:
        commit = self.revision(self.repo(name), revision)
        entries = [_entry(path, content) for path, content in sorted(commit.tree.items()) if path.startswith(under)]
        folders = {path.rpartition("/")[0] for path in commit.tree if "/" in path}
        entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(folders)]
        start = int(self.query.get("cursor", ["0"])[0])
        rest = {}
        if start + self.hub.page < len(entries):
            url = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={start + self.hub.page}"
            rest["Link"] = f'<{url}>; rel="next"'
        return _json(entries[start : start + self.hub.page], headers=rest)

    def paths_info(self, body: bytes, name: str, revision: str) -> _Answer:
        commit = self.revision(self.repo(name), revision)
        text = body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        return _json([_entry(path, commit.tree[path]) for path in wanted if path in commit.tree])

    def preupload(self, body: bytes, name: str, revision: str) -> _Answer:
        repo = self.repo(name, write=True)
        commit = self.revision(repo, revision)
        ignored = _ignored(self.hub, commit)
        files = []
        for each in json.loads(body)["files"]:
            path, sample = each["path"], base64.b64decode(each["sample"])
            kept = commit.tree.get(path)
            files.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if _is_lfs(path, sample, each["size"]) else "regular",
                    "shouldIgnore": any(path.endswith(end) for end in ignored),
                    **({"oid": kept.sha256 or kept.oid} if kept else {}),
                }
            )
        return _json({"files": files})

    def lfs_batch(self, body: bytes, name: str) -> _Answer:
        repo = self.repo(name, write=True)
        objects = []
        for each in json.loads(body)["objects"]:
            links = {
                "upload": {"href": f"{self.hub.url}/objects/{name}/{each['oid']}"},
                "verify": {"href": f"{self.hub.url}/verify/{name}"},
            }
            objects.append({**each, **({} if each["oid"] in repo.objects else {"actions": links})})
        return _json({"transfer": "basic", "objects": objects})

    def _take_object(self, path: str) -> _Answer:
        found = re.fullmatch(r"/objects/([^/]+/[^/]+)/([0-9a-f]{64})", path)
        if found is None:
            raise _RefusalError(404)
        partial = self.hub.folder / f"partial-{threading.get_ident()}"
        digest = hashlib.sha256()
        with partial.open("wb") as file:
            for piece in self._body():
                digest.update(piece)
                file.write(piece)
        if self.fault is not None and self.fault.status is not None:
            return _Answer(self.fault.status, self.fault.headers)
        if digest.hexdigest() != found[2]:
            raise _RefusalError(400, message="the object is not what its name says")
        partial.replace(self.hub.folder / found[2])
        with self.hub.lock:
            self.hub.repos[found[1]].objects.add(found[2])
        return _Answer()

    def lfs_verify(self, body: bytes, name: str) -> _Answer:
        document = json.loads(body)
        path = self.hub.folder / document["oid"]
        if document["oid"] not in self.repo(name, write=True).objects or path.stat().st_size != document["size"]:
            raise _RefusalError(404, message="no such object")
        return _json({})

    def take_commit(self, body: bytes, name: str, revision: str) -> _Answer:
        repo = self.repo(name, write=True)
        if revision not in repo.branches:
            raise _RefusalError(404, "RevisionNotFound", f"no branch {revision}")
        head = repo.commits[repo.branches[revision]]
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        create_pr = "create_pr" in self.query
        if header.get("parentCommit") not in {None, head.sha} and not create_pr:
            raise _RefusalError(412, message="The branch has moved since")
        tree = dict(head.tree)
        for line in lines[1:]:
            self._apply(repo, tree, line["key"], line["value"])
        branch = f"refs/pr/{len(repo.pull_requests) + 1}" if create_pr else revision
        sha = self.hub.commit(repo, branch, tree, header["summary"])
        url = f"{self.hub.url}/{name}/discussions/{len(repo.pull_requests)}" if create_pr else None
        return _json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "pullRequestUrl": url})

    def _apply(self, repo: Repo, tree: Tree, key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            data = base64.b64decode(value["content"])
            if len(data) > REGULAR_LIMIT:
                raise _RefusalError(400, message=f"{path} is too large for git: use LFS")
            tree[path] = self.hub.keep(data, lfs=False)
        elif key == "lfsFile":
            oid = value["oid"]
            if oid not in repo.objects:
                raise _RefusalError(400, message=f"{path}: no such LFS object")
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {value['size']}\n"
            tree[path] = Content(hashlib.sha1(pointer.encode(), usedforsecurity=False).hexdigest(), value["size"], oid)
        elif key == "deletedFile":
            if tree.pop(path, None) is None:
                raise _RefusalError(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
        else:
            raise _RefusalError(400, message=f"unknown operation {key}")

    def add_tag(self, body: bytes, name: str, revision: str) -> _Answer:
        repo = self.repo(name, write=True)
        commit, tag = self.revision(repo, revision), json.loads(body)["tag"]
        if tag in repo.tags:
            raise _RefusalError(409, message=f"Tag {tag} exists already")
        repo.tags[tag] = commit.sha
        return _json({})

    def remove_tag(self, _body: bytes, name: str, tag: str) -> _Answer:
        if self.repo(name, write=True).tags.pop(tag, None) is None:
            raise _RefusalError(404, "RevisionNotFound", f"no tag {tag}")
        return _json({})

    def add_branch(self, body: bytes, name: str, branch: str) -> _Answer:
        repo = self.repo(name, write=True)
        if branch in repo.branches:
            raise _RefusalError(409, message=f"Branch {branch} exists already")
        start = (json.loads(body) if body else {}).get("startingPoint", MAIN)
        repo.branches[branch] = self.revision(repo, start).sha
        return _json({})

    def resolve(self, _body: bytes, name: str, revision: str, path: str) -> _Answer:
        commit = self.revision(self.repo(name), revision)
        content = commit.tree.get(path)
        if content is None:
            raise _RefusalError(404, "EntryNotFound", f"{path} does not exist on {revision}")
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{content.oid}"', "Accept-Ranges": "bytes"}
        if content.sha256 is None:
            return _Answer(200, headers, self.hub.object_path(content))
        # As the hub does: LFS objects come from another place, to which no token is sent.
        headers |= {
            "X-Linked-Etag": f'"{content.sha256}"',
            "X-Linked-Size": str(content.size),
            "Location": f"{self.hub.cdn_url}/cdn/{name}/{commit.sha}/{content.sha256}/{path}",
        }
        return _Answer(302, headers)

    def cdn(self, _body: bytes, sha256: str) -> _Answer:
        return _Answer(200, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}, self.hub.folder / sha256)

    def validate_yaml(self, body: bytes) -> _Answer:
        document = json.loads(body)
        errors = [] if document["content"].startswith("---\n") else [{"message": "no YAML metadata"}]
        return _json({"errors": errors, "warnings": []}, 400 if errors else 200)


_REPO = r"([^/]+/[^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., _Answer]], ...] = (
    ("POST", r"/api/repos/create", _Connection.create_repo),
    ("POST", r"/api/validate-yaml", _Connection.validate_yaml),
    ("GET", rf"/api/models/{_REPO}", _Connection.info),
    ("GET", rf"/api/models/{_REPO}/refs", _Connection.refs),
    ("GET", rf"/api/models/{_REPO}/revision/([^/]+)", _Connection.info),
    ("GET", rf"/api/models/{_REPO}/tree/([^/]+)(?:/(.*))?", lambda self, body, *found: self.tree(body, *found)),
    ("POST", rf"/api/models/{_REPO}/paths-info/([^/]+)", _Connection.paths_info),
    ("POST", rf"/api/models/{_REPO}/preupload/([^/]+)", _Connection.preupload),
    ("POST", rf"/api/models/{_REPO}/commit/([^/]+)", _Connection.take_commit),
    ("POST", rf"/api/models/{_REPO}/tag/([^/]+)", _Connection.add_tag),
    ("DELETE", rf"/api/models/{_REPO}/tag/([^/]+)", _Connection.remove_tag),
    ("POST", rf"/api/models/{_REPO}/branch/([^/]+)", _Connection.add_branch),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Connection.lfs_batch),
    ("POST", rf"/verify/{_REPO}", _Connection.lfs_verify),
    ("GET HEAD", rf"/{_REPO}/resolve/([^/]+)/(.+)", _Connection.resolve),
    ("GET HEAD", r"/cdn/[^/]+/[^/]+/[^/]+/([0-9a-f]{64})/.+", _Connection.cdn),
)


def _entry(path: str, content: Content) -> dict[str, Any]:
    entry = {"type": "file", "oid": content.oid, "size": content.size, "path": path}
    if content.sha256 is not None:
        entry["lfs"] = {"oid": content.sha256, "size": content.size, "pointerSize": 134}
    return entry


def _is_lfs(path: str, sample: bytes, size: int) -> bool:
    return size > REGULAR_LIMIT or b"\0" in sample or _LFS_NAMES.fullmatch(path) is not None


def _ignored(hub: HubServer, commit: Commit) -> list[str]:
    content = commit.tree.get(".gitignore")
    if content is None:
        return []
    return [line.removeprefix("*") for line in hub.object_path(content).read_text("utf-8").split()]


def _read(body: bytes | Path, start: int, end: int) -> Iterator[bytes]:
    if isinstance(body, bytes):
        if body:
            yield body[start:end]
        return
    with body.open("rb") as file:
        yield from _read_range(file, start, end)


def _read_range(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    left = end - start
    while left and (piece := file.read(min(PIECE, left))):
        left -= len(piece)
        yield piece
