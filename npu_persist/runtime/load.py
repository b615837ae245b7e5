"""`load`: from a reference to a callable model, which is exactly what was persisted; or an error."""

from __future__ import annotations

import logging
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import msgspec

from npu_persist.bundle.buckets import open_axes
from npu_persist.bundle.bundle import gone_errors
from npu_persist.bundle.manifest import COMPILED_DIRECTORY
from npu_persist.bundle.reference import HubReference, parse
from npu_persist.bundle.verification import Verification
from npu_persist.cache import CompileCache
from npu_persist.errors import (
    CompilationError,
    DeviceNotFoundError,
    DeviceWarning,
    DynamicShapeError,
    IntegrityError,
    StoreError,
)
from npu_persist.files.filesystem import is_directory, store_errors
from npu_persist.runtime.options import LoadOptions, check_options
from npu_persist.store import Store
from npu_persist.trust.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import openvino as ov

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.graph_records import Buckets, Graph, Port, State
    from npu_persist.bundle.verification import Verify
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.errors import ArtifactError
    from npu_persist.hub.client import Token
    from npu_persist.progress import ProgressCallback
    from npu_persist.runtime.model import Model
    from npu_persist.runtime.report import History, Report
    from npu_persist.runtime.sources import Found, Sources
    from npu_persist.trust.policy import Trust

    Attached = Sequence[tuple[Path, Artifact | ArtifactError]]
    Sizes = Sequence[Mapping[str, Sequence[int]]]
    GivenBuckets = Sizes | Mapping[str, Sizes] | None

log = logging.getLogger(__name__)


