"""`persist`: an `nn.Module` and one example call, made into a published bundle."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import openvino as ov
import torch

from npu_persist import __version__
from npu_persist.bundle.manifest import (
    Buckets,
    Conversion,
    FileEntry,
    Golden,
    Graph,
    Manifest,
    Padding,
    Precision,
    Producer,
    Tolerance,
)
from npu_persist.compilation.dimensions import name_outputs, require_related
from npu_persist.conversion import check as parity
from npu_persist.conversion.bucket_axes import infer_axes
from npu_persist.conversion.buckets import check_buckets, resolve_buckets
from npu_persist.conversion.capture import Call
from npu_persist.conversion.convert import convert_export, convert_trace, describe_ports
from npu_persist.conversion.dynamic import Axes, read_dynamic_shapes
from npu_persist.conversion.examples import find_example, unwrap
from npu_persist.conversion.ir import Written, write_ir
from npu_persist.conversion.preserve import lend
from npu_persist.conversion.probe import probe
from npu_persist.conversion.targets import check_axes, check_targets, compile_published
from npu_persist.errors import ConversionError, FrozenControlFlowWarning, UsageError
from npu_persist.files.digest import digest_file
from npu_persist.progress import ProgressCallback, Reporter
from npu_persist.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from npu_persist.bundle.buckets import Shapes
    from npu_persist.bundle.bundle import Bundle

log = logging.getLogger(__name__)


def persist(  # noqa: PLR0913 - the one entry point; all but the first four by keyword
    model: torch.nn.Module,
    name: str,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    buckets: Sequence[Mapping[str, Sequence[int]]] | None = None,
    padding: Mapping[str, Padding] | None = None,
    precision: Precision = "fp16",
    alias: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    store: Store | str | Path | None = None,
    check: bool = True,
    tolerance: Tolerance | float | None = None,
    targets: str | Sequence[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Bundle:
    """Convert a module, check it against torch and publish it as the next version of `name`.

    The module is traced in evaluation mode with one example call and comes back as it was. Numbers, flags and None in
    the call become part of the graph; tensors become its inputs, of the example's shapes and dtypes (bfloat16 as
    float32).

    Args:
        model: the module, on any device; `torch.compile` and data-parallel wrappers are looked through.
        name: name of the bundle in the store.
        args: positional arguments of the example call, as `torch.export.export` takes them. Without `args` and `kwargs`
            the example is looked for: in `record`, `model.example_input_array`, `model.dummy_inputs`, the model's
            config.
        kwargs: keyword arguments of the example call.
        dynamic_shapes: axes that may vary, as `torch.export.export` takes them; otherwise all shapes are fixed, which
            is what an NPU wants.
        buckets: sizes that the graph is compiled for where it is loaded, as in `[{"input_ids": (1, 128)}, {"input_ids":
            (1, 512)}]`: one graph and one weights file; a call runs in the smallest that it fits into, filled up and
            cut back. Without `dynamic_shapes`, axes whose sizes differ from the example's become dynamic by
            themselves, and those of several inputs that are always equal become one (see `export.infer`). Each
            bucket is compared with torch at its own size and at a smaller one.
        padding: what inputs are filled up with, and on which side: `{"input_ids": Padding(0, "left")}`; otherwise zeros
            on the right. An input `attention_mask` of two axes is made of ones where a call gives none, and filled up
            with zeros.
        precision: what float weights are stored as, "fp16" or "fp32".
        alias: a name for this version, for instance "prod".
        metadata: anything JSON can hold, kept in the manifest.
        store: a store, its directory, or None for the default one.
        check: whether to run the written bundle on the CPU and compare it with torch.
        tolerance: the largest difference relative to an output's scale, or a `Tolerance`; by default what the precision
            explains: 0.1 and cosine 0.999 for fp16, 0.001 and 0.99999 for fp32, 0.2 and 0.995 for bfloat16 modules.
        targets: what the published bundle is compiled for at once, as for `compile`: `["NPU:4000"]`. Where that fails
            the bundle stays published.
        progress: called with a `Progress` at each step; by default stages are shown on a terminal.

    Returns:
        The published bundle.

    Raises:
        UsageError: a bad name, precision or example; `ExampleInputsError` when there is no example.
        ConversionError: the forward raised, or neither way of capturing gave a graph that OpenVINO can hold.
        ParityError: OpenVINO's results are beyond tolerance, or torch's hold NaN; or padding changes them.
        DynamicShapeError: a bucket does not fit the inputs, or padded outputs could not be cut back.
        StoreError: the bundle could not be written.
        TargetError: a target is none; `ToolchainError` when nothing here compiles for it, `DynamicShapeError` when it
            wants fixed sizes: all three before the module is traced.
        CompilationError: the bundle is published, but could not be compiled for a target.

    Example:
        >>> import torch, npu_persist
        >>> bundle = npu_persist.persist(torch.nn.Linear(4, 2), "doc-linear", (torch.zeros(1, 4),))
        >>> bundle.manifest.graphs[0].inputs[0].shape
        (1, 4)
        >>> buckets = [{"input": (1, 8)}, {"input": (1, 64)}]
        >>> _ = npu_persist.persist(torch.nn.ReLU(), "doc-buckets", (torch.zeros(1, 4),), buckets=buckets)
        >>> npu_persist.load("doc-buckets", device="CPU")(torch.ones(1, 20)).shape
        (1, 20)

    """
    _check_arguments(model, precision, metadata)
    model = unwrap(model)
    target = store if isinstance(store, Store) else Store(store)
    target.check_names(name, alias)
    wanted = check_targets(targets)
    reporter = Reporter(progress)
    with lend(model), target.stage() as staging:
        with reporter.stage("example"):
            example = find_example(model, args, kwargs)
            call = Call(model, example.args, example.kwargs)
            axes = read_dynamic_shapes(dynamic_shapes, call, call.arguments)
            if dynamic_shapes is None and buckets is not None:
                axes = infer_axes(call, buckets)
            sizes = _resolve(call, axes, buckets, padding)
            if sizes is None:
                check_axes(name, call, axes, wanted)
        allowed = _tolerance(tolerance, call, precision)
        converted, conversion = _capture(call, axes, allowed, reporter, () if sizes is None else sizes.shapes)
        if check:
            parity.check_results(call)
        for line in call.frozen:
            warnings.warn(f"{type(model).__name__}: {line}", FrozenControlFlowWarning, stacklevel=2)
        inputs, outputs = describe_ports(converted, call, axes)
        if sizes is not None:
            outputs = name_outputs(converted, inputs, outputs, sizes.shapes)
            require_related(inputs, outputs, name)
        graph = Graph("main", "model.xml", precision, conversion, inputs, outputs, call.signature, sizes)
        notes = list(call.frozen)
        with reporter.stage("write", total=1.0) as stage:
            written = write_ir(converted, model, staging, precision=precision, report=stage.update)
            _write_golden(call, staging / "golden.safetensors")
        del converted
        differences = None
        if check:
            with reporter.stage("check"):
                differences = _check(call, staging, allowed)
                if sizes is not None:
                    notes += check_buckets(call, graph, sizes, staging, allowed)
        manifest = Manifest(
            name=name,
            producer=Producer(__version__, ov.get_version(), torch.__version__),
            graphs=(graph,),
            weights=written.weights,
            golden=Golden("golden.safetensors", allowed if check else None, differences),
            files=_files(staging, written),
            warnings=tuple(notes),
            metadata=dict(metadata or {}),
        )
        with reporter.stage("publish"):
            (staging / "manifest.json").write_bytes(manifest.to_json())
            bundle = target.publish(staging, alias=alias)
    if wanted:
        compile_published(bundle, wanted, target, reporter)
    return bundle


def _resolve(call: Call, axes: Axes, buckets: object, padding: object) -> Buckets | None:
    if buckets is not None:
        return resolve_buckets(call, axes, buckets, padding)
    if padding is not None:
        raise UsageError("padding says how calls are filled up to buckets: give buckets too, or leave it out")
    return None


def _check_arguments(model: object, precision: str, metadata: Mapping[str, Any] | None) -> None:
    if isinstance(model, (ov.Model, ov.CompiledModel)):
        raise UsageError(
            f"{type(model).__name__} is an OpenVINO model already; persist takes the torch.nn.Module that it was made "
            "from. To keep an OpenVINO model as it is, use openvino.save_model."
        )
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"persist takes a torch.nn.Module; got {type(model).__module__}.{type(model).__qualname__}.")
    if precision not in get_args(Precision):
        raise UsageError(f"precision must be one of {', '.join(map(repr, get_args(Precision)))}; got {precision!r}.")
    lazy = [name for name, tensor in model.named_parameters() if _is_lazy(tensor)]
    if lazy:
        raise UsageError(f"{lazy[0]} has no shape yet: run the lazy module once before persisting it.")
    try:
        json.dumps(dict(metadata or {}), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"metadata must be what JSON can hold: {error}.") from error
    if not _is_portable(metadata or {}):
        raise UsageError("metadata must be what every JSON reader can hold: text as keys, integers of 64 bits.")


def _is_lazy(tensor: torch.Tensor) -> bool:
    return torch.nn.parameter.is_lazy(tensor)


def _is_portable(value: Any) -> bool:
    """Return whether nothing in a value that `json` takes would come back as something else, or not at all."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_portable(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_portable, value))
    return not isinstance(value, int) or abs(value) < 1 << 63


