"""`refresh`: the graph of a bundle with the new weights of its module, as the next version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from msgspec.structs import replace

from npu_persist import __version__
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.comparison import read_tolerance
from npu_persist.bundle.manifest import (
    Dimension,
    FileEntry,
    Golden,
    ListNode,
    NamedTupleNode,
    OpaqueNode,
    Producer,
    RecordNode,
    TupleNode,
)
from npu_persist.bundle.weights import read_header
from npu_persist.bundle.weights import write as write_weights
from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import trace_example
from npu_persist.conversion.check import check_written, default_tolerance, refuse_nan
from npu_persist.conversion.examples import unwrap
from npu_persist.conversion.experts import batching_experts
from npu_persist.conversion.options import check_module, read_metadata
from npu_persist.conversion.origins import OWN, describe_dtype, digest_program, digest_tensor, tensors_of
from npu_persist.conversion.repeat import Repetition, describe_noise
from npu_persist.conversion.restoring import restoring
from npu_persist.conversion.write import write_golden
from npu_persist.errors import NpuPersistError, RefreshError
from npu_persist.files.digest import digest_file
from npu_persist.files.filesystem import copy_file, store_errors
from npu_persist.progress import Reporter
from npu_persist.runtime.golden import make_call, read_golden_inputs
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from npu_persist.bundle.manifest import Graph, Refresh, Tolerance, Tree
    from npu_persist.bundle.weights import Header, Tensor
    from npu_persist.conversion.call import Call
    from npu_persist.conversion.capture import Capture
    from npu_persist.progress import ProgressCallback
    from npu_persist.store import Store

_AGAIN = "Persist the module instead"
_DTYPES = {"F16": torch.float16, "F32": torch.float32}
"""What float tensors are stored as."""
_CHUNK = 8 << 20


def refresh(  # noqa: PLR0913 - the first two are what it is about, the others by keyword
    reference: str | os.PathLike[str],
    model: torch.nn.Module,
    *,
    alias: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    store: Store | str | Path | None = None,
    check: bool = True,
    tolerance: Tolerance | float | None = None,
    progress: ProgressCallback | None = None,
) -> Bundle:
    """Publish the graph of a bundle with the new weights of its module, as the next version of its name.

    For a module that was trained on: the same code, configuration and shapes, other values. It is run once, on the
    inputs of the golden sample, and its trace must be the one that was persisted; nothing is converted. A graph that
    depends on the values of weights in another way than by holding them is refused: `persist` makes a new one.

    Args:
        reference: The bundle, such as `unet` or `unet:prod`. It is verified first.
        model: The module, on any device; wrappers are looked through as by `persist`.
        alias: A name for the new version, for instance "prod".
        metadata: Any JSON, kept in the manifest; by default that of the bundle.
        store: A store, its directory, or None for the default one.
        check: Whether to run the new bundle on the CPU and compare it with torch.
        tolerance: As for `persist`; by default that of the bundle.
        progress: Called with each `Progress`, of the stages "trace", "write", "check" and "publish".

    Returns:
        The published bundle, or the newest version if that is the same. Precision, warnings, buckets and the graph's
        file are those of the old one.

    Raises:
        UsageError: an argument is invalid.
        NotFoundError: there is no such bundle.
        IntegrityError: the bundle is damaged.
        RefreshError: the module has other tensors or computes something else, or the graph holds what was computed from
            a weight that has changed. The message names it.
        ConversionError: the forward raised.
        ParityError: OpenVINO's results with the new weights are beyond tolerance.
        StoreError: the bundle could not be written.

    Example:
        >>> import torch, npu_persist
        >>> layer = torch.nn.Linear(4, 2)
        >>> _ = npu_persist.persist(layer, "doc-refresh", (torch.zeros(1, 4),))
        >>> _ = torch.nn.init.normal_(layer.weight)  # a step of training
        >>> npu_persist.refresh("doc-refresh", layer).reference
        'doc-refresh:2'
    """
    check_module(model)
    module, opened = unwrap(model), open_store(store)
    bundle = opened.resolve(reference)
    name = bundle.name if bundle.version is None else bundle.path.parent.name  # a pulled bundle may have another
    opened.check_names(name, alias)
    record, graph = _read_record(bundle)
    old = bundle.manifest.golden
    asked = None if old is None else old.tolerance
    allowed = read_tolerance(tolerance, asked or default_tolerance(module, graph.precision))
    kept = bundle.manifest.metadata if metadata is None else read_metadata(metadata)
    bundle.verify()
    header = read_header(bundle.file(bundle.manifest.weights.path))
    reporter = Reporter(progress)
    with restoring(module), batching_experts(module), opened.stage() as staging:
        tensors = tensors_of(module)
        _compare_tensors(bundle, record, header, tensors)
        with reporter.stage("trace"):
            capture = _trace(bundle, graph, record, module)
        if check:
            refuse_nan(capture.results)
            if any(difference > allowed.max_relative for _, difference in capture.noise):
                raise describe_noise(Repetition(capture.caveats, capture.noise))
        paths = {"graph": graph.path, "weights": bundle.manifest.weights.path, "golden": _golden_path(bundle)}
        with reporter.stage("write", total=1.0) as stage, store_errors(f"write {staging}"):
            for path in paths.values():
                (staging / path).parent.mkdir(parents=True, exist_ok=True)
            copy_file(bundle.file(paths["graph"]), staging / paths["graph"])
            source = bundle.file(paths["weights"])
            size = source.stat().st_size
            ordered = sorted(header.tensors, key=lambda name: header.tensors[name].start)
            chunks = (chunk for name in ordered for chunk in _read(name, header, record, tensors, source))
            with source.open("rb") as file:
                start = file.read(header.data_start)
            digest = write_weights(staging / paths["weights"], start, chunks, lambda done: stage.update(done / size))
            write_golden(capture.call, capture.results, staging / paths["golden"])
        differences = None
        if check:
            with reporter.stage("check"):
                files = staging / paths["graph"], staging / paths["weights"]
                differences = check_written(capture, *files, allowed, graph.precision)
        golden_size = (staging / paths["golden"]).stat().st_size
        entries = {
            paths["graph"]: bundle.manifest.files[paths["graph"]],
            paths["weights"]: FileEntry(size, digest),
            paths["golden"]: FileEntry(golden_size, digest_file(staging / paths["golden"])),
        }
        manifest = replace(
            bundle.manifest,
            name=name,
            producer=Producer(__version__, bundle.manifest.producer.openvino, torch.__version__),
            golden=Golden(paths["golden"], allowed if check else None, differences),
            files=dict(sorted(entries.items())),
            metadata=kept,
        )
        with reporter.stage("publish"):
            staged = Bundle.write(staging, manifest)
            return opened.reuse(staged, alias) or opened.publish(staged, alias=alias)


def _golden_path(bundle: Bundle) -> str:
    assert bundle.manifest.golden is not None  # noqa: S101 - `_read_record` has refused it
    return bundle.manifest.golden.path


def _read_record(bundle: Bundle) -> tuple[Refresh, Graph]:
    """Return what the bundle says of its graph's weights, and the graph."""
    manifest = bundle.manifest
    if len(manifest.graphs) > 1:
        raise RefreshError(
            f"{bundle.reference} has several graphs; only a bundle of one is refreshed. Persist them again."
        )
    if manifest.refresh is None or manifest.golden is None:
        raise RefreshError(
            f"{bundle.reference} does not say where the constants of its graph come from: it is int8 or int4, "
            f"torch.export captured it, it takes bfloat16, or another program wrote it. {_AGAIN}."
        )
    [graph] = manifest.graphs
    for name, tree in graph.signature.arguments:
        if (kind := _unknown(tree)) is not None:
            raise RefreshError(
                f"{bundle.reference}: the argument {name} of the golden sample holds {kind}, which cannot be made "
                f"again without its class. {_AGAIN}."
            )
    return manifest.refresh, graph


