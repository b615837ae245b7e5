"""What a hub keeps: repositories, commits and files, as git and LFS do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

MAIN = "main"
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


def is_lfs(path: str, sample: bytes, size: int) -> bool:
    return size > REGULAR_LIMIT or b"\0" in sample or _LFS_NAMES.fullmatch(path) is not None
