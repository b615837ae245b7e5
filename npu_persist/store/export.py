"""Export a bundle as a folder for OpenVINO's own tools.

    openvino    DIR/model.xml, DIR/model.bin                      `openvino.Core().read_model`, benchmark_app
    ovms        DIR/1/model.xml, DIR/1/model.bin                  OpenVINO Model Server: DIR is its model_path
    genai       DIR/openvino_model.xml, DIR/openvino_model.bin    OpenVINO GenAI and optimum-intel: DIR is a pipeline's
                                                                  folder or a part of it, such as unet/

Of several graphs each has its own pair: `encoder.xml` and `encoder.bin`, or `openvino_encoder_model.xml` and `.bin`. Of
a pipeline of diffusers, which has a `model_index.json`, GenAI wants `unet/openvino_model.xml` and `.bin`. The assets,
such as configuration and tokenizer, stand beside the graphs. The files are verified and copied, or hard-linked on
request. The folder appears complete, by one rename.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from npu_persist.bundle.assets import MODEL_INDEX, asset_path
from npu_persist.bundle.bundle import gone_errors
from npu_persist.bundle.manifest import derived_bin
from npu_persist.errors import UsageError
from npu_persist.files.filesystem import (
    check_path,
    copy_file,
    fsync_directory,
    is_directory,
    is_obstructed,
    link_or_copy,
    rename_new,
    store_errors,
)
from npu_persist.files.staging import drafted, prune_drafts
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store.api import AnyStore

Layout = Literal["openvino", "ovms", "genai"]

LAYOUTS: dict[Layout, tuple[str, str]] = {
    "openvino": ("model.xml", "{}.xml"),
    "ovms": ("1/model.xml", "1/{}.xml"),
    "genai": ("openvino_model.xml", "openvino_{}_model.xml"),
}
"""Where a graph goes: the only one, and one of several, by its name."""


def export(  # noqa: PLR0913 (the keywords are named in each call)
    reference: str | os.PathLike[str],
    layout: Layout,
    directory: str | os.PathLike[str],
    *,
    graph: str | None = None,
    link: bool = False,
    store: AnyStore = None,
) -> tuple[Path, ...]:
    """Export a bundle, with its assets, as a folder for OpenVINO's own tools.

    The files are copies, which may be changed. On Btrfs, XFS and the like, copies on one file system use no space.

    Args:
        reference: The bundle.
        layout: The kind of folder: "openvino", "ovms" or "genai".
        directory: The folder to create; it may exist if it is empty.
        graph: Name of the only graph to export; None for all.
        link: Hard-link the files instead, which uses no space on any file system with links. They are read-only;
            changing one, as root can, changes the bundle and every version that shares the file.
        store: A store, its directory, or None for the default one.

    Returns:
        The files: each graph and its weights, then the assets.

    Raises:
        BundleNotFoundError: There is no such bundle.
        FileIntegrityError: A file of the bundle differs from the manifest.
        NotFoundError: The bundle has no graph of that name.
        UsageError: Unknown layout, a folder that is not empty, an asset with the name of a graph, or several graphs for
            "ovms", which serves one, without `graph`.
        StoreError: The file system reports an error.

    Example:
        >>> import pathlib, tempfile, torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-export", (torch.zeros(1, 4),))
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "linear"
        >>> [path.name for path in npu_persist.export("doc-export", "ovms", target)]
        ['model.xml', 'model.bin']
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout: expected one of {', '.join(LAYOUTS)}; got {layout!r}")
    check_path(directory, "directory")
    bundle = open_store(store).resolve(reference)
    target = Path(os.path.abspath(directory))  # noqa: PTH100 (resolve() would follow links)
    with gone_errors(bundle), store_errors(f"write {target}"):
        prune_drafts(target)
        _refuse_full(target)
        placed = place_files(bundle, layout, graph)
        sources = {source: bundle.verify_file(source) for source in dict.fromkeys(placed.values())}
        write_files([(sources[source], path) for path, source in placed.items()], target, link=link)
    return tuple(target / path for path in placed)


def place_files(bundle: Bundle, layout: Layout, graph: str | None = None) -> dict[str, str]:
    """Return the path of each file in the folder, and in the bundle; UsageError as for `export`."""
    graphs = bundle.manifest.graphs if graph is None else (bundle.graph(graph),)
    if layout == "ovms" and len(graphs) > 1:
        bundle.graph()  # raises: which one of them?
    only, one_of_several = LAYOUTS[layout]
    if layout == "genai" and MODEL_INDEX in bundle.assets:
        one_of_several = f"{{}}/{only}"
    placed: dict[str, str] = {}
    for one in graphs:
        path = only if len(graphs) == 1 else one_of_several.format(one.name)
        placed[path] = one.path
        placed[derived_bin(path)] = bundle.manifest.weights.path
    for name in bundle.assets:
        path = f"1/{name}" if layout == "ovms" else name
        if path in placed:
            raise UsageError(f"{bundle.reference} has an asset {name}, which this layout uses for a graph's file")
        placed[path] = asset_path(name)
    return placed


def write_files(files: list[tuple[Path, str]], target: Path, *, link: bool) -> None:
    """Write or link files to paths below a new folder, which appears complete."""
    with drafted(target) as draft:
        written: dict[Path, Path] = {}
        for source, path in files:
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            if link or source in written:  # the weights of several graphs are one file with several names
                link_or_copy(written.get(source, source), draft / path)
            else:
                copy_file(source, draft / path)
            written.setdefault(source, draft / path)
        folders = {folder for _, path in files for folder in (draft / path).parents if folder.is_relative_to(draft)}
        for folder in sorted(folders, reverse=True):
            fsync_directory(folder)
        if is_directory(target):  # an empty one, which Windows would not replace
            target.rmdir()
        try:
            rename_new(draft, target, below=target.parent)
        except FileExistsError as error:
            raise _full(target) from error
        fsync_directory(target.parent)


def _refuse_full(target: Path) -> None:
    if is_obstructed(target) or (is_directory(target) and any(target.iterdir())):
        raise _full(target)


def _full(target: Path) -> UsageError:
    return UsageError(f"{target}: expected a new or an empty folder; it is a file or not empty. Choose another")
