"""`pipeline`: OpenVINO GenAI's pipelines over a bundle's verified files (extra `genai`)."""

from __future__ import annotations

import importlib.util
import time
import weakref
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from npu_persist.bundle.assets import MODEL_INDEX
from npu_persist.bundle.bundle import gone_errors
from npu_persist.bundle.verification import Verification
from npu_persist.cache import CompileCache
from npu_persist.compilation.fixed_sizes import read_image_size
from npu_persist.compilation.recipe import make_recipe
from npu_persist.device.core import check_fork, get_core, note_threads, require_version
from npu_persist.device.devices import check_device, get_kind, resolve_auto
from npu_persist.errors import MissingExtraError, PropertyError, SignatureError, UsageError
from npu_persist.files.filesystem import link_or_copy, make_folder, store_errors
from npu_persist.runtime.load import find_bundle
from npu_persist.runtime.options import check_options
from npu_persist.runtime.pipeline_sources import (
    BLOB_PROPERTIES,
    Job,
    imports_blobs,
    make_npu_recipe,
    make_with_blob,
    make_with_cache_dir,
)
from npu_persist.runtime.report import Report
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
    image_size: tuple[int, int] | None = None,
    cache: bool = True,
    progress: ProgressCallback | None = None,
    trust: Trust = None,
    require_signature: bool = False,
    token: Token = None,
    local_files_only: bool = False,
    store: Store | str | Path | None = None,
) -> Any:
    """Return the pipeline of OpenVINO GenAI that runs a bundle.

    That is its LLMPipeline, WhisperPipeline, TextEmbeddingPipeline or Text2ImagePipeline. It reads files of which every
    byte has been compared with the manifest. What it compiles is kept in the compile cache, under the bundle's digest,
    and compared with its description before it is used again. On an NPU a language model comes from the first blob that
    fits, as for `load`: attached by `compile`, or in the compile cache.

    Args:
        reference: As for `load`. The bundle needs a tokenizer: `persist(..., tokenizer=...)`; a pipeline of diffusers
            has its own.
        device: OpenVINO's device string.
        config: Properties for the pipeline, such as {"MAX_PROMPT_LEN": 2048} or {"pooling_type": ...}. With
            MAX_PROMPT_LEN or MIN_RESPONSE_LEN, a blob for an NPU has to be as long; without, any will do.
        image_size: Height and width, in pixels, that the graphs of text to image are fixed to, for one image at a time.
            None: any sizes; on an NPU, which needs fixed ones, those that the model was trained with.
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
        PropertyError: A property that names a blob, or one that the compile cache sets itself.
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
    _check_image_size(image_size, name, bundle)
    if ours := sorted(BLOB_PROPERTIES & options.properties.keys()):
        raise PropertyError(
            f"{', '.join(ours)}: expected no blob of your own, which nobody has verified; pipeline takes one that "
            "`compile` attached to the bundle, or one of the compile cache. Leave it out"
        )
    with (
        gone_errors(bundle),
        store_errors(f"load {bundle.reference}"),
        ExitStack() as failing,
        Verification("full") as verification,  # ends first: Windows keeps the files that it still reads
    ):
        stack = ExitStack()
        failing.push(stack.__exit__)
        folder = stack.enter_context(source.stage()) / "pipeline"
        _place(bundle, folder, verification)
        imported = time.perf_counter()
        recipe = _make_recipe(bundle, device, options.properties, name, image_size)
        phases["import"] = time.perf_counter() - imported
        used, notes = _find_cache(recipe, source) if cache else (None, [])
        job = Job(
            recipe=recipe,
            properties=options.properties,
            folder=folder,
            verification=verification,
            load=partial(_load, name, folder, recipe.device, image_size),
            cache=used,
            policy=policy,
            stack=stack,
            notes=notes,
        )
        made = make_with_blob(job) if imports_blobs(recipe.device, name) else make_with_cache_dir(job)
        weakref.finalize(made.pipeline, stack.close)
        failing.pop_all()
    phases |= {**made.phases, "verify": verification.seconds, "load": time.perf_counter() - began}
    made.pipeline.report = Report(
        reference=bundle.reference,
        device=device,
        loaded_device=recipe.device,
        execution_devices=() if get_kind(recipe.device) == "AUTO" else (recipe.device,),
        from_cache=job.attempts[-1].source != "graph",
        key=made.key,
        attempts=tuple(job.attempts),
        verification=verification.mode,
        verified_bytes=verification.bytes,
        phases=phases,
        notes=tuple(job.notes),
    )
    return made.pipeline


def choose_pipeline(bundle: Bundle) -> str:
    """Return the name of the pipeline that runs a bundle; UsageError if none does, or a file is missing."""
    graphs = {graph.name: graph for graph in bundle.manifest.graphs}
    only = next(iter(graphs.values()))
    inputs = {port.name for port in only.inputs}
    outputs = [port.name for port in only.outputs]
    if MODEL_INDEX in bundle.assets and {"text_encoder", "unet", "vae_decoder"} <= set(graphs):
        name, needed = "Text2ImagePipeline", {"scheduler/scheduler_config.json"}
        needed |= {f"{graph}/config.json" for graph in graphs}
        encoders = (graph for graph in graphs if graph.startswith("text_encoder"))
        tokenizers = [encoder.replace("text_encoder", "tokenizer") for encoder in encoders]
        needed |= {f"{folder}/{file}" for folder in tokenizers for file in (_TOKENIZER, _DETOKENIZER)}
    elif set(graphs) == {"encoder", "decoder"} and _FEATURES in bundle.assets:
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
            "as the only output: `add_pooling_layer=False`), another a pipeline of diffusers. Use `load` for others"
        )
    if missing := sorted(needed - set(bundle.assets)):
        raise UsageError(
            f"{bundle.reference} lacks {', '.join(missing)}, which {name} needs: persist it again with tokenizer= or "
            "processor=, or a pipeline of diffusers whole, where openvino_tokenizers is installed (extra `genai`)"
        )
    return name


def _require_genai() -> None:
    if importlib.util.find_spec("openvino_genai") is None:
        raise MissingExtraError(
            "pipeline needs OpenVINO GenAI, which is not installed: pip install 'npu_persist[genai]'",
            extra="genai",
            name="openvino_genai",
        )


def _check_image_size(size: object, name: str, bundle: Bundle) -> None:
    if size is None:
        return
    if name != "Text2ImagePipeline":
        raise UsageError(f"image_size: {bundle.reference} runs in a {name}, which makes no images. Leave it out")
    read_image_size(size)


def _make_recipe(
    bundle: Bundle, device: str, properties: Mapping[str, Any], name: str, image_size: tuple[int, int] | None
) -> Recipe:
    core = get_core()  # first: it imports OpenVINO without what no pipeline needs
    import openvino_genai

    require_version(bundle.manifest.producer.openvino, bundle.reference)
    check_device(core, device)
    resolved = resolve_auto(core, device, properties)
    runner = f"{name} of openvino_genai {openvino_genai.__version__}"
    if image_size is not None:
        runner += f" for {image_size[0]} by {image_size[1]} pixels"
    if imports_blobs(resolved, name):
        return make_npu_recipe(bundle, bundle.graph(), properties, runner)
    return make_recipe(bundle, bundle.manifest.graphs[0], resolved, properties, runner=runner)


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


def _find_cache(recipe: Recipe, store: Store) -> tuple[CompileCache | None, list[str]]:
    """Return the compile cache, or why it is not used."""
    cache = CompileCache(store.home)
    if recipe.unkeyed:
        reason = f"properties without a text: {', '.join(recipe.unkeyed)}"
    elif not recipe.is_exportable:
        reason = recipe.device
    elif (distrust := cache.find_distrust()) is not None:
        reason = distrust
    else:
        return cache, []
    return None, [f"the compile cache is neither used nor filled: {reason}"]


def _load(
    name: str, folder: Path, device: str, image_size: tuple[int, int] | None, properties: Mapping[str, Any]
) -> Any:
    note_threads()
    kind = _subclass(name)
    if name != "Text2ImagePipeline" or (image_size is None and get_kind(device) != "NPU"):
        return kind(str(folder), device, **properties)
    made = kind(str(folder))
    default = made.get_generation_config()
    height, width = image_size or (default.height, default.width)
    made.reshape(1, height, width, default.guidance_scale)
    made.compile(device, **properties)
    return made


def _subclass(name: str) -> Any:
    """Return GenAI's class, with room for a report."""
    import openvino_genai

    return type(name, (getattr(openvino_genai, name),), {"__module__": "openvino_genai"})
