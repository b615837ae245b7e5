from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from npu_persist.artifact.artifact import Lengths
from npu_persist.artifact.compatibility import Verdict, check_compatibility
from npu_persist.bundle.graph_records import Dimension, Port
from npu_persist.device.machine import Machine
from tests.support.artifacts import make_artifact
from tests.support.blobs import DESCRIPTOR

if TYPE_CHECKING:
    from npu_persist.artifact.artifact import Artifact

OPEN = Dimension(None, 1, None)
FULL = "2026.4.1-22982-e213a147257-releases/2026/4"
LUNAR = Machine("NPU", FULL, "4000", 6, driver="32.0", elf="1.2", mi="11.4", is_here=True)
GPU = {"FULL_DEVICE_NAME": "Arc", "GPU_DRIVER_VERSION": "25.1", "GPU_UARCH_VERSION": "20.4.4"}
CPU = {"FULL_DEVICE_NAME": "Core", "INSTRUCTION_SETS": "avx2,fma", "OPTIMIZATION_CAPABILITIES": "FP32"}


def for_npu(descriptor: str = DESCRIPTOR, *, meta: str = "2.7", ov: str = "2026.4.1", **changes: Any) -> Artifact:
    fields: dict[str, Any] = {
        "target": "NPU:4000",
        "device": "NPU",
        "identity": {"DEVICE_ARCHITECTURE": "4000"},
        "properties": {},
        "requirements": f"meta={meta};ov={ov};desc=[{descriptor}]",
        "toolchain": "wine",
        "compiler": "8.4",
    }
    return make_artifact(**(fields | changes))


def of_npu(machine: Machine = LUNAR, descriptor: str = DESCRIPTOR, **changes: Any) -> Verdict:
    return check_compatibility(for_npu(descriptor, **changes), machine)


