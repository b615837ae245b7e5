"""`persist`: an `nn.Module` and one example call become a published bundle."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import openvino as ov
import torch
from safetensors.numpy import save

from npu_persist import __version__
from npu_persist.bundle.buckets import require_bounds
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.manifest import Conversion, FileEntry, Golden, Graph, Manifest, Producer
from npu_persist.compilation.compile import compile_bundle
from npu_persist.compilation.output_sizes import name_outputs, require_related
from npu_persist.conversion.bucket_axes import infer_axes
from npu_persist.conversion.buckets import check_buckets, resolve_buckets
from npu_persist.conversion.call import Call, bind_call
from npu_persist.conversion.capture import Capture, export, trace
from npu_persist.conversion.check import check_written, probe, refuse_nan
from npu_persist.conversion.convert import convert, describe_ports
from npu_persist.conversion.dynamic import Axes, input_ports, read_dynamic_shapes, to_export_shapes
from npu_persist.conversion.examples import find_example, unwrap
from npu_persist.conversion.options import (
    Options,
    check_module,
    read_compile_targets,
    read_metadata,
    read_precision,
    read_tolerance,
)
from npu_persist.conversion.restoring import restoring
from npu_persist.conversion.write import Written, write_ir
from npu_persist.errors import ConversionError, FrozenControlFlowWarning, NpuPersistError
from npu_persist.files.digest import digest_file
from npu_persist.progress import Reporter
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from npu_persist.bundle.manifest import Buckets, Padding, Precision, Tolerance
    from npu_persist.progress import ProgressCallback
    from npu_persist.store import Store

log = logging.getLogger(__name__)

GRAPH, WEIGHTS, GOLDEN = "model.xml", "weights.safetensors", "golden.safetensors"


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

    The module is traced in evaluation mode with one example call, and restored. Numbers, flags and None in the call
    become part of the graph; tensors become its inputs, with the example's shapes and dtypes (bfloat16 as float32).

    Args:
        model: The module, on any device; `torch.compile` and data-parallel wrappers are looked through.
        name: Name of the bundle in the store.
        args: Positional arguments of the example call, as `torch.export.export` takes them. Without `args` and `kwargs`
            the example is searched for: in `record`, `model.example_input_array`, `model.dummy_inputs`, the model's
            config.
        kwargs: Keyword arguments of the example call.
        dynamic_shapes: Axes that may vary, as `torch.export.export` takes them; otherwise all shapes are fixed, which
            is what an NPU wants.
        buckets: Sizes that the graph is compiled for where it is loaded, as in `[{"input_ids": (1, 128)}, {"input_ids":
            (1, 512)}]`: one graph and one weights file; a call runs in the smallest bucket that it fits into, padded
            and cut back. Without `dynamic_shapes`, axes whose sizes differ from the example's become dynamic by
            themselves, and those of several inputs that are always equal become one. Each bucket is compared with
            torch at its own size and at a smaller one.
        padding: What inputs are padded with, and on which side: `{"input_ids": Padding(0, "left")}`; otherwise zeros on
            the right. An input `attention_mask` of two axes is ones where a call gives none, and padded with zeros.
        precision: What float weights are stored as, "fp16" or "fp32".
        alias: A name for this version, for instance "prod".
        metadata: Any JSON, kept in the manifest.
        store: A store, its directory, or None for the default one.
        check: Whether to run the written bundle on the CPU and compare it with torch.
        tolerance: The largest difference relative to an output's scale, or a `Tolerance`; by default what the precision
            explains: 0.1 and cosine 0.999 for fp16, 0.001 and 0.99999 for fp32, 0.2 and 0.995 for bfloat16 modules.
        targets: What the published bundle is compiled for at once, as for `compile`: `["NPU:4000"]`. Where that fails
            the bundle stays published.
        progress: Called with each `Progress`, of the stages "example", "trace", "convert", "write", "check", "publish"
            and, with `targets`, "compile".

    Returns:
        The published bundle.

    Raises:
        UsageError: an invalid name, precision or example; `ExampleInputsError` when there is no example.
        ConversionError: the forward raised, or neither way of capturing gave a graph that OpenVINO can hold.
        ParityError: OpenVINO's results are beyond tolerance, or torch's hold NaN; or padding changes them.
        DynamicShapeError: a bucket does not fit the inputs, or padded outputs could not be cut back; or a target needs
            fixed sizes.
        StoreError: the bundle could not be written.
        TargetError: not a target; `ToolchainError` when nothing here compiles for it. Both before the module is traced.
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
    check_module(model)
    module = unwrap(model)
    options = Options(
        name=name,
        alias=alias,
        store=open_store(store),
        dynamic_shapes=dynamic_shapes,
        buckets=buckets,
        padding=padding,
        precision=read_precision(precision),
        check=check,
        tolerance=read_tolerance(tolerance, module, precision),
        targets=read_compile_targets(targets),
        metadata=read_metadata(metadata),
    )
    reporter = Reporter(progress)
    with restoring(module), options.store.stage() as staging:
        with reporter.stage("example"):
            example = find_example(module, args, kwargs)
            call = bind_call(module, example.args, example.kwargs)
            axes, sizes = _read_sizes(call, options)
        capture, converted = _capture(call, axes, sizes, options, reporter)
        if check:
            refuse_nan(capture.results)
        for line in capture.warnings:
            warnings.warn(f"{type(module).__name__}: {line}", FrozenControlFlowWarning, stacklevel=2)
        graph = _describe(capture, converted, axes, sizes, options)
        with reporter.stage("write", total=1.0) as stage:
            written = write_ir(converted, module, staging, precision=precision, report=stage.update)
            _write_golden(capture, staging / GOLDEN)
        del converted
        golden, notes = Golden(GOLDEN, None, None), capture.warnings
        if check:
            with reporter.stage("check"):
                differences = check_written(capture, staging / GRAPH, staging / WEIGHTS, options.tolerance)
                golden = Golden(GOLDEN, options.tolerance, differences)
                notes += check_buckets(call, graph, staging, options.tolerance)
        manifest = Manifest(
            name=name,
            producer=Producer(__version__, ov.get_version(), torch.__version__),
            graphs=(graph,),
            weights=written.weights,
            golden=golden,
            files=_files(staging, written),
            warnings=notes,
            metadata=options.metadata,
        )
        with reporter.stage("publish"):
            bundle = options.store.publish(Bundle.write(staging, manifest), alias=alias)
    if options.targets:
        _compile(bundle, options, reporter)
    return bundle


def _read_sizes(call: Call, options: Options) -> tuple[Axes, Buckets | None]:
    if options.buckets is None:
        axes = read_dynamic_shapes(options.dynamic_shapes, call)
        for target in options.targets:
            if target.kind == "NPU":
                require_bounds(input_ports(call, axes), options.name, str(target))
        return axes, None
    if options.dynamic_shapes is None:
        axes = infer_axes(call, options.buckets)
    else:
        axes = read_dynamic_shapes(options.dynamic_shapes, call)
    return axes, resolve_buckets(call, axes, options.buckets, options.padding)


def _capture(
    call: Call, axes: Axes, sizes: Buckets | None, options: Options, reporter: Reporter
) -> tuple[Capture, ov.Model]:
    """Capture and convert the call: by a trace or, where that fails, by torch.export."""
    shapes = () if sizes is None else sizes.shapes
    try:
        with reporter.stage("trace"):
            capture = trace(call, fix_sizes=not axes)
        with reporter.stage("convert"):
            model = convert(capture, axes)
            probe(capture, axes, model, options.tolerance, shapes)
    except ConversionError as first:
        log.info("tracing failed, trying torch.export: %s", first)
        results = call.run(call.tensors)  # a forward that raises by itself needs no second way
        try:
            with reporter.stage("convert"):
                capture = export(call, results, to_export_shapes(call, axes))
                model = convert(capture, axes)
                probe(capture, axes, model, options.tolerance, shapes)
        except ConversionError as second:
            raise ConversionError(
                f"{first} torch.export, tried next, failed too: {second}",
                module_path=first.module_path,
                operation=first.operation,
            ) from first
    return capture, model


def _describe(capture: Capture, model: ov.Model, axes: Axes, sizes: Buckets | None, options: Options) -> Graph:
    inputs, outputs = describe_ports(model, capture, axes)
    if sizes is not None:
        outputs = name_outputs(model, inputs, outputs, sizes.shapes)
        require_related(inputs, outputs, options.name)
    conversion: Conversion = "export" if isinstance(capture.program, torch.export.ExportedProgram) else "trace"
    return Graph("main", GRAPH, options.precision, conversion, inputs, outputs, capture.signature, sizes)


def _write_golden(capture: Capture, path: Path) -> None:
    call, results = capture.call, capture.results
    tensors = {f"input.{name}": tensor for name, tensor in zip(call.input_names, call.tensors, strict=True)}
    tensors |= {f"output.{name}": tensor for name, tensor in zip(results.names, results.tensors, strict=True)}
    # Not save_file, which makes files that only their owner can read.
    path.write_bytes(save({name: tensor.contiguous().numpy() for name, tensor in tensors.items()}))


def _files(staging: Path, written: Written) -> dict[str, FileEntry]:
    digests = {**written.digests, GOLDEN: digest_file(staging / GOLDEN)}
    return {path: FileEntry((staging / path).stat().st_size, digest) for path, digest in sorted(digests.items())}


def _compile(bundle: Bundle, options: Options, reporter: Reporter) -> None:
    """Compile the published bundle; an error says that it is published all the same."""
    targets = [*map(str, options.targets)]
    try:
        with reporter.stage("compile") as stage:
            compile_bundle(
                bundle.reference,
                targets,
                progress=lambda event: stage.update(detail=event.detail),
                store=options.store,
            )
    except NpuPersistError as error:
        again = " ".join(f"--target {target}" for target in targets)
        command = f"npu-persist compile {bundle.reference} {again}"
        error.args = (f"{bundle.reference} is published, but not compiled; to try again: `{command}`. {error}",)
        raise
