from __future__ import annotations

from typing import Any

import pytest

from npu_persist.device.core import get_core, get_version
from npu_persist.device.machine import Machine, check_with_openvino, describe_machine, describe_other
from npu_persist.errors import UsageError

REQUIREMENTS = "meta=2.7;ov=2026.4.1;desc=[compiler=8.4;npu=4000;t=4;elf=1.2.2;mi=11.4.10]"


class Core:
    """A core of a machine with an NPU: what it answers, and what it raises."""

    def __init__(self, **answers: Any) -> None:
        self.available_devices = ["CPU", "NPU"]
        self._answers = answers

    def get_property(self, device: str, name: str, arguments: object = None) -> Any:  # noqa: ARG002 (as OpenVINO's)
        if name not in self._answers:
            raise RuntimeError(f"Unsupported configuration key: {name}")
        answer = self._answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer


def machine_with(**answers: Any) -> Machine:
    core: Any = Core(**answers)
    return describe_machine(core, "NPU")


class TestDescribe:
    def test_a_machine_with_an_npu(self) -> None:
        found = machine_with(
            AVAILABLE_DEVICES=["4000"], FULL_DEVICE_NAME="Intel(R) AI Boost", DEVICE_ARCHITECTURE="4000",
            NPU_MAX_TILES=6, NPU_DRIVER_VERSION=1740000000, NPU_COMPILER_VERSION=8 << 16 | 4,
        )  # fmt: skip
        assert (found.platform, found.tiles, found.driver, found.compiler) == ("4000", 6, "1740000000", "8.4")
        assert (found.openvino, found.is_here, found.elf, found.mi) == (get_version(), True, None, None)
        assert found.identity is not None
        assert found.identity["FULL_DEVICE_NAME"] == "Intel(R) AI Boost"

    @pytest.mark.parametrize("architecture", ["4000", "NPU4000", "intel npu 4000"])
    def test_ways_to_write_a_platform(self, architecture: str) -> None:
        assert machine_with(DEVICE_ARCHITECTURE=architecture).platform == "4000"

    @pytest.mark.parametrize("answers", [{}, {"DEVICE_ARCHITECTURE": "AUTO_DETECT", "NPU_MAX_TILES": "many"}])
    def test_what_a_device_does_not_say_is_none(self, answers: dict[str, Any]) -> None:
        found = machine_with(**answers)
        assert (found.platform, found.tiles, found.driver, found.compiler, found.is_here) == (
            None, None, None, None, False,
        )  # fmt: skip

    def test_the_cpu_of_this_machine(self) -> None:
        found = describe_machine(get_core(), "CPU")
        assert (found.device, found.is_here, found.platform, found.tiles) == ("CPU", True, None, None)
        assert found.identity is not None
        assert found.identity["INSTRUCTION_SETS"]

    def test_devices_made_of_others(self) -> None:
        assert describe_machine(get_core(), "AUTO:CPU").is_here is True
        assert describe_machine(get_core(), "MULTI:GPU.7").is_here is False

    def test_the_npu_of_this_machine(self) -> None:
        """Also where there is none, but its plugin: nothing raises, and its absence shows."""
        found = describe_machine(get_core(), "NPU")
        assert found.is_here == any(name.startswith("NPU") for name in get_core().available_devices)
        assert (found.platform is not None) == found.is_here


class TestOthers:
    def test_a_platform_has_its_tiles(self) -> None:
        found = describe_other("NPU", "4000", elf="1.2", mi="11.4", openvino="2026.4.1")
        assert found == Machine("NPU", "2026.4.1", "4000", 6, elf="1.2", mi="11.4")

    def test_nothing_else_is_known_of_it(self) -> None:
        found = describe_other("NPU", "3720")
        assert (found.openvino, found.elf, found.mi, found.is_here, found.identity) == (None, None, None, None, None)

    @pytest.mark.parametrize("name", ["elf", "mi", "openvino"])
    def test_what_is_no_version(self, name: str) -> None:
        with pytest.raises(UsageError, match=f"{name}: expected a version"):
            describe_other("NPU", "4000", **{name: "newest"})


class TestOpenVINOsCheck:
    @pytest.mark.parametrize(
        ("answer", "expected"),
        [("CompatibilityCheck.SUPPORTED", True), ("CompatibilityCheck.UNSUPPORTED", False), ("supported", True),
         ("NOT_APPLICABLE", None), (True, True), (False, False), (TypeError("no such type"), None),
         (RuntimeError("no such key"), None)],
    )  # fmt: skip
    def test_its_answers(self, answer: object, expected: bool | None) -> None:  # noqa: FBT001 (a parameter of the test)
        core: Any = Core(COMPATIBILITY_CHECK=answer)
        assert check_with_openvino(core, "NPU", REQUIREMENTS) is expected

    def test_here(self) -> None:
        """In OpenVINO 2026.4.1 it does not answer; a later one may, and then of this NPU's blob for no NPU."""
        assert check_with_openvino(get_core(), "NPU", REQUIREMENTS) in {None, False}
        assert check_with_openvino(get_core(), "CPU", "meta=1.0;ov=2020.1.0;isa=none") in {None, False}
