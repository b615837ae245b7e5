"""`pipeline`: OpenVINO GenAI's pipelines over a bundle's verified files (extra `genai`)."""

from __future__ import annotations

import importlib.util
import time
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from npu_persist.bundle.bundle import gone_errors
from npu_persist.bundle.verification import Verification
from npu_persist.cache import CompileCache
from npu_persist.compilation.cache_dir import CacheDir, is_refused
from npu_persist.compilation.recipe import make_recipe
from npu_persist.device.core import check_fork, get_core, note_threads, require_version
from npu_persist.device.devices import check_device, get_kind, resolve_auto
from npu_persist.device.doctor import explain_missing_device
from npu_persist.errors import (
    ArtifactError,
    CompilationError,
    MissingExtraError,
    SignatureError,
    UsageError,
)
from npu_persist.files.filesystem import link_or_copy, make_folder, store_errors
from npu_persist.runtime.load import find_bundle
from npu_persist.runtime.options import check_options
from npu_persist.runtime.report import Attempt, Report
from npu_persist.store import Store
from npu_persist.store.export import place_files
from npu_persist.trust.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.hub.client import Token
    from npu_persist.progress import ProgressCallback
    from npu_persist.trust.policy import Trust

_TOKENIZER = "openvino_tokenizer.xml"
_DETOKENIZER = "openvino_detokenizer.xml"
_FEATURES = "preprocessor_config.json"


def pipeline(  # noqa: PLR0913 (each is something that a deployment decides)
    reference: str | Path,
    device: str = "CPU",
    *,
    config: Mapping[str, Any] | None = None,
    cache: bool = True,
    progress: ProgressCallback | None = None,
    trust: Trust = None,
    require_signature: bool = False,
    token: Token = None,
    local_files_only: bool = False,
    store: Store | str | Path | None = None,
) -> Any:
    """Return the pipeline of OpenVINO GenAI that runs a bundle: LLMPipeline, WhisperPipeline or TextEmbeddingPipeline.

    It reads files of which every byte has been compared with the manifest. What it compiles is kept in the compile
    cache, under the bundle's digest, and compared with its description before it is used again.

    Args:
        reference: As for `load`. The bundle needs a tokenizer: `persist(..., tokenizer=...)`.
        device: OpenVINO's device string.
        config: Properties for the pipeline, such as {"MAX_PROMPT_LEN": 2048} or {"pooling_type": ...}.
        cache: Whether to use the compile cache.
        progress: Called with `Progress` events while the bundle is pulled.
        trust: As for `load`. GenAI reads the graph in this process, so a pulled bundle has to be trusted.
        require_signature: As for `load`.
        token: As for `load`.
        local_files_only: As for `load`.
        store: As for `load`.

    Returns:
        An object of openvino_genai's class, with the attribute `report` of type `Report`.

    Raises:
        MissingExtraError: openvino_genai is not installed.
        UsageError: No pipeline runs such a bundle, or it lacks a file for it.
        SignatureError: The bundle was pulled and is not trusted, or a signature is required.
        FileIntegrityError: A file is not what the manifest says.
        DeviceNotFoundError: The device is not there.
        CompilationError: GenAI refused the files or the properties.
        BundleNotFoundError: There is no bundle at the reference.
    """
    check_fork()
    began = time.perf_counter()
    _require_genai()
    options = check_options(device=device, config=config, hint=None, buckets=None, cache=cache, progress=progress)
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
    if require_signature:
        policy.require_signature(bundle)
    if distrust := policy.find_distrust(bundle):
        raise SignatureError(f"{bundle.reference}: OpenVINO GenAI would read its graph in this process. {distrust}")
    name = choose_pipeline(bundle)
    with (
        gone_errors(bundle),
        store_errors(f"load {bundle.reference}"),
        Verification("full") as verification,
        ExitStack() as failing,
    ):
        stack = ExitStack()
        failing.push(stack.__exit__)
        folder = stack.enter_context(source.stage()) / "pipeline"
        _place(bundle, folder, verification)
        imported = time.perf_counter()
        recipe = _make_recipe(bundle, device, options.properties, name)
        phases["import"] = time.perf_counter() - imported
        made = _make(recipe, name, folder, verification, _open_cache(recipe, source, failing, cache=cache))
        weakref.finalize(made.pipeline, stack.close)
        failing.pop_all()
    phases |= {**made.phases, "verify": verification.seconds, "load": time.perf_counter() - began}
    made.pipeline.report = Report(
        reference=bundle.reference,
        device=device,
        loaded_device=recipe.device,
        execution_devices=() if get_kind(recipe.device) == "AUTO" else (recipe.device,),
        from_cache=made.attempts[-1].source == "cache",
        key=recipe.key if cache else None,
        attempts=made.attempts,
        verification=verification.mode,
        verified_bytes=verification.bytes,
        phases=phases,
        notes=made.notes,
    )
    return made.pipeline


