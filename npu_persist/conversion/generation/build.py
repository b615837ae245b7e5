"""A decoder becomes a graph that keeps its past, compared with torch over a few calls of one conversation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from npu_persist.bundle.golden_records import Difference, Golden
from npu_persist.bundle.graph import check_graph
from npu_persist.bundle.graph_records import (
    Bounds,
    Dimension,
    Graph,
    Growth,
    Parameter,
    Port,
    RecordNode,
    Signature,
    State,
    TensorNode,
)
from npu_persist.compilation.generation import find_kind_by_names
from npu_persist.compilation.graph_shapes import check_shapes
from npu_persist.conversion.capture import trace
from npu_persist.conversion.check import read_written, refuse_nan
from npu_persist.conversion.compress import find_precision, warn_of_floats, warn_of_loss
from npu_persist.conversion.conversation import Step, check_conversations, write_conversation
from npu_persist.conversion.convert import convert, describe_ports
from npu_persist.conversion.experts import batching_experts
from npu_persist.conversion.generation.decoder import LOGITS, decoder_call
from npu_persist.conversion.generation.encoder_decoder import cross_decoder_call
from npu_persist.conversion.generation.models import is_encoder_decoder
from npu_persist.conversion.generation.stateful import BEAM, SOURCE, make_stateful
from npu_persist.conversion.restoring import restoring
from npu_persist.conversion.rewrites import DECODER_REWRITES, SPEECH_REWRITES
from npu_persist.conversion.write import Written, write_ir
from npu_persist.errors import ConversionError, DynamicShapeError, GraphIntegrityError
from npu_persist.files.filesystem import store_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import openvino as ov

    from npu_persist.conversion.call import Results
    from npu_persist.conversion.capture import Capture
    from npu_persist.conversion.generation.decoder import DecoderCall
    from npu_persist.conversion.options import Options
    from npu_persist.errors import PersistWarning
    from npu_persist.progress import Reporter

GRAPH, WEIGHTS, GOLDEN = "model.xml", "weights.safetensors", "golden.safetensors"
"""Names of the files that a graph is written into."""
_PROMPTS = ((2, 6), (1, 9))
"""Sequences and tokens of the first call of the conversations; the first one is the golden sample."""
_NEXT = (1, 1, 2)
"""Tokens of the calls that follow."""


class Decoder(NamedTuple):
    """What was built, and what the manifest says of it."""

    graph: Graph
    written: Written
    golden: Golden
    caveats: tuple[PersistWarning, ...]


def build_decoder(options: Options, folder: Path, reporter: Reporter) -> Decoder:
    """Convert a decoder, check it against torch and write its files into a folder."""
    module: Any = options.module
    with restoring(module), batching_experts(module):
        with reporter.stage("example"):
            call = cross_decoder_call(module) if is_encoder_decoder(module) else decoder_call(module)
            _require_compilable(call, options)
        with reporter.stage("trace"):
            capture = trace(call, fix_sizes=False)
            talks = [_converse(call, capture.results, *sizes, check=options.check) for sizes in _PROMPTS]
        with reporter.stage("convert"):
            is_speech = SOURCE in call.input_names and not call.is_source_padded
            model = convert(capture, call.axes, rewrites=SPEECH_REWRITES if is_speech else DECODER_REWRITES)
            graph = _describe(call, capture, model, options)
            make_stateful(model, call.past)
        with reporter.stage("write", total=1.0) as stage, store_errors(f"write {folder}"):
            written = write_ir(model, module, folder, options.precision, options.plan, report=stage.update)
            del model
            _check_graph(folder, options)
            write_conversation(talks[0], folder / GOLDEN)
        caveats = [*capture.caveats]
        if options.plan is not None:
            floats = warn_of_floats(module, written.compressed, options.plan)
            caveats += [] if floats is None else [floats]
        del capture, call  # with the trace, whose memory the check can use
    differences: tuple[Difference, ...] | None = None
    if options.check:
        with reporter.stage("check"):
            how = folder / GRAPH, folder / WEIGHTS, options.tolerance, options.precision
            differences = check_conversations(talks, *how)
        loss = None if options.plan is None else warn_of_loss(options.plan, differences)
        caveats += [] if loss is None else [loss]
    golden = Golden(GOLDEN, options.tolerance if options.check else None, differences, None, len(talks[0]))
    return Decoder(graph, written, golden, tuple(caveats))


def _require_compilable(call: DecoderCall, options: Options) -> None:
    """Refuse what no NPU takes before it is traced."""
    names = {*call.input_names[: call.own], BEAM}
    for target in options.targets:
        if target.kind == "NPU" and find_kind_by_names(names) is None:
            raise DynamicShapeError(
                f"{options.name}: {target} takes decoders with the inputs input_ids, attention_mask, position_ids and "
                f"{BEAM}; this one has {', '.join(sorted(names))}. Persist it without targets, for other devices",
                input="input_ids",
                axis=1,
            )


def _check_graph(folder: Path, options: Options) -> None:
    """Refuse to publish what `load` would refuse."""
    graph, weights = folder / GRAPH, folder / WEIGHTS
    try:
        check_graph(graph, weights)
        check_shapes(options.name, read_written(graph, weights))
    except GraphIntegrityError as error:
        raise ConversionError(
            f"{options.name}: OpenVINO's frontend made a graph that could crash the process that loads it: "
            f"{error.problem}. Please report it with the model."
        ) from error


def _describe(call: DecoderCall, capture: Capture, model: ov.Model, options: Options) -> Graph:
    ports, outputs = describe_ports(model, capture, call.axes)
    batch = call.axes.shape(0, call.tensors[0])[0]
    inputs = (*ports[: call.own], Port(BEAM, "int32", (batch,), Bounds(0, None, "batch")))
    signature = Signature(
        tuple(Parameter(port.name, "positional_or_keyword", None) for port in inputs),
        tuple((port.name, TensorNode(index)) for index, port in enumerate(inputs)),
        RecordNode(call.result, ((LOGITS, TensorNode(0)),)),
    )
    states = tuple(
        State(
            name=before,
            output=after,
            variable=f"{before}{after}",
            dtype=port.dtype,
            shape=port.shape,
            first=tuple(_first(axis, place) for place, axis in enumerate(port.shape)),
            growth=Growth(2, "tokens"),
        )
        for (before, after), port in zip(call.past, ports[call.own :], strict=True)
    )
    precision = find_precision(model, options.precision)
    return Graph(options.graph, GRAPH, precision, "trace", inputs, outputs[:1], signature, None, states)


def _first(axis: int | Dimension, place: int) -> int | None:
    """Return a size of an empty past; None for that of the batch, which follows the inputs."""
    if isinstance(axis, int):
        return axis
    return None if place == 0 else 0


def _converse(call: DecoderCall, traced: Results, batch: int, tokens: int, *, check: bool) -> list[Step]:
    """Run a conversation in torch: a prompt, which the model made up itself, and tokens that it chooses.

    Two sequences are of different length. What pads the shorter one is in its middle: rows of padding before it have no
    key; their outputs do not matter.
    """
    steps: list[Step] = []
    ids = _make_up(call, traced, batch, tokens)
    mask = torch.ones(batch, tokens, dtype=torch.int64)
    if batch > 1:
        mask[0, 1:3] = 0
    held = _empty(call, batch)
    for more in (*_NEXT, 0):
        given = _inputs(call, ids, mask)
        results = call.run_again([*given.values(), *held], traced)
        expected = replace(results, names=results.names[:1], tensors=results.tensors[:1])
        if check:
            refuse_nan(expected)
        steps.append(Step((*given, BEAM), (*given.values(), torch.arange(batch, dtype=torch.int32)), expected))
        held = results.tensors[1:]
        ids = results.tensors[0][:, -1].topk(max(more, 1), dim=-1).indices[:, :more]
        mask = torch.cat([mask, torch.ones(batch, more, dtype=torch.int64)], dim=-1)
    return steps


def _make_up(call: DecoderCall, traced: Results, batch: int, tokens: int) -> torch.Tensor:
    """Return what a model says of itself: text, to which its weights fit better than to random tokens."""
    config: Any = call.module.config
    known = (getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id", "eos_token_id"))
    first = next((token for token in known if isinstance(token, int)), 1)
    ids, held = torch.full((batch, 1), first), _empty(call, batch)
    for length in range(1, tokens):
        mask = torch.ones(batch, length, dtype=torch.int64)
        results = call.run_again([*_inputs(call, ids[:, -1:], mask).values(), *held], traced)
        held = results.tensors[1:]
        likely = results.tensors[0][:, -1].topk(batch, dim=-1).indices
        chosen = likely.diagonal() if length == 1 else likely[:, 0]  # each sequence begins with another one
        ids = torch.cat([ids, chosen[:, None]], dim=-1)
    return ids


def _inputs(call: DecoderCall, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors of a call, but for the past; what comes from an encoder is the example's."""
    own = {name: tensor[: len(ids)] for name, tensor in zip(call.input_names, call.tensors[: call.own], strict=False)}
    given = {**own, "input_ids": ids, "attention_mask": mask}
    given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return {name: given[name].contiguous() for name in own}


def _empty(call: DecoderCall, batch: int) -> Sequence[torch.Tensor]:
    return [tensor[:batch, :, :0] for tensor in call.tensors[call.own :]]
