"""Everything that determines the result of a compilation, and therefore the key of the artifact.

Two recipes have the same key only if one's artifact may be used for the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from npu_persist.artifact.artifact import Lengths, make_key
from npu_persist.bundle.buckets import describe_shapes
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.comparison import needs_f32
from npu_persist.compilation.generation import make_options, read_lengths
from npu_persist.device.core import get_core, get_version
from npu_persist.device.devices import can_export, get_kind, identify
from npu_persist.device.precision import ask_for_exact_cache, ask_for_f32
from npu_persist.errors import PropertyError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from npu_persist.artifact.artifact import Shapes
    from npu_persist.bundle.graph_records import Graph

CACHE_PROPERTIES = frozenset({"CACHE_DIR", "CACHE_MODE", "CACHE_BLOB_ID", "ENABLE_WEIGHTLESS", "WEIGHTS_PATH"})
"""Properties that steer OpenVINO's caching: the compile cache sets them itself."""

_WEIGHTLESS = frozenset({"CPU"})
"""Devices whose blobs can leave the weights in their file, asked with CACHE_MODE. The GPU's are said to, but there was
none to see that it takes them back."""

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Recipe:
    """One graph of a bundle, to be compiled for one device with these properties.

    Attributes:
        bundle: The bundle.
        graph: The graph.
        device: OpenVINO's device string.
        properties: OpenVINO's properties for the compilation.
        shapes: Sizes for inputs that the graph leaves open; None: as in the graph.
        runner: What changes the graph before OpenVINO compiles it, with its version; "" for nothing.
        lengths: How long the conversations are, of a graph that generates, on an NPU.
    """

    bundle: Bundle
    graph: Graph
    device: str
    properties: Mapping[str, Any]
    shapes: Shapes | None = None
    runner: str = ""
    lengths: Lengths | None = None

    def __post_init__(self) -> None:
        """Refuse properties that would let OpenVINO cache on its own."""
        if ours := sorted(CACHE_PROPERTIES & self.properties.keys()):
            raise PropertyError(
                f"{', '.join(ours)}: expected no property that steers OpenVINO's own caching, which checks nothing; "
                "load keeps a compile cache of its own (cache=False does without). Leave it out"
            )

    @property
    def is_exportable(self) -> bool:
        """Whether the device gives its compiled models away, and takes them back."""
        return can_export(get_core(), self.device)

    @property
    def is_weightless(self) -> bool:
        """Whether the exported blob leaves the weights in the bundle's weights file."""
        return get_kind(self.device) in _WEIGHTLESS or self.lengths is not None

    @property
    def options(self) -> dict[str, str]:
        """Properties that the compilation is given beside `properties`, because the graph generates."""
        return {} if self.lengths is None else make_options(self.graph, self.lengths)

    @property
    def weights(self) -> Path:
        """The bundle's weights file."""
        return self.bundle.file(self.bundle.manifest.weights.path)

    @cached_property
    def identity(self) -> dict[str, str]:
        """What tells the device from others."""
        return identify(get_core(), self.device)

    @cached_property
    def openvino(self) -> str:
        """OpenVINO's full version."""
        return get_version()

    @property
    def texts(self) -> dict[str, str]:
        """The properties as text, and the runner among them."""
        texts = {name: str(_plain(value)) for name, value in self.properties.items()}
        return {**texts, "RUNNER": self.runner} if self.runner else texts

    @property
    def unkeyed(self) -> list[str]:
        """Names of properties that no key can hold: functions, for instance."""
        return [name for name, value in self.properties.items() if not (_has_text(name) and _has_text(value))]

    @property
    def unsendable(self) -> list[str]:
        """Names of properties that JSON cannot hold: OpenVINO's enumerations, beside those without a key."""
        return [name for name, value in self.properties.items() if not (_has_text(value) and _is_plain(value))]

    @cached_property
    def key(self) -> str:
        """The key of the compiled artifact."""
        return make_key(
            subject=self.bundle.digest,
            graph=self.graph.name,
            shapes=self.shapes,
            device=self.device,
            identity=self.identity,
            openvino=self.openvino,
            properties=self.texts,
            lengths=self.lengths,
        )

    def to_record(self) -> RecipeRecord:
        """Return what another process needs to make this recipe; properties that JSON cannot hold are left out."""
        unsendable = self.unsendable
        return RecipeRecord(
            bundle=str(self.bundle.path),
            version=self.bundle.version,
            graph=self.graph.name,
            device=self.device,
            properties={name: value for name, value in self.properties.items() if name not in unsendable},
            shapes=None if self.shapes is None else dict(self.shapes),
            lengths=self.lengths,
        )

    def __str__(self) -> str:
        with_properties = f" with {self.texts}" if self.properties else ""
        graph = f" {self.graph.name}" if len(self.bundle.manifest.graphs) > 1 else ""
        return f"{self.bundle.reference}{graph} for {self.device}{with_properties}"


class RecipeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe as it is sent to another process.

    Attributes:
        bundle: The bundle's folder.
        version: Its version number; None outside of a store.
        graph: Name of the graph.
        device: OpenVINO's device string.
        properties: OpenVINO's properties for the compilation.
        shapes: Sizes for inputs that the graph leaves open; None: as in the graph.
        lengths: How long the conversations are, of a graph that generates, on an NPU.
    """

    bundle: str
    version: int | None
    graph: str
    device: str
    properties: dict[str, Any]
    shapes: dict[str, tuple[int, ...]] | None
    lengths: Lengths | None

    def open(self) -> Recipe:
        """Open the bundle, and return the recipe."""
        bundle = Bundle.open(self.bundle, version=self.version)
        return Recipe(bundle, bundle.graph(self.graph), self.device, self.properties, self.shapes, lengths=self.lengths)


def make_recipe(  # noqa: PLR0913 (the members of a recipe)
    bundle: Bundle,
    graph: Graph,
    device: str,
    properties: Mapping[str, Any],
    shapes: Shapes | None = None,
    *,
    runner: str = "",
    lengths: Lengths | None = None,
) -> Recipe:
    """Return the recipe for a graph with a caller's properties.

    What was checked in float32, and has to be as exact as that, gets the property that asks for it, unless the caller's
    decide on the precision. As it is one of the recipe's properties, no artifact of another precision is used for it.
    A graph that generates has lengths on an NPU: those that are given, else asked for by properties, else usual.
    """
    if needs_f32(bundle.manifest, graph):
        properties = ask_for_f32(get_core(), device, properties)
        if graph.states:
            properties = ask_for_exact_cache(get_core(), device, properties)
    if get_kind(device) != "NPU" or runner:
        lengths = None
    elif lengths is None:
        lengths = read_lengths(graph, properties)
    return Recipe(bundle, graph, device, properties, shapes, runner, lengths)


class CompileJob(msgspec.Struct, frozen=True, kw_only=True):
    """What to compile. It is sent unchanged to the compiling process.

    Attributes:
        bundle: The bundle's folder.
        version: Its version number; None outside of a store.
        digest: The bundle's digest.
        reference: What to call the bundle, and the graph if there are several.
        graph: Name of the graph.
        target: What for: "NPU:4000".
        device: OpenVINO's device string there.
        platform: Number of the NPU's platform; None for a device of this machine.
        shapes: Sizes for inputs that the graph leaves open; None: as in the graph.
        config: OpenVINO's properties.
        lengths: How long the conversations are, of a graph that generates, on an NPU.
        weightless: Whether the blob leaves the weights in their file; None: what is best.
        toolchain: Name of the toolchain for another machine's NPU; None: the first that is usable.
        timeout: Seconds; None for no limit.
        memory_limit: Bytes; None for no limit.
    """

    bundle: str
    digest: str
    reference: str
    graph: str
    target: str
    device: str
    version: int | None = None
    platform: str | None = None
    shapes: dict[str, tuple[int, ...]] | None = None
    config: dict[str, Any] = {}
    lengths: Lengths | None = None
    weightless: bool | None = None
    toolchain: str | None = None
    timeout: float | None = None
    memory_limit: int | None = None

    @property
    def label(self) -> str:
        """What to call the job: `unet:3 for NPU:4000`."""
        sizes = f", {describe_shapes(self.shapes)}" if self.shapes else ""
        lengths = f", {self.lengths}" if self.lengths else ""
        return f"{self.reference} for {self.target}{sizes}{lengths}"

    def make_recipe(self, bundle: Bundle) -> Recipe:
        """Return the recipe of a compilation."""
        graph = bundle.graph(self.graph)
        return make_recipe(bundle, graph, self.device, self.config, self.shapes, lengths=self.lengths)


def _has_text(value: Any) -> bool:
    """Tell whether a value's text says all of it: numbers, texts, OpenVINO's enumerations, and containers of these."""
    return _is_plain(value, or_of="openvino")


def _is_plain(value: Any, or_of: str | None = None) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(key) and _is_plain(item, or_of) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item, or_of) for item in value)
    if isinstance(value, str):  # not half of a surrogate pair, which UTF-8 lacks
        return value.isascii() or value.encode("utf-8", "ignore").decode() == value
    return isinstance(value, _PLAIN) or (or_of is not None and type(value).__module__.startswith(or_of))


def _plain(value: Any) -> Any:
    """Return a value whose text does not depend on the order in which a dict was filled."""
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
