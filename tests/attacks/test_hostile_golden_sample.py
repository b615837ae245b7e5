"""A golden sample that the manifest vouches for, but whose tensors are not those of the graph.

`run`, `check`, `bench` and `warm_up` ended with a KeyError or a ValueError, and `verify` called the bundle sound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from msgspec.structs import replace

import npu_persist
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.golden_records import Golden
from npu_persist.bundle.manifest import FileEntry
from npu_persist.bundle.weights import lay_out
from npu_persist.cli.main import main
from npu_persist.errors import GraphIntegrityError, IntegrityError
from npu_persist.files.digest import digest_bytes
from npu_persist.store import Store
from tests.support.graphs import AFFINE_OF_GRID, GRID, publish_affine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Tensors = Mapping[str, tuple[str, tuple[int, ...], int]]

GOOD: dict[str, tuple[str, tuple[int, ...], int]] = {"input.x": ("F32", (2, 3), 24), "output.y": ("F32", (2, 3), 24)}


def write(folder: Path, data: bytes) -> Bundle:
    """Write a bundle that computes, with these bytes as its golden sample and a manifest that agrees."""
    source = publish_affine(Store())
    folder.mkdir()
    for path in source.manifest.files:
        (folder / path).write_bytes((source.path / path).read_bytes())
    (folder / "golden.safetensors").write_bytes(data)
    entry = FileEntry(len(data), digest_bytes(data))
    manifest = replace(
        source.manifest,
        golden=Golden("golden.safetensors", None, None),
        files={**source.manifest.files, "golden.safetensors": entry},
    )
    return Bundle.write(folder, manifest)


def sample(tensors: Tensors) -> bytes:
    header, _ = lay_out(tensors, {})
    return header + bytes(sum(size for _, _, size in tensors.values()))


HOSTILE = {
    "empty": b"",
    "no safetensors": b"golden",
    "no tensors": sample({}),
    "another input": sample({"input.z": GOOD["input.x"], "output.y": GOOD["output.y"]}),
    "no output": sample({"input.x": GOOD["input.x"]}),
    "larger elements": sample({**GOOD, "input.x": ("F64", (2, 3), 48)}),
    "smaller elements": sample({**GOOD, "output.y": ("F16", (2, 3), 12)}),
    "elements of the same size": sample({**GOOD, "input.x": ("I32", (2, 3), 24)}),
    "another rank": sample({**GOOD, "input.x": ("F32", (6,), 24)}),
    "another size": sample({**GOOD, "input.x": ("F32", (2, 4), 32)}),
    "beyond the axis": sample({**GOOD, "input.x": ("F32", (9, 3), 108)}),
    "64 axes": sample({**GOOD, "input.x": ("F32", (1,) * 64, 4)}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_verify_run_and_check_refuse_it(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write(tmp_path / "bundle", HOSTILE[kind])
    with pytest.raises(GraphIntegrityError, match=r"golden\.safetensors: expected"):
        bundle.verify()
    for verb in ("verify", "run", "check"):
        arguments = [verb, str(bundle.path), *(() if verb == "verify" else ("--device", "CPU"))]
        assert main(arguments) == IntegrityError.exit_code, verb
        assert "golden.safetensors" in capsys.readouterr().err
    with npu_persist.load(bundle.path, device="CPU") as model:
        assert np.array_equal(model(GRID), AFFINE_OF_GRID)  # which needs no sample
        with pytest.raises(GraphIntegrityError):
            model.warm_up()


def test_a_sound_one_is_none_of_that(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle", sample(GOOD))
    bundle.verify()
    assert main(["run", str(bundle.path), "--device", "CPU"]) == 0


def test_an_output_of_another_size_is_a_wrong_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write(tmp_path / "bundle", sample({**GOOD, "output.y": ("F32", (3, 2), 24)}))
    bundle.verify()
    assert main(["check", str(bundle.path), "--device", "CPU"]) == 6
    assert "shape" in capsys.readouterr().out
