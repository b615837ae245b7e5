"""One graph of a bundle: converts a module and one example call into an IR with weights, compared with torch."""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import torch
from msgspec.structs import replace as change

from npu_persist.bundle.buckets import require_allowed_padding, require_bounds
from npu_persist.bundle.comparison import TOLERANCES
from npu_persist.bundle.golden_records import Golden
from npu_persist.bundle.graph import check_graph
from npu_persist.bundle.graph_records import Conversion, Graph
from npu_persist.bundle.states import require_fixed
from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.compilation.fixed_sizes import one_recording
from npu_persist.compilation.graph_shapes import check_shapes
from npu_persist.compilation.output_sizes import name_outputs, require_related
from npu_persist.conversion.bucket_axes import infer_axes
from npu_persist.conversion.buckets import check_buckets, resolve_buckets
from npu_persist.conversion.call import Call, bind_call
from npu_persist.conversion.capture import Capture, export, trace_example
from npu_persist.conversion.check import (
    check_written,
    compile_for_check,
    moved_choices,
    read_written,
    refuse_nan,
)
from npu_persist.conversion.choices import describe_ties, find_moved_choices
from npu_persist.conversion.compress import find_activations, find_precision, warn_of_floats, warn_of_loss
from npu_persist.conversion.conversation import check_conversations, converse, write_conversation
from npu_persist.conversion.convert import convert, describe_ports
from npu_persist.conversion.dynamic import Axes, input_ports, read_dynamic_shapes, to_export_shapes
from npu_persist.conversion.evaluate import bind_like
from npu_persist.conversion.evaluate import evaluate as evaluate_calls
from npu_persist.conversion.examples import describe_guess, find_example
from npu_persist.conversion.experts import batching_experts
from npu_persist.conversion.generation.build import GOLDEN, GRAPH, WEIGHTS, build_decoder
from npu_persist.conversion.generation.encoder_decoder import require_decoders
from npu_persist.conversion.large_integers import warn_of_integers
from npu_persist.conversion.layer_losses import measure_layers
from npu_persist.conversion.options import MAIN
from npu_persist.conversion.origins import Origins, describe_dtypes, tensors_of
from npu_persist.conversion.probes import compare, masked_rows, probe
from npu_persist.conversion.repeat import Repetition, describe_noise
from npu_persist.conversion.restoring import restoring
from npu_persist.conversion.rewrites import IN_FLOAT_REWRITES, MODEL_REWRITES
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

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import openvino as ov

    from npu_persist.bundle.golden_records import Difference, Evaluation
    from npu_persist.bundle.graph_records import Buckets, State
    from npu_persist.bundle.manifest import Refresh, Weights
    from npu_persist.conversion.conversation import Step
    from npu_persist.conversion.generation.build import Decoder
    from npu_persist.conversion.options import Options
    from npu_persist.conversion.probes import Probe
    from npu_persist.conversion.states import States
    from npu_persist.progress import Reporter

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """A graph that was built in a folder of its own, and what the manifest says of it.

    Attributes:
        folder: Where its files are.
        graph: The graph.
        weights: Its weights file.
        golden: Its golden sample.
        digests: Those of its files, by path in the folder.
        warnings: What the user was warned of.
        refresh: What `refresh` needs to know.
    """

    folder: Path
    graph: Graph
    weights: Weights
    golden: Golden
    digests: dict[str, str]
    warnings: tuple[str, ...]
    refresh: Refresh | None