def choose_pipeline(bundle: Bundle) -> str:
    """Return the name of the pipeline that runs a bundle; UsageError if none does, or a file is missing."""
    graphs = {graph.name: graph for graph in bundle.manifest.graphs}
    only = next(iter(graphs.values()))
    inputs = {port.name for port in only.inputs}
    outputs = [port.name for port in only.outputs]
    if set(graphs) == {"encoder", "decoder"} and _FEATURES in bundle.assets:
        name, needed = "WhisperPipeline", {_TOKENIZER, _DETOKENIZER, "config.json", "generation_config.json"}
    elif len(graphs) == 1 and {"input_ids", "attention_mask", "beam_idx"} <= inputs and outputs == ["logits"]:
        name, needed = "LLMPipeline", {_TOKENIZER, _DETOKENIZER}
    elif len(graphs) == 1 and {"input_ids", "attention_mask"} <= inputs and outputs == ["last_hidden_state"]:
        name, needed = "TextEmbeddingPipeline", {_TOKENIZER}
    else:
        raise UsageError(
            f"{bundle.reference}: no pipeline runs its graphs, {', '.join(graphs)}. One runs a language model "
            "(inputs input_ids, attention_mask, beam_idx; output logits), another a Whisper model (graphs encoder and "
            f"decoder, asset {_FEATURES}), another a text encoder (inputs input_ids, attention_mask; last_hidden_state "
            "as the only output: `add_pooling_layer=False`). Use `load` for others"
        )
    if missing := sorted(needed - set(bundle.assets)):
        raise UsageError(
            f"{bundle.reference} lacks {', '.join(missing)}, which {name} needs: persist it again with tokenizer= or "
            "processor=, where openvino_tokenizers is installed (extra `genai`)"
        )
    return name


def _require_genai() -> None:
    if importlib.util.find_spec("openvino_genai") is None:
        raise MissingExtraError(
            "pipeline needs OpenVINO GenAI, which is not installed: pip install 'npu_persist[genai]'",
            extra="genai",
            name="openvino_genai",
        )


def _make_recipe(bundle: Bundle, device: str, properties: Mapping[str, Any], name: str) -> Recipe:
    core = get_core()  # first: it imports OpenVINO without what no pipeline needs
    import openvino_genai

    require_version(bundle.manifest.producer.openvino, bundle.reference)
    check_device(core, device)
    resolved = resolve_auto(core, device, properties)
    runner = f"{name} of openvino_genai {openvino_genai.__version__}"
    return make_recipe(bundle, bundle.manifest.graphs[0], resolved, properties, runner=runner)


class _Cache(NamedTuple):
    """The pipeline's CACHE_DIR, and what is to be reported of it."""

    folder: CacheDir | None = None
    attempts: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_filled(self) -> bool:
        return bool(self.attempts) and self.attempts[-1].is_used


class _Made(NamedTuple):
    pipeline: Any
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...]
    phases: dict[str, float]


