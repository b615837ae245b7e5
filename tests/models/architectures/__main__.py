"""Prints the table of architectures as Markdown: `python -m tests.models.architectures [name …]`."""

from __future__ import annotations

import sys
import tempfile
import warnings

from npu_persist.store import Store
from tests.models.architectures import ARCHITECTURES
from tests.models.architectures.measure import Row, measure

COLUMNS = ("architecture", "kind", "converted", "way", "cosine", "max rel", "seconds", "why not")


def main(names: list[str]) -> int:
    """Measure the named architectures, or all; the exit status counts those that were not converted."""
    unknown = set(names) - {architecture.name for architecture in ARCHITECTURES}
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * len(COLUMNS)}")
    chosen = [architecture for architecture in ARCHITECTURES if not names or architecture.name in names]
    converted = 0
    with tempfile.TemporaryDirectory() as directory:
        for architecture in chosen:
            row = measure(architecture, Store(directory))
            converted += row.is_converted
            print(as_markdown(row), flush=True)
    print(f"\n{converted} of {len(chosen)} converted ({100 * converted / len(chosen):.1f} %)")
    return int(converted < len(chosen))


def as_markdown(row: Row) -> str:
    """Return one line of the table."""
    if row.is_converted:
        cells = ("yes", row.way, f"{row.cosine:.6f}", f"{row.max_relative:.5f}", f"{row.seconds:.1f}", "")
    else:
        why = " ".join(f"{row.error}: {row.reason}".split()).replace("|", "\\|")
        cells = ("no", "", "", "", f"{row.seconds:.1f}", why[:200])
    return f"| {' | '.join((row.name, row.kind, *cells))} |"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
