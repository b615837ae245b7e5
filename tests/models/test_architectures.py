"""The table of architectures: nearly all of them convert, and the loaded bundle answers as torch does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch", reason="persisting needs torch")
pytest.importorskip("transformers", reason="the architectures are those of transformers and diffusers")
pytest.importorskip("diffusers", reason="the architectures are those of transformers and diffusers")

from npu_persist.store import Store
from tests.models.architectures import ARCHITECTURES, Architecture
from tests.models.architectures.measure import Row, measure

if TYPE_CHECKING:
    from pathlib import Path

MIN_COSINE = 0.999
MIN_SHARE = 0.95

KNOWN_FAILURES = {
    "efficientnet": ("ConversionError", "pools with a kernel larger than the map, which OpenVINO refuses"),
    "vilt": ("ParityError", "draws patches at random, as many as the data says; torch itself is not repeatable"),
}
"""Name → the error that it must end with, and why. One that starts to work fails its test and leaves this table."""

# Third parties' models warn of their own deprecations, and tracing of what it froze; neither is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {}


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_architecture(architecture: Architecture, rows: dict[str, Row], tmp_path: Path) -> None:
    store = Store(tmp_path)
    row = rows[architecture.name] = measure(architecture, store)
    if architecture.name in KNOWN_FAILURES:
        error, reason = KNOWN_FAILURES[architecture.name]
        assert not row.is_converted, f"works now, take it off the known failures: {reason}"
        assert row.error == error, row.reason
        assert not store.list(), "a failed persist left something in the store"
    else:
        assert row.is_converted, f"{row.error}: {row.reason}"
        assert row.cosine >= MIN_COSINE


def test_share_that_converts(rows: dict[str, Row]) -> None:
    if len(rows) < len(ARCHITECTURES):
        pytest.skip(f"{len(rows)} of {len(ARCHITECTURES)} architectures were run here; the share is that of all")
    failed = {name: f"{row.error}: {row.reason}"[:200] for name, row in rows.items() if not row.is_converted}
    assert len(rows) - len(failed) >= MIN_SHARE * len(rows), failed


def test_known_failures_are_in_the_table() -> None:
    assert KNOWN_FAILURES.keys() <= {architecture.name for architecture in ARCHITECTURES}
