"""`diff`: the differences between two bundles: fields of their manifests, tensors, and results on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from npu_persist.bundle.bundle import gone_errors
from npu_persist.bundle.comparison import measure
from npu_persist.bundle.field_changes import FieldChange, compare_fields, has_same_graphs, has_same_weights
from npu_persist.bundle.golden import fits
from npu_persist.bundle.signature import describe_port
from npu_persist.bundle.tensor_changes import TensorChange, compare_tensors
from npu_persist.errors import InputError
from npu_persist.files.filesystem import store_errors
from npu_persist.progress import Reporter
from npu_persist.runtime.check import without_infinities
from npu_persist.runtime.golden import read_golden_inputs, read_golden_outputs
from npu_persist.runtime.load import find_bundle, load
from npu_persist.runtime.options import check_options
from npu_persist.store.api import open_store
from npu_persist.trust.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.golden_records import Difference
    from npu_persist.bundle.graph_records import Graph
    from npu_persist.bundle.verification import Verify
    from npu_persist.hub.client import Token
    from npu_persist.progress import ProgressCallback
    from npu_persist.runtime.model import Model
    from npu_persist.store import Store
    from npu_persist.trust.policy import Trust


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How far the second bundle's results are from the first one's, for the golden inputs of the first.

    Attributes:
        outputs: For each output that both have: the difference from torch's output when the first bundle
            was persisted, measured as `check` does. It includes the device's rounding. If there are several
            graphs, the names start with theirs: `encoder.logits`.
        missing: Outputs of the first that the second does not have.
        devices: The devices that executed it.
        skipped: Why nothing was run; None if it was.
    """

    outputs: tuple[Difference, ...] = ()
    missing: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    skipped: str | None = None


class DiffResult(msgspec.Struct, frozen=True, kw_only=True):
    """The differences between two bundles; `to_dict` returns them as JSON-compatible data.

    Attributes:
        first: Reference of the first bundle.
        second: Reference of the second one.
        is_same: Whether neither fields nor tensors differ. The name, the version number and the time of creation do not
            count, nor do the results, which follow from the rest.
        fields: Fields of the manifest that differ.
        same_fields: Number of fields that do not.
        tensors: Tensors that differ: first those that were added, removed, reshaped, or have a type that cannot be
            compared; then the others, the largest change first; then constants of the graph that were added, removed or
            reshaped.
        same_tensors: Number of tensors that do not.
        drift: The second bundle's results.
    """

    first: str
    second: str
    is_same: bool
    fields: tuple[FieldChange, ...]
    same_fields: int
    tensors: tuple[TensorChange, ...]
    same_tensors: int
    drift: Drift

    def to_dict(self) -> dict[str, Any]:
        """Return the result as dicts, lists, text and numbers; infinity is text."""
        found: dict[str, Any] = without_infinities(msgspec.to_builtins(self))
        return found


def diff(  # noqa: PLR0913 (what `load` takes)
    first: str | Path,
    second: str | Path,
    device: str | None = "AUTO",
    *,
    config: Mapping[str, Any] | None = None,
    hint: str | None = None,
    verify: Verify = "full",
    cache: bool = True,
    compile_timeout: float | None = None,
    progress: ProgressCallback | None = None,
    trust: Trust = None,
    require_signature: bool = False,
    token: Token = None,
    local_files_only: bool = False,
    store: Store | str | Path | None = None,
) -> DiffResult:
    """Compare two bundles: call, shapes, precision, size, metadata and the rest of the manifest; tensors; results.

    Tensors are compared by their names in the state_dict, in pieces: memory does not grow with the weights. The golden
    inputs of the first bundle are run through the second, loaded as `load` does, unless both have the same graph and
    weights.

    Args:
        first: As for `load`: `unet:3`, a bundle's directory, `hf://org/unet@v3`.
        second: The same.
        device: The device to run the second bundle on, as for `load`; None to run nothing.
        config: As for `load`.
        hint: As for `load`.
        verify: As for `load`. The weights are always verified before they are compared.
        cache: As for `load`.
        compile_timeout: As for `load`.
        progress: Called with `Progress` events of the stage "compare", and with those of `load`.
        trust: As for `load`.
        require_signature: As for `load`, for both.
        token: As for `load`.
        local_files_only: As for `load`.
        store: As for `load`.

    Raises:
        NpuPersistError: What `load` raises.

    Example:
        >>> import torch, npu_persist
        >>> linear, example = torch.nn.Linear(4, 2), (torch.ones(1, 4),)
        >>> _ = npu_persist.persist(linear, "doc-diff", example)
        >>> with torch.no_grad():
        ...     _ = linear.bias.mul_(1.5)
        >>> _ = npu_persist.persist(linear, "doc-diff", example)
        >>> found = npu_persist.diff("doc-diff:1", "doc-diff:2", "CPU")
        >>> [(tensor.name, round(tensor.change, 2)) for tensor in found.tensors], found.same_tensors
        ([('bias', 0.5)], 1)
        >>> found.drift.outputs[0].max_relative > 0
        True
    """
    if device is not None:
        check_options(
            device=device, config=config, hint=hint, buckets=None, verify=verify, cache=cache,
            compile_timeout=compile_timeout, progress=progress,
        )  # fmt: skip
    chosen = open_store(store)
    a, b = (
        find_bundle(
            chosen,
            reference,
            devices,
            require_signature=require_signature,
            token=token,
            local_files_only=local_files_only,
            progress=progress,
        )[0]
        for reference, devices in ((first, ()), (second, () if device is None else (device,)))
    )
    if require_signature:
        policy = Policy(trust, chosen.home)
        for bundle in (a, b):
            policy.require_signature(bundle)
    fields, same_fields = compare_fields(a.manifest, b.manifest)
    tensors, same_tensors = _compare_tensors(a, b, progress)
    drift = Drift(skipped=_find_obstacle(a, b, device))
    if device is not None and drift.skipped is None:
        with load(
            b.reference,
            device,
            config=config,
            hint=hint,
            verify=verify,
            cache=cache,
            compile_timeout=compile_timeout,
            progress=progress,
            trust=trust,
            require_signature=require_signature,
            store=chosen,
        ) as model:
            drift = _measure_drift(a, model)
    return DiffResult(
        first=a.reference,
        second=b.reference,
        is_same=not fields and not tensors,
        fields=fields,
        same_fields=same_fields,
        tensors=tensors,
        same_tensors=same_tensors,
        drift=drift,
    )


