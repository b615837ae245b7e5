"""`persist`: an `nn.Module` and one example call become a published bundle."""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import openvino as ov
import torch

from npu_persist import __version__
from npu_persist.bundle.buckets import require_allowed_padding, require_bounds
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.comparison import TOLERANCES, read_tolerance
from npu_persist.bundle.graph import check_graph
from npu_persist.bundle.manifest import Conversion, FileEntry, Golden, Graph, Manifest, Producer
from npu_persist.compilation.compile import compile_bundle
from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.compilation.graph_shapes import check_shapes
from npu_persist.compilation.output_sizes import name_outputs, require_related
from npu_persist.conversion.bucket_axes import infer_axes
from npu_persist.conversion.buckets import check_buckets, resolve_buckets
from npu_persist.conversion.call import Call, bind_call
from npu_persist.conversion.capture import Capture, export, trace_example
from npu_persist.conversion.check import (
    check_written,
    compile_for_check,
    default_tolerance,
    moved_choices,
    read_written,
    refuse_nan,
)
from npu_persist.conversion.choices import describe_ties, find_moved_choices
from npu_persist.conversion.compress import find_precision, warn_of_floats, warn_of_loss
from npu_persist.conversion.conversation import check_conversation, converse, write_conversation
from npu_persist.conversion.convert import convert, describe_ports
from npu_persist.conversion.dynamic import Axes, input_ports, read_dynamic_shapes, to_export_shapes
from npu_persist.conversion.evaluate import bind_like
from npu_persist.conversion.evaluate import evaluate as evaluate_calls
from npu_persist.conversion.examples import describe_guess, find_example, unwrap
from npu_persist.conversion.experts import batching_experts
from npu_persist.conversion.large_integers import warn_of_integers
from npu_persist.conversion.layer_losses import measure_layers
from npu_persist.conversion.options import (
    Options,
    check_module,
    read_compile_targets,
    read_metadata,
    read_plan,
    read_precision,
)
from npu_persist.conversion.origins import Origins
from npu_persist.conversion.probes import compare, masked_rows, probe
from npu_persist.conversion.repeat import Repetition, describe_noise
from npu_persist.conversion.restoring import restoring
from npu_persist.conversion.states import find_states
from npu_persist.conversion.write import Written, write_golden, write_ir
from npu_persist.errors import (
    CompilationError,
    ConversionError,
    ExampleWarning,
    GraphIntegrityError,
    NpuPersistError,
    ParityError,
    PrecisionWarning,
)
from npu_persist.files.digest import digest_file
from npu_persist.files.filesystem import store_errors
from npu_persist.progress import Reporter
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from npu_persist.bundle.manifest import Buckets, Difference, Evaluation, Padding, Precision, Tolerance
    from npu_persist.conversion.compress import Stored
    from npu_persist.conversion.conversation import Step
    from npu_persist.conversion.probes import Probe
    from npu_persist.conversion.states import States
    from npu_persist.progress import ProgressCallback
    from npu_persist.store import Store

log = logging.getLogger(__name__)