def load(  # noqa: PLR0913 (each is something that a deployment decides)
    reference: str | Path,
    device: str | Mapping[str, str] = "AUTO",
    *,
    graph: str | None = None,
    config: Mapping[str, Any] | None = None,
    hint: str | None = None,
    buckets: GivenBuckets = None,
    verify: Verify = "full",
    fallback: Sequence[str] = (),
    cache: bool = True,
    check_values: bool = True,
    compile_timeout: float | None = None,
    progress: ProgressCallback | None = None,
    trust: Trust = None,
    require_signature: bool = False,
    token: Token = None,
    local_files_only: bool = False,
    store: Store | str | Path | None = None,
) -> Model:
    """Load a bundle: verify it, take it from the compile cache or compile it, and return it as a callable.

    The model comes from the first source that works: a compiled artifact that is attached to the bundle, the machine's
    compile cache, a compilation of the graph; then the same for each device of `fallback`. `model.report` tells which
    one, and why the others were skipped. With `verify="full"`, every byte that OpenVINO reads has been compared with
    the manifest, or with the artifact's description, when this function returns; verification runs during the load.

    Args:
        reference: `unet` (newest version), `unet:3`, `unet:prod`, `unet@<digest prefix>`, or a bundle's directory; or
            `hf://org/unet@v3` or `hf://org/unet@v3#<digest>`: files that the store lacks are pulled first, with the
            artifacts that may run on the devices.
        device: OpenVINO's device string: "NPU", "GPU.1", "CPU", "AUTO", "AUTO:NPU,CPU", "HETERO:GPU,CPU". A missing
            device is an error; AUTO warns (`DeviceWarning`) if it cannot use a device that it names. Or a device for
            each graph, by name: {"encoder": "NPU", "decoder": "CPU"}.
        graph: Name of the graph to load from a bundle that has several. None: all of them.
        config: OpenVINO properties for the compilation, for instance {"NUM_STREAMS": 2}. A bundle that was persisted
            with precision="fp32", or with a tolerance below that of fp16, is computed in float32 unless these
            properties set a precision (INFERENCE_PRECISION_HINT, EXECUTION_MODE_HINT); a device without float32 warns
            (`DeviceWarning`). Other bundles use the device's default precision: `Report.execution_precisions`.
        hint: OpenVINO's PERFORMANCE_HINT: "LATENCY", "THROUGHPUT" or "CUMULATIVE_THROUGHPUT".
        buckets: Sizes to compile a graph with dynamic axes for, as in `[{"input_ids": (1, 128)}, {"input_ids": (1,
            512)}]`: a call runs in the smallest that it fits into, padded and cut back. None: those that it was
            persisted with, or else those of the artifacts attached for the device. An empty list: the graph
            with its own axes, which an NPU accepts only if every axis has a largest size. If several graphs are
            loaded, a dict of graph names to such lists.
        verify: "full" compares every byte; "stamp" only files whose size, time or inode changed since they were last
            compared by a load with "stamp"; "none" compares nothing, and adds nothing to the compile cache.
        fallback: Devices to try, in order, if `device` is missing or cannot compile the model. Properties of `config`
            that start with another device's name are not passed to them.
        cache: Whether to use the compile cache.
        check_values: Whether calls check the values of integer inputs: that they fit int32, which OpenVINO computes
            with, and that an index is in the range that torch accepts (`Port.bounds`). Without this check, such a value
            gives a meaningless result; it never reaches memory outside the model's tensors.
        compile_timeout: Seconds after which a compilation is ended. It then runs in a separate process, and needs
            the cache.
        progress: Called with `Progress` events while the bundle is pulled ("pull") and compiled ("compile").
        trust: Which pulled bundles may be compiled directly in this process, and which of their attached artifacts,
            which a device executes, may be imported. Graphs of other pulled bundles are first read, compiled and called
            once in a separate process, with limits of time (600 s, 7200 s for an NPU, or `compile_timeout`) and memory
            (80 % of the machine's); `load` then takes the result from the compile cache. None: trust bundles that a
            known key signed (`npu-persist keys add`). Repositories, "org/unet" or ["org/*"] on Hugging Face's hub,
            "https://hub.example.com/org/*" on another: also trust what was pulled from there. True: trust all, for
            this call.
        require_signature: Whether a known key must have signed the bundle's manifest, pulled or not. A bundle that must
            be pulled is refused before it is added to the store.
        token: For a hub reference, as in huggingface_hub: a token, True to require the one you logged in with, False
            to send none.
        local_files_only: For a hub reference: use only bundles that were pulled before, without network access.
        store: A store, its directory, or None for the default one. It also contains the compile cache and the known
            keys.

    Returns:
        The model, to be called with the module's own arguments. Close it, or use it in a `with` block, to free its
        memory and locks immediately. For a bundle with several graphs, `model.graphs` has the models by name, and
        `model` itself cannot be called.

    Raises:
        BundleNotFoundError: There is no bundle at the reference. `NotFoundError`: it has no such graph.
        HubError: The bundle cannot be pulled, and was not pulled before.
        IntegrityError: A file differs from the manifest, or the graph points outside its weights.
        SignatureError: A signature by a known key is required and missing.
        MissingExtraError: A signature is required, and the package `cryptography` is not installed.
        IncompatibleError: This package or this OpenVINO is too old for the bundle.
        DeviceNotFoundError: Neither the device nor any of `fallback` exists.
        CompilationError: OpenVINO rejected the graph or the properties on every device.
        CompileTimeoutError: The compilation took longer than `compile_timeout`, or the limit for untrusted graphs.
        CompileMemoryError: It took more memory than the limit for untrusted graphs.
        CompileCrashError: Its process crashed.
        DynamicShapeError: The buckets do not fit the graph; or the device is an NPU, there are no buckets, and an axis
            has no largest size.
        PropertyError: A property is misspelt, or one that the compile cache sets itself.
        UsageError: An argument is not of the types above.

    Example:
        >>> import numpy, torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-load", (torch.zeros(1, 4),))
        >>> with npu_persist.load("doc-load", device="CPU") as model:
        ...     model(numpy.zeros((1, 4), numpy.float32)).shape
        (1, 2)
        >>> model.report.from_cache, npu_persist.load("doc-load", device="CPU").report.from_cache
        (False, True)
    """
    from npu_persist.device.core import check_fork

    began = time.perf_counter()
    check_fork()
    options = check_options(
        device=device,
        config=config,
        hint=hint,
        buckets=buckets,
        verify=verify,
        fallback=fallback,
        cache=cache,
        compile_timeout=compile_timeout,
        progress=progress,
    )
    source = store if isinstance(store, Store) else Store(store)
    policy = Policy(trust, source.home)
    bundle, phases = find_bundle(
        source,
        reference,
        options.devices,
        require_signature=require_signature,
        token=token,
        local_files_only=local_files_only,
        progress=progress,
    )
    notes: list[str] = []
    if require_signature:
        notes.append(f"its manifest is signed by {policy.require_signature(bundle)}")
    chosen = bundle.manifest.graphs if graph is None else (bundle.graph(graph),)
    each = options.of_graphs(bundle, chosen)
    weights = bundle.manifest.weights.path
    with (
        store_errors(f"load {bundle.reference}"),
        gone_errors(bundle),
        Verification(verify, source.home) as verification,
    ):
        # Before anything else is imported: most of it is read by the time OpenVINO is there.
        verification.start(bundle.file(weights), bundle.manifest.files[weights])
        imported = time.perf_counter()
        recipes = {one.name: _make_recipes(bundle, one, each[one.name]) for one in chosen}
        phases["import"] = time.perf_counter() - imported
        from npu_persist.runtime.report import History
        from npu_persist.runtime.sources import Sources

        compile_cache = CompileCache(source.home) if cache else None
        if compile_cache is not None and (distrust := compile_cache.find_distrust()):
            notes.append(f"the compile cache is neither used nor filled: {distrust}")
            compile_cache = None
        if verify == "stamp" and (distrust := verification.find_distrust()):
            notes.append(f"the stamps were not used, every byte was read: {distrust}")
        sources = Sources(
            verification=verification,
            attached=_list_attached(bundle),
            policy=policy,
            cache=compile_cache,
            compile_timeout=compile_timeout,
            progress=progress,
        )
        loaded = {name: _load_graph(name, recipes[name], each[name], sources) for name in recipes}
        verification.finish()
        try:
            verification.write_stamps()
        except StoreError as error:
            notes.append(f"no stamps were written, so the next load reads every byte again: {error}")
    models: dict[str, Model] = {}
    for name, one in loaded.items():  # no comprehension: it has a frame of its own up to Python 3.11
        report = _make_report(one, each[name], History(notes=tuple(notes), phases=phases), verification)
        models[name] = _make_model(one, report, began, check_values=bool(check_values))
    if len(models) > 1:
        from npu_persist.runtime.graphs import GraphsModel

        return GraphsModel(bundle, models)
    return next(iter(models.values()))


