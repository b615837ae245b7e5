"""`compile`: compile a bundle's graphs ahead of time, for this or another machine, and attach the artifacts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from npu_persist.artifact.target import Target, parse_target
from npu_persist.bundle import buckets as sizes
from npu_persist.bundle.states import require_fixed
from npu_persist.compilation.fixed_sizes import find_sizes, is_text_to_image, read_image_size
from npu_persist.compilation.generation import check_lengths, choose_lengths, find_kind
from npu_persist.compilation.jobs import CompileResult, run_by, run_in_threads, verify
from npu_persist.compilation.recipe import CompileJob
from npu_persist.device.core import require_version
from npu_persist.errors import JobsError, TargetError, UsageError
from npu_persist.store.api import open_store

if TYPE_CHECKING:
    import os
    from concurrent.futures import Executor

    from npu_persist.artifact.artifact import Shapes
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.graph_records import Graph
    from npu_persist.compilation.recipe import Recipe
    from npu_persist.progress import ProgressCallback
    from npu_persist.store.api import AnyStore

log = logging.getLogger(__name__)


def compile_bundle(  # noqa: PLR0913 (each is something that a build decides)
    reference: str | os.PathLike[str],
    targets: str | Sequence[str],
    *,
    graph: str | None = None,
    config: Mapping[str, Any] | None = None,
    buckets: Sequence[Mapping[str, Sequence[int]]] | None = None,
    max_prompt: int | None = None,
    min_response: int | None = None,
    image_size: tuple[int, int] | None = None,
    weightless: bool | None = None,
    toolchain: str | None = None,
    timeout: float | None = None,
    memory_limit: int | None = None,
    jobs: int = 1,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
    store: AnyStore = None,
) -> tuple[CompileResult, ...]:
    """Compile a bundle ahead of time, and attach the artifacts: `npu_persist.compile`.

    Each compilation runs in a separate process. `load` uses an attached artifact that fits the machine instead of
    compiling; the bundle's digest does not change. An older artifact for the same target, graph, sizes and properties
    is replaced.

    Args:
        reference: `unet` (newest version), `unet:3`, `unet:prod`, `unet@<digest prefix>`, or a bundle's directory.
        targets: An NPU's platform, by number (`NPU:4000`) or processor (`lunar-lake`), of any machine; or a device of
            this machine: `CPU`, `GPU`, `NPU`.
        graph: Name of one of the bundle's graphs; None for all of them.
        config: OpenVINO properties for the compilation, for instance {"NPU_TURBO": "YES"}. `load` uses the artifact
            only with the same properties.
        buckets: Shapes of inputs by name, for graphs with dynamic axes: one artifact each, as in
            `[{"input_ids": (1, 128)}, {"input_ids": (1, 512)}]`. An input may be left out if its axes share their
            names with those of others. None: those of the bundle, if it was persisted with some. If the bundle has
            several graphs, also pass `graph`.
        max_prompt: For generative models on an NPU: length of the longest prompt in tokens, rounded up to a multiple of
            64. None: 1024, or 4 for speech.
        min_response: Number of tokens that can follow the longest prompt, rounded likewise. None: 128, or 444 for
            speech.
        image_size: For text to image: height and width of the image in pixels. None: for an NPU, those that the model
            was trained with; for other devices, any.
        weightless: Whether the blob reads the weights from the bundle's weights file. None: whichever suits the device;
            for an NPU the smaller blob, which may take two compilations.
        toolchain: The way to run the NPU compiler: "plugin", "libraries" or "wine"; None: the first usable one.
        timeout: Seconds for each compilation; None for no limit.
        memory_limit: Bytes of memory for each compilation's process; None for no limit.
        jobs: Number of compilations to run in parallel.
        executor: An executor that runs the compilations instead of this process, for instance dask.distributed's
            `client.get_executor()`. Its workers need this package, and the bundle under the same path.
        progress: Called about twice a second with the stage "compile", whose detail is a compilation's label, its
            memory and the compiler's last line; not with an executor.
        store: A store, its directory, or None for the default one.

    Returns:
        One result for each graph, target and bucket.

    Raises:
        BundleNotFoundError: There is no such bundle.
        TargetError: There is no such target.
        IntegrityError: The graph or the weights differ from what was persisted.
        DynamicShapeError: A graph has an axis without a largest size, and there are no buckets; or they do not fit it.
        ToolchainError: No toolchain here can compile for a target.
        CompilationError: The compiler rejected the graph; `CompileTimeoutError` and `CompileMemoryError` if a limit
            was reached. `JobsError` if some of several compilations failed: its `results` has all of them.
        StoreError: The artifact could not be attached: no space, no permission.
        UsageError: An argument is not of the types above; `PropertyError` for one of `config`.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-compile", (torch.zeros(1, 4),))
        >>> (result,) = npu_persist.compile("doc-compile", ["CPU"])
        >>> result.path.name, npu_persist.load("doc-compile", device="CPU").report.from_cache
        ('cpu', True)
    """
    wanted = read_targets(targets)
    properties = _check_config(config, wanted)
    _check_limits(timeout, memory_limit)
    _check_jobs(jobs, executor)
    if weightless not in (None, True, False):
        raise UsageError(f"weightless: expected True, False or None; got {weightless!r}")
    if progress is not None and not callable(progress):
        raise UsageError(f"progress: expected a function of one argument, or None; got {progress!r}")
    bundle = open_store(store).resolve(reference)
    require_version(bundle.manifest.producer.openvino, bundle.reference)
    graphs = [bundle.graph(graph)] if graph is not None else bundle.manifest.graphs
    if buckets is not None and len(graphs) > 1:
        names = ", ".join(one.name for one in graphs)
        raise UsageError(f"buckets: {bundle.reference} has several graphs: say for which one, graph= of {names}")
    check_lengths(graphs, properties, max_prompt=max_prompt, min_response=min_response)
    image_size = read_image_size(image_size)
    if image_size is not None and (buckets is not None or not is_text_to_image(bundle)):
        raise UsageError("image_size: expected a pipeline of diffusers, persisted whole, and no buckets. Leave it out")
    work = [
        CompileJob(
            bundle=str(bundle.path),
            version=bundle.version,
            digest=bundle.digest,
            reference=bundle.reference if len(bundle.manifest.graphs) == 1 else f"{bundle.reference} {one.name}",
            graph=one.name,
            target=str(target),
            device=target.device,
            platform=target.platform,
            shapes=None if shapes is None else dict(shapes),
            config=properties,
            lengths=choose_lengths(one, max_prompt, min_response) if target.kind == "NPU" else None,
            weightless=weightless,
            toolchain=toolchain,
            timeout=timeout,
            memory_limit=memory_limit,
        )
        for one in graphs
        for target in wanted
        for shapes in _find_shapes(bundle, one, target, buckets, image_size)
    ]
    _check_sendable(work[0].make_recipe(bundle))
    if executor is not None:
        return _raise_failures(run_by(executor, work))
    check_toolchain(wanted, toolchain)
    for one in graphs:
        verify(bundle, one.name)
    return _raise_failures(run_in_threads(work, jobs, progress))


def read_targets(targets: object) -> tuple[Target, ...]:
    """Return the targets that texts name, each once."""
    texts = [targets] if isinstance(targets, str) else targets
    if not isinstance(texts, Sequence) or not texts or not all(isinstance(text, str) for text in texts):
        raise UsageError(f"targets: expected at least one, such as ['NPU:4000'] or ['CPU']; got {targets!r}")
    return tuple(dict.fromkeys(map(_read_target, texts)))


def check_toolchain(targets: Sequence[Target], toolchain: str | None) -> None:
    """Raise `ToolchainError` if there are targets for another machine's NPU and nothing here can compile for them."""
    if any(target.platform is not None for target in targets):
        from npu_persist.compilation.toolchains.available import choose_toolchain

        choose_toolchain(toolchain)


