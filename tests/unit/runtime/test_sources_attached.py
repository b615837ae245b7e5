"""Which attached artifact a load takes, and that the bundle runs whatever is attached to it."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from npu_persist import is_compiled, load
from npu_persist.artifact.artifact import BLOB_FILE, read_artifact
from npu_persist.artifact.attached import list_attached
from npu_persist.artifact.compatibility import check_all_attached
from npu_persist.bundle.graph_records import Port
from npu_persist.bundle.origin import write_origin
from npu_persist.bundle.verification import VERIFY, Verify
from npu_persist.compilation import local
from npu_persist.compilation.recipe import Recipe
from npu_persist.device.core import get_core, get_version
from npu_persist.device.machine import Machine
from npu_persist.runtime.sources import Selection, select_attached
from npu_persist.trust.policy import Policy
from tests.support.attached import REQUIREMENTS, attach_npu
from tests.support.blobs import NPU_TRAILERS, npu_blob, npu_trailer, real_blob
from tests.support.graphs import WEIGHTS, publish_affine, publish_dynamic
from tests.support.loads import attempts, entries, is_right, spoil
from tests.support.signers import ORIGIN

if TYPE_CHECKING:
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store

NPUW = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU"}
"""OpenVINO's NPU plugin without an NPU: it compiles for the CPU."""

LUNAR = Machine("NPU", get_version(), "4000", 6, driver="32.0", elf="1.2", mi="11.4", is_here=True)

LUNAR_OF_UNKNOWN_DRIVER = msgspec.structs.replace(LUNAR, elf=None, mi=None)


@pytest.fixture
def bundle(store: Store) -> Bundle:
    return publish_affine(store)


def pretend(monkeypatch: pytest.MonkeyPatch, machine: Machine = LUNAR) -> None:
    """Let this machine be described as another; its OpenVINO and devices stay."""
    monkeypatch.setattr("npu_persist.device.machine.describe_machine", lambda _core, _device: machine)


def recipe_for(bundle: Bundle, device: str = "NPU", **properties: Any) -> Recipe:
    return Recipe(bundle, bundle.graph(), device, properties)


def choose(recipe: Recipe) -> Selection:
    return select_attached(recipe, list_attached(recipe.bundle), Policy(None, recipe.bundle.path))


