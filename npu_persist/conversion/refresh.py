"""`refresh`: the graph of a bundle with the new weights of its module, as the next version."""

from __future__ import annotations

import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from msgspec.structs import replace

from npu_persist import __version__
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.comparison import read_tolerance
from npu_persist.bundle.golden_records import Golden
from npu_persist.bundle.graph_records import ListNode, NamedTupleNode, OpaqueNode, RecordNode, TupleNode
from npu_persist.bundle.manifest import FileEntry, Producer
from npu_persist.bundle.tensors import Tensors
from npu_persist.bundle.weights import read_header
from npu_persist.bundle.weights import write as write_weights
from npu_persist.conversion.calibrate import require_nncf
from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import answer, export, trace_example
from npu_persist.conversion.check import check_written, default_tolerance, is_measured, moved_choices, refuse_nan
from npu_persist.conversion.compile_as_loaded import AsLoaded, compile_as_loaded, export_compiled
from npu_persist.conversion.compress import warn_of_loss
from npu_persist.conversion.convert_again import convert_again, read_plan
from npu_persist.conversion.dynamic import axes_of, to_export_shapes
from npu_persist.conversion.examples import unwrap
from npu_persist.conversion.experts import batching_experts
from npu_persist.conversion.options import check_module, read_metadata
from npu_persist.conversion.origins import describe_dtype, describe_dtypes, digest_program, digest_tensor, tensors_of
from npu_persist.conversion.repeat import Repetition, describe_noise
from npu_persist.conversion.restoring import restoring
from npu_persist.conversion.write import Written, write_golden
from npu_persist.errors import NpuPersistError, RefreshError, UsageError
from npu_persist.files.digest import digest_file
from npu_persist.files.filesystem import copy_file, store_errors
from npu_persist.progress import Reporter
from npu_persist.runtime.golden import make_call, read_golden_inputs
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from npu_persist.bundle.golden_records import Difference, Tolerance
    from npu_persist.bundle.graph_records import Graph, Tree
    from npu_persist.bundle.manifest import Refresh
    from npu_persist.bundle.weights import Header, Tensor
    from npu_persist.conversion.call import Call
    from npu_persist.conversion.capture import Answered, Capture
    from npu_persist.errors import PersistWarning
    from npu_persist.progress import ProgressCallback, Stage
    from npu_persist.store import Store

_AGAIN = "Persist the module instead"
_DTYPES = {"F16": torch.float16, "F32": torch.float32}
"""What float tensors are stored as."""
_LARGEST_HALF = 65504.0
_CHUNK = 8 << 20


