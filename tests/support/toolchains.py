"""The real NPU compiler for tests: the toolchain for wine that is installed on this machine, or a skip that says why.

Install it with `npu-persist toolchain install`, or name a folder of toolchains with NPU_PERSIST_TOOLCHAINS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from npu_persist.compilation.toolchains.wine import HOME_VARIABLE, INSTALL, WineToolchain, find_home

if TYPE_CHECKING:
    from pathlib import Path

INSTALLED = find_home()
"""Where toolchains are installed here: found before the tests get a home of their own."""


@pytest.fixture(scope="session")
def wine_home() -> Path:
    """The folder of toolchains in which the one for wine can be used."""
    state = WineToolchain(INSTALLED).examine()
    if not state.usable:
        pytest.skip(f"no NPU compiler under wine in {INSTALLED}: {state.reason}; run {state.advice or INSTALL}")
    return INSTALLED


@pytest.fixture
def wine(wine_home: Path, monkeypatch: pytest.MonkeyPatch) -> WineToolchain:
    """The toolchain for wine; the one that this test finds, too."""
    monkeypatch.setenv(HOME_VARIABLE, str(wine_home))
    return WineToolchain()
