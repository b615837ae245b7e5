"""The list of what persist raises is complete, in its docstring and in docs/errors.md."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import npu_persist.conversion
from npu_persist import errors
from tests.support.processes import ROOT

CONVERSION = Path(npu_persist.conversion.__file__).parent


def raised_by_conversion() -> set[str]:
    """Return the errors of ours that the code of `conversion` raises, but for those of `refresh` alone."""
    names = set()
    for path in CONVERSION.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                names.add(node.exc.func.id)
    return {name for name in names if hasattr(errors, name)} - {"RefreshError"}


def test_the_docstring_and_the_page_name_each_error() -> None:
    raises = re.search(r"Raises:\n(.*?)\n\n", inspect.cleandoc(npu_persist.persist.__doc__ or ""), re.DOTALL)
    assert raises is not None
    in_docstring = set(re.findall(r"\w+Error", raises.group(1)))
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    section = page.partition("## What `persist` raises")[2].partition("\n## ")[0]
    in_page = set(re.findall(r"`(\w+Error)`", section))
    assert in_docstring == in_page
    assert {"UsageError", "ConversionError", "ParityError", "StoreError"} <= raised_by_conversion()
    assert raised_by_conversion() <= in_docstring


def test_the_page_names_each_kind_of_warning() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    kinds = [kind.__name__ for kind in errors.PersistWarning.__subclasses__()]
    assert kinds
    assert all(f"`{kind}`" in page for kind in kinds)