def _tolerance(given: Tolerance | float | None, call: Call, precision: Precision) -> Tolerance:
    if isinstance(given, Tolerance):
        return given
    default = parity.default_tolerance(call, precision)
    if given is None:
        return default
    if not isinstance(given, (int, float)) or not given > 0:  # type: ignore[redundant-expr]
        raise UsageError(f"tolerance must be a positive number or a Tolerance; got {given!r}.")
    # An error of r relative to the largest element moves the direction by an angle of that order, so cos >= 1 - r.
    return Tolerance(float(given), min(default.cosine, max(-1.0, 1.0 - float(given))))


def _capture(
    call: Call, axes: Axes, tolerance: Tolerance, reporter: Reporter, sizes: Sequence[Shapes]
) -> tuple[ov.Model, Conversion]:
    """Convert the call, by tracing it or, where that fails, by torch.export."""
    try:
        with reporter.stage("trace"):
            traced = call.trace(fix_sizes=not axes)
        with reporter.stage("convert"):
            model = convert_trace(call, traced, axes)
            probe(call, axes, model, tolerance, sizes)
    except ConversionError as first:
        log.info("tracing failed, trying torch.export: %s", first)
        call.evaluate()  # a forward that raises by itself needs no second way
        try:
            with reporter.stage("convert"):
                model = convert_export(call, axes)
                probe(call, axes, model, tolerance, sizes)
        except ConversionError as second:
            raise ConversionError(
                f"{first} A second way, torch.export, failed too: {second}",
                module_path=first.module_path,
                operation=first.operation,
            ) from first
        call.frozen = []
        return model, "export"
    return model, "trace"


def _write_golden(call: Call, path: Path) -> None:
    from safetensors.numpy import save

    tensors = {f"input.{name}": tensor for name, tensor in zip(call.input_names, call.tensors, strict=True)}
    tensors |= {f"output.{name}": tensor for name, tensor in zip(call.output_names, call.results, strict=True)}
    # Not save_file, which makes files that only their owner can read.
    path.write_bytes(save({name: tensor.contiguous().numpy() for name, tensor in tensors.items()}))


def _check(call: Call, staging: Path, tolerance: Tolerance) -> tuple[Any, ...]:
    graph, weights = staging / "model.xml", staging / "weights.safetensors"
    compiled = parity.compile_for_check(graph, weights)
    differences = parity.compare(call, compiled)
    del compiled
    parity.require(call, differences, tolerance, graph, weights)
    return differences


def _files(staging: Path, written: Written) -> dict[str, FileEntry]:
    digests = {**written.digests, "golden.safetensors": digest_file(staging / "golden.safetensors")}
    return {path: FileEntry((staging / path).stat().st_size, digest) for path, digest in sorted(digests.items())}
