"""What every test gets: a store of its own, and no torch test where torch is not installed."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from npu_persist.compilation.toolchains.native import COMPILER_VARIABLE
from npu_persist.compilation.toolchains.wine import HOME_VARIABLE
from npu_persist.store import Store
from tests.support.as_on_linux import change_windows
from tests.support.bf16_cpu import bf16_cpu as bf16_cpu  # noqa: PLC0414
from tests.support.hubs import hub as hub  # noqa: PLC0414 (a fixture is found by its name here)
from tests.support.second_device import second_device as second_device  # noqa: PLC0414
from tests.support.toolchains import wine as wine  # noqa: PLC0414
from tests.support.toolchains import wine_home as wine_home  # noqa: PLC0414

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDS_TORCH = {"torch", "transformers", "diffusers", "npu_persist.conversion", "tests.models"}
"""A test file that imports one of these is a training-side test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--deploy",
        action="store_true",
        help="only the tests of a machine without torch: files that import torch, or what is built on it, are left out",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--deploy"):
        return None
    if collection_path.is_dir():
        return collection_path.name == "architectures" or None
    return (collection_path.suffix == ".py" and _needs_torch(collection_path)) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = item.path.relative_to(Path(__file__).parent).parts[0]
        if kind in {"models", "faults"}:
            item.add_marker(kind)
        if "wine" in getattr(item, "fixturenames", ()):
            item.add_marker("npu")


def pytest_configure() -> None:
    """NNCF imports setuptools, which cannot be imported after the standard library's distutils."""
    if importlib.util.find_spec("torch") and importlib.util.find_spec("setuptools"):
        importlib.import_module("setuptools")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Random weights do not depend on the tests that ran before, so that near ties do not come and go."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def pytest_report_header(config: pytest.Config) -> str:
    found = importlib.util.find_spec("torch")
    where = "not installed" if found is None else f"at {found.origin}"
    return f"deploy tests only: {bool(config.getoption('--deploy'))}; torch: {where}"


@pytest.fixture(scope="session", autouse=True)
def _no_store_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures of a wider scope than one test do not reach the user's store either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPU_PERSIST_HOME", str(tmp_path_factory.mktemp("session_home")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _files_as_on_linux() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        change_windows(patch)
        yield


@pytest.fixture(autouse=True)
def store_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default store of this test: empty, and nobody else's; no toolchain is installed in it."""
    home = tmp_path / "home"
    monkeypatch.setenv("NPU_PERSIST_HOME", str(home))
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    monkeypatch.delenv(COMPILER_VARIABLE, raising=False)
    return home


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Another store than the default one: what ignores it finds nothing."""
    return Store(tmp_path / "store")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte and few files."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=60", "tmpfs", str(mount)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount a small tmpfs: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)  # noqa: S607


def _needs_torch(path: Path) -> bool:
    return any(
        name == needed or name.startswith(f"{needed}.")
        for name in _imported(ast.parse(path.read_text(encoding="utf-8")))
        for needed in NEEDS_TORCH
    )


def _imported(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that a file imports anywhere in it, also inside of its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.fixture
def exact_cpu() -> Iterator[None]:
    """The package's core, whose CPU computes in float32."""
    from npu_persist.device.core import get_core

    before = get_core().get_property("CPU", "INFERENCE_PRECISION_HINT")
    get_core().set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    yield
    get_core().set_property("CPU", {"INFERENCE_PRECISION_HINT": before})
