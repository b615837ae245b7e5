from __future__ import annotations

import pytest

from npu_persist.errors import FileIntegrityError, NotFoundError
from npu_persist.store import Store
from tests.support.graphs import publish_relu
from tests.support.loads import spoil


def test_an_asset_is_found_by_its_name_and_compared_with_the_manifest() -> None:
    bundle = publish_relu(Store(), (2,), assets={"labels.txt": b"yes\nno\n", "deep/er.bin": b"\0"})
    assert bundle.assets == ("deep/er.bin", "labels.txt")
    assert bundle.asset("labels.txt").read_text() == "yes\nno\n"
    spoil(bundle.path / "assets/labels.txt")
    assert bundle.asset("deep/er.bin").read_bytes() == b"\0"
    with pytest.raises(FileIntegrityError, match=r"labels\.txt"):
        bundle.asset("labels.txt")
    with pytest.raises(FileIntegrityError):
        bundle.verify()


@pytest.mark.parametrize("name", ["other.txt", "", "../manifest.json", "model.xml", "/etc/passwd"])
def test_what_is_no_asset_is_not_found(name: str) -> None:
    bundle = publish_relu(Store(), (2,), assets={"labels.txt": b"yes"})
    with pytest.raises(NotFoundError, match=r"it has labels\.txt"):
        bundle.asset(name)
    assert publish_relu(Store(), (2,), name="bare").assets == ()
