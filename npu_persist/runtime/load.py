"""`load`: a reference to a model that can be called. What is loaded is what was persisted, or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist.core import get_core, require_version
from npu_persist.errors import CompilationError, DeviceNotFoundError, GraphIntegrityError
from npu_persist.runtime.model import Model
from npu_persist.signature import CallPlan, describe_shape
from npu_persist.store import Store
from npu_persist.weights import check_graph

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import openvino as ov

    from npu_persist.bundle import Bundle
    from npu_persist.manifest import Graph, Port

_VIRTUAL = frozenset({"AUTO", "HETERO", "MULTI", "BATCH"})
"""OpenVINO's devices that are made of others, named after a colon."""


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

    Example:
        >>> import numpy, torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-load", (torch.zeros(1, 4),))
        >>> model = npu_persist.load("doc-load", device="CPU")
        >>> model(numpy.zeros((1, 4), numpy.float32)).shape
        (1, 2)

    """
    source = store if isinstance(store, Store) else Store(store)
    bundle = source.resolve(reference)
    bundle.verify()
    graph = bundle.graph()
    xml, weights = bundle.file(graph.path), bundle.file(bundle.manifest.weights.path)
    check_graph(xml, weights)
    require_version(bundle.manifest.producer.openvino, bundle.reference)
    compiled = _compile(bundle, xml, weights, device, dict(config or {}))
    _check_ports(bundle, graph, compiled)
    return Model(bundle, compiled, CallPlan(graph.signature, graph.inputs, graph.outputs))


def _compile(bundle: Bundle, xml: Path, weights: Path, device: str, config: dict[str, Any]) -> ov.CompiledModel:
    core = get_core()
    try:
        model = core.read_model(xml, weights)
    except RuntimeError as error:
        raise CompilationError(f"OpenVINO could not read {bundle.reference} ({xml}): {error}") from error
    try:
        return core.compile_model(model, device, config)
    except RuntimeError as error:
        found = core.available_devices
        missing = [name for name in _named_devices(device) if not _is_available(name, found)]
        if missing:
            raise DeviceNotFoundError(
                f"device {device!r}: OpenVINO has no {missing[0]} on this machine, only {', '.join(found)}. Install "
                f"the driver for it, or load with one of these, for instance device={found[0]!r}. OpenVINO said: "
                f"{error}"
            ) from error
        raise CompilationError(
            f"OpenVINO could not compile {bundle.reference} for {device} with {config}: {error}"
        ) from error


def _named_devices(device: str) -> list[str]:
    head, _, rest = device.partition(":")
    if head in _VIRTUAL:
        return [part.strip().lstrip("-") for part in rest.split(",") if part.strip()]
    return [device]


def _is_available(name: str, found: list[str]) -> bool:
    base = name.split("(", maxsplit=1)[0]
    return any(base in {device, device.split(".")[0]} for device in found)


def _check_ports(bundle: Bundle, graph: Graph, compiled: ov.CompiledModel) -> None:
    """Check that the graph has the inputs and outputs that the manifest promises."""
    for kind, promised, ports in (
        ("input", graph.inputs, compiled.inputs),
        ("output", graph.outputs, compiled.outputs),
    ):
        if len(promised) != len(ports):
            raise GraphIntegrityError(
                f"{bundle.reference}: the manifest says {len(promised)} {kind}s, {graph.path} has {len(ports)}."
            )
        for expected, port in zip(promised, ports, strict=True):
            if not _agrees(expected, port):
                raise GraphIntegrityError(
                    f"{bundle.reference}: {kind} {expected.name} is {expected.dtype}{describe_shape(expected.shape)} "
                    f"in the manifest and {port.get_element_type()}{port.get_partial_shape()} in {graph.path}."
                )


def _agrees(expected: Port, port: ov.Output) -> bool:
    kind = port.get_element_type().to_dtype().name
    shape = port.get_partial_shape()
    if kind != expected.dtype or (shape.rank.is_static and len(shape) != len(expected.shape)):
        return False
    return shape.rank.is_dynamic or all(
        axis.is_dynamic or axis.get_length() == wanted
        for wanted, axis in zip(expected.shape, shape, strict=True)
        if isinstance(wanted, int)
    )