def _place(bundle: Bundle, folder: Path, verification: Verification) -> None:
    """Link a bundle's files into a folder, by the names that GenAI looks for, and check what is there.

    The weights are checked beside the load. All others before: they say what GenAI reads, and where.
    """
    placed = place_files(bundle, "genai")
    first: dict[str, Path] = {}
    for name, path in placed.items():
        target = folder / name
        make_folder(target.parent, parents=True)
        # The weights of several graphs are one file with several names.
        is_link = link_or_copy(first.get(path) or bundle.file(path), target)
        if path not in first or not is_link:
            first.setdefault(path, target)
            check = verification.start if path == bundle.manifest.weights.path else verification.check
            check(bundle.path / path, bundle.manifest.files[path], at=target)


def _make(recipe: Recipe, name: str, folder: Path, verification: Verification, cache: _Cache) -> _Made:
    """Make a pipeline of a folder's files; what it compiled is kept once all of them are checked."""
    began = time.perf_counter()
    extra = {} if cache.folder is None else {"CACHE_DIR": str(cache.folder.folder)}
    try:
        note_threads()
        made = _subclass(name)(str(folder), recipe.device, **{**recipe.properties, **extra})
    except (RuntimeError, TypeError, ValueError) as error:
        verification.finish()  # which names the damaged file, if that is the cause
        raise (
            explain_missing_device(get_core(), recipe.device, error)
            or CompilationError(f"OpenVINO GenAI could not load {recipe}: {error}")
        ) from error
    seconds = time.perf_counter() - began
    verification.finish()
    attempts, notes = cache.attempts, cache.notes
    if cache.folder is not None:
        written = len(cache.folder.list_written())
        if cache.is_filled and not written:
            verification.count(cache.folder.size)
            cache.folder.close()
            return _Made(made, attempts, notes, {"import_blob": seconds})
        if cache.is_filled:
            reason = f"OpenVINO did not take what is there: it wrote {written} more"
            attempts = (*attempts[:-1], attempts[-1].reject(reason))
        cache.folder.publish(None, seconds)
    used = Attempt(source="graph", device=recipe.device, is_used=True, reason="compiled", seconds=seconds)
    return _Made(made, (*attempts, used), notes, {"compile": seconds})


def _open_cache(recipe: Recipe, store: Store, failing: ExitStack, *, cache: bool) -> _Cache:
    """Return the pipeline's CACHE_DIR, filled with the entry of the compile cache if there is an intact one.

    It is removed where the load fails.
    """
    if not cache:
        return _Cache()
    compile_cache = CompileCache(store.home)
    if recipe.unkeyed or not recipe.is_exportable:
        why = f"properties without a text: {', '.join(recipe.unkeyed)}" if recipe.unkeyed else recipe.device
        return _Cache(notes=(f"the compile cache is neither used nor filled: {why}",))
    if distrust := compile_cache.find_distrust():
        return _Cache(notes=(f"the compile cache is neither used nor filled: {distrust}",))
    began = time.perf_counter()

    def attempt(reason: str, *, is_used: bool = False) -> tuple[Attempt, ...]:
        seconds = time.perf_counter() - began
        return (Attempt(source="cache", device=recipe.device, is_used=is_used, reason=reason, seconds=seconds),)

    entry = compile_cache.find(recipe.key)
    if entry is not None and is_refused(entry):
        return _Cache(attempts=attempt(f"OpenVINO {recipe.openvino} does not take back what it compiled here"))
    folder = CacheDir(recipe, compile_cache)
    failing.callback(folder.close)
    if entry is None:
        return _Cache(folder, attempt("nothing is there for this bundle, device, OpenVINO and GenAI"))
    try:
        folder.link_entry(entry)
    except ArtifactError as error:
        compile_cache.quarantine(entry, str(error))
        folder.close()
        folder = CacheDir(recipe, compile_cache)
        failing.callback(folder.close)
        return _Cache(folder, attempt(f"damaged: {error}"))
    return _Cache(folder, attempt(f"key {recipe.key}", is_used=True))


def _subclass(name: str) -> Any:
    """Return GenAI's class, with room for a report."""
    import openvino_genai

    return type(name, (getattr(openvino_genai, name),), {"__module__": "openvino_genai"})