class TestNpu:
    def test_all_that_decides_is_known_and_agrees(self) -> None:
        found = of_npu()
        assert found.status == "supported"
        assert found.reasons == (
            "It is for the NPU's platform 4000, as is the machine's.",
            "It needs 4 tiles of the NPU; the machine has 6.",
            "It has version 1.2.2 of the ELF format; the newest version that the machine's driver accepts is 1.2.",
            (
                "It has version 11.4.10 of the mapped inference; "
                "the newest version that the machine's driver accepts is 11.4."
            ),
            f"OpenVINO 2026.4.1 compiled it, but {FULL} is installed.",
        )

    def test_another_platform(self) -> None:
        found = of_npu(replace(LUNAR, platform="3720"))
        assert found == Verdict("unsupported", ("It is for the NPU's platform 4000; the machine's is 3720.",))

    def test_too_few_tiles(self) -> None:
        found = of_npu(replace(LUNAR, tiles=2))
        assert found == Verdict("unsupported", ("It needs 4 tiles of the NPU; the machine has 2.",))

    @pytest.mark.parametrize(
        ("name", "newest", "status"),
        [("elf", "1.2", "supported"), ("elf", "1.3", "supported"), ("elf", "1.2.0", "supported"),
         ("elf", "1.1", "unsupported"), ("elf", "2.9", "unsupported"), ("elf", "0.9", "unsupported"),
         ("mi", "11.4", "supported"), ("mi", "11.10", "supported"), ("mi", "11.3", "unsupported"),
         ("mi", "12.4", "unsupported"), ("elf", None, "unknown"), ("mi", None, "unknown")],
    )  # fmt: skip
    def test_the_drivers_versions(self, name: str, newest: str | None, status: str) -> None:
        found = of_npu(replace(LUNAR, elf=newest) if name == "elf" else replace(LUNAR, mi=newest))
        assert found.status == status
        if status != "supported":
            (reason,) = found.reasons
            assert {"elf": "1.2.2", "mi": "11.4.10"}[name] in reason
            assert reason.endswith(f"accepts is {newest or 'unknown'}.")

    @given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
    def test_majors_are_equal_and_minors_at_most(self, major: int, minor: int, theirs: int, newest: int) -> None:
        descriptor = f"npu=4000;t=4;elf={major}.{minor}.7;mi=11.4.10"
        found = of_npu(replace(LUNAR, elf=f"{theirs}.{newest}"), descriptor)
        assert (found.status == "supported") == (major == theirs and minor <= newest)

    @pytest.mark.parametrize("openvino", ["2026.4.2-1-x", "2026.3.0", "2027.0.0", "custom-master", None])
    def test_another_openvino_is_not_guaranteed(self, openvino: str | None) -> None:
        found = of_npu(replace(LUNAR, openvino=openvino))
        assert found.status == "unknown"
        (reason,) = found.reasons
        assert "OpenVINO 2026.4.1 compiled it" in reason
        assert (openvino or "unknown") in reason

    @pytest.mark.parametrize(
        ("openvino", "status"),
        [(FULL, "unsupported"), ("2026.2.0", "unsupported"), ("2027.0.0", "supported"), ("custom", "unknown")],
    )
    def test_metadata_that_the_installed_openvino_cannot_read(self, openvino: str, status: str) -> None:
        found = of_npu(replace(LUNAR, openvino=openvino), meta="2.8", ov="2027.0.0")
        assert found.status == status
        if status == "unsupported":
            assert found.reasons == (f"Its metadata has version 2.8; OpenVINO {openvino} reads it up to 2.7.",)

    @pytest.mark.parametrize("installed", ["2026.4.0", "2026.4.2", "2026.5.1", "2025.4.1"])
    def test_a_model_that_generates_needs_its_openvino_up_to_the_patch(self, installed: str) -> None:
        generates: dict[str, Any] = {
            "npuw": "0.31",
            "lengths": Lengths(128, 64),
            "inputs": (Port("input_ids", "int64", (OPEN, OPEN)),),
        }
        assert of_npu(**generates).status == "supported"
        found = of_npu(replace(LUNAR, openvino=installed), **generates)
        assert found.status == "unsupported"
        assert f"OpenVINO 2026.4.1 compiled it, but {installed} is installed" in found.reasons[-1]
        assert of_npu(replace(LUNAR, openvino=None), **generates).status == "unknown"

    def test_a_machine_of_which_only_the_platform_is_known(self) -> None:
        found = of_npu(Machine("NPU", platform="4000", tiles=6))
        assert found.status == "unknown"
        assert len(found.reasons) == 3

    def test_a_blob_that_requires_nothing(self) -> None:
        found = check_compatibility(for_npu(requirements=None), LUNAR)
        assert found.status == "unknown"
        assert "It needs unknown tiles of the NPU; the machine has 6." in found.reasons

    def test_malformed_requirements(self) -> None:
        found = check_compatibility(for_npu(requirements="[["), LUNAR)
        assert found.status == "unsupported"
        assert "Its requirements cannot be read" in found.reasons[0]

    def test_it_contradicts_itself(self) -> None:
        found = check_compatibility(for_npu(target="NPU:3720"), LUNAR)
        assert found.status == "unsupported"
        assert "several platforms: its requirements 4000, its target 3720" in found.reasons[0]

    def test_a_device_may_write_its_platform_with_letters(self) -> None:
        assert of_npu(identity={"DEVICE_ARCHITECTURE": "NPU4000"}).status == "supported"

    def test_it_names_no_platform(self) -> None:
        found = check_compatibility(for_npu("t=4;elf=1.2.2;mi=11.4.10", target="NPU", identity={}), LUNAR)
        assert found == Verdict("unknown", ("It does not name its platform; the machine's is 4000.",))

    @pytest.mark.parametrize(("most", "status"), [(8, "unknown"), (None, "unsupported")])
    def test_sizes_that_vary(self, most: int | None, status: str) -> None:
        found = of_npu(inputs=(Port("x", "float32", (Dimension("batch", 1, most), 4)),))
        assert found.status == status
        assert f"Its input x has 1 to {most or 'any number'} along axis 0" in found.reasons[0]

    def test_no_npu_here(self) -> None:
        found = of_npu(Machine("NPU", FULL, is_here=False, identity={"OPTIMIZATION_CAPABILITIES": "FP16"}))
        assert found == Verdict("unsupported", ("It is for NPU:4000; OpenVINO finds no NPU on this machine.",))

    def test_what_was_compiled_on_this_device_is_for_it(self) -> None:
        identity = {"OPTIMIZATION_CAPABILITIES": "FP16"}
        artifact = for_npu(requirements=None, identity=identity, openvino=FULL, target="NPU")
        assert (
            check_compatibility(artifact, Machine("NPU", FULL, is_here=False, identity=identity)).status == "supported"
        )
        assert (
            check_compatibility(artifact, Machine("NPU", "2027.0", is_here=False, identity=identity)).status
            == "unsupported"
        )

    def test_openvinos_own_check_counts_where_ours_cannot_tell(self) -> None:
        unknown = replace(LUNAR, elf=None)
        assert check_compatibility(for_npu(), unknown, openvino_says=True).status == "supported"
        found = check_compatibility(for_npu(), unknown, openvino_says=False)
        assert found.status == "unsupported"
        assert DESCRIPTOR in found.reasons[0]
        assert (
            check_compatibility(for_npu(), replace(LUNAR, platform="3720"), openvino_says=True).status == "unsupported"
        )