_SAME = "%s has the same content already: there is no new version%s. force=True (`--force`) makes one"

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
    states: Mapping[str, str] | None = None,
    initial: Mapping[str, Any] | None = None,
    precision: Precision = "fp16",
    group_size: int | None = None,
    keep: Mapping[str, Stored] | None = None,
    calibration: Iterable[Sequence[Any] | Mapping[str, Any]] = (),
    by_layer: bool = False,
    evaluate: Iterable[Sequence[Any] | Mapping[str, Any]] | None = None,
    alias: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    store: Store | str | Path | None = None,
    check: bool = True,
    tolerance: Tolerance | float | None = None,
    targets: str | Sequence[str] | None = None,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> Bundle:
    """Convert a module, check it against torch and publish it as the next version of `name`.

    Where the newest version has the same content already (graph, weights, call, golden sample, tolerance, warnings,
    metadata), that is returned and given the alias; a warning is logged.

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
        states: Arguments that take a result of the call before, by name: `{"hidden": "output.1"}` where the forward
            gives `(y, hidden)`, `{"cache.*.key": "present.*.key"}`, or `{"past": "present"}` for all tensors in two
            structures alike. They are kept inside of the loaded model, which takes and gives the rest: see
            `Model.session`. An axis that grows has to be open, `dynamic_shapes={"past": {2: Dim("past", min=0,
            max=1024)}}`: it begins at its min, and max is the capacity. One with the Dim of another argument's axis
            is always as large as that. The check runs several calls, each with the states of the last.
        initial: What states are when a conversation begins, by the argument's name: a number or a tensor; otherwise
            zeros.
        precision: What float weights are stored as, "fp16" or "fp32". With "fp32", or a tolerance below that of fp16,
            `load` computes in float32 on every device that has it; otherwise in what the device does by default.
            "int8" and "int4" compress the weights of linear layers, embeddings and convolutions, symmetrically by
            output channel; with "int4" embeddings, convolutions and the last linear layer are int8. The rest is fp16.
        group_size: How many inputs of a channel share a scale in "int4", for instance 128: closer to torch, and
            larger. Layers whose number of inputs is no multiple of it have one scale for each channel.
        keep: What some weights are stored as, by pattern of their name in the state_dict, or of their module's:
            `{"lm_head": "fp16", "encoder.*.attention.*": "int8"}`. The last pattern that fits counts.
        calibration: Some dozens of calls of real data, like the example or of other sizes of its dynamic axes, by which
            NNCF (extra `compress`) chooses int4 weights: closer to torch, and slower to persist. `weights` then gives
            what the graph computes with, in which AWQ has moved factors between layers.
        by_layer: Whether to find out which compressed layers cost most, and what keeping them would give: a
            `PrecisionWarning` says so. It takes a forward of torch's for each layer, and the weights twice in memory.
        evaluate: Other calls to compare with torch, each a sequence of positional arguments or a dict of keyword
            arguments like the example. The worst difference of each output is in the manifest; one beyond tolerance
            is a ParityError.
        alias: A name for this version, for instance "prod".
        metadata: Any JSON, kept in the manifest.
        store: A store, its directory, or None for the default one.
        check: Whether to run the written bundle on the CPU and compare it with torch.
        tolerance: The largest difference relative to an output's scale, or a `Tolerance`; by default what the precision
            explains: 0.1 and cosine 0.999 for fp16, 0.001 and 0.99999 for fp32, 0.2 and 0.995 for bfloat16 modules, 0.5
            and 0.98 for int8, 1.0 and 0.7 for int4. Integers and booleans must be equal; where floats decide on them,
            as in argmax, the number is the share of elements that may differ, by default 0.01, 0, 0.02, 0.1 and 0.5.
        targets: What the published bundle is compiled for at once, as for `compile`: `["NPU:4000"]`. Where that fails
            the bundle stays published.
        force: Whether to make a new version even if the newest one is the same.
        progress: Called with each `Progress`, of the stages "example", "trace", "convert", "write", "check", with
            `by_layer` "layers", "publish" and, with `targets`, "compile".

    Returns:
        The published bundle, or the newest version if that is the same.

    Raises:
        UsageError: an argument is invalid: a name, a precision, an example that does not fit the forward, a bucket. Its
            subclasses: `InvalidNameError`, `ExampleInputsError` when there is no example, `TargetError`, and
            `DynamicShapeError` when a bucket does not fit, padded outputs could not be cut back, or a target needs
            fixed sizes.
        ConversionError: the forward raised; it takes or gives what a graph cannot; or neither way of capturing gave a
            graph that OpenVINO can hold and run, and that answers other inputs as torch does. The message begins
            with the operation, its module and line, where one is to blame.
        ParityError: OpenVINO's results for the example are beyond tolerance, torch's hold NaN, or padding changes them.
        CompilationError: the CPU cannot compile the graph for the check; or, once the bundle is published, a target.
            `ToolchainError` before the module is traced: nothing here compiles for a target.
        StoreError: the bundle could not be written: a full disk, no permission.
        MissingExtraError: `calibration` without NNCF, before the module is traced.

    Warns:
        PersistWarning: The loaded model may answer otherwise than the module, by one of its subclasses.

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
        states=states,
        initial=initial,
        precision=read_precision(precision),
        plan=read_plan(module, precision, group_size, keep),
        calibration=tuple(calibration),
        by_layer=by_layer,
        evaluate=evaluate,
        check=check,
        tolerance=read_tolerance(tolerance, default_tolerance(module, precision)),
        targets=read_compile_targets(targets),
        metadata=read_metadata(metadata),
    )
    reporter = Reporter(progress)
    with restoring(module), batching_experts(module), options.store.stage() as staging:
        with reporter.stage("example"):
            example = find_example(module, args, kwargs)
            call = bind_call(module, example.args, example.kwargs)
            axes, sizes = _read_sizes(call, options)
        guess = describe_guess(example, call.shapes, are_fixed=not axes)
        guesses = () if guess is None else (ExampleWarning(guess),)
        built = _Builder(axes, sizes, staging, options, reporter).build(call)
        capture = replace(built.capture, caveats=(*guesses, *built.capture.caveats))
        for caveat in capture.caveats:
            warnings.warn(f"{type(module).__name__}: {caveat}", type(caveat), stacklevel=2)
        notes = tuple(map(str, capture.caveats))
        if check:
            moved = [*built.choices, *moved_choices(built.differences or ())]
            if options.plan is not None and (loss := warn_of_loss(options.plan, built.differences or ())) is not None:
                moved.append(loss)
            notes += tuple(map(str, moved))
            notes += check_buckets(capture.call, built.graph, staging, options.tolerance)
            for choice in moved:
                warnings.warn(f"{type(module).__name__}: {choice}", type(choice), stacklevel=2)
        with store_errors(f"write {staging}"):
            if built.steps:
                write_conversation(built.steps, staging / GOLDEN)
            else:
                write_golden(capture.call, capture.results, staging / GOLDEN)
            files = _files(staging, built.written)
        manifest = Manifest(
            name=name,
            producer=Producer(__version__, ov.get_version(), torch.__version__),
            graphs=(built.graph,),
            weights=built.written.weights,
            golden=Golden(
                GOLDEN,
                options.tolerance if check else None,
                built.differences,
                built.evaluation,
                max(len(built.steps), 1),
            ),
            files=files,
            warnings=notes,
            metadata=options.metadata,
            refresh=built.written.refresh,
        )
        with reporter.stage("publish") as stage:
            staged = Bundle.write(staging, manifest)
            bundle = None if force else options.store.reuse(staged, alias)
            if bundle is None:
                bundle = options.store.publish(staged, alias)
            else:
                stage.update(detail=f"{bundle.reference} is the same already")
                log.warning(_SAME, bundle.reference, "" if alias is None else f"; the alias {alias} points to it")
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


class _Built(NamedTuple):
    """A captured call, its files in the staging folder, how far OpenVINO's results are from torch's, and why."""

    capture: Capture
    graph: Graph
    written: Written
    differences: tuple[Difference, ...] | None
    choices: Sequence[PrecisionWarning] = ()
    evaluation: Evaluation | None = None
    steps: Sequence[Step] = ()


_FAILURES = (ConversionError, ParityError, CompilationError)
"""What torch.export's graph may not fail with where the trace's does."""


def _without_frames(error: NpuPersistError) -> NpuPersistError:
    """Let go of what the frames of an error's traceback hold: a model, and with it all weights."""
    linked: BaseException | None = error
    while linked is not None:
        traceback.clear_frames(linked.__traceback__)
        linked = linked.__cause__ or linked.__context__
    return error


