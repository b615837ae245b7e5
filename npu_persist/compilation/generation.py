"""How a graph that generates text, with its cache as state, is compiled for an NPU: by NPUW, the NPU plugin's wrapper.

NPUW makes two graphs of fixed sizes of it, one that reads a prompt and one that writes an answer, token by token, and
keeps the cache between them. On the NPU a conversation is a prompt, then one token at a time, of at most
prompt + response - 1 tokens together.

What the options mean is written in OpenVINO's npuw_option_defs.inc (src/plugins/intel_npu); those for Whisper are what
openvino_genai asks for, but for the fold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from npu_persist.artifact.artifact import Lengths
from npu_persist.errors import PropertyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from npu_persist.bundle.graph_records import Graph

Kind = Literal["text", "speech"]

MAX_LENGTH = 1024 * 1024
"""Most tokens of a prompt or an answer."""

_DEFAULT = {"text": Lengths(1024, 128), "speech": Lengths(4, 444)}
"""What openvino_genai takes for language models; Whisper's first tokens, and all others of its 448."""

_ALIGNMENT = 64
_TEXT = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "NPU", "NPUW_LLM": "YES"}
_SPEECH = {
    "NPUW_WHISPER": "YES",
    "NPUW_ONLINE_PIPELINE": "NONE",
    "NPUW_FUNCALL_FOR_ALL": "YES",
    "NPUW_FOLD": "YES",
    "NPUW_LLM_PREFILL_HINT": "STATIC",
}
"""With the fold, the weights stay in their file, as those of text do."""
_INTEGERS = {"NPUW_DQ": "YES"}
"""Lets NPUW give compressed weights to its parts as inputs, so that they stay in their file. Where there is an NPU, the
plugin chooses so by its compiler; where there is none, it would put them into the blob, made float."""
_COMPRESSED = frozenset({"int8", "int4"})
_PROMPT, _RESPONSE = "NPUW_LLM_MAX_PROMPT_LEN", "NPUW_LLM_MIN_RESPONSE_LEN"

PIPELINE = "NPUW_ONLINE_PIPELINE"
"""How NPUW parts a graph; NONE: not at all."""

WHOLE = {PIPELINE: "NONE"}
"""What lets NPUW compile a graph in one piece, where its parts fail."""

WITH_WEIGHTS, WITHOUT_WEIGHTS = {"CACHE_MODE": "OPTIMIZE_SPEED"}, {"CACHE_MODE": "OPTIMIZE_SIZE"}
"""What tells NPUW where the weights go; not ENABLE_WEIGHTLESS, which is for other graphs."""


def find_kind(graph: Graph) -> Kind | None:
    """Return what a graph generates, by the names that OpenVINO GenAI gives its inputs; None if nothing."""
    return find_kind_by_names({port.name for port in graph.inputs})


def find_kind_by_names(names: AbstractSet[str]) -> Kind | None:
    """Return what a graph with inputs of these names generates; None if nothing."""
    if names == {"input_ids", "encoder_hidden_states", "beam_idx"}:
        return "speech"
    return "text" if {"input_ids", "attention_mask", "position_ids", "beam_idx"} <= names else None


def choose_lengths(graph: Graph, max_prompt: int | None = None, min_response: int | None = None) -> Lengths | None:
    """Return the lengths that a graph is compiled for; None for one that does not generate.

    Those of language models are multiples of 64, as NPUW makes them.
    """
    kind = find_kind(graph)
    if kind is None:
        return None
    prompt, response = (
        default if given is None else _align(given) if kind == "text" else given
        for given, default in ((max_prompt, _DEFAULT[kind].prompt), (min_response, _DEFAULT[kind].response))
    )
    return Lengths(prompt, response)


def read_lengths(graph: Graph, properties: Mapping[str, Any]) -> Lengths | None:
    """Return the lengths that OpenVINO's properties ask for, which are as usual where they do not."""
    given = {name: properties[name] for name in (_PROMPT, _RESPONSE) if name in properties}
    if bad := [f"{name}={value!r}" for name, value in given.items() if not str(value).isdecimal()]:
        raise PropertyError(f"{', '.join(bad)}: expected a number of tokens")
    return choose_lengths(graph, *(int(given[name]) if name in given else None for name in (_PROMPT, _RESPONSE)))


def _align(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def make_options(graph: Graph, lengths: Lengths) -> dict[str, str]:
    """Return what NPUW is to be told about a graph that generates."""
    more = _SPEECH if find_kind(graph) == "speech" else _INTEGERS if graph.precision in _COMPRESSED else {}
    return {**_TEXT, **more, _PROMPT: str(lengths.prompt), _RESPONSE: str(lengths.response)}


def is_npuw(name: str) -> bool:
    """Tell whether a property is NPUW's, which the plugin reads from a compilation's properties alone."""
    return name.startswith("NPUW") or name == "NPU_USE_NPUW"


def check_numbers(**given: object) -> None:
    """Raise `UsageError` for lengths that are none."""
    for name, value in given.items():
        if value is not None and (type(value) is not int or not 1 <= value <= MAX_LENGTH):
            raise UsageError(f"{name}: expected a number of tokens from 1 to {MAX_LENGTH}, or None; got {value!r}")


def check_lengths(graphs: Iterable[Graph], config: Mapping[str, Any], **given: object) -> None:
    """Raise `UsageError` for lengths that are none, or that no graph has a use for."""
    check_numbers(**given)
    if ours := sorted({_PROMPT, _RESPONSE} & config.keys()):
        raise PropertyError(f"{', '.join(ours)}: expected the lengths as max_prompt= and min_response=. Leave it out")
    if any(value is not None for value in given.values()) and not any(map(find_kind, graphs)):
        raise UsageError(
            f"{', '.join(given)}: expected a graph that generates, with its cache as state and the inputs input_ids, "
            "attention_mask, position_ids and beam_idx, or encoder_hidden_states; the bundle has none. Leave them out"
        )
