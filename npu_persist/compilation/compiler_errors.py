"""Explain a compiler error: its message, and the layers of the torch module that it names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET

from npu_persist.bundle.buckets import open_axes
from npu_persist.compilation.generation import PIPELINE
from npu_persist.errors import CompilationError

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.compilation.recipe import Recipe

_MOST = 5
"""Layers that are named; the others are counted."""

_ATTRIBUTE = re.compile(r"[Aa]ttribute[s]?:? ['\"]?(\w+)|['\"](\w+)['\"]")
_WORD = re.compile(r"\w+")
_OPERATION = re.compile(r"\bIE\.(\w+)")
"""As the compiler writes the operations of its dialect: `IE.SoftMax`."""

_TRACED = re.compile(r"(?:(.*)/)?\w+::\w+(?:/.*)?")
_PLUMBING = frozenset({"Const", "Parameter", "Result", "Convert"})
"""Kinds of layers that are everywhere."""


class Layer(NamedTuple):
    """One layer of an IR."""

    name: str
    kind: str
    attributes: frozenset[str]

    @property
    def module(self) -> str | None:
        """Path of the torch module that it was traced in, empty for the module itself; None where it is not known.

        >>> Layer("encoder.layer.0/aten::softmax/Softmax", "Softmax", frozenset()).module
        'encoder.layer.0'
        """
        found = _TRACED.fullmatch(self.name)
        return None if found is None else found[1] or ""

    def __str__(self) -> str:
        if self.module is None:
            return f"{self.kind} {self.name}"
        return f"{self.kind} in {self.module or 'the module itself'} ({self.name})"


def explain_refusal(recipe: Recipe, label: str, error: CompilationError) -> CompilationError:
    """Return the error for a graph that a compiler refused: its message, the layers, and what to do about sizes."""
    text = f"{label}: {first_lines(str(error), 4000)}"
    layers = find_layers(recipe.bundle.file(recipe.graph.path), str(error))
    if layers:
        more = f" and {len(layers) - _MOST} more" if len(layers) > _MOST else ""
        text += f". It is about {', '.join(map(str, layers[:_MOST]))}{more}"
    opened = [port for port in recipe.graph.inputs if open_axes(port) and port.name not in (recipe.shapes or {})]
    if opened and recipe.lengths is None:
        shape = tuple(size if isinstance(size, int) else size.max for size in opened[0].shape)
        text += (
            f". The sizes of {', '.join(port.name for port in opened)} vary, which NPU compilers take in few graphs: "
            f"compile for fixed ones, as in buckets=[{{{opened[0].name!r}: {shape}}}]"
        )
    return CompilationError(text)


def describe_whole(reason: str) -> str:
    """Return what to say of a graph that NPUW compiled in one piece, since its parts failed."""
    return f"compiled in one piece ({PIPELINE}=NONE); in parts it failed: {first_lines(reason)}"


def find_layers(graph: Path, message: str) -> list[Layer]:
    """Return the layers that a message names, else those with an attribute, a type or an operation that it names."""
    layers = list(_read_layers(graph))
    named = [layer for layer in layers if _names(message, layer.name)]
    if named:
        return named
    attributes = {word for pair in _ATTRIBUTE.findall(message) for word in pair if word}
    having = [layer for layer in layers if attributes & layer.attributes]
    if having:
        return having
    words = set(_WORD.findall(message)) - _PLUMBING
    operations = {word.lower() for word in _OPERATION.findall(message)}
    return [layer for layer in layers if layer.kind in words or layer.kind.lower() in operations]


def first_lines(text: str, limit: int = 600) -> str:
    """Return a message of several lines as one, without OpenVINO's source locations, cut at `limit` characters."""
    text = re.split(r"\n(?:Exception raised from|C\+\+ CapturedTraceback|frame #0)", text)[0]  # torch's C++ frames
    text = re.sub(r"Check '[^']*' failed at \S+:\d+:|Exception from \S+:\d+:|FrontEnd API failed with \w+:", "", text)
    text = text.replace("Model wasn't fully converted.", "").replace("Summary:", "")
    short = " ".join(text.split())
    return short if len(short) <= limit else f"{short[:limit]}..."


def _names(message: str, name: str) -> bool:
    # A short name is part of too many words to be meant.
    if "/" not in name or name not in message:
        return False
    return re.search(rf"(?<![\w./]){re.escape(name)}(?![\w/]|:[0-9])", message) is not None


def _read_layers(graph: Path) -> list[Layer]:
    # Checked by `check_graph` before: small, and without a document type.
    layers = ET.parse(graph).getroot().iter("layer")  # noqa: S314
    return [
        Layer(layer.get("name", ""), layer.get("type", ""), frozenset(() if data is None else data.keys()))
        for layer in layers
        for data in [layer.find("data")]
    ]
