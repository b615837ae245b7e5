"""Check what is in the wheel: every file of the package, its licence, its metadata, and nothing else."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path


def main(wheel: str) -> None:
    """Fail if the wheel misses a file of `npu_persist/`, or has one from elsewhere.

    Args:
        wheel: Path of the wheel.
    """
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = {
        path.as_posix() for path in Path("npu_persist").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    info = {name for name in inside if name.split("/")[0].endswith(".dist-info")}
    missing, foreign = package - inside, inside - package - info
    licence = any(name.endswith("licenses/LICENSE") for name in info)
    if missing or foreign or not licence:
        raise SystemExit(f"missing {sorted(missing)}, foreign {sorted(foreign)}, licence {licence}")


if __name__ == "__main__":
    main(*sys.argv[1:])
