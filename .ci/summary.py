"""Add up pytest's results and the steps of `.ci/run`, each step as one test, and print one line as pytest does."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def main(folder: str, steps: str, failed_steps: str, seconds: str) -> None:
    """Print the summary.

    Args:
        folder: JUnit results of the steps that ran pytest.
        steps: How many steps there were.
        failed_steps: How many of them failed.
        seconds: How long all took.
    """
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for path in sorted(Path(folder).glob("*.xml")):
        for suite in ET.parse(path).iter("testsuite"):  # noqa: S314 (pytest wrote it just now)
            for count in counts:
                counts[count] += int(suite.get(count, "0"))
    failed = counts["failures"] + counts["errors"]
    parts = {
        "failed": failed + int(failed_steps),
        "passed": counts["tests"] - failed - counts["skipped"] + int(steps) - int(failed_steps),
        "skipped": counts["skipped"],
    }
    text = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
    minutes, rest = divmod(int(seconds), 60)
    print(f"===== {text} in {seconds}.00s ({minutes // 60}:{minutes % 60:02d}:{rest:02d}) =====")


if __name__ == "__main__":
    main(*sys.argv[1:])
