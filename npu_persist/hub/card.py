"""The model card: `README.md` of a repository, of which one marked section is generated from the bundle.

    ---
    library_name: npu_persist
    tags: …
    ---
    what a person wrote
    <!-- npu_persist -->
    what is generated
    <!-- /npu_persist -->
    what a person wrote

Outside of the markers nothing changes, and a person's text without markers stays as it is. Text from the manifest is
escaped: it breaks no table, and forms no HTML and no marker.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from npu_persist.bundle.buckets import describe_shapes
from npu_persist.bundle.signature import describe_shape
from npu_persist.bundle.states import describe_state
from npu_persist.progress import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.golden_records import Difference, Evaluation, Golden
    from npu_persist.bundle.graph_records import Graph
    from npu_persist.bundle.manifest import Manifest
    from npu_persist.bundle.reference import HubReference

CARD_FILE = "README.md"
MAX_CARD_SIZE = 1024 * 1024
"""Largest card that is renewed, in bytes; a larger one is left alone."""

LIBRARY = "npu_persist"
TAGS = ("openvino", "npu", LIBRARY)

BEGIN = "<!-- npu_persist -->"
END = "<!-- /npu_persist -->"
_ONLY_FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n.*?\r?\n---\s*", re.DOTALL)
_MARKUP = re.compile(r"([\\`*_\[\]|~#!$])")


def renew_card(old: str | None, section: str, name: str) -> str | None:
    """Return a card with our section in it; None to leave a person's card alone."""
    if old is None or not old.strip():
        from huggingface_hub import ModelCardData

        header = ModelCardData(library_name=LIBRARY, tags=list(TAGS)).to_yaml()
        return f"---\n{header}\n---\n\n# {_text(name)}\n\n{section}"
    if old.count(BEGIN) == old.count(END) == 1 and old.index(BEGIN) < old.index(END):
        before, _, rest = old.partition(BEGIN)
        _, _, after = rest.partition(END)
        return f"{before}{section.removesuffix(chr(10))}{after}"
    if _ONLY_FRONT_MATTER.fullmatch(old):  # as the hub's form for a new repository writes it
        return f"{old.rstrip()}\n\n# {_text(name)}\n\n{section}"
    return None


def make_section(bundle: Bundle, reference: HubReference, artifacts: Mapping[str, Artifact]) -> str:
    """Return our section of the card, markers included."""
    manifest = bundle.manifest
    producer = manifest.producer
    made_by = f"npu_persist {_text(producer.npu_persist)} with OpenVINO {_text(producer.openvino)}"
    made_by += f" and PyTorch {_text(producer.torch)}" if producer.torch else ""
    version = "" if bundle.version is None else f", version {bundle.version}"
    blocks = [
        BEGIN,
        f"{_text(bundle.manifest.name)}{version}: an OpenVINO model, {_size(bundle.size)}, made by {made_by}.",
        *_load(bundle, reference),
        *(block for graph in manifest.graphs for block in _graph(graph)),
        *_check(manifest),
        *_compiled(artifacts),
        END,
    ]
    return "\n\n".join(blocks) + "\n"


def _load(bundle: Bundle, reference: HubReference) -> list[str]:
    pinned = f"{reference}#{bundle.digest.partition(':')[2]}"
    return [
        "## Use",
        "\n".join(
            [
                "```python",
                "# pip install 'npu_persist[hub]'",
                "import npu_persist as npup",
                "",
                f'model = npup.load("{reference}", device="NPU")  # or GPU, CPU, AUTO',
                *_use_graphs(bundle),
                "```",
            ]
        ),
        f"`{pinned}` loads exactly this bundle, or raises an error.",
    ]


def _use_graphs(bundle: Bundle) -> list[str]:
    names = [graph.name for graph in bundle.manifest.graphs]
    return [] if len(names) == 1 else ["# " + ", ".join(f'model.graphs["{name}"]' for name in names)]


def _graph(graph: Graph) -> list[str]:
    ports = [("input", port) for port in graph.inputs] + [("output", port) for port in graph.outputs]
    blocks = [
        f"## Graph {_text(graph.name)}",
        f"Weights as {_text(graph.stored_as)}, in {_text(graph.path)}.",
        _table(
            ("", "Name", "Type", "Shape"),
            ((kind, port.name, port.dtype, describe_shape(port.shape)) for kind, port in ports),
        ),
    ]
    blocks += [f"It keeps {_text(state.name)}, {_text(describe_state(state))}." for state in graph.states]
    if graph.buckets is not None:
        sizes = "; ".join(describe_shapes(shapes) for shapes in graph.buckets.shapes)
        blocks.append(f"Inputs are padded to one of these sizes: {_text(sizes)}.")
    return blocks


def _check(manifest: Manifest) -> list[str]:
    if len(manifest.graphs) == 1:
        return ["## Compared with PyTorch", *_compared(manifest.golden_of(manifest.graphs[0]))]
    blocks = ["## Compared with PyTorch"]
    for graph in manifest.graphs:
        blocks += [f"### {_text(graph.name)}", *_compared(manifest.golden_of(graph))]
    return blocks


def _compared(golden: Golden | None) -> list[str]:
    if golden is None or golden.tolerance is None or golden.differences is None:
        return ["Not compared."]
    return [
        f"On one sample. Tolerance: relative {golden.tolerance.max_relative:g}, cosine {golden.tolerance.cosine:g}.",
        f"Share of integers that may differ: {golden.tolerance.mismatched:g}.",
        _differences(golden.differences),
        *([] if golden.evaluation is None else _evaluation(golden.evaluation)),
    ]


def _evaluation(evaluation: Evaluation) -> list[str]:
    blocks = [f"The worst of {evaluation.calls} other calls:", _differences(evaluation.differences)]
    if evaluation.metrics:
        rows = ((one.name, f"{one.torch:.6g}", f"{one.model:.6g}") for one in evaluation.metrics)
        blocks.append(_table(("Metric", "PyTorch", "This model"), rows))
    return blocks


def _differences(differences: Iterable[Difference]) -> str:
    return _table(
        ("Output", "Max absolute", "Max relative", "Cosine", "Mismatched"),
        (
            (
                found.output,
                f"{found.max_abs:.3g}",
                f"{found.max_relative:.3g}",
                f"{found.cosine:.7g}",
                "" if found.mismatched is None else f"{found.mismatched:.3g}",
            )
            for found in differences
        ),
    )


def _compiled(artifacts: Mapping[str, Artifact]) -> list[str]:
    if not artifacts:
        return []
    return [
        "## Compiled ahead of time",
        "Used if the requirements are met and the signer is trusted; otherwise the model is compiled from its IR.",
        _table(
            ("Folder", "Target", "Graph", "Sizes", "Size", "Requires"),
            (
                (
                    folder,
                    artifact.target,
                    artifact.graph,
                    describe_shapes(artifact.shapes) if artifact.shapes else "as in the graph",
                    _size(artifact.size) + (", weightless" if artifact.weightless else ""),
                    artifact.requirements or f"OpenVINO {artifact.openvino}",
                )
                for folder, artifact in sorted(artifacts.items())
            ),
        ),
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _text(value: str) -> str:
    """Escape text for Markdown."""
    return _MARKUP.sub(r"\\\1", html.escape(one_line(value), quote=False))


def _size(size: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004 (three digits and a unit)
            return f"{size:.4g} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.4g} GB"
