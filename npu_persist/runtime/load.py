"""`load`: a reference to a model that can be called. What is loaded is what was persisted, or an error."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from npu_persist.bundle.reference import HubReference, parse
from npu_persist.cache import CompileCache
from npu_persist.device.properties import merge_hint
from npu_persist.errors import (
    CompilationError,
    DeviceNotFoundError,
    DynamicShapeError,
    IntegrityError,
    StoreError,
    UsageError,
)
from npu_persist.runtime.report import Report
from npu_persist.runtime.verification import VERIFY, Verification
from npu_persist.store import Store
from npu_persist.trust.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.compilation.local import Compiled
    from npu_persist.compilation.process import CompileProgress
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.runtime.loaded import Loaded
    from npu_persist.runtime.model import Model
    from npu_persist.runtime.sources import Ladder
    from npu_persist.runtime.verification import Verify
    from npu_persist.trust.policy import Trust

log = logging.getLogger(__name__)


def load(  # noqa: PLR0913 (each is something that a deployment decides)
    reference: str | Path,
    device: str = "AUTO",
    *,
    config: Mapping[str, Any] | None = None,
    hint: str | None = None,
    buckets: Sequence[Mapping[str, Sequence[int]]] | None = None,
    verify: Verify = "full",
    fallback: Sequence[str] = (),
    cache: bool = True,
    compile_timeout: float | None = None,
    progress: Callable[[CompileProgress], object] | None = None,
    trust: Trust = None,
    require_signature: bool = False,
    store: Store | str | Path | None = None,
) -> Model:
    """Load a bundle: verify it, take it from the compile cache or compile it, and return it as a callable.

    The model comes from the first of: a compiled artifact that is attached to the bundle, the machine's compile cache,
    a compilation of the graph, and the same for each device of `fallback`. `model.report` says which, and why not the
    others. Every byte that OpenVINO reads has been compared with the manifest, or with the artifact's description, when
    this function returns; the weights are read beside the load.

    Args:
        reference: `unet` (newest version), `unet:3`, `unet:prod`, `unet@<digest prefix>`, or a bundle's directory; or
            `hf://org/unet@v3` or `hf://org/unet@v3#<digest>`: what the store lacks of it is pulled first, with the
            artifacts that may run on the devices.
        device: OpenVINO's device string: "NPU", "GPU.1", "CPU", "AUTO", "AUTO:NPU,CPU", "HETERO:GPU,CPU". A device
            that is not there is an error; AUTO warns (`DeviceWarning`) where it cannot use one that it names.
        config: OpenVINO properties for the compilation, for instance {"NUM_STREAMS": 2}.
        hint: OpenVINO's PERFORMANCE_HINT: "LATENCY", "THROUGHPUT" or "CUMULATIVE_THROUGHPUT".
        buckets: Sizes to compile a graph with open axes for, as in `[{"input_ids": (1, 128)}, {"input_ids": (1,
            512)}]`: a call runs in the smallest that it fits into, filled up and cut back. None: those that it was
            persisted with, or else those of the artifacts that are attached for the device. An empty list: the graph
            as it is, which an NPU takes only if every axis has a largest size.
        verify: "full" compares every byte; "stamp" only what has another size, time or inode than when it was last
            compared by a load with "stamp"; "none" compares nothing, and then nothing is added to the compile cache.
        fallback: Devices to try, in order, when `device` is not there or does not compile. Properties of `config` that
            start with another device's name are not passed to them.
        cache: Whether to use the compile cache.
        compile_timeout: Seconds after which a compilation is ended. It then runs in a process of its own, and needs
            the cache.
        progress: Called about twice a second while a compilation runs in a process of its own.
        trust: Which attached artifacts that were pulled from a hub may be imported; a device runs what is in them.
            None: those that a known key signed (`npu-persist keys add`). Repositories, "org/unet" or ["org/*"]: what
            was pulled from there, too. True: all, for this call. What is not trusted is passed over.
        require_signature: Whether a known key must have signed the bundle's manifest, pulled or not.
        store: A store, its directory, or None for the default one. The compile cache is beside its bundles, and so are
            the known keys.

    Returns:
        The model, ready to be called with the module's own arguments.

    Raises:
        BundleNotFoundError: The reference leads nowhere.
        HubError: What has to be pulled cannot be, and the store has not seen it.
        IntegrityError: A file is not what the manifest says, or the graph points outside of its weights.
        SignatureError: A signature is required, and no known key made it.
        MissingExtraError: A signature is required, and the package `cryptography` is not installed.
        IncompatibleError: This package or this OpenVINO is too old for the bundle.
        DeviceNotFoundError: The device is not there, nor any of `fallback`.
        CompilationError: OpenVINO refused the graph or the properties on every device.
        CompileTimeoutError: The compilation took longer than `compile_timeout`.
        DynamicShapeError: The buckets do not fit the graph; or an NPU was asked for, there are none, and an axis has no
            largest size.
        PropertyError: A property is misspelt, or one that the compile cache sets itself.
        UsageError: An argument is not of the types above.

    Example:
        >>> import numpy, torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-load", (torch.zeros(1, 4),))
        >>> model = npu_persist.load("doc-load", device="CPU")
        >>> model(numpy.zeros((1, 4), numpy.float32)).shape
        (1, 2)
        >>> model.report.from_cache, npu_persist.load("doc-load", device="CPU").report.from_cache
        (False, True)

    """
    began = time.perf_counter()
    devices = _check_devices(device, fallback)
    properties = merge_hint(_check_config(config), hint)
    _check_options(verify, cache=cache, compile_timeout=compile_timeout, progress=progress)
    source = store if isinstance(store, Store) else Store(store)
    policy = Policy(trust, source.home)
    bundle, pulling = _find_bundle(source, reference, devices)
    report = Report(bundle.reference, device, verify)
    report.phases |= pulling
    if require_signature:
        report.notes.append(f"its manifest is signed by {policy.require_signature(bundle)}")
    described = bundle.manifest.weights.path
    with Verification(verify, source.home) as verification:
        # Before anything else is imported: most of it is read by the time OpenVINO is there.
        verification.start(bundle.file(described), bundle.manifest.files[described])
        recipes = _make_recipes(bundle, devices, properties, report)
        from npu_persist.runtime.sources import Ladder

        ladder = Ladder(
            verification,
            CompileCache(source.home) if cache else None,
            report,
            policy=policy,
            compile_timeout=compile_timeout,
            progress=progress,
        )
        loaded = _climb(ladder, recipes, buckets, verification, report)
        verification.finish()
        _write_stamps(verification, report)
    report.verified_bytes = verification.bytes
    report.phases["verify"] = verification.seconds
    from npu_persist.runtime.loaded import make_model

    model = make_model(loaded, report)
    report.phases["load"] = time.perf_counter() - began
    log.info("%s", report)
    return model


def compiled(  # noqa: PLR0913 (what decides which artifact it is)
    reference: str | Path,
    device: str = "AUTO",
    *,
    config: Mapping[str, Any] | None = None,
    hint: str | None = None,
    buckets: Sequence[Mapping[str, Sequence[int]]] | None = None,
    trust: Trust = None,
    store: Store | str | Path | None = None,
) -> Artifact | None:
    """Tell whether a bundle is compiled here already: the artifact that `load` would import, or None.

    With buckets it is the largest one's, and None if any is missing; its `shapes` say which it is. Neither the graph
    nor the weights are read, and the artifact's bytes are not compared with its description: `load` does that.

    Args:
        reference: As for `load`.
        device: As for `load`.
        config: As for `load`: other properties are another artifact.
        hint: As for `load`.
        buckets: As for `load`.
        trust: As for `load`.
        store: As for `load`.

    Raises:
        BundleNotFoundError: The reference leads nowhere.
        PropertyError: A property is misspelt.
        UsageError: An argument is not of the types that `load` takes.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-compiled", (torch.zeros(1, 4),))
        >>> npu_persist.compiled("doc-compiled", "CPU") is None
        True
        >>> key = npu_persist.load("doc-compiled", "CPU").report.key
        >>> npu_persist.compiled("doc-compiled", "CPU").key == key
        True

    """
    from npu_persist.hub.pulled import resolve
    from npu_persist.runtime.sizes import pick_buckets, split

    source = store if isinstance(store, Store) else Store(store)
    policy = Policy(trust, source.home)
    bundle = resolve(source, reference)
    report = Report(bundle.reference, device, "none")
    properties = merge_hint(_check_config(config), hint)
    (recipe,) = _make_recipes(bundle, _check_devices(device, ()), properties, report)
    if recipe.unkeyed:
        return None
    cache = CompileCache(source.home)
    found = [_find_compiled(one, cache, policy) for one in split(recipe, pick_buckets(recipe, buckets, report, policy))]
    return None if None in found else found[-1]


def _find_compiled(recipe: Recipe, cache: CompileCache, policy: Policy) -> Artifact | None:
    from npu_persist.artifact.attached import list_attached
    from npu_persist.runtime.attached import choose_attached

    for candidate in choose_attached(recipe, list_attached(recipe.bundle), policy).candidates:
        return candidate.artifact
    entry = cache.find(recipe.key)
    return None if entry is None else entry.artifact


def fill_cache(  # noqa: PLR0913 (a recipe in words, and where to)
    *,
    bundle: str,
    graph: str,
    device: str,
    config: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]] | None,
    home: str,
    key: str,
) -> bool:
    """Compile a bundle and keep it in the compile cache: what `load` with `compile_timeout` runs in a process.

    Raises:
        CompilationError: It was compiled, but could not be kept.
    """
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.runtime.sources import Ladder

    opened = Bundle.open(bundle)
    report = Report(opened.reference, device, "full")
    described = opened.manifest.weights.path
    store = Store(home)
    cache = CompileCache(store.home)
    with Verification("full", store.home) as verification:
        verification.start(opened.file(described), opened.manifest.files[described])
        sizes = None if shapes is None else {name: tuple(shape) for name, shape in shapes.items()}
        recipe = Recipe(opened, opened.graph(graph), device, dict(config), sizes)
        compiled = Ladder(verification, cache, report, policy=Policy(None, store.home)).climb(recipe)
        verification.finish()
    if compiled.pending is not None:
        compiled.pending.join()
    if recipe.key != key or cache.find(key) is None:
        raise CompilationError(f"{opened.reference} was compiled for {device}, but could not be kept. {report}")
    return True


def _find_bundle(store: Store, reference: str | Path, devices: Sequence[str]) -> tuple[Bundle, dict[str, float]]:
    """Return the bundle, and the seconds that pulling it took if it is a hub's."""
    parsed = parse(reference)
    if not isinstance(parsed, HubReference):
        return store.resolve(parsed), {}
    from npu_persist.hub.pull import fetch

    began = time.perf_counter()
    return fetch(parsed, devices, store), {"pull": time.perf_counter() - began}


