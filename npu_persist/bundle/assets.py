"""Assets: files of a bundle that no graph reads, such as a tokenizer or labels, below `assets/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.files.filesystem import path_problem

if TYPE_CHECKING:
    from collections.abc import Iterable

ASSETS = "assets/"
"""Where they are in the bundle."""

MODEL_INDEX = "model_index.json"
"""What a pipeline of several models is made of, each in a folder with the name of its graph, as diffusers writes it."""


def asset_path(name: str) -> str:
    """Return an asset's path in its bundle.

    >>> asset_path("labels.txt")
    'assets/labels.txt'
    """
    return f"{ASSETS}{name}"


def asset_names(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the names of those files of a bundle that are assets.

    >>> asset_names(["assets/labels.txt", "model.xml"])
    ('labels.txt',)
    """
    return tuple(sorted(path.removeprefix(ASSETS) for path in paths if path.startswith(ASSETS)))


def name_problem(name: object) -> str | None:
    """Say why an asset cannot have a name; None if it can.

    >>> name_problem("../labels.txt")
    "component '..' starts with '.'"
    """
    return path_problem(asset_path(name)) if isinstance(name, str) else "is no text"
