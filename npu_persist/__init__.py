"""Persist a PyTorch module as a versioned bundle; run it through OpenVINO where PyTorch is not installed.

Every name below is imported when it is first used (PEP 562), so that importing the package costs nothing: no numpy, no
openvino, no torch. `persist`, `refresh` and `record` need the extra `export`.

    import npu_persist as npup

    bundle = npup.persist(model, "encoder", (example,))     # where you train
    model = npup.load("encoder", device="NPU")              # where you deploy
    result = model(example)
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # true for type checkers; importing it from typing would cost more than the rest of this file
if TYPE_CHECKING:
    from collections.abc import Sequence

    from npu_persist import errors
    from npu_persist.artifact.compatibility import Compatibility, Verdict
    from npu_persist.benchmark.measure import bench
    from npu_persist.benchmark.results import Measurement
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.golden_records import Tolerance
    from npu_persist.bundle.graph_records import Padding
    from npu_persist.bundle.signature import ModelOutput
    from npu_persist.cache.cache import CompileCache
    from npu_persist.compilation.compile import compile_bundle as compile  # noqa: A004 (the verb's name)
    from npu_persist.compilation.jobs import CompileResult
    from npu_persist.compilation.process.frozen import freeze_support
    from npu_persist.conversion.examples import Example, record
    from npu_persist.conversion.persist import persist
    from npu_persist.conversion.refresh import refresh
    from npu_persist.device.devices import Device
    from npu_persist.device.devices import list_devices as devices
    from npu_persist.device.machine import Machine
    from npu_persist.errors import NpuPersistError
    from npu_persist.hub.plan import PullPlan
    from npu_persist.hub.pull import pull
    from npu_persist.hub.push import PushResult, push
    from npu_persist.progress import Progress, ProgressPrinter
    from npu_persist.runtime.check import CheckResult, check
    from npu_persist.runtime.diff import DiffResult, diff
    from npu_persist.runtime.load import is_compiled, load
    from npu_persist.runtime.model import Model
    from npu_persist.runtime.pipelines import pipeline
    from npu_persist.runtime.report import LayerTime, Report
    from npu_persist.runtime.session import Session
    from npu_persist.runtime.started import Started
    from npu_persist.store.api import (
        alias,
        compatibility,
        prune,
        remove,
        sign,
        unalias,
        verify,
        verify_signature,
        weights,
    )
    from npu_persist.store.api import list_bundles as list  # noqa: A004 (the verb's name)
    from npu_persist.store.api import open_bundle as open  # noqa: A004 (the verb's name)
    from npu_persist.store.export import export
    from npu_persist.store.history import HistoryEntry, history
    from npu_persist.store.lookup import StoredBundle
    from npu_persist.store.store import Store
    from npu_persist.trust.signing import Signed

__all__ = [
    "Bundle",
    "CheckResult",
    "Compatibility",
    "CompileCache",
    "CompileResult",
    "Device",
    "DiffResult",
    "Example",
    "HistoryEntry",
    "LayerTime",
    "Machine",
    "Measurement",
    "Model",
    "ModelOutput",
    "NpuPersistError",
    "Padding",
    "Progress",
    "ProgressPrinter",
    "PullPlan",
    "PushResult",
    "Report",
    "Session",
    "Signed",
    "Started",
    "Store",
    "StoredBundle",
    "Tolerance",
    "Verdict",
    "__version__",
    "alias",
    "bench",
    "check",
    "compatibility",
    "compile",
    "devices",
    "diff",
    "errors",
    "export",
    "freeze_support",
    "history",
    "is_compiled",
    "list",
    "load",
    "open",
    "persist",
    "pipeline",
    "prune",
    "pull",
    "push",
    "record",
    "refresh",
    "remove",
    "sign",
    "unalias",
    "verify",
    "verify_signature",
    "weights",
]

_PLACES = {
    "Bundle": ("bundle.bundle", "Bundle"),
    "CheckResult": ("runtime.check", "CheckResult"),
    "Compatibility": ("artifact.compatibility", "Compatibility"),
    "CompileCache": ("cache.cache", "CompileCache"),
    "CompileResult": ("compilation.jobs", "CompileResult"),
    "Device": ("device.devices", "Device"),
    "DiffResult": ("runtime.diff", "DiffResult"),
    "Example": ("conversion.examples", "Example"),
    "HistoryEntry": ("store.history", "HistoryEntry"),
    "LayerTime": ("runtime.report", "LayerTime"),
    "Machine": ("device.machine", "Machine"),
    "Measurement": ("benchmark.results", "Measurement"),
    "Model": ("runtime.model", "Model"),
    "ModelOutput": ("bundle.signature", "ModelOutput"),
    "NpuPersistError": ("errors", "NpuPersistError"),
    "Padding": ("bundle.graph_records", "Padding"),
    "Progress": ("progress", "Progress"),
    "ProgressPrinter": ("progress", "ProgressPrinter"),
    "PullPlan": ("hub.plan", "PullPlan"),
    "PushResult": ("hub.push", "PushResult"),
    "Report": ("runtime.report", "Report"),
    "Session": ("runtime.session", "Session"),
    "Signed": ("trust.signing", "Signed"),
    "Started": ("runtime.started", "Started"),
    "Store": ("store.store", "Store"),
    "StoredBundle": ("store.lookup", "StoredBundle"),
    "Tolerance": ("bundle.golden_records", "Tolerance"),
    "Verdict": ("artifact.compatibility", "Verdict"),
    "alias": ("store.api", "alias"),
    "bench": ("benchmark.measure", "bench"),
    "check": ("runtime.check", "check"),
    "compatibility": ("store.api", "compatibility"),
    "compile": ("compilation.compile", "compile_bundle"),
    "devices": ("device.devices", "list_devices"),
    "diff": ("runtime.diff", "diff"),
    "export": ("store.export", "export"),
    "freeze_support": ("compilation.process.frozen", "freeze_support"),
    "history": ("store.history", "history"),
    "is_compiled": ("runtime.load", "is_compiled"),
    "list": ("store.api", "list_bundles"),
    "load": ("runtime.load", "load"),
    "open": ("store.api", "open_bundle"),
    "persist": ("conversion.persist", "persist"),
    "pipeline": ("runtime.pipelines", "pipeline"),
    "prune": ("store.api", "prune"),
    "pull": ("hub.pull", "pull"),
    "push": ("hub.push", "push"),
    "record": ("conversion.examples", "record"),
    "refresh": ("conversion.refresh", "refresh"),
    "remove": ("store.api", "remove"),
    "sign": ("store.api", "sign"),
    "unalias": ("store.api", "unalias"),
    "verify": ("store.api", "verify"),
    "verify_signature": ("store.api", "verify_signature"),
    "weights": ("store.api", "weights"),
}
"""Public name → its module, and its name there: modules keep the builtins `list`, `open` and `compile`."""


if not TYPE_CHECKING:  # with a module's `__getattr__`, a type checker accepts every misspelt name

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name == "errors":
            return import_module(f"{__name__}.errors")
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, inside = _PLACES[name]
        try:
            value: object = getattr(import_module(f"{__name__}.{module}"), inside)
        except ModuleNotFoundError as error:
            if error.name not in {"torch", "safetensors"}:
                raise
            raise ModuleNotFoundError(
                f"npu_persist.{name} needs {error.name}, which is not installed here: "
                "python -m pip install 'npu_persist[export]'",
                name=error.name,
            ) from error
        globals()[name] = value  # the next look-up does not come here
        return value


def __dir__() -> Sequence[str]:
    return sorted({*globals(), *__all__})
