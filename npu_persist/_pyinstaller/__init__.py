"""PyInstaller's hooks for programs that load bundles; it finds this folder by the entry point `pyinstaller40`.

The format is PyInstaller's: `hook-<package>.py` says what a package needs beyond the imports that stand in its code,
and `rthooks.dat` names what a frozen program runs before its own code.
"""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Return the folder with the hooks."""
    return [str(Path(__file__).parent)]
