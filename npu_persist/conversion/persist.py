"""`persist`: one module and an example call, or several, become a published bundle."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import openvino as ov
import torch

from npu_persist import __version__
from npu_persist.bundle.assets import ASSETS, asset_path
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.comparison import read_tolerance
from npu_persist.bundle.manifest import FileEntry, Manifest, Producer
from npu_persist.compilation.compile import compile_bundle
from npu_persist.conversion.assets import collect_assets, write_assets
from npu_persist.conversion.build import build, require_sizes
from npu_persist.conversion.check import default_tolerance
from npu_persist.conversion.examples import unwrap
from npu_persist.conversion.generation.encoder_decoder import hears, split
from npu_persist.conversion.generation.models import is_generation
from npu_persist.conversion.join import describe_one, join
from npu_persist.conversion.options import (
    AheadOfTime,
    Options,
    read_ahead_of_time,
    read_examples,
    read_metadata,
    read_metrics,
    read_plan,
    read_precision,
)
from npu_persist.conversion.text_to_image import is_pipeline, read_pipeline
from npu_persist.errors import NpuPersistError, PersistWarning
from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import store_errors
from npu_persist.progress import Reporter
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from npu_persist.bundle.golden_records import Tolerance
    from npu_persist.bundle.graph_records import Activations, Padding, Precision
    from npu_persist.conversion.compress import Stored
    from npu_persist.conversion.examples import Example
    from npu_persist.conversion.text_to_image import Pipeline
    from npu_persist.progress import ProgressCallback
    from npu_persist.store import Store

log = logging.getLogger(__name__)

_SAME = "%s already has the same content: no new version was made%s. force=True (`--force`) makes one"
_PARTS = "parts"
"""Folder in the staging folder in which several graphs are built, each in a folder of its own."""


def persist(  # noqa: PLR0913 - the one entry point; all but the first four by keyword
    model: torch.nn.Module | Mapping[str, Example],
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
    activations: Activations | None = None,
    calibration: Iterable[Sequence[Any] | Mapping[str, Any]] = (),
    by_layer: bool = False,
    evaluate: Iterable[Sequence[Any] | Mapping[str, Any]] | None = None,
    metrics: Mapping[str, Callable[[list[Any]], float]] | None = None,
    alias: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    assets: Mapping[str, bytes | str | os.PathLike[str]] | None = None,
    tokenizer: Any = None,
    processor: Any = None,
    store: Store | str | Path | None = None,
    check: bool = True,
    tolerance: Tolerance | float | None = None,
    targets: str | Sequence[str] | None = None,
    max_prompt: int | None = None,
    min_response: int | None = None,
    image_size: tuple[int, int] | None = None,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> Bundle:
    """Convert a module, check it against torch and publish it as the next version of `name`.

    To store several modules as graphs of one bundle, such as an encoder and a decoder, pass a dict of graph names to
    `Example` objects. Shared tensors are stored once. Nothing is published unless all graphs match torch.

    If the newest version already has the same content (graph, weights, call, golden sample, tolerance, warnings,
    metadata), that version is returned and given the alias, and a warning is logged.

    The module is traced in evaluation mode with one example call, and restored. Numbers, flags and None in the call
    become part of the graph; tensors become its inputs, with the example's shapes and dtypes (bfloat16 as float32).

    A generative model of transformers needs no example: without one, and without `dynamic_shapes`, `buckets` or
    `states`, it becomes a decoder that keeps the keys and values of earlier tokens, with the inputs and outputs that
    OpenVINO GenAI uses: see `Model.session`. A model with an encoder becomes two graphs, "encoder" and "decoder". Its
    graphs take, give and compute in float32 even if the model is in half precision, as GenAI and NPUs need it.

    A pipeline of diffusers that makes images of texts (StableDiffusionPipeline, StableDiffusionXLPipeline,
    LatentConsistencyModelPipeline) needs no example either: each of its models becomes a graph, and its scheduler and
    tokenizers become assets.

    Args:
        model: The module, on any device; `torch.compile` and data-parallel wrappers are removed. Or several, as in
            `{"encoder": Example(encoder, (mel,)), "decoder": Example(decoder, (tokens, states))}`: the arguments that
            `Example` has are then set there, and all others apply to every graph. Or a pipeline of diffusers.
        name: Name of the bundle in the store.
        args: Positional arguments of the example call, as in `torch.export.export`. Without `args` and `kwargs`,
            `persist` uses the call seen by `record`, `model.example_input_array`, `model.dummy_inputs`, or one made
            from the model's config.
        kwargs: Keyword arguments of the example call.
        dynamic_shapes: Axes that may vary, as in `torch.export.export`. By default all shapes are fixed, as NPUs need.
        buckets: Sizes to compile the graph for when it is loaded, as in `[{"input_ids": (1, 128)}, {"input_ids":
            (1, 512)}]`: one graph and one weights file; a call runs in the smallest bucket that it fits into, padded
            and cut back. Without `dynamic_shapes`, axes whose sizes differ from the example's become dynamic, and
            axes of several inputs that are always equal become one. Each bucket is compared with torch at its own
            size and at a smaller one.
        padding: The value and side to pad inputs with: `{"input_ids": Padding(0, "left")}`; by default zeros on the
            right. A missing input `attention_mask` of two axes is filled with ones, and padded with zeros.
        states: Arguments that take a result of the previous call, by name: `{"hidden": "output.1"}` if the forward
            returns `(y, hidden)`, `{"cache.*.key": "present.*.key"}`, or `{"past": "present"}` for all tensors of two
            equal structures. The loaded model keeps them internally: see `Model.session`. An axis that grows must be
            dynamic, `dynamic_shapes={"past": {2: Dim("past", min=0, max=1024)}}`: it starts at its min, and max is
            the capacity. An axis that shares its Dim with another argument always has that argument's size. The
            check runs several calls, each with the states of the last.
        initial: Initial values of states, by the argument's name: a number or a tensor; zeros by default.
        precision: How float weights are stored, "fp16" or "fp32". With "fp32", or a tolerance below that of fp16,
            `load` computes in float32 on every device that has it; otherwise in the device's default precision.
            "int8" and "int4" compress the weights of linear layers, embeddings and convolutions, symmetrically by
            output channel; with "int4", embeddings, convolutions and the last linear layer are int8. The rest is fp16.
        group_size: Number of inputs of a channel that share a scale in "int4", for instance 128: more exact, but
            larger. Layers whose number of inputs is not a multiple of it have one scale per channel.
        keep: How to store some weights, by patterns of their names in the state_dict or of their modules' names:
            `{"lm_head": "fp16", "encoder.*.attention.*": "int8"}`. The last pattern that matches applies.
        activations: "int8" also quantizes the activations that are multiplied by weights; it needs `precision="int8"`
            and `calibration`.
        calibration: A few dozen calls with real data, with the example's sizes or other sizes of dynamic axes. NNCF
            (extra `compress`) uses them to choose int4 weights, which is more exact but slower, or the ranges of int8
            activations. `weights` then returns the tensors that the graph uses: NNCF moves factors between layers.
        by_layer: Whether to find the compressed layers with the largest loss, and the effect of keeping them; a
            `PrecisionWarning` reports it. It takes one torch forward per layer, and the weights twice in memory.
        evaluate: Other calls to compare with torch, each a sequence of positional arguments or a dict of keyword
            arguments like the example. The manifest records the worst difference of each output; a difference beyond
            the tolerance raises a ParityError.
        metrics: Functions, by name, that turn the results of these calls into a number, such as a perplexity. Each is
            called with a list of results, in the order of the calls, as a loaded model returns them: once with torch's
            and once with the model's. The manifest records both numbers.
        alias: A name for this version, for instance "prod".
        metadata: Any JSON; stored in the manifest.
        assets: Files to store in the bundle for the deployed program, by name: bytes, or a file's path.
            `Bundle.asset` returns their paths.
        tokenizer: A tokenizer of transformers. Its files become assets, and so do the module's config and generation
            config. If openvino_tokenizers is installed (extra `genai`), the form that OpenVINO GenAI reads is added.
        processor: A processor or feature extractor of transformers, stored in the same way, with its tokenizer.
        store: A store, its directory, or None for the default one.
        check: Whether to run the written bundle on the CPU and compare it with torch.
        tolerance: The largest difference relative to an output's scale, or a `Tolerance`. The default depends on the
            precision: 0.1 and cosine 0.999 for fp16, 0.001 and 0.99999 for fp32, 0.2 and 0.995 for bfloat16 modules,
            1.0 and 0.98 for int8 and for modules with integer weights, 1.0 and 0.7 for int4. Integers and booleans must
            be equal; if they depend on floats, as in argmax, the number is the share of elements that may differ, by
            default 0.01, 0, 0.02, 0.1 and 0.5.
        targets: Targets to compile the published bundle for, as in `compile`: `["NPU:4000"]`. If that fails, the
            bundle stays published.
        max_prompt: Tokens of the longest prompt of a model that generates, if a target is an NPU, as for `compile`.
            None: 1024.
        min_response: Tokens of an answer that fits after any prompt, likewise. None: 128.
        image_size: Height and width of the image that `targets` compile a pipeline of diffusers for, as for `compile`.
        force: Whether to make a new version even if the newest one has the same content.
        progress: Called with each `Progress`, of the stages "example", "trace", "convert", "write", "check", with
            `by_layer` "layers", "publish" and, with `targets`, "compile".

    Returns:
        The published bundle, or the newest version if that has the same content.

    Raises:
        UsageError: An argument is invalid: a name, a precision, an example that does not fit the forward, a bucket; or
            a metric raised, or returned no finite number. Its subclasses: `InvalidNameError`, `ExampleInputsError` if
            there is no example, `TargetError`, and `DynamicShapeError` if a bucket does not fit, padded outputs
            could not be cut back, or a target needs fixed sizes.
        ConversionError: The forward raised, or takes or returns values that a graph cannot; or neither the trace nor
            torch.export gave a graph that OpenVINO can run and that matches torch for other inputs. The message starts
            with the operation, its module and line, if one is the cause.
        ParityError: OpenVINO's results for the example are beyond the tolerance, torch's have NaN, or padding changes
            the results.
        CompilationError: The CPU cannot compile the graph for the check; or a target failed, after the bundle was
            published. `ToolchainError`: no toolchain here compiles for a target; raised before the module is traced.
        StoreError: The bundle could not be written: a full disk, no permission.
        MissingExtraError: `calibration` without NNCF; raised before the module is traced.

    Warns:
        PersistWarning: The loaded model may give other results than the module; the subclass tells why.

    Example:
        >>> import torch, npu_persist
        >>> bundle = npu_persist.persist(torch.nn.Linear(4, 2), "doc-linear", (torch.zeros(1, 4),))
        >>> bundle.manifest.graphs[0].inputs[0].shape
        (1, 4)
        >>> buckets = [{"input": (1, 8)}, {"input": (1, 64)}]
        >>> _ = npu_persist.persist(torch.nn.ReLU(), "doc-buckets", (torch.zeros(1, 4),), buckets=buckets)
        >>> npu_persist.load("doc-buckets", device="CPU")(torch.ones(1, 20)).shape
        (1, 20)
        >>> halves = {name: npu_persist.Example(torch.nn.Linear(4, 4), (torch.zeros(1, 4),)) for name in ("in", "out")}
        >>> [graph.path for graph in npu_persist.persist(halves, "doc-graphs").manifest.graphs]
        ['in.xml', 'out.xml']
    """
    of_one = {
        "args": args,
        "kwargs": kwargs,
        "dynamic_shapes": dynamic_shapes,
        "buckets": buckets,
        "padding": padding,
        "states": states,
        "initial": initial,
        "calibration": calibration,
        "evaluate": evaluate,
        "metrics": metrics,
    }
    pipeline: Pipeline | None = None
    if is_pipeline(model):
        pipeline = read_pipeline(model, {**of_one, "tokenizer": tokenizer, "processor": processor})
        examples = pipeline.examples
    else:
        examples = read_examples(model, of_one)
        if not isinstance(model, Mapping):
            examples = split(examples)
    opened = open_store(store)
    opened.check_names(name, alias)
    precision, kept, generates = read_precision(precision), read_metadata(metadata), _any_generates(examples)
    plan = read_plan([example.module for example in examples.values()], precision, group_size, keep, activations)
    ahead = read_ahead_of_time(
        targets, max_prompt, min_response, image_size, generates=generates, paints=pipeline is not None
    )
    work = [
        Options(
            name=name,
            graph=graph,
            label=type(example.module).__name__ if len(examples) == 1 else f"{graph}: {type(example.module).__name__}",
            module=example.module,
            args=example.args,
            kwargs=example.kwargs,
            dynamic_shapes=example.dynamic_shapes,
            buckets=example.buckets,
            padding=example.padding,
            states=example.states,
            initial=example.initial,
            precision=precision,
            plan=plan,
            calibration=tuple(example.calibration),
            by_layer=by_layer,
            evaluate=example.evaluate,
            metrics=read_metrics(example.metrics),
            check=check,
            tolerance=read_tolerance(tolerance, default_tolerance(example.module, precision)),
            targets=ahead.targets,
            known_sizes="recording" if hears(examples) else "image" if pipeline is not None else None,
            is_generation=is_generation(example),
            in_float=generates,
        )
        for graph, example in examples.items()
    ]
    require_sizes(work)
    described = unwrap(model) if isinstance(model, torch.nn.Module) else work[0].module
    beside = collect_assets(described, assets, tokenizer, processor, None if pipeline is None else pipeline.assets)
    notes = () if pipeline is None else pipeline.notes
    for note in notes:
        warnings.warn(note, PersistWarning, stacklevel=2)
    reporter = Reporter(progress)
    with opened.stage() as staging:
        if len(work) == 1:
            made = describe_one(build(work[0], staging, reporter))
        else:
            parts = []
            for one in work:
                folder = staging / _PARTS / one.graph
                with store_errors(f"make {folder}"):
                    folder.mkdir(parents=True)
                with _about(one.graph):
                    parts.append(build(one, folder, reporter))
            with reporter.stage("write", total=1.0) as stage, store_errors(f"write {staging}"):
                made = join(parts, staging, stage.update)
                shutil.rmtree(staging / _PARTS)
        with store_errors(f"write {staging}"):
            write_assets(beside, staging / ASSETS)
        digests = {**made.digests, **{asset_path(asset): digest_bytes(data) for asset, data in beside.items()}}
        files = {path: FileEntry((staging / path).stat().st_size, digest) for path, digest in digests.items()}
        manifest = Manifest(
            name=name,
            producer=Producer(__version__, ov.get_version(), torch.__version__),
            graphs=made.graphs,
            weights=made.weights,
            golden=made.golden,
            files=dict(sorted(files.items())),
            warnings=(*notes, *made.warnings),
            metadata=kept,
            refresh=made.refresh,
            goldens=made.goldens,
        )
        with reporter.stage("publish") as stage:
            staged = Bundle.write(staging, manifest)
            bundle = None if force else opened.reuse(staged, alias)
            if bundle is None:
                bundle = opened.publish(staged, alias)
            else:
                stage.update(detail=f"{bundle.reference} already has the same content")
                log.warning(_SAME, bundle.reference, "" if alias is None else f"; the alias {alias} points to it")
    if ahead.targets:
        _compile(bundle, ahead, opened, reporter)
    return bundle


def _any_generates(examples: Mapping[str, Example]) -> bool:
    return any(map(is_generation, examples.values()))


@contextmanager
def _about(graph: str) -> Iterator[None]:
    """Begin the message of an error with the name of the graph that it is about."""
    try:
        yield
    except NpuPersistError as error:
        error.args = (f"{graph}: {error}",)
        raise


def _compile(bundle: Bundle, ahead: AheadOfTime, store: Store, reporter: Reporter) -> None:
    """Compile the published bundle; an error says that it stays published."""
    try:
        with reporter.stage("compile") as stage:
            compile_bundle(
                bundle.reference,
                [*map(str, ahead.targets)],
                max_prompt=ahead.max_prompt,
                min_response=ahead.min_response,
                image_size=ahead.image_size,
                progress=lambda event: stage.update(detail=event.detail),
                store=store,
            )
    except NpuPersistError as error:
        command = f"npu-persist compile {bundle.reference} {ahead.flags}"
        error.args = (f"{bundle.reference} is published, but not compiled; to try again: `{command}`. {error}",)
        raise
