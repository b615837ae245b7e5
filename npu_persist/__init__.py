"""Persist a PyTorch module as a versioned bundle; run it through OpenVINO where PyTorch is not installed.

The front door. Every name below is resolved on first use (PEP 562), so that importing the package costs nothing:
no numpy, no openvino, no torch. `persist` and `record` need the `export` extra, everything else the base dependencies.

    import npu_persist as npup

    bundle = npup.persist(model, "encoder", (example,))     # training side
    model = npup.load("encoder", device="NPU")              # deploy side
    result = model(example)
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # what type checkers know as true; importing it from typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Sequence

    from npu_persist.artifact.compatibility import Compatibility, Verdict
    from npu_persist.benchmark.measure import bench
    from npu_persist.benchmark.results import Measurement
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.manifest import Padding, Tolerance
    from npu_persist.bundle.signature import Record
    from npu_persist.cache import CompileCache
    from npu_persist.compilation.compile import compile_bundle as compile  # noqa: A004 (the verb's name)
    from npu_persist.compilation.jobs import CompileResult
    from npu_persist.conversion.examples import record
    from npu_persist.conversion.persist import persist
    from npu_persist.device.devices import Device
    from npu_persist.device.devices import list_devices as devices
    from npu_persist.device.machine import Machine
    from npu_persist.errors import (
        AmbiguousReferenceError,
        ArtifactError,
        BlobError,
        BundleNotFoundError,
        CompilationError,
        CompileMemoryError,
        CompileTimeoutError,
        ConversionError,
        DeviceNotFoundError,
        DeviceWarning,
        DynamicShapeError,
        ExampleInputsError,
        FileIntegrityError,
        FormatVersionError,
        FrozenControlFlowWarning,
        GraphIntegrityError,
        HubAccessError,
        HubConflictError,
        HubError,
        HubNotFoundError,
        IncompatibleError,
        InferenceError,
        InputError,
        IntegrityError,
        InvalidNameError,
        JobsError,
        ManifestError,
        MissingExtraError,
        ModelClosedError,
        NotFoundError,
        NpuPersistError,
        OpenVINOVersionError,
        ParityError,
        PropertyError,
        ReferenceFormatError,
        SignatureError,
        StoreError,
        TargetError,
        ToolchainError,
        UsageError,
    )
    from npu_persist.hub.plan import PullPlan
    from npu_persist.hub.pull import pull
    from npu_persist.hub.push import PushResult, push
    from npu_persist.progress import Progress
    from npu_persist.runtime.load import is_compiled, load
    from npu_persist.runtime.model import Model
    from npu_persist.runtime.report import LayerTime, Report
    from npu_persist.runtime.requests import Started
    from npu_persist.store import Store, StoredBundle
    from npu_persist.store.api import alias, compatibility, prune, remove, sign, unalias, verify, verify_signature
    from npu_persist.store.api import list_bundles as list  # noqa: A004 (the verb's name; reached as npu_persist.list)
    from npu_persist.store.api import open_bundle as open  # noqa: A004 (reached as npu_persist.open)
    from npu_persist.store.export import export

__all__ = [
    "AmbiguousReferenceError",
    "ArtifactError",
    "BlobError",
    "Bundle",
    "BundleNotFoundError",
    "Compatibility",
    "CompilationError",
    "CompileCache",
    "CompileMemoryError",
    "CompileResult",
    "CompileTimeoutError",
    "ConversionError",
    "Device",
    "DeviceNotFoundError",
    "DeviceWarning",
    "DynamicShapeError",
    "ExampleInputsError",
    "FileIntegrityError",
    "FormatVersionError",
    "FrozenControlFlowWarning",
    "GraphIntegrityError",
    "HubAccessError",
    "HubConflictError",
    "HubError",
    "HubNotFoundError",
    "IncompatibleError",
    "InferenceError",
    "InputError",
    "IntegrityError",
    "InvalidNameError",
    "JobsError",
    "LayerTime",
    "Machine",
    "ManifestError",
    "Measurement",
    "MissingExtraError",
    "Model",
    "ModelClosedError",
    "NotFoundError",
    "NpuPersistError",
    "OpenVINOVersionError",
    "Padding",
    "ParityError",
    "Progress",
    "PropertyError",
    "PullPlan",
    "PushResult",
    "Record",
    "ReferenceFormatError",
    "Report",
    "SignatureError",
    "Started",
    "Store",
    "StoreError",
    "StoredBundle",
    "TargetError",
    "Tolerance",
    "ToolchainError",
    "UsageError",
    "Verdict",
    "__version__",
    "alias",
    "bench",
    "compatibility",
    "compile",
    "devices",
    "export",
    "is_compiled",
    "list",
    "load",
    "open",
    "persist",
    "prune",
    "pull",
    "push",
    "record",
    "remove",
    "sign",
    "unalias",
    "verify",
    "verify_signature",
]

_ROOMS = {
    "Bundle": "bundle.bundle",
    "Compatibility": "artifact.compatibility",
    "CompileCache": "cache",
    "Device": "device.devices",
    "CompileResult": "compilation.jobs",
    "LayerTime": "runtime.report",
    "Machine": "device.machine",
    "Measurement": "benchmark.results",
    "Model": "runtime.model",
    "Padding": "bundle.manifest",
    "Progress": "conversion",
    "PullPlan": "hub.plan",
    "PushResult": "hub.push",
    "Record": "bundle.signature",
    "Report": "runtime.report",
    "Started": "runtime.requests",
    "Store": "store",
    "StoredBundle": "store",
    "Tolerance": "bundle.manifest",
    "Verdict": "artifact.compatibility",
    "alias": "store.api",
    "bench": "benchmark.measure",
    "compatibility": "store.api",
    "compile": "compilation.compile",
    "devices": "device.devices",
    "export": "store.export",
    "is_compiled": "runtime.load",
    "list": "store.api",
    "load": "runtime.load",
    "open": "store.api",
    "persist": "conversion",
    "prune": "store.api",
    "pull": "hub.pull",
    "push": "hub.push",
    "record": "conversion",
    "remove": "store.api",
    "sign": "store.api",
    "unalias": "store.api",
    "verify": "store.api",
    "verify_signature": "store.api",
}
"""Public name → the module that has it; every other name of `__all__` is in `errors`."""

_NAMES_INSIDE = {"compile": "compile_bundle", "devices": "list_devices", "list": "list_bundles", "open": "open_bundle"}
"""Public name → its name in its module, where that differs: a module should keep the builtins `list` and `compile`."""


if not TYPE_CHECKING:  # a type checker that sees a module's `__getattr__` takes every misspelt name for one

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        try:
            module = import_module(f"{__name__}.{_ROOMS.get(name, 'errors')}")
        except ModuleNotFoundError as error:
            if error.name not in {"torch", "safetensors"}:
                raise
            raise ModuleNotFoundError(
                f"npu_persist.{name} needs {error.name}, which is not installed here: "
                "python -m pip install 'npu_persist[export]'",
                name=error.name,
            ) from error
        value: object = getattr(module, _NAMES_INSIDE.get(name, name))
        globals()[name] = value  # the next look-up does not come here
        return value


def __dir__() -> Sequence[str]:
    return sorted({*globals(), *__all__})
