r"""References: how bundles are named in code and on the command line.

    unet                      the newest version in the store
    unet:3                    that version
    unet:prod                 the version that the alias `prod` points to
    unet@3f9a                 the bundle whose digest starts so (4 to 64 hex digits, `blake3:` before them is fine)
    ./unet, C:\bundles\unet     a directory: contains a separator, or starts with a dot
    hf://org/repo@v3          a repository on the Hugging Face hub, at a branch, tag or commit (without: `main`)
    hf://org/repo@v3#3f9a…    the same, if the bundle's digest is that: 64 hex digits

`parse(str(reference))` is `reference` again. Names are checked here, once, by the strictest platform's rules.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeAlias

import msgspec

from npu_persist.errors import InvalidNameError, ReferenceFormatError
from npu_persist.files.digest import ALGORITHM, HEX_LENGTH
from npu_persist.files.filesystem import component_problem

MIN_PREFIX_LENGTH = 4
"""Fewest hex digits of a digest prefix."""

HUB_SCHEME = "hf://"
"""What a hub reference starts with."""

_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_PREFIX = re.compile(rf"[0-9a-f]{{{MIN_PREFIX_LENGTH},{HEX_LENGTH}}}", re.ASCII)
_HUB = re.compile(
    rf"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?(?:#(?:{ALGORITHM}:)?([0-9a-fA-F]{{{HEX_LENGTH}}}))?",
    re.ASCII,
)
_FORMS = "expected unet, unet:3, unet:prod, unet@<digest prefix>, a directory path or hf://org/repo"


class StoreReference(msgspec.Struct, frozen=True):
    """A bundle in the store; at most one of `version`, `alias` and `digest` is given, the newest version if none.

    Attributes:
        name: The bundle's name.
        version: A version number.
        alias: An alias.
        digest: The first hex digits of a digest, without `blake3:`.
    """

    name: str
    version: int | None = None
    alias: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        if self.alias is not None:
            return f"{self.name}:{self.alias}"
        return f"{self.name}@{self.digest}" if self.digest is not None else self.name


class PathReference(msgspec.Struct, frozen=True):
    """A bundle in a directory, in no store or in any."""

    path: Path

    def __str__(self) -> str:
        text = str(self.path)
        # What `pathlib` shortens to a bare word would read as a name. On Windows it may follow a drive.
        drive = self.path.drive
        return text if _is_path(text) else f"{drive}.{os.sep}{text.removeprefix(drive)}"


class HubReference(msgspec.Struct, frozen=True):
    """A bundle on the Hugging Face hub.

    Attributes:
        repo_id: `org/repo`.
        revision: Branch, tag or commit; None for the default branch.
        digest: The hex digits of the digest that the bundle has to have, without `blake3:`; None for any.
    """

    repo_id: str
    revision: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision is not None else ""
        return f"{HUB_SCHEME}{self.repo_id}{revision}" + (f"#{self.digest}" if self.digest is not None else "")


Reference: TypeAlias = StoreReference | PathReference | HubReference
"""What `parse` gives."""


def parse(text: str | os.PathLike[str] | Reference) -> Reference:
    """Read a reference; a path object is a directory whatever it looks like.

    >>> parse("unet:prod")
    StoreReference(name='unet', version=None, alias='prod', digest=None)
    """
    if isinstance(text, (StoreReference, PathReference, HubReference)):
        return text
    is_path = isinstance(text, os.PathLike)
    if isinstance(text, os.PathLike):
        text = os.fspath(text)
    if not isinstance(text, str):
        raise ReferenceFormatError(f"not a reference: {_FORMS}, got {type(text).__name__} {text!r}")
    if not text or "\0" in text:
        raise ReferenceFormatError(f"not a reference: {_FORMS}, got {text!r}")
    if is_path:
        return PathReference(Path(text))
    if "://" in text:
        return _parse_hub(text)
    if _is_path(text):
        return PathReference(Path(text))
    return _parse_name(text)


def validate_name(name: str, what: str = "bundle name") -> str:
    """Return `name` if a bundle or alias can be called so on every platform."""
    if not isinstance(name, str):
        raise InvalidNameError(f"invalid {what} {name!r}: expected a str, got {type(name).__name__}")
    if problem := component_problem(name):
        raise InvalidNameError(
            f"invalid {what} {name!r}: it {problem}; expected letters, digits, '.', '_', '+' and '-', starting with a "
            f"letter, a digit or '_'. Choose another name, such as 'unet-v1.5'"
        )
    return name


def validate_alias(alias: str) -> str:
    """Return `alias` if it can be one: a name that does not look like a version."""
    validate_name(alias, "alias")
    if _DIGITS.fullmatch(alias):
        raise InvalidNameError(
            f"invalid alias {alias!r}: it would read as a version number. Choose one with a letter, such as 'v{alias}'"
        )
    return alias


def _is_path(text: str) -> bool:
    return text.startswith(".") or "/" in text or "\\" in text


def _parse_hub(text: str) -> HubReference:
    match = _HUB.fullmatch(text.removeprefix(HUB_SCHEME)) if text.startswith(HUB_SCHEME) else None
    if match is None:
        raise ReferenceFormatError(
            f"not a hub reference: expected hf://org/repo, hf://org/repo@revision or hf://org/repo@revision#<digest> "
            f"with {HEX_LENGTH} hex digits, got {text!r}"
        )
    return HubReference(match[1], match[2], match[3] and match[3].lower())


def _parse_name(text: str) -> StoreReference:
    if "@" in text:
        name, _, digest = text.partition("@")
        prefix = digest.removeprefix(f"{ALGORITHM}:").lower()
        if not _PREFIX.fullmatch(prefix):
            raise ReferenceFormatError(
                f"not a digest prefix in {text!r}: expected {MIN_PREFIX_LENGTH} to {HEX_LENGTH} hex digits after '@', "
                f"got {digest!r}. `npu-persist list` shows digests"
            )
        return StoreReference(validate_name(name), digest=prefix)
    name, colon, tag = text.partition(":")
    validate_name(name)
    if not colon:
        return StoreReference(name)
    if _VERSION.fullmatch(tag):
        return StoreReference(name, version=int(tag))
    if not tag or ":" in tag or _DIGITS.fullmatch(tag):
        raise ReferenceFormatError(
            f"not a version or alias in {text!r}: expected a positive integer such as {name}:3 or an alias such as "
            f"{name}:prod, got {tag!r}"
        )
    return StoreReference(name, alias=validate_alias(tag))
