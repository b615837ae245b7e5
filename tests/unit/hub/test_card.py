"""The model card: valid for the hub, of the manifest, and never over what a person wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.golden_records import Difference, Evaluation, Metric
from npu_persist.bundle.graph_records import Port
from npu_persist.bundle.reference import HubReference
from npu_persist.hub.card import BEGIN, CARD_FILE, END, make_section, renew_card
from npu_persist.hub.push import push
from npu_persist.store import Store
from tests.support.artifacts import make_artifact
from tests.support.bundles import TINY_GRAPH, publish_tiny, tiny_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.hub_server import HubServer

REPO = "org/tiny"
TARGET = HubReference(REPO, "v1")


def _section(artifacts: Any = None) -> str:
    return make_section(publish_tiny(Store()), TARGET, artifacts or {})


def _bundle_with(folder: Path, **changes: Any) -> Bundle:
    folder.mkdir()
    (folder / "manifest.json").write_bytes(replace(tiny_manifest(), **changes).to_json())
    return Bundle.open(folder)


def test_a_new_card_is_valid_for_the_hub(hub: HubServer) -> None:
    from huggingface_hub import ModelCard

    publish_tiny(Store())
    push("tiny:1", REPO)
    card = ModelCard(hub.read(REPO, CARD_FILE).decode())
    said = {name: value for name, value in vars(card.data).items() if value is not None}
    assert said == {"library_name": "npu_persist", "tags": ["openvino", "npu", "npu_persist"]}
    hub.forget()
    card.validate()
    assert [str(request) for request in hub.requests] == ["POST /api/validate-yaml"]


def test_the_section_says_what_the_manifest_says() -> None:
    section = _section({"npu-4000": make_artifact(target="NPU:4000", requirements="meta=2.7|x", weightless=True)})
    for said in (
        "| input | x.0 | float32 | [batch:1..8, ?:0.., 4] |",
        "| input | x.1 | int64 | [] |",
        "| output | y | float32 | [batch:1..8, 2] |",
        "Weights as fp16",
        "| y | 0.001 | 0.0004 | 0.99999 |",
        "relative 0.02, cosine 0.999",
        "OpenVINO 2026.4.1 and PyTorch 2.13.0",
        'npup.load("hf://org/tiny@v1", device="NPU")',
        r"| npu-4000 | NPU:4000 |",
        r"meta=2.7\|x",
        "weightless",
    ):
        assert said.replace("[", r"\[").replace("]", r"\]") in section or said in section, said
    assert section.startswith(BEGIN)
    assert section.endswith(f"{END}\n")


def test_the_section_has_other_calls_metrics_and_activations(tmp_path: Path) -> None:
    manifest = tiny_manifest()
    assert manifest.golden is not None
    evaluation = Evaluation(12, (Difference("y", 0.5, 0.25, 0.75),), (Metric("accuracy", 0.5, 0.375),))
    graphs = (replace(manifest.graphs[0], precision="int8", activations="int8"),)
    bundle = _bundle_with(tmp_path / "b", golden=replace(manifest.golden, evaluation=evaluation), graphs=graphs)
    section = make_section(bundle, TARGET, {})
    for said in ("Weights as int8, activations int8", "of 12 other calls", "| y | 0.5 | 0.25 | 0.75 |"):
        assert said in section
    assert "| accuracy | 0.5 | 0.375 |" in section


def test_a_bundle_that_was_not_checked_says_so(tmp_path: Path) -> None:
    bundle = _bundle_with(tmp_path / "b", golden=None, files={
        path: entry for path, entry in tiny_manifest().files.items() if not path.startswith("golden")
    })  # fmt: skip
    assert "Not compared" in make_section(bundle, TARGET, {})


@pytest.mark.parametrize(
    "name",
    ["a|b", "<script>alert(1)</script>", "x`y`", "[l](javascript:1)", f"{END} gone", "*a* _b_", "a\\|b", "![i](u)"],
)
def test_names_stay_text(tmp_path: Path, name: str) -> None:
    graph = replace(TINY_GRAPH, outputs=(Port(name, "float32", (2,)),), name=name)
    section = make_section(_Stub(tmp_path, graph), TARGET, {})  # type: ignore[arg-type]
    assert "<script" not in section
    assert section.count(BEGIN) == section.count(END) == 1
    row = next(line for line in section.splitlines() if line.startswith("| output"))
    assert len([cell for cell in _cells(row) if cell.strip()]) == 4


@given(st.text(max_size=30))
def test_no_text_breaks_a_table(name: str) -> None:
    graph = replace(TINY_GRAPH, outputs=(Port(name, "float32", (2,)),))
    section = make_section(_Stub(None, graph), TARGET, {})  # type: ignore[arg-type]
    rows = [line for line in section.split("\n") if line.startswith("| output")]
    assert len(rows) == 1
    assert len(_cells(rows[0])) == 6  # one before the first bar, one after the last
    assert "<" not in section.replace(BEGIN, "").replace(END, "")


class _Stub:
    """What a card is made of, with names that no manifest could have."""

    def __init__(self, _: object, graph: Any) -> None:
        self.manifest = replace(tiny_manifest(), graphs=(graph,))
        self.name, self.version, self.size, self.digest = "tiny", 1, 4200, "blake3:" + "0" * 64


def _cells(row: str) -> list[str]:
    """Split a row as GitHub's Markdown does: at bars that no backslash escapes."""
    cells, escaped = [""], False
    for character in row:
        if character == "|" and not escaped:
            cells.append("")
        else:
            cells[-1] += character
        escaped = character == "\\" and not escaped
    return cells


def test_only_the_marked_section_is_renewed() -> None:
    mine = f"---\nlicense: mit\n---\n# Mine\n\nbefore\n\n{BEGIN}\nold\n{END}\n\nafter  \n"
    section = _section()
    card = renew_card(mine, section, "tiny")
    assert card == mine.replace(f"{BEGIN}\nold\n{END}", section.rstrip("\n"))
    assert renew_card(card, section, "tiny") == card


@pytest.mark.parametrize(
    "text",
    ["# Mine\n", "---\nlicense: mit\n---\nMine\n", f"{BEGIN}\nno end\n", f"{END}\n{BEGIN}\n", BEGIN + END + BEGIN],
)
def test_what_a_person_wrote_is_left_alone(hub: HubServer, text: str) -> None:
    hub.put(REPO, {CARD_FILE: text.encode()})
    publish_tiny(Store())
    push("tiny", REPO)
    assert hub.read(REPO, CARD_FILE) == text.encode()


def test_a_card_that_is_no_text_or_too_large_is_left_alone(hub: HubServer) -> None:
    publish_tiny(Store())
    for number, data in enumerate((b"\xff\xfe", b"x" * 1_100_000)):
        repo = f"org/tiny{number}"
        hub.put(repo, {CARD_FILE: data})
        push("tiny", repo)
        assert hub.read(repo, CARD_FILE) == data


@pytest.mark.parametrize("old", [None, "", "\n", "---\nlicense: mit\n---\n"])
def test_where_there_is_no_text_a_card_is_made(old: str | None) -> None:
    card = renew_card(old, _section(), "tiny")
    assert card is not None
    assert card.startswith("---\nlicense: mit\n---\n" if old and old.strip() else "---\nlibrary_name: npu_persist\n")
    assert "# tiny\n" in card
    assert card.count("---\n") == 2


def test_the_same_bundle_gives_the_same_card() -> None:
    bundle = publish_tiny(Store())
    assert make_section(bundle, TARGET, {}) == make_section(Bundle.open(bundle.path, version=1), TARGET, {})
