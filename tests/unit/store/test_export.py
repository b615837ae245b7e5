from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from npu_persist.device.core import get_core
from npu_persist.errors import BundleNotFoundError, FileIntegrityError, NotFoundError, StoreError, UsageError
from npu_persist.files.staging import drafted
from npu_persist.store import Store
from npu_persist.store.export import LAYOUTS, export
from tests.support.graphs import WEIGHTS, XML, publish_affine, publish_relu
from tests.support.loads import AFFINE_OF_GRID, GRID, spoil
from tests.support.pipelines import CONFIGS, publish_painter

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle


@pytest.fixture
def bundle() -> Bundle:
    return publish_affine(Store())


def answer_of(xml: Path) -> np.ndarray[Any, Any]:
    """Let OpenVINO alone read a graph and run it."""
    core = get_core()
    compiled = core.compile_model(core.read_model(xml), "CPU")
    result: np.ndarray[Any, Any] = compiled([GRID])[0]
    return result


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("openvino", {"model.xml", "model.bin"}),
        ("ovms", {"1/model.xml", "1/model.bin"}),
        ("genai", {"openvino_model.xml", "openvino_model.bin"}),
    ],
)
def test_openvino_reads_it_and_answers_as_the_bundle_does(
    bundle: Bundle, tmp_path: Path, layout: Any, files: set[str]
) -> None:
    target = tmp_path / "out" / "affine"
    xml, weights = export("affine", layout, target)
    assert {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()} == files
    assert np.array_equal(answer_of(xml), AFFINE_OF_GRID)
    assert weights.read_bytes() == (bundle.path / WEIGHTS).read_bytes()
    assert not weights.samefile(bundle.path / WEIGHTS)
    assert [path.name for path in target.parent.iterdir()] == ["affine"]


def test_it_is_linked_only_on_request(bundle: Bundle, tmp_path: Path) -> None:
    xml, weights = export("affine", "openvino", tmp_path / "out", link=True)
    assert xml.samefile(bundle.path / XML)
    assert weights.samefile(bundle.path / WEIGHTS)


def test_where_links_are_impossible_it_is_a_copy(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    xml, weights = export(bundle.path, "openvino", tmp_path / "out", link=True)
    assert np.array_equal(answer_of(xml), AFFINE_OF_GRID)
    assert weights.read_bytes() == (bundle.path / WEIGHTS).read_bytes()
    assert not weights.samefile(bundle.path / WEIGHTS)


def test_an_empty_folder_is_filled(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert export(bundle.path, "ovms", tmp_path / "out")[0].is_file()


@pytest.mark.usefixtures("bundle")
def test_what_holds_something_is_refused_and_stays(tmp_path: Path) -> None:
    full, file, link = tmp_path / "full", tmp_path / "file", tmp_path / "link"
    full.mkdir()
    (full / "config.json").write_text("{}")
    file.write_text("mine")
    link.symlink_to("nowhere")
    for target in (full, file, link):
        with pytest.raises(UsageError, match="expected a new or an empty folder"):
            export("affine", "genai", target)
    assert [path.name for path in full.iterdir()] == ["config.json"]
    assert file.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} <= {"full", "file", "link", "home"}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [XML, WEIGHTS])
def test_what_is_not_as_it_was_persisted_is_not_given_away(
    bundle: Bundle, tmp_path: Path, layout: Any, name: str
) -> None:
    spoil(bundle.path / name)
    with pytest.raises(FileIntegrityError):
        export("affine", layout, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("bundle")
def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("npu_persist.store.export.copy_file", refuse)
    with pytest.raises(StoreError, match="No space left"):
        export("affine", "openvino", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


@pytest.mark.usefixtures("bundle")
def test_what_a_killed_export_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    draft, others = tmp_path / f".out.{'0' * 16}", (tmp_path / ".out.backup", tmp_path / f".other.{'0' * 16}")
    for folder in (draft, *others):
        folder.mkdir()
        (folder / "model.xml").touch()
    draft.with_name(f"{draft.name}.lock").touch()
    with drafted(tmp_path / "out") as living:
        export("affine", "openvino", tmp_path / "out")
        assert living.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"home", "out", *(path.name for path in others)}


@pytest.mark.usefixtures("bundle")
def test_another_process_that_was_faster_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def lose(source: str, target: str, **folders: int | None) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").touch()
        rename(source, target, **folders)

    monkeypatch.setattr("os.rename", lose)
    with pytest.raises(UsageError, match="expected a new or an empty folder"):
        export("affine", "openvino", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]
    assert {path.name for path in tmp_path.iterdir()} == {"home", "out"}


@pytest.mark.usefixtures("bundle")
def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="layout: expected one of openvino, ovms, genai; got 'onnx'"):
        export("affine", "onnx", tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(BundleNotFoundError):
        export("other", "ovms", tmp_path / "out")
    with pytest.raises(NotFoundError, match="no graph 'decoder'"):
        export("affine", "ovms", tmp_path / "out", graph="decoder")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("layout", "folder"), [("genai", ""), ("openvino", ""), ("ovms", "1/")])
def test_assets_stand_beside_the_graph(tmp_path: Path, layout: Any, folder: str) -> None:
    assets = {"config.json": b"{}", "spoken/labels.txt": b"yes\nno\n"}
    publish_relu(Store(), (2,), assets=assets)
    files = export("relu", layout, tmp_path / "out")
    for name, data in assets.items():
        assert (tmp_path / "out" / folder / name).read_bytes() == data
    assert {path.relative_to(tmp_path / "out" / folder).as_posix() for path in files[2:]} == set(assets)


def test_of_a_pipeline_of_diffusers_each_part_has_a_folder(tmp_path: Path) -> None:
    bundle = publish_painter(Store(), {"tokenizer.json": b"{}"})
    files = export("painter", "genai", tmp_path / "out")
    placed = {path.relative_to(tmp_path / "out").as_posix() for path in files}
    parts = ("text_encoder", "unet", "vae_decoder")
    graphs = {f"{part}/openvino_model.{kind}" for part in parts for kind in ("xml", "bin")}
    assert placed == {*graphs, *CONFIGS, "tokenizer/tokenizer.json"}
    weights = [tmp_path / "out" / part / "openvino_model.bin" for part in parts]
    assert all(path.read_bytes() == (bundle.path / WEIGHTS).read_bytes() for path in weights)
    ports = get_core().read_model(tmp_path / "out/unet/openvino_model.xml").inputs
    assert [port.get_any_name() for port in ports] == ["sample", "timestep", "encoder_hidden_states"]
    export("painter", "openvino", tmp_path / "plain")
    assert (tmp_path / "plain" / "unet.xml").is_file()


def test_a_changed_asset_is_not_given_away(tmp_path: Path) -> None:
    bundle = publish_relu(Store(), (2,), assets={"labels.txt": b"yes"})
    spoil(bundle.path / "assets/labels.txt")
    with pytest.raises(FileIntegrityError, match=r"labels\.txt"):
        export("relu", "genai", tmp_path / "out")


def test_an_asset_that_would_replace_the_graph_is_refused(tmp_path: Path) -> None:
    publish_relu(Store(), (2,), assets={"openvino_model.xml": b"<net/>"})
    with pytest.raises(UsageError, match="which this layout uses for a graph's file"):
        export("relu", "genai", tmp_path / "out")
    assert export("relu", "openvino", tmp_path / "out")[2].read_bytes() == b"<net/>"
