"""Compile in this process: read and check a graph, compile it, export the blob, import it again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from npu_persist.artifact.artifact import BLOB_FILE, Artifact, describe_files
from npu_persist.artifact.blob import read_blob
from npu_persist.bundle.graph import check_graph
from npu_persist.bundle.graph_records import axis_bounds
from npu_persist.bundle.manifest import RESTORE, derived_bin
from npu_persist.bundle.signature import describe_port
from npu_persist.compilation import weights_in_memory
from npu_persist.compilation.compiler_errors import describe_whole
from npu_persist.compilation.generation import PIPELINE, WHOLE, WITH_WEIGHTS
from npu_persist.compilation.graph_shapes import check_shapes
from npu_persist.device.core import get_core, note_threads
from npu_persist.device.devices import PRECISION, get_kind, name_precision
from npu_persist.errors import ArtifactError, CompilationError, GraphIntegrityError
from npu_persist.files.digest import digest_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from threading import Thread

    import openvino as ov

    from npu_persist.artifact.artifact import Kind, Shapes
    from npu_persist.bundle.graph_records import Dimension, Graph, Port
    from npu_persist.bundle.verification import Verification
    from npu_persist.compilation.recipe import Recipe

_IN_MEMORY = 64 * 1024 * 1024
"""Bytes up to which a blob is read rather than mapped."""

WEIGHTLESS = {"CACHE_MODE": "OPTIMIZE_SIZE"}
"""Asks a device to leave the weights out of what it exports."""

_TYPE_NAMES = {
    "bool": "boolean", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64", "uint8": "u8", "uint16": "u16",
    "uint32": "u32", "uint64": "u64", "float16": "f16", "float32": "f32", "float64": "f64",
}  # fmt: skip
"""Numpy's names of types to OpenVINO's. `Type.to_dtype` is no help: it calls bf16 float16, and i4 int8."""


@dataclass(frozen=True)
class Compiled:
    """A compiled model, and where it came from.

    Attributes:
        model: OpenVINO's compiled model.
        seconds: What the compilation took; 0 for an import.
        keep: What has to live as long as the model.
        pending: A thread that makes the cache's entry when the last device has finished, if there is one.
        notes: Where the compilation deviated from the first attempt, and why.
    """

    model: ov.CompiledModel
    seconds: float = 0.0
    keep: tuple[object, ...] = ()
    pending: Thread | None = None
    notes: tuple[str, ...] = ()


def read_graph(recipe: Recipe, verification: Verification) -> ov.Model:
    """Read a graph, and check that it is the one that the manifest describes; its weights are checked beside that."""
    bundle, graph = recipe.bundle, recipe.graph
    described = bundle.manifest.weights
    path = bundle.file(graph.path)
    verification.check(path, bundle.manifest.files[graph.path])
    xml, weights = verification.locate(path), verification.locate(recipe.weights)
    try:
        header = check_graph(xml, weights)
    except GraphIntegrityError as error:
        raise GraphIntegrityError(verification.restore_names(str(error)), problem=error.problem) from error
    if (header.data_start, len(header.tensors)) != (described.data_start, described.tensors):
        raise GraphIntegrityError(
            f"{bundle.reference}: the manifest says that {described.path} has {described.tensors} tensors from byte "
            f"{described.data_start} on; it has {len(header.tensors)} from byte {header.data_start} on. Persist the "
            "model again, or get another copy of the bundle."
        )
    try:
        model = get_core().read_model(xml, weights)
    except RuntimeError as error:
        reason = verification.restore_names(str(error))
        raise CompilationError(f"OpenVINO could not read {bundle.reference} ({path}): {reason}") from error
    check_shapes(bundle.reference, model)
    from npu_persist.compilation.index_guards import guard_graph  # imports openvino, which `bench` does not
    from npu_persist.compilation.wide_integers import clamp_integers

    guard_graph(model)
    clamp_integers(model)
    check_ports(bundle.reference, graph, model)
    if recipe.shapes:
        fix_shapes(recipe, model)
        check_shapes(bundle.reference, model)
    return model


def fix_shapes(recipe: Recipe, model: ov.Model) -> None:
    """Give a graph's inputs the sizes that a recipe asks for."""
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
    """Compile a graph, as `read_graph` gave it, for the recipe's device; `extra` properties are not in the key."""
    core = get_core()
    note_threads()
    properties = {**recipe.options, **recipe.properties, **(extra or {})}
    if extra is None and recipe.is_weightless:
        properties |= WEIGHTLESS
    elif recipe.lengths is not None:
        properties |= WITH_WEIGHTS
    began = time.perf_counter()
    notes: tuple[str, ...] = ()
    try:
        try:
            compiled = core.compile_model(model, recipe.device, properties)
        except RuntimeError as error:
            if recipe.lengths is None or PIPELINE in properties:
                raise
            notes = (describe_whole(str(error)),)
            compiled = core.compile_model(model, recipe.device, properties | WHOLE)
    except (RuntimeError, TypeError, ValueError) as error:
        from npu_persist.device.doctor import explain_missing_device
        from npu_persist.device.properties import explain_rejected_property

        raise (
            explain_missing_device(core, recipe.device, error)
            or explain_rejected_property(core, recipe.device, recipe.properties, error)
            or CompilationError(f"OpenVINO could not compile {recipe}: {error}")
        ) from error
    return Compiled(compiled, time.perf_counter() - began, notes=notes)