def is_compiled(  # noqa: PLR0913 (what decides which artifact it is)
    reference: str | Path,
    device: str | Mapping[str, str] = "AUTO",
    *,
    graph: str | None = None,
    config: Mapping[str, Any] | None = None,
    hint: str | None = None,
    buckets: GivenBuckets = None,
    trust: Trust = None,
    store: Store | str | Path | None = None,
) -> bool:
    """Tell whether `load` would find a bundle compiled for a device, in all its buckets.

    Neither the graph nor the weights are read, and artifacts are not verified: `load` does that. A hub reference counts
    only if it was pulled before.

    Args:
        reference: As for `load`.
        device: As for `load`.
        graph: As for `load`.
        config: As for `load`: artifacts with other properties do not count.
        hint: As for `load`.
        buckets: As for `load`.
        trust: As for `load`.
        store: As for `load`.

    Raises:
        BundleNotFoundError: There is no bundle at the reference.
        PropertyError: A property is misspelt.
        UsageError: An argument is not of the types that `load` takes.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-compiled", (torch.zeros(1, 4),))
        >>> npu_persist.is_compiled("doc-compiled", "CPU")
        False
        >>> npu_persist.load("doc-compiled", "CPU").close()
        >>> npu_persist.is_compiled("doc-compiled", "CPU")
        True
    """
    from npu_persist.hub.pulled import resolve_offline

    options = check_options(device=device, config=config, hint=hint, buckets=buckets)
    source = store if isinstance(store, Store) else Store(store)
    policy = Policy(trust, source.home)
    bundle = resolve_offline(source, reference)
    chosen = bundle.manifest.graphs if graph is None else (bundle.graph(graph),)
    each = options.of_graphs(bundle, chosen)
    recipes = [(_make_recipes(bundle, one, each[one.name])[0], each[one.name].buckets) for one in chosen]
    if any(recipe.unkeyed for recipe, _ in recipes):
        return False
    cache = CompileCache(source.home)
    attached = _list_attached(bundle)
    return all(
        _is_compiled(one, cache, attached, policy)
        for recipe, sizes in recipes
        for one in _split(recipe, sizes, attached, policy)
    )


def _split(recipe: Recipe, buckets: Any, attached: Attached, policy: Policy) -> Sequence[Recipe]:
    """Return a recipe for each size."""
    if not _needs_sizes(recipe, buckets):
        return [recipe]
    from npu_persist.runtime.buckets import pick_buckets, split

    return split(recipe, pick_buckets(recipe, buckets, attached, policy)[0])


