"""A name belongs to the origins of its versions.

The source of a version is the repository in its `origin.json`, or this machine without one. A pull adds a version to a
name, and moves an alias, only where a version of its own repository is there already, or nothing; else the caller has
to allow it, and from then on that version is there. What is made here is added to any name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.bundle.origin import read_origin
from npu_persist.errors import IntegrityError, OriginError, StoreError

if TYPE_CHECKING:
    from npu_persist.bundle.origin import Origin
    from npu_persist.store.folder import NameFolder

HERE = "this machine"
"""The source of what was not pulled."""


def read_source(folder: NameFolder, number: int) -> str:
    """Return where a version came from, for people too: `org/unet`, `this machine`, or that it cannot be known."""
    try:
        origin = read_origin(folder.version_path(number))
    except (IntegrityError, StoreError):
        return "a repository that cannot be known, since origin.json is damaged"
    return HERE if origin is None else origin.source


def check_name(folder: NameFolder, origin: Origin, below: int | None = None) -> None:
    """Raise OriginError if a name has versions, and none of them came from where `origin` says.

    With `below`, only versions with lower numbers count.
    """
    sources: dict[str, int] = {}
    for number in folder.versions():
        if below is None or number < below:
            sources[read_source(folder, number)] = number
    if not sources or origin.source in sources:
        return
    source, number = max(sources.items(), key=lambda item: item[1])
    apart = f"{origin.repo.partition('/')[0]}-{folder.name}"
    raise OriginError(
        f"the name {folder.name!r} belongs to {source}: {folder.name}:{number} is from there. The bundle of "
        f"{origin.source} "
        f"is not pulled under that name. `npu-persist pull {origin.repo} --name {apart}` publishes it under another "
        "name; `--adopt` adds it to this name anyway",
        name=folder.name,
        owner=source,
        source=origin.source,
    )


def check_alias(folder: NameFolder, alias: str, origin: Origin, target: int | None = None) -> None:
    """Raise OriginError if an alias points to a version that came from elsewhere than `origin`, and is not `target`."""
    number = folder.aliases().get(alias)
    if number is None or number == target or not folder.has_version(number):
        return
    if (source := read_source(folder, number)) != origin.source:
        raise OriginError(
            f"the alias {folder.name}:{alias} points to {folder.name}:{number}, which is from {source}. It is not "
            f"moved to the bundle of {origin.source}. Choose another alias; `npu-persist pull {origin.repo} "
            "--adopt` moves "
            "it anyway",
            name=folder.name,
            owner=source,
            source=origin.source,
        )
