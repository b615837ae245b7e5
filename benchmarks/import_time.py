"""What imports cost, in whole processes: `import npu_persist`, and OpenVINO as `load` imports it."""

from __future__ import annotations

import subprocess
import sys
import time

from _report import make_parser, median, print_header, print_json, print_table, spread, verdict

MAX_MILLISECONDS = 5.0
MAX_RATIO = 0.75
BARE, OURS, STOCK, LEAN = "bare interpreter", "import npu_persist", "import openvino", "OpenVINO as load imports it"
SIDES = {
    BARE: "pass",
    OURS: "import npu_persist",
    STOCK: "import openvino",
    LEAN: "from npu_persist.device.core import import_openvino; import_openvino()",
}


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
    print_header(smoke=options.smoke)
    cost = median(found[OURS]) - median(found[BARE])
    # On a busy machine the medians wander; the quickest starts are those that nothing disturbed.
    quickest = f"{min(found[OURS]) - min(found[BARE]):.1f}"
    rows = [(spread(found[BARE]), spread(found[OURS]), f"{cost:.1f}", verdict(cost, MAX_MILLISECONDS, ".1f"), quickest)]
    header = (BARE, OURS, "difference", "target", "difference of the quickest")
    print_table("Start of a process, ms, median (lowest to highest)", header, rows)
    bare = median(found[BARE])
    ratio = (median(found[LEAN]) - bare) / (median(found[STOCK]) - bare)
    lean = (spread(found[STOCK]), spread(found[LEAN]), f"{ratio:.2f}", verdict(ratio, MAX_RATIO))
    print_table("The same with OpenVINO", (STOCK, LEAN, "lean ÷ stock, less the interpreter", "target"), [lean])


if __name__ == "__main__":
    main()
