"""The addresses of a small hub, and what it answers there, as huggingface_hub's client asks for it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub_connection import Answer, Connection, RefusalError, as_json
from tests.support.hub_repos import MAIN, REGULAR_LIMIT, Content, is_lfs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.hub_repos import Commit, Repo, Tree
    from tests.support.hub_server import HubServer


class HubApi(Connection):
    """Answers what is asked for."""

    def ask(self, path: str, body: bytes) -> Answer:
        if self.fault is not None and self.fault.body is not None:
            return Answer(200, {"Content-Type": "application/json", **self.fault.headers}, self.fault.body)
        if self.fault is not None and self.fault.status is not None:
            return Answer(self.fault.status, self.fault.headers, b"the test wants this")
        for method, pattern, call in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                with self.hub.lock:
                    return call(self, body, *(unquote(group) for group in found.groups() if group is not None))
        raise RefusalError(404, message=f"no such route: {self.command} {path}")

    def repo(self, name: str, *, write: bool = False) -> Repo:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.hub.allows(token)):
            # The hub does not tell the two apart; without a token it says 401.
            raise RefusalError(404 if token else 401, "RepoNotFound", "Repository not found")
        if write and not self.hub.allows(token):
            raise RefusalError(403 if token else 401, message="You have no write permission")
        return repo

    def revision(self, repo: Repo, revision: str) -> Commit:
        commit = repo.find(revision)
        if commit is None:
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def create_repo(self, body: bytes) -> Answer:
        document = json.loads(body)
        name = f"{document.get('organization') or 'me'}/{document['name']}"
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not self.hub.allows(token):
            raise RefusalError(403 if token else 401, message="You may not create a repository here")
        if name in self.hub.repos:
            raise RefusalError(409, message="You already created this model repo")
        self.hub.create(name, private=document.get("private") is True or document.get("visibility") == "private")
        return as_json({"url": f"{self.hub.url}/{name}", "name": name})

    def info(self, _body: bytes, name: str, revision: str = MAIN) -> Answer:
        repo = self.repo(name)
        commit = self.revision(repo, revision)
        return as_json(
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

    def refs(self, _body: bytes, name: str) -> Answer:
        repo = self.repo(name)
        kinds = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
        document: dict[str, Any] = {
            kind: [{"name": ref, "ref": f"refs/{place}/{ref}", "targetCommit": sha} for ref, sha in refs.items()]
            for kind, (place, refs) in kinds.items()
        }
        return as_json({**document, "converts": []})

    def tree(self, _body: bytes, name: str, revision: str, under: str = "") -> Answer:
        commit = self.revision(self.repo(name), revision)
        entries = [_entry(path, content) for path, content in sorted(commit.tree.items()) if path.startswith(under)]
        folders = {path.rpartition("/")[0] for path in commit.tree if "/" in path}
        entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(folders)]
        start = int(self.query.get("cursor", ["0"])[0])
        rest = {}
        if start + self.hub.page < len(entries):
            url = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={start + self.hub.page}"
            rest["Link"] = f'<{url}>; rel="next"'
        return as_json(entries[start : start + self.hub.page], headers=rest)

    def paths_info(self, body: bytes, name: str, revision: str) -> Answer:
        commit = self.revision(self.repo(name), revision)
        text = body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        return as_json([_entry(path, commit.tree[path]) for path in wanted if path in commit.tree])

    def preupload(self, body: bytes, name: str, revision: str) -> Answer:
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
                    "uploadMode": "lfs" if is_lfs(path, sample, each["size"]) else "regular",
                    "shouldIgnore": any(path.endswith(end) for end in ignored),
                    **({"oid": kept.sha256 or kept.oid} if kept else {}),
                }
            )
        return as_json({"files": files})

    def lfs_batch(self, body: bytes, name: str) -> Answer:
        repo = self.repo(name, write=True)
        objects = []
        for each in json.loads(body)["objects"]:
            links = {
                "upload": {"href": f"{self.hub.url}/objects/{name}/{each['oid']}"},
                "verify": {"href": f"{self.hub.url}/verify/{name}"},
            }
            objects.append({**each, **({} if each["oid"] in repo.objects else {"actions": links})})
        return as_json({"transfer": "basic", "objects": objects})

    def take_object(self, path: str) -> Answer:
        found = re.fullmatch(r"/objects/([^/]+/[^/]+)/([0-9a-f]{64})", path)
        if found is None:
            raise RefusalError(404)
        partial = self.hub.folder / f"partial-{threading.get_ident()}"
        digest = hashlib.sha256()
        with partial.open("wb") as file:
            for piece in self.body():
                digest.update(piece)
                file.write(piece)
        if self.fault is not None and self.fault.status is not None:
            return Answer(self.fault.status, self.fault.headers)
        if digest.hexdigest() != found[2]:
            raise RefusalError(400, message="the object is not what its name says")
        partial.replace(self.hub.folder / found[2])
        with self.hub.lock:
            self.hub.repos[found[1]].objects.add(found[2])
        return Answer()

    def lfs_verify(self, body: bytes, name: str) -> Answer:
        document = json.loads(body)
        path = self.hub.folder / document["oid"]
        if document["oid"] not in self.repo(name, write=True).objects or path.stat().st_size != document["size"]:
            raise RefusalError(404, message="no such object")
        return as_json({})

    def take_commit(self, body: bytes, name: str, revision: str) -> Answer:
        repo = self.repo(name, write=True)
        if revision not in repo.branches:
            raise RefusalError(404, "RevisionNotFound", f"no branch {revision}")
        head = repo.commits[repo.branches[revision]]
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        create_pr = "create_pr" in self.query
        if header.get("parentCommit") not in {None, head.sha} and not create_pr:
            raise RefusalError(412, message="The branch has moved since")
        tree = dict(head.tree)
        for line in lines[1:]:
            self._apply(repo, tree, line["key"], line["value"])
        branch = f"refs/pr/{len(repo.pull_requests) + 1}" if create_pr else revision
        sha = self.hub.commit(repo, branch, tree, header["summary"])
        url = f"{self.hub.url}/{name}/discussions/{len(repo.pull_requests)}" if create_pr else None
        return as_json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "pullRequestUrl": url})

    def _apply(self, repo: Repo, tree: Tree, key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            data = base64.b64decode(value["content"])
            if len(data) > REGULAR_LIMIT:
                raise RefusalError(400, message=f"{path} is too large for git: use LFS")
            tree[path] = self.hub.keep(data, lfs=False)
        elif key == "lfsFile":
            oid = value["oid"]
            if oid not in repo.objects:
                raise RefusalError(400, message=f"{path}: no such LFS object")
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {value['size']}\n"
            tree[path] = Content(hashlib.sha1(pointer.encode(), usedforsecurity=False).hexdigest(), value["size"], oid)
        elif key == "deletedFile":
            if tree.pop(path, None) is None:
                raise RefusalError(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
        else:
            raise RefusalError(400, message=f"unknown operation {key}")

    def add_tag(self, body: bytes, name: str, revision: str) -> Answer:
        repo = self.repo(name, write=True)
        commit, tag = self.revision(repo, revision), json.loads(body)["tag"]
        if tag in repo.tags:
            raise RefusalError(409, message=f"Tag {tag} exists already")
        repo.tags[tag] = commit.sha
        return as_json({})

    def remove_tag(self, _body: bytes, name: str, tag: str) -> Answer:
        if self.repo(name, write=True).tags.pop(tag, None) is None:
            raise RefusalError(404, "RevisionNotFound", f"no tag {tag}")
        return as_json({})

    def add_branch(self, body: bytes, name: str, branch: str) -> Answer:
        repo = self.repo(name, write=True)
        if branch in repo.branches:
            raise RefusalError(409, message=f"Branch {branch} exists already")
        start = (json.loads(body) if body else {}).get("startingPoint", MAIN)
        repo.branches[branch] = self.revision(repo, start).sha
        return as_json({})

    def resolve(self, _body: bytes, name: str, revision: str, path: str) -> Answer:
        commit = self.revision(self.repo(name), revision)
        content = commit.tree.get(path)
        if content is None:
            raise RefusalError(404, "EntryNotFound", f"{path} does not exist on {revision}")
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{content.oid}"', "Accept-Ranges": "bytes"}
        if content.sha256 is None:
            return Answer(200, headers, self.hub.object_path(content))
        # As the hub does: LFS objects come from another place, to which no token is sent.
        headers |= {
            "X-Linked-Etag": f'"{content.sha256}"',
            "X-Linked-Size": str(content.size),
            "Location": f"{self.hub.cdn_url}/cdn/{name}/{commit.sha}/{content.sha256}/{path}",
        }
        return Answer(302, headers)

    def cdn(self, _body: bytes, sha256: str) -> Answer:
        return Answer(200, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}, self.hub.folder / sha256)

    def validate_yaml(self, body: bytes) -> Answer:
        document = json.loads(body)
        errors = [] if document["content"].startswith("---\n") else [{"message": "no YAML metadata"}]
        return as_json({"errors": errors, "warnings": []}, 400 if errors else 200)


_REPO = r"([^/]+/[^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("POST", r"/api/repos/create", HubApi.create_repo),
    ("POST", r"/api/validate-yaml", HubApi.validate_yaml),
    ("GET", rf"/api/models/{_REPO}", HubApi.info),
    ("GET", rf"/api/models/{_REPO}/refs", HubApi.refs),
    ("GET", rf"/api/models/{_REPO}/revision/([^/]+)", HubApi.info),
    ("GET", rf"/api/models/{_REPO}/tree/([^/]+)(?:/(.*))?", lambda self, body, *found: self.tree(body, *found)),
    ("POST", rf"/api/models/{_REPO}/paths-info/([^/]+)", HubApi.paths_info),
    ("POST", rf"/api/models/{_REPO}/preupload/([^/]+)", HubApi.preupload),
    ("POST", rf"/api/models/{_REPO}/commit/([^/]+)", HubApi.take_commit),
    ("POST", rf"/api/models/{_REPO}/tag/([^/]+)", HubApi.add_tag),
    ("DELETE", rf"/api/models/{_REPO}/tag/([^/]+)", HubApi.remove_tag),
    ("POST", rf"/api/models/{_REPO}/branch/([^/]+)", HubApi.add_branch),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", HubApi.lfs_batch),
    ("POST", rf"/verify/{_REPO}", HubApi.lfs_verify),
    ("GET HEAD", rf"/{_REPO}/resolve/([^/]+)/(.+)", HubApi.resolve),
    ("GET HEAD", r"/cdn/[^/]+/[^/]+/[^/]+/([0-9a-f]{64})/.+", HubApi.cdn),
)


def _entry(path: str, content: Content) -> dict[str, Any]:
    entry = {"type": "file", "oid": content.oid, "size": content.size, "path": path}
    if content.sha256 is not None:
        entry["lfs"] = {"oid": content.sha256, "size": content.size, "pointerSize": 134}
    return entry


def _ignored(hub: HubServer, commit: Commit) -> list[str]:
    content = commit.tree.get(".gitignore")
    if content is None:
        return []
    return [line.removeprefix("*") for line in hub.object_path(content).read_text("utf-8").split()]
