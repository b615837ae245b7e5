from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from npu_persist.store import Store
from tests.support.graphs import publish_affine, publish_dynamic, publish_relu
from tests.support.loaded import LARGE, Loader

if TYPE_CHECKING:
    from npu_persist import Model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    return Loader(Store(tmp_path_factory.mktemp("store")))


@pytest.fixture
def affine(loaded: Loader) -> Model:
    """`x[2, 3] -> x * [1, 2, 3] + 0.5`."""
    return loaded(publish_affine)


@pytest.fixture
def dynamic(loaded: Loader) -> Model:
    """`x[batch, 4], y[batch, ?], z[2*batch+1] -> (2 * x, max(y, 0), sum of z)`, batch 1 to 8."""
    return loaded(publish_dynamic)


@pytest.fixture
def large(loaded: Loader) -> Model:
    """`x -> max(x, 0)` on an input that is read where it is."""
    return loaded(publish_relu, LARGE, name="large")