def build(options: Options, folder: Path, reporter: Reporter) -> Part:
    """Convert a module and check it against torch; `model.xml`, weights and golden sample are written into a folder.

    Warnings are shown where `persist` was called, which calls this.
    """
    module = options.module
    if options.is_generation:
        decoder = build_decoder(options, folder, reporter)
        for caveat in decoder.caveats:
            warnings.warn(f"{options.label}: {caveat}", type(caveat), stacklevel=3)
        return _describe_decoder(decoder, folder)
    with restoring(module), batching_experts(module):
        with reporter.stage("example"):
            example = find_example(module, options.args, options.kwargs)
            call = bind_call(module, example.args, example.kwargs, in_float=options.in_float)
            axes, sizes = _read_sizes(call, options)
        guess = describe_guess(example, call.shapes, are_fixed=not axes)
        guesses = () if guess is None else (ExampleWarning(guess),)
        built = _Builder(axes, sizes, folder, options, reporter).build(call)
        capture = built.capture
        caveats = [*guesses, *capture.caveats]
        for caveat in caveats:
            warnings.warn(f"{options.label}: {caveat}", type(caveat), stacklevel=3)
        notes = tuple(map(str, caveats))
        if options.check:
            moved = [*built.choices, *moved_choices(built.differences or ())]
            if options.plan is not None and (loss := warn_of_loss(options.plan, built.differences or ())) is not None:
                moved.append(loss)
            notes += tuple(map(str, moved))
            notes += check_buckets(capture.call, built.graph, folder, options.tolerance)
            for choice in moved:
                warnings.warn(f"{options.label}: {choice}", type(choice), stacklevel=3)
        with store_errors(f"write {folder}"):
            if built.steps:
                write_conversation(built.steps, folder / GOLDEN)
            else:
                write_golden(capture.call, capture.results, folder / GOLDEN)
            digests = {**built.written.digests, GOLDEN: digest_file(folder / GOLDEN)}
    tolerance = options.tolerance if options.check else None
    golden = Golden(GOLDEN, tolerance, built.differences, built.evaluation, max(len(built.steps), 1))
    return Part(folder, built.graph, built.written.weights, golden, digests, notes, _describe_origins(built, options))


def require_sizes(work: Sequence[Options]) -> None:
    """Raise DynamicShapeError, before anything is traced, for a graph that an NPU among the targets does not run."""
    require_decoders(work)
    for options in work:
        npu = next((target for target in options.targets if target.kind == "NPU"), None)
        if npu is None or options.is_generation or options.dynamic_shapes is None or options.buckets is not None:
            continue
        with restoring(options.module):
            example = find_example(options.module, options.args, options.kwargs)
            call = bind_call(options.module, example.args, example.kwargs)
            ports = input_ports(call, read_dynamic_shapes(options.dynamic_shapes, call))
        known = options.known_sizes
        if known is None or (known == "recording" and one_recording(ports) is None):
            name = options.name if options.graph == MAIN else f"{options.name} {options.graph}"
            require_bounds(ports, name, str(npu))


def _describe_decoder(decoder: Decoder, folder: Path) -> Part:
    digests = {**decoder.written.digests, GOLDEN: digest_file(folder / GOLDEN)}
    notes = tuple(map(str, decoder.caveats))
    return Part(folder, decoder.graph, decoder.written.weights, decoder.golden, digests, notes, None)


def _read_sizes(call: Call, options: Options) -> tuple[Axes, Buckets | None]:
    if options.buckets is None:
        return read_dynamic_shapes(options.dynamic_shapes, call), None
    if options.dynamic_shapes is None:
        axes = infer_axes(call, options.buckets)
    else:
        axes = read_dynamic_shapes(options.dynamic_shapes, call)
    return axes, resolve_buckets(call, axes, options.buckets, options.padding)