class TestChoice:
    def test_the_order(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        """Supported before unknown; then the same OpenVINO, the same properties, the newest compiler."""
        pretend(monkeypatch)
        newer = npu_blob(npu_trailer(openvino=(2026, 5, 0)))
        for name, blob, changes in (
            ("e", newer, {"openvino": "2026.5.0", "requirements": None}),
            ("c", None, {"properties": {"NPU_TURBO": "YES"}}),
            ("d", None, {"properties": {"NPU_TURBO": "YES"}, "compiler": "8.3"}),
            ("b", None, {"compiler": "8.3"}),
            ("a", None, {"compiler": "8.4"}),
        ):
            attach_npu(bundle, blob, folder=name, **changes)
        found = choose(recipe_for(bundle))
        assert [candidate.folder.name for candidate in found.candidates] == ["a", "b", "c", "d", "e"]
        assert [candidate.status for candidate in found.candidates] == ["supported"] * 4 + ["unknown"]
        assert found.rejected == []
        assert "OpenVINO 2026.5.0 compiled it" in found.candidates[-1].reason

    def test_the_exact_key_is_the_first_of_the_supported(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch)
        recipe = recipe_for(bundle)
        attach_npu(bundle, folder="a")
        exact = attach_npu(bundle, folder="b", identity=recipe.identity, compiler="8.0")
        found = choose(recipe)
        assert [candidate.folder for candidate in found.candidates] == [exact, bundle.path / "compiled" / "a"]
        assert found.candidates[0].artifact.key == recipe.key

    def test_it_has_every_property_that_is_asked_for(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch)
        attach_npu(bundle, properties={"NPU_TURBO": "YES", "NPU_COMPILATION_MODE_PARAMS": "optimization-level=2"})
        assert len(choose(recipe_for(bundle, NPU_TURBO="YES")).candidates) == 1
        assert len(choose(recipe_for(bundle)).candidates) == 1
        (reason,) = choose(recipe_for(bundle, NPU_TURBO="NO")).rejected
        assert "'NPU_TURBO': 'YES'" in reason
        assert "{'NPU_TURBO': 'NO'} was requested" in reason

    def test_other_graphs_and_sizes_are_one_reason(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch)
        bundle = publish_dynamic(store)
        sizes = [{"x": (batch, 4), "y": (batch, 5), "z": (2 * batch + 1,)} for batch in range(1, 8)]
        for shapes in sizes:
            inputs = tuple(msgspec.structs.replace(port, shape=shapes[port.name]) for port in bundle.graph().inputs)
            attach_npu(bundle, shapes=shapes, inputs=inputs)
        found = choose(replace(recipe_for(bundle), shapes=sizes[2]))
        (candidate,) = found.candidates
        assert candidate.artifact.shapes == sizes[2]
        (reason,) = found.rejected
        assert reason.endswith("and 1 more: for other graphs or input sizes.")

    @pytest.mark.parametrize(
        ("blob", "changes", "reason"),
        [
            (None, {"subject": "blake3:" + "0" * 64}, "compiled from the bundle blake3:0000"),
            (None, {"inputs": (Port("x", "float32", (2, 4)),)}, "Its input x is float32[2, 4]"),
            (None, {"inputs": (Port("y", "float32", (2, 3)),)}, "the graph's x is float32[2, 3]"),
            (None, {"inputs": (Port("x", "float16", (2, 3)),)}, "float16"),
            (None, {"inputs": ()}, "0 inputs"),
            (None, {"requirements": REQUIREMENTS.replace("elf=1.2.2", "elf=1.2.1")}, "elf 1.2.1, as artifact"),
            (None, {"weightless": True}, "weightless True, as artifact.json says; got False"),
            (real_blob("3720"), {}, "platform 4000, as artifact.json says; got 3720"),
            (real_blob("3720"), {"requirements": None}, "several platforms: its requirements 3720, its target 4000"),
            (real_blob("3720"), {"requirements": None, "target": "NPU:3720", "identity": {}}, "the machine's is 4000"),
            (npu_blob(npu_trailer(encrypted=1)), {}, "an unencrypted payload"),
            (real_blob()[:-1], {}, "cut short"),
            (b"\x7fELF" * 40, {}, "cut short"),
            (b"not an NPU's\n" * 9, {}, "as its last bytes"),
            (None, {"kind": "cache_dir"}, "a folder of OpenVINO's cache"),
            (None, {"device": "CPU", "target": "CPU"}, "a blob for the CPU; got one for the NPU"),
        ],
    )  # fmt: skip
    def test_what_speaks_against_one(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, blob: bytes | None, changes: dict[str, Any], reason: str
    ) -> None:
        pretend(monkeypatch)
        place = attach_npu(bundle, blob, folder="npu", **changes)
        found = choose(recipe_for(bundle))
        assert found.candidates == []
        assert len(found.rejected) == 1
        assert found.rejected[0].startswith(place.name)
        assert reason in found.rejected[0]

    def test_metadata_that_is_newer_is_tried_last(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch)
        attach_npu(bundle, npu_blob(npu_trailer(kind=1)))
        (candidate,) = choose(recipe_for(bundle)).candidates
        assert candidate.status == "unknown"
        assert "its payload is of the kind 1" in candidate.reason

    def test_openvinos_own_check_is_asked_where_ours_cannot_tell(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend(monkeypatch, LUNAR_OF_UNKNOWN_DRIVER)
        place = attach_npu(bundle)
        asked = []

        def check(_core: object, device: str, requirements: str) -> bool:
            asked.append((device, requirements))
            return len(asked) == 1

        monkeypatch.setattr("npu_persist.artifact.compatibility.check_with_openvino", check)
        assert choose(recipe_for(bundle)).candidates[0].status == "supported"
        assert choose(recipe_for(bundle)).candidates == []
        assert asked == [("NPU", REQUIREMENTS)] * 2
        write_origin(place, ORIGIN)
        assert choose(recipe_for(bundle)).candidates == []
        (verdict,) = [entry.verdict for entry in check_all_attached(bundle, LUNAR_OF_UNKNOWN_DRIVER)]
        assert verdict.status == "unknown"
        assert len(asked) == 2  # what strangers wrote is nothing to ask about


class TestWithoutAnNpu:
    """OpenVINO's own NPU plugin, compiling for the CPU: no NPU is here, and the model is asked for on "NPU"."""

    def test_what_is_for_an_npu_is_passed_over_and_the_bundle_runs(self, bundle: Bundle, store: Store) -> None:
        attach_npu(bundle, properties=NPUW)
        model = load("affine", "NPU", config=NPUW, store=store)
        assert attempts(model) == [("attached", "NPU", False), ("cache", "NPU", False), ("graph", "NPU", True)]
        assert "OpenVINO finds no NPU on this machine" in model.report.attempts[0].reason
        assert is_right(model)
        assert attempts(load("affine", "NPU", config=NPUW, store=store))[-1] == ("cache", "NPU", True)

    def test_the_plugins_own_refusal_is_in_the_report(
        self, bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend(monkeypatch)
        best = attach_npu(bundle, properties=NPUW)
        other = attach_npu(bundle, properties=NPUW | {"NPU_TURBO": "YES"}, compiler="8.3")
        model = load("affine", "NPU", config=NPUW, store=store)
        assert attempts(model) == [
            ("attached", "NPU", False), ("attached", "NPU", False), ("cache", "NPU", False), ("graph", "NPU", True),
        ]  # fmt: skip
        for attempt, place in zip(model.report.attempts, (best, other), strict=False):
            assert attempt.reason.startswith(f"{place.name}: ")
            assert "OpenVINO rejects it" in attempt.reason
        assert is_right(model)
        assert not model.report.from_cache

    def test_what_the_plugin_made_for_the_cpu_can_be_attached(
        self, bundle: Bundle, store: Store, tmp_path: Path
    ) -> None:
        """It has no trailer, and no requirements; its key is that of the load."""
        load("affine", "NPU", config=NPUW, store=store)
        (made,) = entries(store)
        shutil.copytree(made, bundle.path / "compiled" / "npu")
        (bundle.path / "compiled" / "npu" / "used").unlink()
        model = load(bundle.path, "NPU", config=NPUW, store=tmp_path / "empty")
        assert attempts(model) == [("attached", "NPU", True)]
        assert is_right(model)
        assert not (tmp_path / "empty").exists()

    def test_compiled_tells_the_same(self, bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        attach_npu(bundle, properties=NPUW)
        assert not is_compiled("affine", "NPU", config=NPUW, store=store)
        pretend(monkeypatch)
        assert is_compiled("affine", "NPU", config=NPUW, store=store)


class TestImport:
    """What the NPU's plugin is given; what it makes of it takes an NPU."""

    @pytest.fixture
    def given(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        pretend(monkeypatch)
        given: list[dict[str, Any]] = []

        class Core:
            def import_model(self, blob: Any, device: str, properties: dict[str, Any]) -> object:
                given.append(properties | {"device": device, "bytes": bytes(blob.data)})
                if "WEIGHTS_PATH" in properties:
                    path = Path(given[-1].pop("WEIGHTS_PATH"))
                    given[-1] |= {"weights": path.read_bytes(), "suffix": path.suffix}
                raise RuntimeError("no NPU here")

            def __getattr__(self, name: str) -> Any:
                return getattr(get_core(), name)

        monkeypatch.setattr(local, "get_core", Core)
        return given

    def test_weights_that_a_blob_leaves_out_are_given_as_bin(
        self, bundle: Bundle, store: Store, given: list[dict[str, Any]]
    ) -> None:
        blob = weightless_blob()
        attach_npu(bundle, blob, weightless=True, properties=NPUW)
        weights = (bundle.path / WEIGHTS).read_bytes()
        for verify in VERIFY:
            model = load("affine", "NPU", config=NPUW, cache=False, verify=verify, store=store)
            assert is_right(model)
        assert given == [{**NPUW, "weights": weights, "suffix": ".bin", "device": "NPU", "bytes": blob}] * len(VERIFY)

    @pytest.mark.parametrize("verify", VERIFY)
    def test_a_bin_of_other_bytes_never_reaches_the_plugin(
        self, bundle: Bundle, store: Store, given: list[dict[str, Any]], verify: Verify
    ) -> None:
        attach_npu(bundle, weightless_blob(), weightless=True, properties=NPUW)
        weights = bundle.path / "model.bin"
        weights.unlink(missing_ok=True)
        weights.write_bytes(bytes((bundle.path / WEIGHTS).stat().st_size))
        load("affine", "NPU", config=NPUW, verify=verify, store=store)
        right = (bundle.path / WEIGHTS).read_bytes()
        if sys.platform == "linux":
            assert [one["weights"] for one in given] == [right]
        else:  # the file itself would be read: it is refused or, where nothing is verified, made again
            assert all(one["weights"] == right for one in given)

    def test_weights_that_are_inside_need_no_file(
        self, bundle: Bundle, store: Store, given: list[dict[str, Any]]
    ) -> None:
        attach_npu(bundle, properties=NPUW)
        load("affine", "NPU", config=NPUW, store=store)
        assert given == [{**NPUW, "device": "NPU", "bytes": real_blob()}]

    def test_a_flipped_bit_never_reaches_the_plugin(
        self, bundle: Bundle, store: Store, given: list[dict[str, Any]]
    ) -> None:
        place = attach_npu(bundle, properties=NPUW)
        data = bytearray((place / BLOB_FILE).read_bytes())
        data[40] ^= 1  # in the payload, of which the trailer says nothing
        spoil(place / BLOB_FILE, bytes(data))
        model = load("affine", "NPU", config=NPUW, store=store)
        assert given == []
        assert "expected blake3:" in model.report.attempts[0].reason
        assert is_right(model)


def weightless_blob() -> bytes:
    trailer = bytes.fromhex(NPU_TRAILERS["4000 weightless"]).replace(
        (425_984).to_bytes(8, "little"), bytes([32, *[0] * 7])
    )
    return npu_blob(trailer)


class TestCpu:
    def test_one_of_a_processor_of_another_name_is_taken_if_openvino_takes_it(
        self, bundle: Bundle, store: Store, tmp_path: Path
    ) -> None:
        """Its key is another, and its instructions are the same."""
        load("affine", "CPU", store=store)
        (made,) = entries(store)
        artifact = read_artifact(made)
        renamed = msgspec.structs.replace(artifact, identity={**artifact.identity, "FULL_DEVICE_NAME": "Another"})
        place = bundle.path / "compiled" / "cpu"
        place.mkdir(parents=True)
        shutil.copyfile(made / BLOB_FILE, place / BLOB_FILE)
        (place / "artifact.json").write_bytes(renamed.to_json())
        model = load(bundle.path, "CPU", store=tmp_path / "empty")
        assert attempts(model) == [("attached", "CPU", True)]
        assert "It was compiled on Another" in model.report.attempts[0].reason
        assert model.report.key == renamed.key
        assert is_right(model)

    def test_one_of_other_properties_serves_a_load_that_asks_for_them_only(
        self, bundle: Bundle, store: Store, tmp_path: Path
    ) -> None:
        config = {"INFERENCE_PRECISION_HINT": "f32"}
        load("affine", "CPU", config=config, store=store)
        (made,) = entries(store)
        shutil.copytree(made, bundle.path / "compiled" / "cpu", ignore=lambda *_: ["used"])
        assert attempts(load(bundle.path, "CPU", store=tmp_path / "empty"))[0] == ("attached", "CPU", False)
        model = load(bundle.path, "CPU", config=config, store=tmp_path / "empty")
        assert attempts(model) == [("attached", "CPU", True)]
        assert np.array_equal(model(np.ones((2, 3), np.float32)), np.ones((2, 3)) * [1, 2, 3] + 0.5)
