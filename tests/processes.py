"""Fresh interpreters for tests: what a process imports can only be told from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(
    *arguments: str, path: Path | None = None, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter on the package under test.

    Args:
        arguments: As for `python`.
        path: A folder that goes before everything else on the module path.
        env: Changes to the environment.
        cwd: The working directory.
    """
    search = [] if path is None else [str(path)]
    search += [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **(env or {}), "PYTHONPATH": os.pathsep.join(search)}
    return subprocess.run(
        [sys.executable, *arguments], check=False, capture_output=True, text=True, env=environment, cwd=cwd
    )


def poison(folder: Path, *modules: str) -> Path:
    """Make packages that fail when they are imported, and return the folder to put on the path."""
    for module in modules:
        (folder / module).mkdir(parents=True)
        (folder / module / "__init__.py").write_text(f"raise AssertionError('{module} was imported')\n")
    return folder