def _check_devices(device: object, fallback: object) -> tuple[str, ...]:
    if not isinstance(device, str):
        raise UsageError(f"device: expected OpenVINO's device string, for instance 'NPU' or 'CPU'; got {device!r}")
    if isinstance(fallback, str) or not isinstance(fallback, (tuple, list)):
        raise UsageError(f"fallback: expected device strings in a tuple, for instance ('GPU', 'CPU'); got {fallback!r}")
    if not all(isinstance(name, str) for name in fallback):
        raise UsageError(f"fallback: expected device strings, for instance ('GPU', 'CPU'); got {fallback!r}")
    return (device, *fallback)


def _check_config(config: object) -> dict[str, Any]:
    if config is None:
        return {}
    if not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config):
        raise UsageError(
            "config: expected OpenVINO properties by name, for instance {'PERFORMANCE_HINT': 'LATENCY'}; got "
            f"{config!r}"
        )
    try:
        json.dumps(dict(config), default=id, skipkeys=True)
    except (ValueError, RecursionError) as error:  # OpenVINO would follow it until the process crashes
        raise UsageError(f"config: expected values that do not contain themselves; {error}") from error
    return dict(config)


def _check_options(verify: object, *, cache: bool, compile_timeout: object, progress: object) -> None:
    if verify not in VERIFY:
        raise UsageError(f"verify: expected one of {', '.join(VERIFY)}; got {verify!r}")
    if progress is not None and not callable(progress):
        raise UsageError(f"progress: expected a function of one argument, or None; got {progress!r}")
    if compile_timeout is None:
        return
    if isinstance(compile_timeout, bool) or not isinstance(compile_timeout, (int, float)) or not compile_timeout > 0:
        raise UsageError(f"compile_timeout: expected seconds above 0, or None; got {compile_timeout!r}")
    if not cache or verify == "none":
        raise UsageError(
            "compile_timeout: the compilation runs in a process of its own, which hands its result over in the compile "
            "cache. Leave out cache=False and verify='none', or compile_timeout"
        )