def _describe_second(first: NpuPersistError, second: NpuPersistError) -> str:
    """Return what came of torch.export, shortly: the trace's error is the one to read."""
    if isinstance(second, ParityError):
        return "The graph of torch.export, tried next, differs" + (" too." if isinstance(first, ParityError) else ".")
    if isinstance(first, ConversionError) and isinstance(second, ConversionError) and _names_same(first, second):
        return "torch.export, tried next, meets the same."
    return f"torch.export, tried next, failed too: {first_lines(str(second), _LONGEST_SECOND)}"


_LONGEST_SECOND = 250


def _names_same(first: ConversionError, second: ConversionError) -> bool:
    """Return whether both are about one operation: `aten::histc` is `aten.histc.default`."""
    if first.operation is None or second.operation is None:
        return str(first) == str(second)
    names = [re.sub(r"^(\w+)(::|\.)(\w+).*", r"\1.\3", operation) for operation in (first.operation, second.operation)]
    return names[0] == names[1]


@dataclass(frozen=True)
class _Builder:
    """Makes the files of a bundle out of a call: by a trace or, where any of it fails, by torch.export."""

    axes: Axes
    sizes: Buckets | None
    staging: Path
    options: Options
    reporter: Reporter

    def build(self, call: Call) -> _Built:
        try:
            with self.reporter.stage("trace"):
                capture = trace_example(call, fix_sizes=not self.axes)
                call = capture.call
            if not self._is_refused_for_noise(capture):
                return self._build(capture)
        except _FAILURES as error:
            log.info("the trace failed, trying torch.export: %s", error)
            first = _without_frames(error)
            for name in (GRAPH, WEIGHTS):
                (self.staging / name).unlink(missing_ok=True)
        else:
            raise describe_noise(Repetition(capture.caveats, capture.noise))
        results = call.run(call.tensors)  # a forward that raises by itself needs no second way
        if self.options.check:
            refuse_nan(results)
        try:
            with self.reporter.stage("trace"):
                capture = export(call, results, to_export_shapes(call, self.axes))
            return self._build(capture)
        except _FAILURES as second:
            first.args = (f"{first} {_describe_second(first, second)}",)
            raise first from second

    def _check_graph(self, model: ov.Model) -> None:
        """Refuse to publish what `load` would refuse."""
        try:
            check_graph(self.staging / GRAPH, self.staging / WEIGHTS)
            check_shapes(self.options.name, model)
        except GraphIntegrityError as error:
            raise ConversionError(
                f"{self.options.name}: OpenVINO's frontend made a graph that could end the process that loads it: "
                f"{error.problem}. Write this part of the module otherwise, and please report it with the module."
            ) from error

    def _is_refused_for_noise(self, capture: Capture) -> bool:
        allowed = self.options.tolerance.max_relative
        return self.options.check and any(difference > allowed for _, difference in capture.noise)

    def _build(self, capture: Capture) -> _Built:
        options = self.options
        if options.check:
            refuse_nan(capture.results)
        with self.reporter.stage("convert"):
            origins = _follow(capture, options)
            model = convert(capture, self.axes, origins)
            can_compare = options.check and not capture.noise
            shapes = () if self.sizes is None else self.sizes.shapes
            rounded = options.tolerance if options.plan is None else TOLERANCES["fp16"]
            unchecked = probe(capture, self.axes, model, rounded, shapes)
            masked = [*masked_rows(capture, model)] if can_compare else []
            integers = warn_of_integers(capture, model, run=can_compare)
            states, steps = self._find_states(capture, model, masked)
        capture = replace(capture, caveats=(*capture.caveats, *unchecked, *integers))
        graph = _describe(capture, model, self.axes, self.sizes, options, states)
        with self.reporter.stage("write", total=1.0) as stage, store_errors(f"write {self.staging}"):
            module = capture.call.module
            how = options.precision, options.plan
            calls = [
                bind_like(capture.call, given, f"calibration: call {n}") for n, given in enumerate(options.calibration)
            ]
            arrays = [[tensor.numpy() for tensor in one.tensors] for one in calls]
            written = write_ir(
                model,
                module,
                self.staging,
                *how,
                report=stage.update,
                origins=origins,
                calibration=arrays,
                states=states,
            )
            self._check_graph(model if states is None else read_written(self.staging / GRAPH, self.staging / WEIGHTS))
        floats = None if options.plan is None else warn_of_floats(module, written.compressed, options.plan)
        if floats is not None:
            capture = replace(capture, caveats=(*capture.caveats, floats))
        if not options.check:
            return _Built(capture, graph, written, None, steps=steps)
        choices = find_moved_choices(capture, model) if options.precision != "fp32" else []
        del model
        with self.reporter.stage("check"):
            files = self.staging / GRAPH, self.staging / WEIGHTS
            evaluation: Evaluation | None = None

            def try_others(request: ov.InferRequest, exact: frozenset[str]) -> None:
                nonlocal evaluation
                for one in masked:
                    compare(capture.call, request, one, options.tolerance, exact)
                if options.evaluate is not None:
                    evaluation = evaluate_calls(capture.call, request, options.evaluate, options.tolerance, exact)

            try:
                if steps:
                    differences = check_conversation(steps, *files, options.tolerance, options.precision)
                else:
                    differences = check_written(capture, *files, options.tolerance, options.precision, also=try_others)
            except ParityError as error:
                why = [f"{choice}." for choice in choices]
                why = why or ([] if steps else describe_ties(capture.call, read_written(*files)))
                error.args = (" ".join([str(error), *why, *self._measure_layers(capture, written)]),)
                raise
        choices += [PrecisionWarning(text) for text in self._measure_layers(capture, written)]
        return _Built(capture, graph, written, differences, choices, evaluation, steps)

    def _find_states(
        self, capture: Capture, model: ov.Model, masked: Sequence[Probe]
    ) -> tuple[States | None, Sequence[Step]]:
        """Return the states that were asked for, and a few calls with them in torch.

        What is written has other inputs than the probes, which are compared here.
        """
        options = self.options
        if options.states is None:
            return None, ()
        states = find_states(capture, model, self.axes, options.states, options.initial)
        if masked:
            request = compile_for_check(model).create_infer_request()
            for one in masked:
                compare(capture.call, request, one, options.tolerance)
        return states, converse(capture, states, self.axes, check=options.check)

    def _measure_layers(self, capture: Capture, written: Written) -> list[str]:
        """Return which compressed layers cost most, if that was asked for."""
        if not self.options.by_layer or not written.compressed:
            return []
        with self.reporter.stage("layers", total=1.0) as stage:
            return [measure_layers(capture.call, capture.results, written.compressed, stage.update)]