def refresh(  # noqa: PLR0913 - the first two are what it is about, the others by keyword
    reference: str | os.PathLike[str],
    model: torch.nn.Module,
    *,
    alias: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    store: Store | str | Path | None = None,
    calibration: Iterable[Sequence[Any] | Mapping[str, Any]] = (),
    check: bool = True,
    tolerance: Tolerance | float | None = None,
    progress: ProgressCallback | None = None,
) -> Bundle:
    """Publish the graph of a bundle with the new weights of its module, as the next version of its name.

    For a module that was trained on: the same code, configuration and shapes, other values. It is run once, on the
    inputs of the golden sample. Where its trace is the one that was persisted and the graph holds its tensors as they
    are, they take the places of the old ones. Otherwise (BatchNorm, int8 and int4, parametrized weights, recurrent
    layers, torch.export) the module is converted again, with the bundle's choices for each weight, and must give the
    same graph, byte for byte. A graph that comes out otherwise is refused: `persist` makes a new one.

    Args:
        reference: The bundle, such as `unet` or `unet:prod`. It is verified first.
        model: The module, on any device; wrappers are looked through as by `persist`.
        alias: A name for the new version, for instance "prod".
        metadata: Any JSON, kept in the manifest; by default that of the bundle.
        store: A store, its directory, or None for the default one.
        calibration: As for `persist`, for a bundle that was persisted with it.
        check: Whether to run the new bundle on the CPU and compare it with torch.
        tolerance: As for `persist`; by default that of the bundle.
        progress: Called with each `Progress`, of the stages "write", "trace", "check" and "publish".

    Returns:
        The published bundle, or the newest version if that is the same. Precision, buckets and the graph's file are
        those of the old one. With the check, the first `load` for the CPU finds what it compiles in the compile cache,
        unless the CPU computes in bf16 by default.

    Raises:
        UsageError: an argument is invalid.
        NotFoundError: there is no such bundle.
        IntegrityError: the bundle is damaged.
        RefreshError: the module has other tensors or gives another graph, or data chose the bundle's weights and
            `calibration` is missing. The message names the tensor or layer.
        ConversionError: the forward raised, or the module cannot be converted any more.
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
    calls = tuple(calibration)
    record, graph, old = _read_record(bundle, has_calibration=bool(calls))
    allowed = read_tolerance(tolerance, old.tolerance or default_tolerance(module, graph.precision))
    kept = bundle.manifest.metadata if metadata is None else read_metadata(metadata)
    bundle.verify()
    weights = bundle.manifest.weights.path
    reporter = Reporter(progress)
    golden = Golden(old.path, allowed if check else None, None)
    with restoring(module), batching_experts(module), opened.stage() as staging:
        made = _Refresher(bundle, graph, record, golden, module, staging, reporter, calls).run()
        entries = {
            **bundle.manifest.files,
            weights: FileEntry((staging / weights).stat().st_size, made.written.digests[weights]),
            old.path: FileEntry((staging / old.path).stat().st_size, digest_file(staging / old.path)),
        }
        notes = _describe_anew(bundle, made.capture, made.differences or ())
        manifest = replace(
            bundle.manifest,
            name=name,
            producer=Producer(__version__, bundle.manifest.producer.openvino, torch.__version__),
            weights=made.written.weights,
            golden=replace(golden, differences=made.differences),
            files=dict(sorted(entries.items())),
            warnings=notes,
            metadata=kept,
            refresh=_update(record, made, module),
        )
        with reporter.stage("publish"), ExitStack() as until:
            staged = Bundle.write(staging, manifest)
            same = opened.reuse(staged, alias)
            keep = None if made.compiled is None else export_compiled(same or staged, made.compiled, opened.home, until)
            del made  # what was compiled maps the weights: Windows renames no folder with a file that is mapped
            published = same or opened.publish(staged, alias=alias)
            if keep is not None:
                keep()
            return published


class _Made(NamedTuple):
    """What is in the staging folder, and what the check found."""

    capture: Answered
    written: Written
    differences: tuple[Difference, ...] | None
    compiled: AsLoaded | None


@dataclass(frozen=True)
class _Refresher:
    """Makes the files of the new version. What the check needs is compiled beside the trace."""

    bundle: Bundle
    graph: Graph
    record: Refresh
    golden: Golden
    module: torch.nn.Module
    staging: Path
    reporter: Reporter
    calibration: Sequence[Sequence[Any] | Mapping[str, Any]]

    def run(self) -> _Made:
        tensors, table = tensors_of(self.module), Tensors(self.bundle.file(self.weights), constants=False)
        _compare_tensors(self.bundle, self.record, table, tensors)
        for path in self.bundle.manifest.files:
            (self.staging / path).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(1, "refresh") as pool:
            folded = _find_folded(self.bundle, self.record, table, tensors)
            if folded is None:
                return self._replace(pool, tensors)
            return self._convert(pool, self._capture(), folded)

    @property
    def weights(self) -> str:
        return self.bundle.manifest.weights.path

    @property
    def files(self) -> tuple[Path, Path]:
        """The graph and the weights."""
        return self.staging / self.graph.path, self.staging / self.weights

    def _replace(self, pool: ThreadPoolExecutor, tensors: Mapping[str, torch.Tensor]) -> _Made:
        """Write the weights into the places of the old ones, unless the trace is another one."""
        if self.record.operations is not None and (made := self._replace_untraced(pool, tensors)) is not None:
            return made
        with self._writing() as stage:
            digest = self._write_again(tensors, stage.update)
        compiling = self._compile(pool)
        capture = self._capture()
        if (other := _find_other_program(self.bundle, self.record, capture)) is not None:
            compiling.exception()
            del compiling  # and with it the mapping of the weights
            self._discard()
            return self._convert(pool, capture, other)
        with self._writing():
            self._write_others(capture)
        return self._check(capture, self._describe_written(digest), compiling)

    def _replace_untraced(self, pool: ThreadPoolExecutor, tensors: Mapping[str, torch.Tensor]) -> _Made | None:
        """Write the weights beside a plain run of the module; None where only a trace tells what it computes.

        That is so, too, where the forward writes into the module, which the thread may have read meanwhile.
        """
        writing = pool.submit(self._write_again, tensors)
        compiling = self._compile(pool)  # once that is written
        answered = self._answer()
        with self._writing():
            digest = writing.result()
            if answered is None:
                compiling.exception()
                del compiling
                self._discard()
                return None
            self._write_others(answered)
        return self._check(answered, self._describe_written(digest), compiling)

    def _write_again(self, tensors: Mapping[str, torch.Tensor], report: Callable[[float], None] | None = None) -> str:
        with store_errors(f"write {self.staging}"):
            digest = _write_again(self.bundle, self.record, tensors, self.staging, report or (lambda _: None))
            copy_file(self.bundle.file(self.graph.path), self.files[0])
        return digest

    def _discard(self) -> None:
        for path in self.files:
            path.unlink()

    def _describe_written(self, digest: str) -> Written:
        return Written(self.bundle.manifest.weights, {self.weights: digest}, {}, self.record)

    def _convert(self, pool: ThreadPoolExecutor, capture: Capture, why: RefreshError) -> _Made:
        with self._writing() as stage:
            try:
                written = convert_again(self.bundle, capture, self.staging, self.calibration, stage.update)
            except RefreshError as error:
                raise RefreshError(f"{why} {error}. {_AGAIN}.", tensor=why.tensor) from error
            self._write_others(capture)
        return self._check(capture, written, self._compile(pool))

    def _answer(self) -> Answered | None:
        """Run the module without a trace; None where it is not known to be the one that was persisted."""
        with self.reporter.stage("trace"):
            answered = answer(_make_call(self.bundle, self.graph, self.record, self.module))
        if answered is None or answered.operations != self.record.operations:
            return None
        if answered.signature.result != self.graph.signature.result:
            return None
        if self.golden.tolerance is not None:
            refuse_nan(answered.results)
        return answered

    def _capture(self) -> Capture:
        with self.reporter.stage("trace"):
            capture = _capture(self.bundle, self.graph, self.record, self.module)
        if self.golden.tolerance is not None:
            refuse_nan(capture.results)
            if any(difference > self.golden.tolerance.max_relative for _, difference in capture.noise):
                raise describe_noise(Repetition(capture.caveats, capture.noise))
        return capture

    def _compile(self, pool: ThreadPoolExecutor) -> Future[AsLoaded | None]:
        if self.golden.tolerance is None:
            return pool.submit(lambda: None)
        return pool.submit(compile_as_loaded, *self.files)

    def _check(self, capture: Answered, written: Written, compiling: Future[AsLoaded | None]) -> _Made:
        allowed = self.golden.tolerance
        if allowed is None:
            return _Made(capture, written, None, None)
        with self.reporter.stage("check"):
            compiled = compiling.result()
            ready = None if compiled is None else (compiled.model, compiled.compiled.model)
            differences = check_written(capture, *self.files, allowed, self.graph.precision, compiled=ready)
        return _Made(capture, written, differences, compiled)

    def _write_others(self, capture: Answered) -> None:
        write_golden(capture.call, capture.results, self.staging / self.golden.path)
        made = {self.graph.path, self.weights, self.golden.path}
        for path in self.bundle.manifest.files.keys() - made:
            copy_file(self.bundle.file(path), self.staging / path)

    @contextmanager
    def _writing(self) -> Iterator[Stage]:
        with self.reporter.stage("write", total=1.0) as stage, store_errors(f"write {self.staging}"):
            yield stage


def _read_record(bundle: Bundle, *, has_calibration: bool) -> tuple[Refresh, Graph, Golden]:
    """Return what the bundle says of its graph's weights, the graph, and the golden sample."""
    manifest = bundle.manifest
    if len(manifest.graphs) > 1:
        raise RefreshError(
            f"{bundle.reference} has several graphs; only a bundle of one is refreshed. Persist them again."
        )
    if manifest.refresh is None or manifest.golden is None:
        raise RefreshError(
            f"{bundle.reference} does not say what refresh needs to know: its graph keeps states, or another program "
            f"wrote it, or an older npu_persist. {_AGAIN}."
        )
    if manifest.refresh.calibrated and not has_calibration:
        raise RefreshError(
            f"{bundle.reference}: data chose the integers of its weights, and new weights need others. Give "
            "calibration= again."
        )
    if has_calibration:
        if not manifest.refresh.calibrated:
            raise UsageError(f"{bundle.reference} was persisted without calibration: leave it out.")
        require_nncf()
    [graph] = manifest.graphs
    for name, tree in graph.signature.arguments:
        if (kind := _unknown(tree)) is not None:
            raise RefreshError(
                f"{bundle.reference}: the argument {name} of the golden sample holds {kind}, which cannot be made "
                f"again without its class. {_AGAIN}."
            )
    return manifest.refresh, graph, manifest.golden


