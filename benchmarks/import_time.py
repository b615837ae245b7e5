"""What `import npu_persist` costs over a bare interpreter: whole processes, by turns."""

from __future__ import annotations

import subprocess
import sys
import time

from _report import make_parser, median, print_header, print_json, print_table, spread, verdict

MAX_MILLISECONDS = 5.0
SIDES = {"bare interpreter": "pass", "import npu_persist": "import npu_persist"}


def measure_once(code: str) -> float:
    """Return the milliseconds of one interpreter that runs `code`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Measure and print."""
    options = make_parser(__doc__ or "", runs=15).parse_args()
    found: dict[str, list[float]] = {name: [] for name in SIDES}
    for code in SIDES.values():
        measure_once(code)  # the first start compiles and fills the disk cache
    for run in range(1 if options.smoke else options.runs):
        names = list(SIDES) if run % 2 else list(SIDES)[::-1]
        for name in names:
            found[name].append(measure_once(SIDES[name]))
    if options.json:
        print_json(found)
        return
    bare, ours = found.values()
    cost = median(ours) - median(bare)
    print_header(smoke=options.smoke)
    # On a busy machine the medians wander; the quickest starts are those that nothing disturbed.
    quickest = f"{min(ours) - min(bare):.1f}"
    rows = [(spread(bare), spread(ours), f"{cost:.1f}", verdict(cost, MAX_MILLISECONDS, ".1f"), quickest)]
    header = (*SIDES, "difference", "target", "difference of the quickest")
    print_table("Start of a process, ms, median (lowest to highest)", header, rows)


if __name__ == "__main__":
    main()
