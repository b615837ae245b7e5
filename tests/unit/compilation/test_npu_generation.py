"""Models that generate through Intel's NPU compiler, under wine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import npu_persist
from npu_persist.artifact.artifact import BLOB_FILE, Lengths
from npu_persist.artifact.blob import read_blob
from npu_persist.device.machine import Machine
from npu_persist.store import Store
from tests.support.decoders import SMALL, Stored, publish_llama

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.compilation.jobs import CompileResult

pytestmark = pytest.mark.usefixtures("wine")


@pytest.mark.parametrize(("precision", "target"), [("int4", "NPU:4000"), ("int8", "NPU:5010"), ("int8", "NPU:3720")])
def test_a_decoder_with_its_cache(tmp_path: Path, precision: Stored, target: str) -> None:
    store = Store(tmp_path)
    bundle = publish_llama(store, replace(SMALL, precision=precision))
    for weightless in (True, False):
        (result,) = npu_persist.compile(
            "llama", target, max_prompt=128, min_response=64, store=store, weightless=weightless, toolchain="wine"
        )
        check(bundle, result, weightless=weightless)


def check(bundle: Bundle, result: CompileResult, *, weightless: bool) -> None:
    artifact, path = result.artifact, result.path
    assert artifact is not None
    assert path is not None
    assert (artifact.lengths, artifact.npuw, artifact.weightless) == (Lengths(128, 64), "0.31", weightless)
    blob = read_blob(path / BLOB_FILE)
    assert (blob.generates, blob.weightless, blob.unknown) == (True, weightless, ())
    assert len(blob.parts) > 1
    assert {f"NPU:{part.requirements.platform}" for part in blob.parts if part.requirements} == {result.target}
    assert artifact.openvino.startswith(str(blob.openvino))
    needs = blob.requirements
    assert needs is not None
    here = Machine("NPU", platform=needs.platform, tiles=6, elf=needs.elf, mi=needs.mi, openvino=artifact.openvino)
    (found,) = npu_persist.compatibility(bundle.path, here)
    assert found.verdict.status == "supported"


def test_one_that_fails_in_parts_is_compiled_in_one_piece(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish_llama(store, replace(SMALL, layers=4))
    (result,) = npu_persist.compile("llama", "NPU:4000", store=store, max_prompt=64, min_response=64, toolchain="wine")
    assert result.artifact is not None
    (note,) = result.artifact.notes
    assert note.startswith("compiled in one piece (NPUW_ONLINE_PIPELINE=NONE); in parts it failed: ")
    assert "undeclared parameters" in note
    assert result.artifact.options["NPUW_ONLINE_PIPELINE"] == "NONE"