def export_blob(recipe: Recipe, compiled: Compiled, staging: Path) -> Artifact:
    """Write a compiled model's blob into a folder, and return its description."""
    try:
        blob = compiled.model.export_model()
    except RuntimeError as error:
        raise CompilationError(f"OpenVINO could not export {recipe}: {error}") from error
    with (staging / BLOB_FILE).open("xb") as file:
        file.write(blob.getbuffer())
    artifact = describe(
        recipe,
        compiled.model,
        staging,
        seconds=compiled.seconds,
        kind="blob",
        is_weightless=recipe.is_weightless,
        notes=compiled.notes,
    )
    weights_in_memory.note(recipe, artifact, compiled.model)
    return artifact


def describe(  # noqa: PLR0913 (each is a member of the description)
    recipe: Recipe,
    model: ov.CompiledModel | None,
    staging: Path,
    *,
    seconds: float,
    kind: Kind,
    is_weightless: bool = False,
    notes: tuple[str, ...] = (),
) -> Artifact:
    """Return the description of a folder's content; the model is None if another library compiled it."""
    return Artifact(
        subject=recipe.bundle.digest,
        name=recipe.bundle.manifest.name,
        graph=recipe.graph.name,
        shapes=recipe.shapes,
        target=recipe.device,
        device=recipe.device,
        identity=recipe.identity,
        openvino=recipe.openvino,
        properties=recipe.texts,
        inputs=fix_inputs(recipe.graph, recipe.shapes),
        outputs=recipe.graph.outputs if model is None else describe_outputs(recipe.graph, model),
        kind=kind,
        weightless=is_weightless,
        requirements=None if model is None else _ask_requirements(model),
        toolchain="plugin",
        compiler=None,
        files=describe_files(staging),
        seconds=round(seconds, 3),
        peak_memory=None,
        lengths=recipe.lengths,
        options=recipe.options | (WHOLE if notes else {}),
        npuw=read_blob(staging / BLOB_FILE).npuw if kind == "blob" and recipe.lengths is not None else None,
        notes=notes,
    )


def import_blob(
    recipe: Recipe, artifact: Artifact, directory: Path, verification: Verification, *, check: bool
) -> Compiled:
    """Import a blob, from the bytes that were checked."""
    import numpy as np
    import openvino as ov

    path, entry = directory / BLOB_FILE, artifact.files.get(BLOB_FILE)
    if entry is None or path.is_symlink() or path.stat().st_size != entry.size or entry.size == 0:
        raise _describe_mismatch(path, f"{entry.size if entry else 'some'} bytes", "another size, or no regular file")
    # A mapping that could be written to, for OpenVINO asks for that; nothing is.
    blob: Any = np.fromfile(path, np.uint8) if entry.size <= _IN_MEMORY else np.memmap(path, np.uint8, "c")
    if check and (digest := digest_bytes(memoryview(blob))) != entry.digest:
        raise _describe_mismatch(path, entry.digest, digest)
    properties = dict(recipe.properties)
    if artifact.weightless:
        properties |= _find_weights(recipe, verification)
    weights_in_memory.check(recipe, artifact, path)
    tensor = ov.Tensor(blob, shared_memory=True)
    try:
        note_threads()
        model = get_core().import_model(tensor, recipe.device, properties)
        graph = replace(recipe.graph, inputs=fix_inputs(recipe.graph, recipe.shapes))
        check_ports(recipe.bundle.reference, graph, model)
        if artifact.lengths is not None:
            # NPUW reads the weights' file as late as here: after the load, the path that was verified is gone.
            model.create_infer_request()
    except (RuntimeError, GraphIntegrityError) as error:
        reason = str(error).strip()
        raise ArtifactError(
            f"{path}: OpenVINO rejects it for {recipe}: {reason}",
            path=str(path),
            expected=f"a blob for {recipe.device}",
            got=reason,
        ) from error
    weights_in_memory.note(recipe, artifact, model)
    return Compiled(model, keep=(tensor, blob))


def _find_weights(recipe: Recipe, verification: Verification) -> dict[str, str]:
    """Return the properties that let an import find the weights that a blob leaves out."""
    weights = verification.locate(recipe.weights)
    if get_kind(recipe.device) != "NPU":
        return {**WEIGHTLESS, "WEIGHTS_PATH": str(weights)}
    # The NPU's plugin goes by the name's end, .bin, and by the offsets that the graph has, which are those of this file
    # too. It is the weights file by another name, or a copy that is compared with their digest.
    if weights != recipe.weights:
        return {"WEIGHTS_PATH": str(verification.link(recipe.weights, "weights.bin"))}
    recipe.bundle.ensure_bin()
    manifest = recipe.bundle.manifest
    derived = recipe.bundle.path / derived_bin(recipe.graph.path)
    verification.start(derived, manifest.files[manifest.weights.path])
    return {"WEIGHTS_PATH": str(derived)}