def _is_compiled(recipe: Recipe, cache: CompileCache, attached: Attached, policy: Policy) -> bool:
    if attached:
        from npu_persist.runtime.sources import select_attached

        if select_attached(recipe, attached, policy).candidates:
            return True
    if cache.find_distrust():
        return False
    entry = cache.find(recipe.key)
    return entry is not None and entry.artifact is not None


def find_bundle(  # noqa: PLR0913 (what decides whether and how it is pulled)
    store: Store,
    reference: str | Path,
    devices: Sequence[str],
    *,
    require_signature: bool,
    token: Token,
    local_files_only: bool,
    progress: ProgressCallback | None,
) -> tuple[Bundle, dict[str, float]]:
    """Return the bundle, and the seconds that pulling it took if it is a hub's."""
    parsed = parse(reference)
    if not isinstance(parsed, HubReference):
        return store.resolve(parsed), {}
    from npu_persist.hub.pull import fetch

    began = time.perf_counter()
    bundle = fetch(
        parsed,
        devices,
        store,
        require_signature=require_signature,
        token=token,
        local_files_only=local_files_only,
        progress=progress,
    )
    return bundle, {"pull": time.perf_counter() - began}


def _make_recipes(bundle: Bundle, graph: Graph, options: LoadOptions) -> list[Recipe]:
    """Return one recipe of a graph for each device; OpenVINO is imported here."""
    from npu_persist.compilation.recipe import make_recipe
    from npu_persist.device.core import get_core, require_version
    from npu_persist.device.devices import check_device, get_kind, resolve_auto
    from npu_persist.device.properties import check_properties

    core = get_core()
    require_version(bundle.manifest.producer.openvino, bundle.reference)
    recipes: list[Recipe] = []
    for device in options.devices:
        properties = options.properties
        if recipes:  # properties of other devices are not for a fallback
            others = {get_kind(other) for other in options.devices} - {get_kind(device)}
            properties = {name: value for name, value in properties.items() if name.partition("_")[0] not in others}
        check_device(core, device)
        check_properties(core, device, properties)
        resolved = resolve_auto(core, device, properties)
        recipes.append(make_recipe(bundle, graph, resolved, properties))
    return recipes


def _list_attached(bundle: Bundle) -> Attached:
    if not is_directory(bundle.path / COMPILED_DIRECTORY):
        return ()
    from npu_persist.artifact.attached import list_attached  # which only bundles with artifacts need

    return list(list_attached(bundle))


class _Loaded(msgspec.Struct, frozen=True):
    """A compiled model for each bucket, or one for the graph as it is; or why there is none."""

    recipe: Recipe
    buckets: Buckets | None
    outputs: Sequence[Port]
    found: Sequence[Found]
    history: History
    error: CompilationError | DeviceNotFoundError | DynamicShapeError | None = None


def _load_graph(name: str, recipes: Sequence[Recipe], options: LoadOptions, sources: Sources) -> _Loaded:
    """Return one graph, compiled; an error of sizes says of which graph they are, where there are several."""
    try:
        return _load_first(recipes, options, sources)
    except DynamicShapeError as error:
        if len(recipes[0].bundle.manifest.graphs) > 1:
            error.args = (f"graph {name}: {error}",)
        raise


def _load_first(recipes: Sequence[Recipe], options: LoadOptions, sources: Sources) -> _Loaded:
    """Return what the first device that works gave, with what was tried for those before it."""
    from npu_persist.runtime.report import History

    history = History()
    for index, recipe in enumerate(recipes):
        try:
            loaded = _load_for(recipe, options, sources, history)
        except IntegrityError:
            sources.verification.finish()  # which names the damaged file, and with it the cause
            raise
        except DynamicShapeError as error:
            loaded = _Loaded(recipe, None, (), (), history, error)
        if loaded.error is None:
            return loaded
        sources.verification.finish()
        history = loaded.history
        if recipe is recipes[-1]:
            if index == 0:
                raise loaded.error
            kind = type(loaded.error)
            raise kind(f"none of the devices could be used.\n{history}\n{loaded.error}") from loaded.error
        log.warning("%s; trying %s", loaded.error, recipes[index + 1].device)
        del loaded  # with the frames of its error, and the graph that they hold
    raise AssertionError("there is at least one device")


