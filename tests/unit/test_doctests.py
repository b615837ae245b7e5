"""The examples in the docstrings and in the README run, each in a store of its own."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

import npu_persist
from tests.support.processes import ROOT

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PACKAGE = Path(npu_persist.__file__).parent
PAGES = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if ">>> " in path.read_text("utf-8")
]
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_examples_of_a_module(path: Path, pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--deploy") and re.search(r">>> import .*\btorch\b", path.read_text(encoding="utf-8")):
        pytest.skip("its examples persist, which needs torch")
    module = importlib.import_module(module_name(path))
    failed, attempted = doctest.testmod(module, optionflags=FLAGS)
    assert attempted
    assert failed == 0


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.name))
def test_examples_of_a_page(path: Path, pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--deploy"):
        pytest.skip("its examples persist, which needs torch")
    failed, attempted = doctest.testfile(str(path), module_relative=False, optionflags=FLAGS)
    assert attempted
    assert failed == 0


def test_the_reference_has_every_public_name() -> None:
    documented = set(re.findall(r"^::: npu_persist\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE))
    assert documented | {"NpuPersistError", "errors", "__version__"} == set(npu_persist.__all__)


def test_each_public_verb_has_an_example() -> None:
    verbs = [
        "open",
        "list",
        "alias",
        "unalias",
        "verify",
        "export",
        "sign",
        "verify_signature",
        "remove",
        "prune",
        "load",
        "bench",
    ]
    without = [name for name in verbs if ">>> " not in (getattr(npu_persist, name).__doc__ or "")]
    assert without == []