class _Built(NamedTuple):
    """A captured call, its files, how far OpenVINO's results are from torch's, and why."""

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
        return "torch.export, tried next, fails in the same way."
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
    folder: Path
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
                (self.folder / name).unlink(missing_ok=True)
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
            check_graph(self.folder / GRAPH, self.folder / WEIGHTS)
            check_shapes(self.options.name, model)
        except GraphIntegrityError as error:
            raise ConversionError(
                f"{self.options.name}: OpenVINO's frontend made a graph that could crash the process that loads it: "
                f"{error.problem}. Rewrite this part of the module, and please report it with the module."
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
            model = convert(capture, self.axes, origins, IN_FLOAT_REWRITES if options.in_float else MODEL_REWRITES)
            can_compare = options.check and not capture.noise
            shapes = () if self.sizes is None else self.sizes.shapes
            rounded = options.tolerance if options.plan is None else TOLERANCES["fp16"]
            unchecked = probe(capture, self.axes, model, rounded, shapes)
            masked = [*masked_rows(capture, model)] if can_compare else []
            integers = warn_of_integers(capture, model, run=can_compare)
            states, steps = self._find_states(capture, model, masked)
        capture = replace(capture, caveats=(*capture.caveats, *unchecked, *integers))
        graph = _describe(capture, model, self.axes, self.sizes, options, states)
        with self.reporter.stage("write", total=1.0) as stage, store_errors(f"write {self.folder}"):
            module = capture.call.module
            how = options.precision, options.plan
            calls = [
                bind_like(capture.call, given, f"calibration: call {n}") for n, given in enumerate(options.calibration)
            ]
            arrays = [[tensor.numpy() for tensor in one.tensors] for one in calls]
            written = write_ir(
                model,
                module,
                self.folder,
                *how,
                report=stage.update,
                origins=origins,
                calibration=arrays,
                states=states,
            )
            self._check_graph(model if states is None else read_written(self.folder / GRAPH, self.folder / WEIGHTS))
        floats = None if options.plan is None else warn_of_floats(module, written.compressed, options.plan)
        if floats is not None:
            capture = replace(capture, caveats=(*capture.caveats, floats))
        if not options.check:
            return _Built(capture, graph, written, None, steps=steps)
        choices = find_moved_choices(capture, model) if options.precision != "fp32" else []
        del model
        with self.reporter.stage("check"):
            files = self.folder / GRAPH, self.folder / WEIGHTS
            evaluation: Evaluation | None = None

            def try_others(request: ov.InferRequest, exact: frozenset[str]) -> None:
                nonlocal evaluation
                for one in masked:
                    compare(capture.call, request, one, options.tolerance, exact)
                if options.evaluate is not None:
                    limits, metrics = (options.tolerance, exact), options.metrics
                    evaluation = evaluate_calls(capture.call, request, options.evaluate, *limits, metrics=metrics)

            try:
                if steps:
                    differences = check_conversations([steps], *files, options.tolerance, options.precision)
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
        for target in options.targets:
            if target.kind == "NPU":
                require_fixed(states.states, options.name, str(target))
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
    """Return what follows the module's tensors; None where `refresh` converts the module again, or refuses."""
    if options.states is not None or options.plan is not None:
        return None
    if isinstance(capture.program, torch.export.ExportedProgram):
        return None
    return Origins(capture.call.module, capture.program)


def _describe_origins(built: _Built, options: Options) -> Refresh | None:
    """Return what `refresh` needs to know; None where there are states, whose graph it does not make again."""
    if built.graph.states:
        return None
    call = built.capture.call
    record = built.written.refresh or describe_dtypes(tensors_of(call.module))
    names = zip(call.input_names, call.dtypes, strict=True)
    taken = tuple(name for name, dtype in names if dtype is torch.bfloat16)
    operations = None if record.program is None else built.capture.operations
    return change(record, bfloat16=taken, calibrated=bool(options.calibration), operations=operations)


def _describe(  # noqa: PLR0913, PLR0917 - what a graph is made of
    capture: Capture, model: ov.Model, axes: Axes, sizes: Buckets | None, options: Options, states: States | None
) -> Graph:
    inputs, outputs = describe_ports(model, capture, axes)
    signature = capture.signature
    kept: tuple[State, ...] = ()
    if states is not None:
        kept = tuple(
            msgspec.structs.replace(state, bounds=inputs[pair.argument].bounds)
            for pair, state in zip(states.pairs, states.states, strict=True)
        )
        inputs = tuple(inputs[index] for index in states.inputs)
        outputs = tuple(outputs[index] for index in states.outputs)
        signature = states.signature
    if sizes is not None:
        require_allowed_padding(inputs, sizes)
        outputs = name_outputs(model, inputs, outputs, sizes.shapes)
        require_related(inputs, outputs, options.name)
    conversion: Conversion = "export" if isinstance(capture.program, torch.export.ExportedProgram) else "trace"
    return Graph(
        options.graph,
        GRAPH,
        find_precision(model, options.precision),
        conversion,
        inputs,
        outputs,
        signature,
        sizes,
        kept,
        find_activations(model) if options.plan is None else options.plan.activations,
    )