def _load_for(recipe: Recipe, options: LoadOptions, sources: Sources, history: History) -> _Loaded:
    """Return what one device gave."""
    from npu_persist.runtime.sources import find_compiled

    buckets: Buckets | None = None
    outputs: Sequence[Port] = recipe.graph.outputs
    sizes = [recipe]
    if _needs_sizes(recipe, options.buckets):
        from npu_persist.runtime.buckets import pick_buckets, relate_outputs, split
        from npu_persist.runtime.report import History

        buckets, notes = pick_buckets(recipe, options.buckets, sources.attached, sources.policy)
        history += History(notes=notes)
        if buckets is not None:
            outputs = relate_outputs(recipe, buckets, sources.verification, sources.policy)
        sizes = split(recipe, buckets)
    results: list[Found] = []
    for one in sizes:
        found = find_compiled(one, sources)
        history += found.history
        if found.error is not None:
            return _Loaded(recipe, buckets, outputs, (), history, found.error)
        results.append(found)
    return _Loaded(recipe, buckets, outputs, results, history)


def _make_report(loaded: _Loaded, options: LoadOptions, before: History, verification: Verification) -> Report:
    """Return what is known of a load, before the first inference."""
    from npu_persist.runtime.report import Report, merge_notes

    bundle, graph = loaded.recipe.bundle, loaded.recipe.graph
    inexact = _describe_lack_of_f32(loaded.recipe)
    if inexact:
        warnings.warn(inexact, DeviceWarning, stacklevel=3)
    history = loaded.history
    return Report(
        reference=bundle.reference,
        graph=graph.name if len(bundle.manifest.graphs) > 1 else None,
        device=str(options.device),
        loaded_device=loaded.recipe.device,
        from_cache=all(found.from_cache for found in loaded.found),
        key=loaded.found[-1].key,
        attempts=history.attempts,
        verification=verification.mode,
        verified_bytes=verification.bytes,
        phases={**before.phases, **history.phases, "verify": verification.seconds},
        notes=merge_notes(before.notes, [inexact] if inexact else [], history.notes),
    )


def _describe_lack_of_f32(recipe: Recipe) -> str | None:
    """Return a sentence on devices that cannot compute as exactly as the bundle was checked; None without such."""
    from npu_persist.bundle.comparison import needs_f32
    from npu_persist.device.core import get_core
    from npu_persist.device.precision import is_decided, list_without_f32

    reference, graph = recipe.bundle.reference, recipe.graph
    if not needs_f32(recipe.bundle.manifest, graph) or is_decided(recipe.properties):
        return None
    devices = list_without_f32(get_core(), recipe.device)
    if not devices:
        return None
    return (
        f"{reference} was persisted for float32, which {', '.join(devices)} does not have. To compare its answers with "
        f"torch's: npu-persist check {reference} --device {recipe.device}"
    )


def _needs_sizes(recipe: Recipe, buckets: object) -> bool:
    return bool(buckets or recipe.graph.states) or any(map(open_axes, recipe.graph.inputs))


def _make_model(loaded: _Loaded, report: Report, began: float, *, check_values: bool) -> Model:
    """Return the model that calls what was compiled."""
    from npu_persist.bundle.signature import CallPlan
    from npu_persist.runtime.model import Model
    from npu_persist.runtime.report import LiveReport
    from npu_persist.runtime.requests import Requests

    recipe, graph = loaded.recipe, loaded.recipe.graph
    models = []
    for found in loaded.found:
        if found.compiled is None:
            raise AssertionError("there is a compiled model, or an error")
        _keep_with(found.compiled.model, found.keep)
        models.append(found.compiled.model)
    live = LiveReport(report, models)
    if loaded.buckets is None:
        plan = CallPlan(graph.signature, graph.inputs, graph.outputs)
        states = graph.states if check_values else tuple(map(_without_bounds, graph.states))
        requests = Requests(models[0], plan, report.reference, live.note_first_inference, states)
        model = Model(recipe.bundle, graph, plan, requests, live, check_values=check_values)
    else:
        from npu_persist.runtime.buckets import make_bucket_model

        model = make_bucket_model(recipe, loaded.buckets, loaded.outputs, models, live, check_values=check_values)
    live.note_phase("load", time.perf_counter() - began)
    if log.isEnabledFor(logging.INFO):
        log.info("%s", model.report)
    return model


def _without_bounds(state: State) -> State:
    return msgspec.structs.replace(state, bounds=None)


def _keep_with(model: ov.CompiledModel, kept: Sequence[object]) -> None:
    """Keep objects for as long as a compiled model: it reads from them, and users may hold it without our `Model`."""
    weakref.finalize(model, _drop, kept).atexit = False


def _drop(_: object) -> None:
    pass
