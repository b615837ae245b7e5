"""Compilation in this process: read a graph, compile it, export what came out, and import it again.

The promise: a graph is checked before OpenVINO reads it, a blob is imported from the very bytes that were checked, and
whatever OpenVINO refuses comes out as one of our errors.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from npu_persist.artifact.artifact import BLOB_FILE, Artifact, describe_files
from npu_persist.bundle.manifest import derived_bin
from npu_persist.bundle.weights import check_graph
from npu_persist.compilation.ports import check_ports, describe_outputs, fix_inputs
from npu_persist.device.core import get_core
from npu_persist.device.devices import get_kind
from npu_persist.errors import ArtifactError, CompilationError, GraphIntegrityError
from npu_persist.files.digest import digest_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from threading import Thread

    import openvino as ov

    from npu_persist.artifact.artifact import Kind
    from npu_persist.compilation.recipe import Recipe

_IN_MEMORY = 64 * 1024 * 1024
"""Bytes up to which a blob is read rather than mapped."""

_WEIGHTLESS = {"CACHE_MODE": "OPTIMIZE_SIZE"}


@dataclass
class Compiled:
    """A compiled model, and where it came from.

    Attributes:
        model: OpenVINO's compiled model.
        seconds: What the compilation took; 0 for an import.
        keep: What has to live as long as the model.
        pending: A thread that makes the cache's entry when the last device has finished, if there is one.
    """

    model: ov.CompiledModel
    seconds: float = 0.0
    keep: list[Any] = field(default_factory=list)
    pending: Thread | None = None


def read_graph(recipe: Recipe) -> ov.Model:
    """Read a graph whose file was verified, and check that it is the one that the manifest describes.

    Raises:
        GraphIntegrityError: It points outside of its weights, or is not what the manifest says.
        CompilationError: OpenVINO cannot read it.
    """
    bundle, graph = recipe.bundle, recipe.graph
    described = bundle.manifest.weights
    xml, weights = bundle.file(graph.path), recipe.weights
    header = check_graph(xml, weights)
    if (header.data_start, len(header.tensors)) != (described.data_start, described.tensors):
        raise GraphIntegrityError(
            f"{bundle.reference}: the manifest says that {described.path} has {described.tensors} tensors from byte "
            f"{described.data_start} on; it has {len(header.tensors)} from byte {header.data_start} on. Persist the "
            "model again, or get another copy of the bundle."
        )
    try:
        model = get_core().read_model(xml, weights)
    except RuntimeError as error:
        raise CompilationError(f"OpenVINO could not read {bundle.reference} ({xml}): {error}") from error
    check_ports(bundle.reference, graph, model)
    if recipe.shapes:
        fix_shapes(recipe, model)
    return model


def fix_shapes(recipe: Recipe, model: ov.Model) -> None:
    """Give a graph's inputs the sizes that a recipe asks for.

    Raises:
        CompilationError: The graph does not work with them.
    """
    inputs = fix_inputs(recipe.graph, recipe.shapes)
    try:
        model.reshape(
            {
                found: list(port.shape)
                for found, port in zip(model.inputs, inputs, strict=True)
                if port.name in (recipe.shapes or {})
            }
        )
    except RuntimeError as error:
        shapes = {name: list(shape) for name, shape in (recipe.shapes or {}).items()}
        raise CompilationError(
            f"{recipe.bundle.reference}: its graph does not work with inputs of the sizes {shapes}: {error}"
        ) from error


def compile_graph(recipe: Recipe, model: ov.Model, extra: Mapping[str, Any] | None = None) -> Compiled:
    """Compile a graph for the recipe's device.

    Args:
        recipe: What for.
        model: The graph, as `read_graph` gave it.
        extra: More properties, which the key does not name.

    Raises:
        DeviceNotFoundError: The device is not there.
        PropertyError: The device refused a property.
        CompilationError: OpenVINO refused the graph.
    """
    core = get_core()
    properties = {**recipe.properties, **(extra or {})}
    if extra is None and recipe.is_weightless:
        properties |= _WEIGHTLESS
    began = time.perf_counter()
    try:
        compiled = core.compile_model(model, recipe.device, properties)
    except (RuntimeError, TypeError, ValueError) as error:
        from npu_persist.device.doctor import explain_missing_device
        from npu_persist.device.properties import explain_rejected_property

        raise (
            explain_missing_device(core, recipe.device, error)
            or explain_rejected_property(core, recipe.device, recipe.properties, error)
            or CompilationError(f"OpenVINO could not compile {recipe}: {error}")
        ) from error
    return Compiled(compiled, time.perf_counter() - began)


def export_blob(recipe: Recipe, compiled: Compiled, staging: Path) -> Artifact:
    """Write a compiled model's blob into a folder, and return its description.

    Raises:
        CompilationError: OpenVINO cannot export it.
        OSError: The folder cannot be written to.
    """
    try:
        blob = compiled.model.export_model()
    except RuntimeError as error:
        raise CompilationError(f"OpenVINO could not export {recipe}: {error}") from error
    with (staging / BLOB_FILE).open("xb") as file:
        file.write(blob.getbuffer())
    return describe(recipe, compiled, staging, kind="blob", is_weightless=recipe.is_weightless)


def describe(recipe: Recipe, compiled: Compiled, staging: Path, *, kind: Kind, is_weightless: bool) -> Artifact:
    """Return the description of what a folder holds."""
    return Artifact(
        subject=recipe.bundle.digest,
        name=recipe.bundle.name,
        graph=recipe.graph.name,
        shapes=recipe.shapes,
        target=recipe.device,
        device=recipe.device,
        identity=recipe.identity,
        openvino=recipe.openvino,
        properties=recipe.texts,
        inputs=fix_inputs(recipe.graph, recipe.shapes),
        outputs=describe_outputs(recipe.graph, compiled.model),
        kind=kind,
        weightless=is_weightless,
        requirements=_ask_requirements(compiled.model),
        toolchain="plugin",
        compiler=None,
        files=describe_files(staging),
        seconds=round(compiled.seconds, 3),
        peak_memory=None,
    )


def import_blob(recipe: Recipe, artifact: Artifact, directory: Path, *, check: bool) -> Compiled:
    """Import a blob, from the bytes that were checked.

    Args:
        recipe: What it was compiled for.
        artifact: Its description.
        directory: Its folder.
        check: Whether to compare it with its description first.

    Raises:
        ArtifactError: The blob is not what the description says, or OpenVINO does not take it.
        OSError: It cannot be read.
    """
    import numpy as np
    import openvino as ov

    path, entry = directory / BLOB_FILE, artifact.files.get(BLOB_FILE)
    if entry is None or path.is_symlink() or path.stat().st_size != entry.size or entry.size == 0:
        raise _not_described(path, f"{entry.size if entry else 'some'} bytes", "another size, or no regular file")
    # A mapping that could be written to, for OpenVINO asks for that; nothing is.
    blob: Any = np.fromfile(path, np.uint8) if entry.size <= _IN_MEMORY else np.memmap(path, np.uint8, "c")
    if check and (digest := digest_bytes(memoryview(blob))) != entry.digest:
        raise _not_described(path, entry.digest, digest)
    properties = dict(recipe.properties)
    if artifact.weightless:
        properties |= _find_weights(recipe)
    tensor = ov.Tensor(blob, shared_memory=True)
    try:
        model = get_core().import_model(tensor, recipe.device, properties)
        graph = replace(recipe.graph, inputs=fix_inputs(recipe.graph, recipe.shapes))
        check_ports(recipe.bundle.reference, graph, model)
    except (RuntimeError, GraphIntegrityError) as error:
        said = str(error).strip()
        raise ArtifactError(
            f"{path}: OpenVINO does not take it for {recipe}: {said}",
            path=str(path),
            expected=f"a blob for {recipe.device}",
            got=said,
        ) from error
    return Compiled(model, keep=[tensor, blob])


def _find_weights(recipe: Recipe) -> dict[str, str]:
    """Return the properties that let an import find the weights that a blob leaves out."""
    if get_kind(recipe.device) != "NPU":
        return {**_WEIGHTLESS, "WEIGHTS_PATH": str(recipe.weights)}
    # The NPU's plugin goes by the name's end, .bin, and by the offsets that the graph has, which are those of this file
    # too. It is the weights file by another name, or a copy that was compared with their digest.
    recipe.bundle.ensure_bin()
    return {"WEIGHTS_PATH": str(recipe.bundle.path / derived_bin(recipe.graph.path))}


def _ask_requirements(model: ov.CompiledModel) -> str | None:
    try:
        return str(model.get_property("RUNTIME_REQUIREMENTS"))
    except RuntimeError:  # the device names none
        return None


def _not_described(path: Path, expected: str, got: str) -> ArtifactError:
    return ArtifactError(
        f"{path}: expected {expected}; got {got}. It is compiled again",
        path=str(path),
        expected=expected,
        got=got,
    )
