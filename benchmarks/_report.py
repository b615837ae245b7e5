"""What the benchmarks share: their options, and how results are printed.

Imports nothing heavy: on Linux a child's peak memory begins with what its parent had.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGES = ("npu_persist", "openvino", "torch", "transformers", "diffusers", "numpy")


def make_parser(description: str, *, runs: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--runs", type=int, default=runs, help="how often each side is run (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print every measurement instead of tables")
    parser.add_argument("--smoke", action="store_true", help="tiny configs, one run: only to see that it works")
    return parser


def environment() -> dict[str, str]:
    """Return what numbers depend on."""
    found = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    found["cpus"] = str(os.cpu_count())
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return float(statistics.median(values))


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """Return the median with the lowest and highest value."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def verdict(value: float, limit: float, form: str = ".2f") -> str:
    """Return a target and whether it is met."""
    return f"≤ {limit:{form}}: {'met' if value <= limit else 'missed'}"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one Markdown table under a heading."""
    print(f"\n### {title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def print_header(*, smoke: bool) -> None:
    """Print what the numbers were measured with."""
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    if smoke:
        print("A smoke run: the numbers below say nothing.")


def print_json(measurements: Any) -> None:
    """Print measurements with the environment as one JSON document."""
    print(json.dumps({"environment": environment(), "measurements": measurements}, indent=2))
