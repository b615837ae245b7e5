"""The arguments of `load`, validated once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from npu_persist.bundle.verification import VERIFY
from npu_persist.device.properties import merge_hint
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.graph_records import Graph
    from npu_persist.bundle.verification import Verify
    from npu_persist.progress import ProgressCallback


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a bundle is loaded: the arguments of `load` that say so, checked.

    Attributes:
        device: The device string; or one for each graph, by name.
        fallback: Devices to try where that cannot be used.
        properties: OpenVINO's properties, the hint among them.
        buckets: As given: only the graph can say whether they fit.
        verify: How files are verified.
        cache: Whether to use the compile cache.
        compile_timeout: Seconds for a compilation, which then runs in a separate process.
        progress: Called with events.
    """

    device: str | Mapping[str, str]
    fallback: tuple[str, ...]
    properties: dict[str, Any]
    buckets: Any
    verify: Verify
    cache: bool
    compile_timeout: float | None
    progress: ProgressCallback | None

    @property
    def devices(self) -> tuple[str, ...]:
        """All device strings."""
        named = (self.device,) if isinstance(self.device, str) else self.device.values()
        return tuple(dict.fromkeys((*named, *self.fallback)))

    def of_graphs(self, bundle: Bundle, graphs: Sequence[Graph]) -> dict[str, LoadOptions]:
        """Return the options of each graph, by name; UsageError where they do not say which is for which."""
        names, given = [graph.name for graph in graphs], [graph.name for graph in bundle.manifest.graphs]
        buckets = self.buckets if isinstance(self.buckets, Mapping) else dict.fromkeys(names, self.buckets)
        device = self.device if isinstance(self.device, Mapping) else dict.fromkeys(names, self.device)
        for argument, values in (("device", device), ("buckets", buckets)):
            if unknown := [name for name in values if name not in given]:
                raise UsageError(
                    f"{argument}: {bundle.reference} has no graph {unknown[0]!r}; it has {', '.join(given)}"
                )
        if missing := [name for name in names if name not in device]:
            raise UsageError(
                f"device: expected a device for each graph of {bundle.reference}; there is none for {missing[0]}"
            )
        if self.buckets and buckets is not self.buckets and len(names) > 1:
            raise UsageError(
                f"buckets: {bundle.reference} has several graphs: give them by the name of their graph, as in "
                f"{{{names[0]!r}: [...]}}, or load one graph with graph={names[0]!r}"
            )
        return {name: msgspec.structs.replace(self, device=device[name], buckets=buckets.get(name)) for name in names}


def check_options(  # noqa: PLR0913 (the arguments of `load`)
    *,
    device: object,
    config: Mapping[str, Any] | None,
    hint: str | None,
    buckets: object,
    verify: Verify = "full",
    fallback: object = (),
    cache: bool = True,
    compile_timeout: Any = None,
    progress: ProgressCallback | None = None,
) -> LoadOptions:
    """Check the arguments of `load`, and return them; UsageError for the first that is wrong."""
    if not isinstance(device, str) and not (
        isinstance(device, Mapping) and device and all(isinstance(text, str) for one in device.items() for text in one)
    ):
        raise UsageError(
            "device: expected OpenVINO's device string, for instance 'NPU' or 'CPU', or one for each graph, by name; "
            f"got {device!r}"
        )
    if not isinstance(fallback, (tuple, list)) or not all(isinstance(name, str) for name in fallback):
        raise UsageError(f"fallback: expected device strings in a tuple, for instance ('GPU', 'CPU'); got {fallback!r}")
    properties = merge_hint(_check_config(config), hint)
    if verify not in VERIFY:
        raise UsageError(f"verify: expected one of {', '.join(VERIFY)}; got {verify!r}")
    if progress is not None and not callable(progress):
        raise UsageError(f"progress: expected a function of one argument, or None; got {progress!r}")
    if compile_timeout is not None:
        if (
            isinstance(compile_timeout, bool)
            or not isinstance(compile_timeout, (int, float))
            or not compile_timeout > 0
        ):
            raise UsageError(f"compile_timeout: expected seconds above 0, or None; got {compile_timeout!r}")
        if not cache or verify == "none":
            raise UsageError(
                "compile_timeout: the compilation runs in a separate process, which returns its result through the "
                "compile cache. Leave out cache=False and verify='none', or compile_timeout"
            )
    return LoadOptions(
        device=device,
        fallback=tuple(fallback),
        properties=properties,
        buckets=buckets,
        verify=verify,
        cache=cache,
        compile_timeout=compile_timeout,
        progress=progress,
    )


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
