"""Somebody publishes a version while another one is verified to be signed: `sign` looked its reference up twice.

The version that came in between was then signed without being verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.bundle.bundle import Bundle
from npu_persist.store import Store
from tests.support.bundles import publish_tiny, tiny_golden
from tests.support.signers import write_private_key

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_what_is_signed_is_what_was_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    publish_tiny(store)
    verify = Bundle.verify

    def verify_and_be_overtaken(bundle: Bundle, **options: Any) -> None:
        verify(bundle, **options)
        publish_tiny(store, golden=tiny_golden("never verified"))

    monkeypatch.setattr(Bundle, "verify", verify_and_be_overtaken)
    (signature,) = npu_persist.sign("tiny", write_private_key(tmp_path, "ada"), store=store)
    assert signature.parent == store.resolve("tiny:1").path
    assert [path.name for path in store.resolve("tiny:2").path.glob("*.sig")] == []