def _compare_tensors(a: Bundle, b: Bundle, progress: ProgressCallback | None) -> tuple[tuple[TensorChange, ...], int]:
    """Compare the weights, which are verified first; equal digests say without reading that nothing differs."""
    if has_same_weights(a.manifest, b.manifest):
        return (), b.manifest.weights.tensors
    paths = [bundle.manifest.weights.path for bundle in (a, b)]
    sizes = [bundle.manifest.files[path].size for bundle, path in zip((a, b), paths, strict=True)]
    done = 0
    with Reporter(progress).stage("compare", total=sum(sizes) + sizes[1], unit="bytes") as stage:

        def count(number: int) -> None:
            nonlocal done
            done += number
            stage.update(done)

        for bundle, path in zip((a, b), paths, strict=True):
            with gone_errors(bundle):
                bundle.verify_file(path, progress=count)
        files = a.path / paths[0], b.path / paths[1]
        with gone_errors(a), gone_errors(b), store_errors(f"read {files[0]} and {files[1]}"):
            return compare_tensors(*files, count)


def _find_obstacle(a: Bundle, b: Bundle, device: str | None) -> str | None:
    """Return why it would make no sense, or is not possible, to run one bundle's inputs through the other."""
    if device is None:
        return "no device was given"
    if has_same_graphs(a.manifest, b.manifest) and has_same_weights(a.manifest, b.manifest):
        return "graph and weights are the same"
    if len(a.manifest.graphs) == len(b.manifest.graphs) == 1:
        return _find_misfit(a, a.graph(), b, b.graph())
    names, others = ({graph.name for graph in bundle.manifest.graphs} for bundle in (a, b))
    if names != others:
        return f"{a.reference} has the graphs {', '.join(sorted(names))}; {b.reference} has {', '.join(sorted(others))}"
    found = ((name, _find_misfit(a, a.graph(name), b, b.graph(name))) for name in sorted(names))
    return next((f"{name}: {misfit}" for name, misfit in found if misfit is not None), None)


def _find_misfit(a: Bundle, graph: Graph, b: Bundle, other: Graph) -> str | None:
    """Return why a graph does not take the golden inputs of another bundle's."""
    if a.manifest.golden_of(graph) is None:
        return f"{a.reference} has no golden sample"
    with gone_errors(a):
        inputs = read_golden_inputs(a, graph)
    ports = {port.name: port for port in other.inputs}
    if inputs.keys() != ports.keys():
        return f"{b.reference} takes other inputs: {', '.join(ports) or 'none'}, not {', '.join(inputs) or 'none'}"
    for name, array in inputs.items():
        port = ports[name]
        if array.dtype.name != port.dtype or not fits(array.shape, port):
            sample = f"{array.dtype.name}{list(array.shape)}"
            return f"{b.reference} takes {describe_port(port)} as {name}; the golden sample has {sample}"
    return None


def _measure_drift(a: Bundle, models: Model) -> Drift:
    """Return how far the answers of all graphs are apart; where there are several, outputs have the graph's name."""
    if len(models.graphs) == 1:
        return _measure_graph(a, a.graph(), models)
    found = {name: _measure_graph(a, a.graph(name), model) for name, model in models.graphs.items()}
    for name, drift in found.items():
        if drift.skipped is not None:
            return Drift(skipped=f"{name}: {drift.skipped}")
    devices = dict.fromkeys(device for drift in found.values() for device in drift.devices)
    return Drift(
        outputs=tuple(
            replace(one, output=f"{name}.{one.output}") for name, drift in found.items() for one in drift.outputs
        ),
        missing=tuple(f"{name}.{output}" for name, drift in found.items() for output in drift.missing),
        devices=tuple(devices),
    )


def _measure_graph(a: Bundle, graph: Graph, model: Model) -> Drift:
    with gone_errors(a):
        inputs, expected = read_golden_inputs(a, graph), read_golden_outputs(a, graph)
    try:
        model.infer(inputs)
        model._settle()  # noqa: SLF001 (of this room)
        model.reset()
        answers = dict(zip([port.name for port in model.outputs], model.infer(inputs), strict=True))
    except InputError as error:  # an index out of range, sizes that the graph refuses
        return Drift(skipped=f"{model.bundle.reference} does not take the golden inputs: {error}")
    return Drift(
        outputs=tuple(measure(name, answer, answers[name]) for name, answer in expected.items() if name in answers),
        missing=tuple(name for name in expected if name not in answers),
        devices=model.report.execution_devices,
    )