def _read_target(text: str) -> Target:
    try:
        return parse_target(text)
    except TargetError:
        # Devices of plugins that are not Intel's.
        from npu_persist.device.core import get_core
        from npu_persist.device.devices import get_kind

        if text in get_core().available_devices:
            return Target(get_kind(text), text)
        raise


def _find_shapes(
    bundle: Bundle, graph: Graph, target: Target, buckets: object, image_size: tuple[int, int] | None
) -> Sequence[Shapes | None]:
    if graph.states and buckets is not None:
        raise UsageError(
            f"{bundle.reference} has states, and each bucket would have its own: compile it without buckets"
        )
    found = graph.buckets if buckets is None else sizes.resolve(graph.inputs, buckets)
    if found is not None:
        return found.shapes
    is_npu = target.kind == "NPU" and find_kind(graph) is None
    if (is_npu or image_size is not None) and (one := find_sizes(bundle, graph, image_size)) is not None:
        return (one,)
    if is_npu:
        sizes.require_bounds(graph.inputs, bundle.reference, str(target))
        require_fixed(graph.states, bundle.reference, str(target))
    return (None,)


def _check_config(config: object, targets: Sequence[Target]) -> dict[str, Any]:
    if config is None:
        return {}
    if not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config):
        raise UsageError(
            f"config: expected OpenVINO properties by name, for instance {{'NPU_TURBO': 'YES'}}; got {config!r}"
        )
    if any(target.platform is not None for target in targets):
        from npu_persist.compilation.other_npu import check_config

        check_config(config)
    return dict(config)


def _check_sendable(recipe: Recipe) -> None:
    if unsendable := recipe.unsendable:
        raise UsageError(
            "config: the compilation runs in a separate process, which takes strings and numbers; "
            f"{', '.join(unsendable)} is neither. Write it as a string, as in {{'PERFORMANCE_HINT': 'LATENCY'}}"
        )


def _check_limits(timeout: object, memory_limit: object) -> None:
    for name, value, unit, kinds in (
        ("timeout", timeout, "seconds", (int, float)),
        ("memory_limit", memory_limit, "bytes", (int,)),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or not value > 0):
            raise UsageError(f"{name}: expected {unit} above 0, or None; got {value!r}")


def _check_jobs(jobs: object, executor: object) -> None:
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise UsageError(f"jobs: expected the number of parallel compilations, at least 1; got {jobs!r}")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise UsageError(f"executor: expected a concurrent.futures.Executor, or None; got {executor!r}")
    if executor is not None and jobs != 1:
        raise UsageError(
            "jobs, executor: expected only one of them; the executor decides how many compilations run in parallel"
        )


def _raise_failures(results: Sequence[CompileResult]) -> tuple[CompileResult, ...]:
    failed = [(result, result.error) for result in results if result.error is not None]
    for result in results:
        if result.artifact is not None:
            log.info("%s: %d bytes in %.1f s", result.label, result.artifact.size, result.seconds)
    if failed and len(results) == 1:
        raise failed[0][1]
    if failed:
        reasons = "\n".join(
            f"  {result.label}: {str(error).removeprefix(f'{result.label}: ')}" for result, error in failed
        )
        others = "; the others are attached" if len(failed) < len(results) else ""
        raise JobsError(
            f"{len(failed)} of {len(results)} compilations failed{others}:\n{reasons}", results=tuple(results)
        )
    return tuple(results)