def _follow(capture: Capture, options: Options) -> Origins | None:
    """Return what follows the module's tensors; None where `refresh` could not make them, or the call, again."""
    if options.states is not None or options.plan is not None or torch.bfloat16 in capture.call.dtypes:
        return None
    if isinstance(capture.program, torch.export.ExportedProgram):
        return None
    return Origins(capture.call.module, capture.program)


def _describe(  # noqa: PLR0913, PLR0917 - what a graph is made of
    capture: Capture, model: ov.Model, axes: Axes, sizes: Buckets | None, options: Options, states: States | None
) -> Graph:
    inputs, outputs = describe_ports(model, capture, axes)
    signature = capture.signature
    if states is not None:
        inputs = tuple(inputs[index] for index in states.inputs)
        outputs = tuple(outputs[index] for index in states.outputs)
        signature = states.signature
    if sizes is not None:
        require_allowed_padding(inputs, sizes)
        outputs = name_outputs(model, inputs, outputs, sizes.shapes)
        require_related(inputs, outputs, options.name)
    conversion: Conversion = "export" if isinstance(capture.program, torch.export.ExportedProgram) else "trace"
    return Graph(
        "main",
        GRAPH,
        find_precision(model, options.precision),
        conversion,
        inputs,
        outputs,
        signature,
        sizes,
        () if states is None else states.states,
    )


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