class TestOthers:
    def test_another_device(self) -> None:
        found = check_compatibility(for_npu(), Machine("CPU", FULL, is_here=True, identity=CPU))
        assert found == Verdict("unsupported", ("It is for the NPU; the machine's device is CPU.",))

    def test_files_of_a_cache(self) -> None:
        assert check_compatibility(for_npu(kind="cache_dir"), LUNAR).status == "unsupported"

    @pytest.mark.parametrize(
        ("openvino", "changes", "status"),
        [
            (FULL, {}, "supported"),
            (FULL, {"OPTIMIZATION_CAPABILITIES": "FP32,BF16"}, "supported"),
            (FULL, {"FULL_DEVICE_NAME": "Xeon"}, "unknown"),
            (FULL, {"INSTRUCTION_SETS": "avx2"}, "unsupported"),
            (FULL, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "unsupported"),
            ("2026.4.1", {}, "unsupported"),
        ],
    )  # fmt: skip
    def test_the_cpu(self, openvino: str, changes: dict[str, str], status: str) -> None:
        artifact = make_artifact(identity=CPU, openvino=FULL)
        found = check_compatibility(artifact, Machine("CPU", openvino, is_here=True, identity=CPU | changes))
        assert found.status == status
        assert all(reason.endswith(".") for reason in found.reasons)
        if status == "unsupported":
            (reason,) = found.reasons
            assert (changes and next(iter(changes.values())) in reason) or openvino in reason

    @pytest.mark.parametrize("name", [None, "GPU_DRIVER_VERSION", "GPU_UARCH_VERSION", "FULL_DEVICE_NAME"])
    def test_the_gpu(self, name: str | None) -> None:
        artifact = make_artifact(target="GPU", device="GPU.1", identity=GPU, openvino=FULL)
        here = GPU | ({name: "another"} if name else {})
        found = check_compatibility(artifact, Machine("GPU.0", FULL, is_here=True, identity=here))
        assert found.status == ("unsupported" if name else "supported")
        if name:
            assert found.reasons == (f"{name} is {GPU[name]} for it, and another on the machine.",)

    def test_a_machine_of_which_nothing_is_known(self) -> None:
        artifact = make_artifact(identity=CPU, openvino=FULL)
        assert check_compatibility(artifact, Machine("CPU", FULL)).status == "unknown"