def _unknown(tree: Tree) -> str | None:
    """Return what of an argument's structure is known by its name only."""
    if isinstance(tree, (RecordNode, NamedTupleNode)):
        return f"a {tree.type_name}"
    if isinstance(tree, OpaqueNode):
        return tree.text
    parts: Any = getattr(tree, "items", ())
    inner = parts if isinstance(tree, (ListNode, TupleNode)) else [part for _, part in parts]
    return next((found for part in inner if (found := _unknown(part)) is not None), None)


def _compare_tensors(bundle: Bundle, record: Refresh, header: Header, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise RefreshError for the first tensor that the graph is not right for."""
    aliases = {
        name: target for name, target in header.metadata.items() if target in header.tensors and name != "format"
    }
    held = {name: name for name in header.tensors if name not in record.rows and not name.startswith(OWN)}
    needed = {**held, **aliases, **dict.fromkeys(record.fixed), **{rows.of: None for rows in record.rows.values()}}
    missing = sorted(needed.keys() - tensors.keys())
    if missing:
        found = sorted(tensors.keys() - needed.keys())
        has = f"; it has {', '.join(found[:3])}, which the bundle lacks" if found else ""
        raise RefreshError(
            f"the module has no {missing[0]}, which {bundle.reference} has{has}. {_AGAIN}.", tensor=missing[0]
        )
    for name, tensor in tensors.items():
        dtype = record.dtypes.get(name, record.dtype)
        if name in needed and describe_dtype(tensor) != dtype:
            raise _differs(bundle, name, f"is {describe_dtype(tensor)}, and was {dtype}")
        if (target := needed.get(name)) is not None:
            shape = header.tensors[target].shape
            if name not in record.fixed and tuple(tensor.shape) != shape:
                raise _differs(bundle, name, f"has shape {list(tensor.shape)}, and had {list(shape)}")
    _compare_values(bundle, record, aliases, tensors)


def _compare_values(
    bundle: Bundle, record: Refresh, aliases: Mapping[str, str], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Raise RefreshError for the first tensor whose values the graph depends on."""
    for name, digest in record.fixed.items():
        if digest_tensor(tensors[name]) != digest:
            raise _differs(
                bundle,
                name,
                "has other values, which the graph holds folded into others (as a BatchNorm's are) or was simplified "
                "by (a bias of zeros is left out)",
            )
    for name, target in aliases.items():
        if name in record.fixed or target in record.fixed or target in record.rows:
            continue
        if not torch.equal(tensors[name], tensors[target]):
            raise _differs(bundle, name, f"is no longer equal to {target}; the graph holds both as one")


def _differs(bundle: Bundle, name: str, how: str) -> RefreshError:
    return RefreshError(f"{bundle.reference}: {name} {how}. {_AGAIN}.", tensor=name)


def _trace(bundle: Bundle, graph: Graph, record: Refresh, module: torch.nn.Module) -> Capture:
    """Run the module on the golden sample, and require that it computes what it did when it was persisted."""
    call = _make_call(bundle, graph, module)
    is_fixed = not any(isinstance(axis, Dimension) for port in graph.inputs for axis in port.shape)
    capture = trace_example(call, fix_sizes=is_fixed)
    program, torchs = capture.program, bundle.manifest.producer.torch
    is_same = isinstance(program, torch.jit.ScriptModule) and digest_program(program) == record.program
    if not is_same or capture.signature.result != graph.signature.result:
        version = "" if torchs == torch.__version__ else f", or torch traces otherwise ({torchs} then)"
        raise RefreshError(
            f"{type(module).__name__} does not compute what {bundle.reference} was persisted from: it is of another "
            "class or configuration, took another branch, has another tensor that is no parameter or buffer, or "
            f"its forward makes a number or constant of weights{version}. {_AGAIN}."
        )
    return capture


def _make_call(bundle: Bundle, graph: Graph, module: torch.nn.Module) -> Call:
    arrays = read_golden_inputs(bundle, graph)
    tensors: Any = {name: torch.from_numpy(array) for name, array in arrays.items()}
    try:
        return bind_call(module, *make_call(graph.signature, graph.inputs, tensors))
    except NpuPersistError as error:
        raise RefreshError(
            f"{type(module).__name__} takes other arguments than {bundle.reference} was persisted with: {error}"
        ) from error


def _read(
    name: str, header: Header, record: Refresh, tensors: Mapping[str, torch.Tensor], source: Path
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of one tensor of the new file: of the module, or as the old file has them."""
    entry = header.tensors[name]
    if (rows := record.rows.get(name)) is not None:
        indices = torch.arange(rows.count) * rows.step + rows.start
        taken = tensors[rows.of][indices]
        yield _store(rows.of, taken * torch.tensor(rows.scale, dtype=taken.dtype), entry)
    elif name in tensors and name not in record.fixed:
        yield _store(name, tensors[name], entry)
    else:
        with source.open("rb") as file:
            file.seek(entry.start)
            for start in range(0, entry.size, _CHUNK):
                yield file.read(min(_CHUNK, entry.size - start))


def _store(name: str, tensor: torch.Tensor, entry: Tensor) -> memoryview:
    """Return a tensor in the type in which the file has it."""
    if tensor.is_floating_point() and (kind := _DTYPES.get(entry.dtype)) is not None and tensor.dtype is not kind:
        stored = tensor.to(kind)
        if kind is torch.float16 and bool((torch.isinf(stored) & torch.isfinite(tensor)).any()):
            raise RefreshError(
                f"{name} has values beyond half precision, which the graph holds it in. {_AGAIN}.", tensor=name
            )
        tensor = stored
    data = np.ascontiguousarray(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()).data
    if data.nbytes != entry.size:
        raise RefreshError(
            f"{name} takes {data.nbytes} bytes where the graph reads {entry.size}. {_AGAIN}.", tensor=name
        )
    return data