def _ask_requirements(model: ov.CompiledModel) -> str | None:
    try:
        return str(model.get_property("RUNTIME_REQUIREMENTS"))
    except RuntimeError:  # the device names none
        return None


def _describe_mismatch(path: Path, expected: str, got: str) -> ArtifactError:
    return ArtifactError.mismatch(path, expected, got, "It will be compiled again")


def fix_inputs(graph: Graph, shapes: Shapes | None) -> tuple[Port, ...]:
    """Return a graph's inputs, with the sizes that were asked for in place of the open ones."""
    return tuple(replace(port, shape=(shapes or {}).get(port.name, port.shape)) for port in graph.inputs)


def describe_outputs(graph: Graph, model: ov.Model | ov.CompiledModel) -> tuple[Port, ...]:
    """Return a graph's outputs, with their sizes as a model has them."""
    return tuple(
        replace(port, shape=_shape(port, found.get_partial_shape()))
        for port, found in zip(graph.outputs, model.outputs, strict=True)
    )


def _shape(port: Port, found: ov.PartialShape) -> tuple[int | Dimension, ...]:
    if found.rank.is_dynamic:
        return port.shape
    return tuple(
        axis.get_length() if axis.is_static else promised for axis, promised in zip(found, port.shape, strict=True)
    )


def check_ports(reference: str, graph: Graph, model: ov.Model | ov.CompiledModel) -> None:
    """Compare the inputs and outputs of a graph that was read with the manifest.

    Inputs must be exactly as described, bounds included, or of the sizes that were asked for. An output's size may be
    known less exactly to one of the two.
    """
    for kind, promised, ports in (("input", graph.inputs, model.inputs), ("output", graph.outputs, model.outputs)):
        if len(promised) != len(ports):
            raise _port_error(reference, graph, f"{len(promised)} {kind}s", f"{len(ports)}")
        for expected, port in zip(promised, ports, strict=True):
            if not _agrees(expected, port, is_exact=kind == "input"):
                found = f"{port.get_element_type().get_type_name()}{port.get_partial_shape()}"
                raise _port_error(reference, graph, f"{kind} {expected.name} is {describe_port(expected)}", found)


def _agrees(expected: Port, port: ov.Output, *, is_exact: bool) -> bool:
    if port.get_element_type().get_type_name() != _TYPE_NAMES[expected.dtype]:
        return False
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return not is_exact
    if len(shape) != len(expected.shape):
        return False
    for promised, axis in zip(map(axis_bounds, expected.shape), shape, strict=True):
        highest = axis.get_max_length()
        found = axis.get_min_length(), float("inf") if highest < 0 else highest
        if is_exact and found != promised:
            return False
        if found[1] < promised[0] or promised[1] < found[0]:
            return False
    return True


def _port_error(reference: str, graph: Graph, promised: str, found: str) -> GraphIntegrityError:
    return GraphIntegrityError(f"{reference}: the manifest says {promised}; {graph.path} has {found}. {RESTORE}")


def executing_devices(model: ov.CompiledModel) -> tuple[str, ...]:
    """Return the devices that execute a compiled model now; empty where OpenVINO does not say.

    AUTO answers with the CPU for as long as the device that it prefers still compiles.
    """
    return tuple(name.strip("()") for name in _ask(model))


def execution_precisions(model: ov.CompiledModel) -> dict[str, str]:
    """Return the precisions of the devices that execute a model: "f32", "bf16", "f16"; "dynamic" is the graph's.

    A device that does not say is left out.
    """
    devices = executing_devices(model)
    try:
        found = dict.fromkeys(devices, model.get_property(PRECISION))
    except RuntimeError:  # AUTO, MULTI and HETERO have it by device
        try:
            by_device = model.get_property("DEVICE_PROPERTIES")
        except (RuntimeError, TypeError):  # no such property, or a value of a type that Python lacks
            return {}
        found = {name: by_device.get(name, {}).get(PRECISION) for name in devices}
    return {name: text for name, value in found.items() if (text := name_precision(value)) is not None}


def is_settled(model: ov.CompiledModel) -> bool:
    """Tell whether a compiled model stays where it runs now: AUTO writes a device that it will leave as `(CPU)`."""
    return not any(name.startswith("(") for name in _ask(model))


def is_from_cache(model: ov.CompiledModel) -> bool:
    """Tell whether OpenVINO took a compiled model from its own cache, the CACHE_DIR."""
    try:
        return bool(model.get_property("LOADED_FROM_CACHE"))
    except RuntimeError:  # not a property of this device
        return False


def _ask(model: ov.CompiledModel) -> list[str]:
    try:
        found = model.get_property("EXECUTION_DEVICES")
    except RuntimeError:  # not a property of this device
        return []
    return found.split() if isinstance(found, str) else [str(name) for name in found]
