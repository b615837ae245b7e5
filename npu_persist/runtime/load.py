"""`load`: a reference to a model that can be called. What is loaded is what was persisted, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from npu_persist.core import get_core, require_version
from npu_persist.device import check_properties, explain_missing
from npu_persist.errors import CompilationError, GraphIntegrityError, UsageError
from npu_persist.runtime.model import Model
from npu_persist.runtime.ports import check_ports
from npu_persist.signature import CallPlan
from npu_persist.store import Store
from npu_persist.weights import check_graph

if TYPE_CHECKING:
    from pathlib import Path

    import openvino as ov

    from npu_persist.bundle import Bundle
    from npu_persist.manifest import Graph


def load(
    reference: str | Path,
    device: str = "AUTO",
    *,
    config: Mapping[str, Any] | None = None,
    store: Store | str | Path | None = None,
) -> Model:
    """Verify a bundle, compile it for a device and return it as a callable.

    Every file is checked against the manifest, and the graph against its weights file, before OpenVINO reads them.

    Args:
        reference: `unet` (newest version), `unet:3`, `unet:prod`, `unet@<digest prefix>`, or a bundle's directory.
        device: OpenVINO's device string: "NPU", "GPU", "CPU", "AUTO", "AUTO:NPU,CPU".
        config: OpenVINO properties for the compilation, for instance {"PERFORMANCE_HINT": "LATENCY"}.
        store: a store, its directory, or None for the default one.

    Returns:
        The model, ready to be called with the module's own arguments.

    Raises:
        BundleNotFoundError: the reference leads nowhere.
        IntegrityError: a file is not what the manifest says, or the graph points outside of its weights.
        IncompatibleError: this package or this OpenVINO is too old for the bundle.
        DeviceNotFoundError: the device is not there.
        CompilationError: OpenVINO refused the graph or the config.
        UsageError: device or config are not of the types above.

    Example:
        >>> import numpy, torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-load", (torch.zeros(1, 4),))
        >>> model = npu_persist.load("doc-load", device="CPU")
        >>> model(numpy.zeros((1, 4), numpy.float32)).shape
        (1, 2)

    """
    properties = _check_arguments(device, config)
    source = store if isinstance(store, Store) else Store(store)
    bundle = source.resolve(reference)
    require_version(bundle.manifest.producer.openvino, bundle.reference)
    graph = bundle.graph()
    plan = CallPlan(graph.signature, graph.inputs, graph.outputs)
    bundle.verify()
    model = _read(bundle, graph)
    return Model(bundle, _compile(bundle, model, device, properties), plan)


def _check_arguments(device: object, config: object) -> dict[str, Any]:
    if not isinstance(device, str):
        raise UsageError(f"device: expected OpenVINO's device string, for instance 'NPU' or 'CPU'; got {device!r}")
    if config is None:
        return {}
    if not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config):
        raise UsageError(
            "config: expected OpenVINO properties by name, for instance {'PERFORMANCE_HINT': 'LATENCY'}; got "
            f"{config!r}"
        )
    return dict(config)


def _read(bundle: Bundle, graph: Graph) -> ov.Model:
    """Read a graph that was verified, and check that it is the one that the manifest describes."""
    described = bundle.manifest.weights
    xml, weights = bundle.file(graph.path), bundle.file(described.path)
    header = check_graph(xml, weights)
    if (header.data_start, len(header.tensors)) != (described.data_start, described.tensors):
        raise GraphIntegrityError(
            f"{bundle.reference}: the manifest says that {described.path} has {described.tensors} tensors from byte "
            f"{described.data_start} on; it has {len(header.tensors)} from byte {header.data_start} on. Persist the "
            "model again, or get another copy of the bundle."
        )
    try:
        model = get_core().read_model(xml, weights)
    except RuntimeError as error:
        raise CompilationError(f"OpenVINO could not read {bundle.reference} ({xml}): {error}") from error
    check_ports(bundle.reference, graph, model)
    return model


def _compile(bundle: Bundle, model: ov.Model, device: str, properties: Mapping[str, Any]) -> ov.CompiledModel:
    core = get_core()
    check_properties(core, device, properties)
    try:
        return core.compile_model(model, device, properties)
    except RuntimeError as error:
        raise explain_missing(core, device, error) or CompilationError(
            f"OpenVINO could not compile {bundle.reference} for {device} with {dict(properties)}: {error}"
        ) from error
