from __future__ import annotations

import pytest

from npu_persist.artifact.target import Target, parse_target
from npu_persist.device.platforms import PLATFORMS
from npu_persist.errors import TargetError


@pytest.mark.parametrize(
    "text", ["NPU:4000", "npu:4000", "4000", " lunar-lake ", "Lunar_Lake", "lunar lake", "NPU:Lunar-Lake"]
)
def test_every_way_to_write_a_target_gives_the_same(text: str) -> None:
    assert parse_target(text) == Target("NPU", "NPU", "4000")


def test_two_processors_may_share_a_platform() -> None:
    assert parse_target("meteor-lake") == parse_target("arrow-lake") == parse_target("3720")


@pytest.mark.parametrize(
    ("text", "shown"), [("cpu", "CPU"), ("GPU.1", "GPU.1"), ("npu", "NPU"), ("panther-lake", "NPU:5010")]
)
def test_a_target_is_written_one_way(text: str, shown: str) -> None:
    target = parse_target(text)
    assert str(target) == shown
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text", ["", "NPU:1234", "AUTO", "AUTO:NPU", "wildcat-lake", "NPU:", "CPU:4000", "GPU.x", "٤٠٠٠", 4000]
)
def test_anything_else_is_refused_with_the_list(text: str) -> None:
    with pytest.raises(TargetError, match=r"NPU:4000.*lunar-lake.*npu-persist targets"):
        parse_target(text)


def test_the_platforms_are_named_once() -> None:
    names = [name for platform in PLATFORMS.values() for name in platform.names]
    assert len(names) == len(set(names))
    assert all(platform.number == number and platform.tiles > 0 for number, platform in PLATFORMS.items())
