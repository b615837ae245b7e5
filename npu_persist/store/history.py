"""`history`: the versions of a name, and what changed in each."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from datetime import datetime  # noqa: TC003 (a field of a record)
from typing import TYPE_CHECKING, Literal

import msgspec

from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.field_changes import has_same_graphs, has_same_weights
from npu_persist.bundle.golden_records import Difference, Metric
from npu_persist.errors import NpuPersistError
from npu_persist.files.filesystem import store_errors
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from npu_persist.bundle.manifest import Manifest
    from npu_persist.store.api import AnyStore
    from npu_persist.store.lookup import StoredBundle

Change = Literal["first", "weights", "graph", "both", "rest", "nothing"]


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One version, as `history` returns it.

    Attributes:
        reference: `unet:3`.
        version: The version number.
        created: When it was persisted, in UTC.
        aliases: The aliases that point to it.
        size: Bytes on disk of everything in its folder, attached artifacts included. A file with two names counts once.
        added: Bytes of these that no earlier version in the list has: the cost of this version.
        precision: How its float weights are stored, and its activations if they are quantized; if graphs
            differ, for each: "fp16, fp32".
        differences: From torch, for each output of the golden sample, as `persist` measured them; None without check.
            If there are several graphs, the names start with theirs: `encoder.logits`.
        loss: The largest of these, relative to the output's scale; for an integer output, the share that differs.
        metrics: The values of the user's metrics in `persist`, for torch and for the model.
        changed: What differs from the previous version in the list: "weights" or "graph" (with the call and its
            shapes), "both"; "rest": golden sample, tolerance, metadata, warnings or producer; "nothing"; for the first
            version, "first". Compared by digests, without reading files. None if one of the two cannot be opened.
        problem: Why it cannot be opened; it then has neither precision nor differences.
    """

    reference: str
    version: int
    created: datetime
    aliases: tuple[str, ...]
    size: int
    added: int
    precision: str | None
    differences: tuple[Difference, ...] | None
    loss: float | None
    metrics: tuple[Metric, ...]
    changed: Change | None
    problem: str | None


def history(name: str, *, store: AnyStore = None) -> tuple[HistoryEntry, ...]:
    """Return the versions of a name, oldest first, with time, size, loss, and what changed.

    Args:
        name: The bundle's name.
        store: A store, its directory, or None for the default one.

    Raises:
        BundleNotFoundError: There is no bundle of that name.
        StoreError: The file system reports an error.

    Example:
        >>> import torch, npu_persist
        >>> for seed in range(2):
        ...     _ = torch.manual_seed(seed)
        ...     _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-history", (torch.zeros(1, 4),))
        >>> [(entry.reference, entry.precision, entry.changed) for entry in npu_persist.history("doc-history")]
        [('doc-history:1', 'fp16', 'first'), ('doc-history:2', 'fp16', 'weights')]
    """
    found = open_store(store).list(name)
    entries: list[HistoryEntry] = []
    counted: set[tuple[int, int]] = set()
    before: Bundle | None = None
    for stored in found:
        files = _measure_files(stored.path)
        bundle, problem = _open(stored)
        differences = None if bundle is None else _read_differences(bundle.manifest)
        entries.append(
            HistoryEntry(
                reference=stored.reference,
                version=stored.version,
                created=stored.created,
                aliases=stored.aliases,
                size=sum(files.values()),
                added=sum(size for inode, size in files.items() if inode not in counted),
                precision=None if bundle is None else ", ".join(sorted({g.stored_as for g in bundle.manifest.graphs})),
                differences=differences,
                loss=_worst(differences),
                metrics=() if bundle is None else _read_metrics(bundle.manifest),
                changed="first"
                if not entries
                else None
                if before is None or bundle is None
                else _compare(before, bundle),
                problem=problem,
            )
        )
        counted |= files.keys()
        before = bundle
    return tuple(entries)


def _open(stored: StoredBundle) -> tuple[Bundle | None, str | None]:
    """Open a version, whatever is the matter with its aliases."""
    try:
        return Bundle.open(stored.path, version=stored.version), stored.problem
    except NpuPersistError as error:
        return None, stored.problem or str(error)


def _read_differences(manifest: Manifest) -> tuple[Difference, ...] | None:
    if manifest.golden is not None or not manifest.goldens:
        return None if manifest.golden is None else manifest.golden.differences
    if any(golden.differences is None for golden in manifest.goldens.values()):
        return None
    return tuple(
        msgspec.structs.replace(one, output=f"{name}.{one.output}")
        for name, golden in manifest.goldens.items()
        for one in golden.differences or ()
    )


def _read_metrics(manifest: Manifest) -> tuple[Metric, ...]:
    """Return the metrics of all graphs; where there are several, under `graph.metric`."""
    found: list[Metric] = []
    for graph in manifest.graphs:
        golden = manifest.golden_of(graph)
        if golden is not None and golden.evaluation is not None:
            prefix = f"{graph.name}." if len(manifest.graphs) > 1 else ""
            found += [Metric(f"{prefix}{one.name}", one.torch, one.model) for one in golden.evaluation.metrics]
    return tuple(found)


def _worst(differences: tuple[Difference, ...] | None) -> float | None:
    if not differences:
        return None
    return max(one.max_relative if one.mismatched is None else one.mismatched for one in differences)


def _compare(before: Bundle | None, after: Bundle | None) -> Change | None:
    if before is None or after is None:
        return None
    if before.digest == after.digest:
        return "nothing"
    graph = not has_same_graphs(before.manifest, after.manifest)
    weights = not has_same_weights(before.manifest, after.manifest)
    return "both" if graph and weights else "graph" if graph else "weights" if weights else "rest"


def _measure_files(folder: Path) -> dict[tuple[int, int], int]:
    """Return the size of each file in a folder, by its inode; of those that are removed meanwhile, nothing."""
    with store_errors(f"examine {folder}"):
        return dict(_walk(folder))


def _walk(folder: Path) -> Iterator[tuple[tuple[int, int], int]]:
    for root, _, names in os.walk(folder, onerror=_raise):
        for name in names:
            with suppress(FileNotFoundError):
                found = os.lstat(os.path.join(root, name))  # noqa: PTH118
                if stat.S_ISREG(found.st_mode):
                    yield (found.st_dev, found.st_ino), found.st_size


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