def _unknown(tree: Tree) -> str | None:
    """Return what of an argument's structure is known by its name only."""
    if isinstance(tree, (RecordNode, NamedTupleNode)):
        return f"a {tree.type_name}"
    if isinstance(tree, OpaqueNode):
        return tree.text
    parts: Any = getattr(tree, "items", ())
    inner = parts if isinstance(tree, (ListNode, TupleNode)) else [part for _, part in parts]
    return next((found for part in inner if (found := _unknown(part)) is not None), None)


def _compare_tensors(bundle: Bundle, record: Refresh, table: Tensors, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise RefreshError for the first tensor whose name, dtype or shape the graph is not right for."""
    needed = {name for name in table if name not in record.rows} | record.fixed.keys()
    needed |= {rows.of for rows in record.rows.values()}
    missing = sorted(needed - tensors.keys())
    if missing:
        found = sorted(tensors.keys() - needed)
        has = f"; it has {', '.join(found[:3])}, which the bundle lacks" if found else ""
        raise RefreshError(
            f"the module has no {missing[0]}, which {bundle.reference} has{has}. {_AGAIN}.", tensor=missing[0]
        )
    for name, tensor in tensors.items():
        dtype = record.dtypes.get(name, record.dtype)
        if name not in needed:
            continue
        if describe_dtype(tensor) != dtype:
            text = f"{name} is {describe_dtype(tensor)}, and was {dtype}"
        elif name in table and name not in record.fixed and tuple(tensor.shape) != table.shape(name):
            text = f"{name} has shape {list(tensor.shape)}, and had {list(table.shape(name))}"
        else:
            continue
        raise RefreshError(f"{bundle.reference}: {text}. {_AGAIN}.", tensor=name)


def _find_folded(
    bundle: Bundle, record: Refresh, table: Tensors, tensors: Mapping[str, torch.Tensor]
) -> RefreshError | None:
    """Return why new weights cannot take the places of the old ones: that they do more than to be held."""
    if record.program is None:
        return RefreshError(f"{bundle.reference} was compressed, or captured by torch.export.")
    for name, digest in record.fixed.items():
        if digest_tensor(tensors[name]) != digest:
            return RefreshError(
                f"{bundle.reference}: {name} has other values, which the graph holds folded into others (as a "
                "BatchNorm's are) or was simplified by (a bias of zeros is left out).",
                tensor=name,
            )
    for name, target in table.aliases.items():
        if name in record.fixed or target in record.fixed or target in record.rows:
            continue
        if not torch.equal(tensors[name], tensors[target]):
            return RefreshError(
                f"{bundle.reference}: {name} is no longer equal to {target}; the graph holds both as one.", tensor=name
            )
    return None


def _find_other_program(bundle: Bundle, record: Refresh, capture: Capture) -> RefreshError | None:
    """Return why new weights cannot take the places of the old ones: that the module computes something else."""
    program, torchs = capture.program, bundle.manifest.producer.torch
    if not isinstance(program, torch.jit.ScriptModule) or digest_program(program) != record.program:
        version = "" if torchs == torch.__version__ else f", or torch traces otherwise ({torchs} then)"
        return RefreshError(
            f"{type(capture.call.module).__name__} does not compute what {bundle.reference} was persisted from: it is "
            "of another class or configuration, took another branch, has another tensor that is no parameter or "
            f"buffer, or its forward makes a number or constant of weights{version}."
        )
    return None


def _capture(bundle: Bundle, graph: Graph, record: Refresh, module: torch.nn.Module) -> Capture:
    """Run the module on the golden sample, and require results of the same structure."""
    call, axes = _make_call(bundle, graph, record, module), axes_of(graph.inputs)
    if graph.conversion == "export":
        capture = export(call, call.run(call.tensors), to_export_shapes(call, axes))
    else:
        capture = trace_example(call, fix_sizes=not axes)
    if capture.signature.result != graph.signature.result:
        raise RefreshError(
            f"{type(module).__name__} gives results of another structure than {bundle.reference}. {_AGAIN}."
        )
    return capture


def _make_call(bundle: Bundle, graph: Graph, record: Refresh, module: torch.nn.Module) -> Call:
    arrays = read_golden_inputs(bundle, graph)
    tensors: Any = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors |= {name: tensors[name].bfloat16() for name in record.bfloat16}
    try:
        return bind_call(module, *make_call(graph.signature, graph.inputs, tensors))
    except NpuPersistError as error:
        raise RefreshError(
            f"{type(module).__name__} takes other arguments than {bundle.reference} was persisted with: {error}"
        ) from error


def _update(record: Refresh, made: _Made, module: torch.nn.Module) -> Refresh:
    """Return what the new bundle says of its graph's weights."""
    found = made.written.refresh or describe_dtypes(tensors_of(module))
    operations = None if found.program is None else made.capture.operations
    return replace(found, bfloat16=record.bfloat16, calibrated=record.calibrated, operations=operations)


def _describe_anew(bundle: Bundle, capture: Answered, differences: Sequence[Difference]) -> tuple[str, ...]:
    """Return the bundle's warnings, with what is measured now in place of what was measured then."""
    notes = [text for text in bundle.manifest.warnings if not is_measured(text)]
    found: list[PersistWarning] = [caveat for caveat in capture.caveats if str(caveat) not in notes]
    found += moved_choices(differences)
    if (plan := read_plan(bundle)) is not None and (loss := warn_of_loss(plan, differences)) is not None:
        found.append(loss)
    for one in found:
        warnings.warn(f"{type(capture.call.module).__name__}: {one}", type(one), stacklevel=3)
    return (*notes, *map(str, found))


def _write_again(
    bundle: Bundle,
    record: Refresh,
    tensors: Mapping[str, torch.Tensor],
    staging: Path,
    report: Callable[[float], None],
) -> str:
    """Write the weights file with the module's tensors in their places; return its digest."""
    path = bundle.manifest.weights.path
    source = bundle.file(path)
    header, size = read_header(source), source.stat().st_size
    ordered = sorted(header.tensors, key=lambda name: header.tensors[name].start)
    chunks = (chunk for name in ordered for chunk in _read(name, header, record, tensors, source))
    with source.open("rb") as file:
        start = file.read(header.data_start)
    return write_weights(staging / path, start, chunks, lambda done: report(done / size))


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
        if kind is torch.float16 and _is_beyond_half(tensor):
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


def _is_beyond_half(tensor: torch.Tensor) -> bool:
    """Return whether a finite value becomes infinite in half precision."""
    if not tensor.numel():
        return False
    lowest, highest = torch.aminmax(tensor)  # NaN if there is any
    if max(-lowest, highest) < _LARGEST_HALF:
        return False
    return bool((torch.isinf(tensor.half()) & torch.isfinite(tensor)).any())