def _make_recipes(
    bundle: Bundle, devices: Sequence[str], properties: Mapping[str, Any], report: Report
) -> list[Recipe]:
    """Return one recipe a device; OpenVINO is imported here."""
    began = time.perf_counter()
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.device.core import get_core, require_version
    from npu_persist.device.devices import check_device, get_kind, resolve_auto
    from npu_persist.device.properties import check_properties

    core = get_core()
    report.phases["import"] = time.perf_counter() - began
    require_version(bundle.manifest.producer.openvino, bundle.reference)
    recipes: list[Recipe] = []
    for device in devices:
        taken = dict(properties)
        if recipes:  # a property of the first device is none of a fallback's
            others = {get_kind(other) for other in devices} - {get_kind(device)}
            taken = {name: value for name, value in taken.items() if name.partition("_")[0] not in others}
        check_device(core, device)
        check_properties(core, device, taken)
        recipes.append(Recipe(bundle, bundle.graph(), resolve_auto(core, device, taken), taken))
    return recipes


def _climb(
    ladder: Ladder, recipes: Sequence[Recipe], given: object, verification: Verification, report: Report
) -> Loaded:
    from npu_persist.runtime.loaded import Loaded
    from npu_persist.runtime.sizes import pick_buckets, relate_outputs, split

    for index, recipe in enumerate(recipes):
        buckets = pick_buckets(recipe, given, report, ladder.policy)
        outputs = recipe.graph.outputs if buckets is None else relate_outputs(recipe, buckets, verification)
        try:
            return Loaded(recipe, buckets, outputs, _climb_each(ladder, split(recipe, buckets), report))
        except IntegrityError:
            verification.finish()  # which names the file that is damaged, and with it the cause
            raise
        except (DeviceNotFoundError, CompilationError, DynamicShapeError) as error:
            verification.finish()
            if index == len(recipes) - 1:
                if index:
                    raise type(error)(f"none of the devices could be used. {report}\n{error}") from error
                raise
            log.warning("%s: %s; trying %s", report.reference, error, recipes[index + 1].device)
    raise AssertionError("there is at least one device")


def _climb_each(ladder: Ladder, recipes: Sequence[Recipe], report: Report) -> list[Compiled]:
    compiled: list[Compiled] = []
    from_cache: list[bool] = []
    for recipe in recipes:
        report.from_cache = False
        compiled.append(ladder.climb(recipe))
        from_cache.append(report.from_cache)
    report.from_cache = all(from_cache)
    return compiled


def _write_stamps(verification: Verification, report: Report) -> None:
    try:
        verification.write_stamps()
    except StoreError as error:
        report.notes.append(f"no stamps, the next load reads every byte again: {error}")
