"""Export a bundle as a folder that OpenVINO's own tools read.

    openvino    DIR/model.xml, DIR/model.bin                      `openvino.Core().read_model`, benchmark_app
    ovms        DIR/1/model.xml, DIR/1/model.bin                  OpenVINO Model Server: DIR is its model_path
    genai       DIR/openvino_model.xml, DIR/openvino_model.bin    OpenVINO GenAI and optimum-intel: DIR is a pipeline's
                                                                  folder or a part of it, such as unet/, without
                                                                  configuration and tokenizer

The files are verified, then hard-linked (they are read-only) or copied. The folder appears complete, by one rename.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from npu_persist.errors import UsageError
from npu_persist.files.filesystem import is_directory, link_or_copy, remove, rename_new, store_errors
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    from npu_persist.store.api import AnyStore

Layout = Literal["openvino", "ovms", "genai"]

LAYOUTS: dict[Layout, tuple[str, str]] = {
    "openvino": ("model.xml", "model.bin"),
    "ovms": ("1/model.xml", "1/model.bin"),
    "genai": ("openvino_model.xml", "openvino_model.bin"),
}
"""Where the graph and its weights go."""


def export(
    reference: str | os.PathLike[str],
    layout: Layout,
    directory: str | os.PathLike[str],
    *,
    graph: str | None = None,
    store: AnyStore = None,
) -> tuple[Path, ...]:
    """Export a graph of a bundle as a folder that OpenVINO's own tools read.

    Args:
        reference: The bundle.
        layout: The kind of folder: "openvino", "ovms" or "genai".
        directory: The folder to make; it may exist if it is empty.
        graph: Name of the graph; None for the only one.
        store: A store, its directory, or None for the default one.

    Returns:
        The files: the graph and its weights.

    Raises:
        BundleNotFoundError: There is no such bundle.
        FileIntegrityError: A file of the bundle differs from the manifest.
        NotFoundError: The bundle has no graph of that name.
        UsageError: Unknown layout, a folder that is not empty, or several graphs and none named.
        StoreError: The file system refuses.

    Example:
        >>> import pathlib, tempfile, torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-export", (torch.zeros(1, 4),))
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "linear"
        >>> [path.name for path in npu_persist.export("doc-export", "ovms", target)]
        ['model.xml', 'model.bin']
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout: expected one of {', '.join(LAYOUTS)}; got {layout!r}")
    bundle = open_store(store).resolve(reference)
    sources = (bundle.graph(graph).path, bundle.manifest.weights.path)
    target = Path(os.path.abspath(directory))  # noqa: PTH100 (resolve() would follow links)
    with store_errors(f"write {target}"):
        _refuse_full(target)
        files = [(bundle.verify_file(source), path) for source, path in zip(sources, LAYOUTS[layout], strict=True)]
        _write(files, target)
    return tuple(target / path for path in LAYOUTS[layout])


def _write(files: list[tuple[Path, str]], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    try:
        for source, path in files:
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source, staging / path)
        if is_directory(target):  # an empty one, which Windows would not replace
            target.rmdir()
        rename_new(staging, target)
    except FileExistsError as error:
        raise _full(target) from error
    finally:
        remove(staging)


def _refuse_full(target: Path) -> None:
    if os.path.lexists(target) and (not is_directory(target) or any(target.iterdir())):
        raise _full(target)


def _full(target: Path) -> UsageError:
    return UsageError(f"{target}: expected a new or an empty folder; it is a file or not empty. Choose another")
