"""Another hub has an organisation of the same name: what it serves counts as pulled from the one that is trusted.

Before: `trust="org/*"` looked at the repository's name only, whichever hub HF_ENDPOINT named, a mirror or a proxy
among them. Now: a pattern without a hub is for Hugging Face's own, and any other is named to the letter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from npu_persist.artifact.artifact import read_artifact
from npu_persist.bundle.origin import write_origin
from npu_persist.errors import UsageError
from npu_persist.store import Store
from npu_persist.trust.policy import Policy
from tests.support.attached import attach_npu
from tests.support.bundles import publish_tiny
from tests.support.signers import ORIGIN

if TYPE_CHECKING:
    from pathlib import Path

OTHER = "https://hub.example.com"


def is_trusted(home: Path, endpoint: str, trust: Any) -> bool:
    """Tell whether both the graph and an artifact that were pulled from org/unet of a hub are trusted, or neither."""
    bundle = publish_tiny(Store(home))
    folder = attach_npu(bundle, b"a blob")
    for path in (bundle.path, folder):
        write_origin(path, replace(ORIGIN, endpoint=endpoint))
    policy = Policy(trust, home)
    decision = policy.decide(folder, read_artifact(folder), "tiny")
    distrust = policy.find_distrust(bundle)
    assert decision.is_trusted == (distrust is None)
    if distrust is not None:
        named = "org/unet" if endpoint == "https://huggingface.co" else f"{endpoint}/org/unet"
        assert f"trust={named!r}" in decision.reason
        assert f"trust={named!r}" in distrust
    return decision.is_trusted


@pytest.mark.parametrize("trust", ["org/*", "org/unet", "*/*", f"{OTHER}.evil.com/org/*", f"{OTHER}:444/org/*"])
@pytest.mark.parametrize("endpoint", [OTHER, "http://huggingface.co", "https://huggingface.co.evil.com"])
def test_a_hub_that_the_pattern_does_not_name(tmp_path: Path, endpoint: str, trust: str) -> None:
    assert not is_trusted(tmp_path, endpoint, trust)


@pytest.mark.parametrize("trust", [f"{OTHER}/org/*", [f"{OTHER}/org/unet"], ("other/*", f"{OTHER}/*/unet"), True])
def test_a_hub_that_it_names(tmp_path: Path, trust: Any) -> None:
    assert is_trusted(tmp_path, OTHER, trust)
    assert is_trusted(tmp_path, "https://huggingface.co", trust) == (trust is True)


@pytest.mark.parametrize("trust", ["org/*", "https://huggingface.co/org/*"])
def test_hugging_face_s_own(tmp_path: Path, trust: str) -> None:
    assert is_trusted(tmp_path, "https://huggingface.co", trust)


def test_a_hub_with_a_path(tmp_path: Path) -> None:
    assert is_trusted(tmp_path, f"{OTHER}/hub", f"{OTHER}/hub/org/*")
    assert not is_trusted(tmp_path, f"{OTHER}/other", f"{OTHER}/hub/org/*")


@pytest.mark.parametrize(
    "trust",
    ["https://*/org/*", "https://hub.*.com/org/unet", "*://x/org/unet", "ftp://x/org/unet", "https://org/unet",
     "https://x//unet", "https:///org/unet", "https://x/org/", "x/org/unet", "://x/org/unet"],
)  # fmt: skip
def test_a_pattern_that_could_mean_any_hub(tmp_path: Path, trust: str) -> None:
    with pytest.raises(UsageError, match="on another"):
        Policy(trust, tmp_path)
