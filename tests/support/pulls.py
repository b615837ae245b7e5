"""Bundles on a test's hub, and stores that pull them."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.bundle.origin import Origin, write_origin
from npu_persist.files.digest import digest_bytes
from npu_persist.hub import client
from npu_persist.store import Store
from tests.support.attached import attach_npu
from tests.support.bundles import publish_tiny, write_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from tests.support.hub_server import HubServer

REPO = "org/tiny"


def put_tiny(hub: HubServer, folder: Path, *, tag: str | None = None, **changes: Any) -> str:
    """Put a tiny bundle on the hub, and return the commit; `weights=` and `model=` change a file's content."""
    folder.mkdir()
    write_tiny(folder, **changes)
    return put_folder(hub, folder, tag=tag)


def put_folder(hub: HubServer, folder: Path, *, repo: str = REPO, tag: str | None = None) -> str:
    """Put a bundle's folder on the hub as it is, but for `model.bin`, and return the commit."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "model.bin"]
    commit = hub.put(repo, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
    if tag is not None:
        hub.repos[repo].tags[tag] = commit
    return commit


def put_compiled(hub: HubServer, folder: Path) -> Bundle:
    """Put a tiny bundle on the hub with what was compiled for NPU:4000 and NPU:3720; return it as it is elsewhere."""
    bundle = publish_tiny(Store(folder))
    inputs: dict[str, Any] = {"inputs": make_fixed(bundle)}
    attach_npu(bundle, **inputs)
    other = "meta=2.7;ov=2026.4.1;desc=[compiler=8.4;npu=3720;t=2;elf=1.2.2;mi=11.4.10]"
    attach_npu(bundle, target="NPU:3720", identity={"DEVICE_ARCHITECTURE": "3720"}, requirements=other, **inputs)
    put_folder(hub, bundle.path)
    return bundle


def came_from(hub: HubServer, bundle: Bundle, repo: str = REPO) -> Bundle:
    """Let a bundle be one that was pulled from a repository of the hub."""
    when = datetime(2026, 11, 21, tzinfo=timezone.utc)
    write_origin(bundle.path, Origin(repo, "0" * 40, None, hub.url, when, None))
    return bundle


def make_fixed(bundle: Bundle) -> tuple[Any, ...]:
    """Return the inputs of a bundle's graph with every axis of one size."""
    from npu_persist.bundle.graph_records import Port

    return tuple(
        Port(port.name, port.dtype, tuple(axis if isinstance(axis, int) else axis.min for axis in port.shape))
        for port in bundle.manifest.graphs[0].inputs
    )


def list_artifacts(bundle: Bundle) -> set[str]:
    """Return the folders of the artifacts that are attached to a bundle."""
    return {path.name for path in (bundle.path / "compiled").iterdir() if path.name[0] != "."}


def digest_of(hub: HubServer, revision: str = "main") -> str:
    """Return the hex digits of the digest of the bundle on the hub."""
    return digest_bytes(hub.read(REPO, "manifest.json", revision)).partition(":")[2]


def change_manifest(hub: HubServer, **members: Any) -> None:
    """Put a manifest on the hub that differs in some members."""
    document = json.loads(hub.read(REPO, "manifest.json")) | members
    hub.put(REPO, {"manifest.json": json.dumps(document).encode()})


def all_files(store: Store) -> dict[str, bytes]:
    """Return all that is in a store's directory."""
    return {str(path.relative_to(store.home)): path.read_bytes() for path in store.home.rglob("*") if path.is_file()}


def asked(hub: HubServer, pattern: str = "") -> list[str]:
    """Return what the hub was asked for since it was made to forget."""
    return [str(request) for request in hub.requests if pattern in str(request)]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let nobody wait between two requests; return how long it would have been."""
    waited: list[float] = []
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=waited.append))
    return waited
