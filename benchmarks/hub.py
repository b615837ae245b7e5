"""Push and pull over loopback: time against `snapshot_download`, bytes that travel, and memory.

The hub is the tests' own, in a process of its own; each push and pull has one too, and the sides take turns. Ours
compares every byte with the manifest and waits until it is on the disk; `snapshot_download` compares sizes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, cast

from _report import make_parser, median, print_header, print_json, print_table, spread, verdict

MAX_TO_SNAPSHOT = 1.05
MAX_PEAK = 300.0
MEGABYTE = 1_000_000
SIZE = 1700
SMOKE_SIZE = 5
MAX_DELTA = 1.0
"""Megabytes that a second version with the same weights may send: graph, manifest and the client's questions."""

ONCE = Path(__file__).with_name("_hub_once.py")


class Hub:
    """The hub's process, and how others are set to it."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(ONCE), "serve", str(folder / "hub")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.environment = {
            **os.environ,
            "HF_ENDPOINT": cast("IO[str]", self.process.stdout).readline().strip(),
            "HF_HOME": str(folder / "hf_home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def received(self) -> int:
        """Return how many bytes of requests came since the last call."""
        asking = cast("IO[str]", self.process.stdin)
        asking.write("\n")
        asking.flush()
        return int(cast("IO[str]", self.process.stdout).readline())

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run one side in a process of its own."""
        os.sync()  # what the side before left to be written is not this one's
        done = subprocess.run(
            [sys.executable, str(ONCE), *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{arguments} failed:\n{done.stderr}")
        return dict(json.loads(done.stdout.splitlines()[-1])) if done.stdout else {}

    def end(self) -> None:
        """End it."""
        cast("IO[str]", self.process.stdin).close()
        self.process.wait()


def measure(folder: Path, size: int, runs: int) -> dict[str, Any]:
    """Push twice, and pull and download by turns."""
    hub = Hub(folder)
    try:
        home, target = str(folder / "home"), folder / "target"
        hub.run("make", home, str(size))
        hub.received()
        found: dict[str, Any] = {"pull": [], "snapshot": []}
        for name, reference in (("push", "tiny:1"), ("push again", "tiny:2")):
            found[name] = hub.run("push", home, reference)
            found[name]["received"] = hub.received()
        for turn in range(2 * runs):
            side = ("pull", "snapshot")[(turn + turn // 2) % 2]
            found[side].append(hub.run(side, str(target), found["push"]["commit"]))
            shutil.rmtree(target)
    finally:
        hub.end()
    return found


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    seconds = {side: [run["seconds"] for run in found[side]] for side in ("pull", "snapshot")}
    ratio = median(seconds["pull"]) / median(seconds["snapshot"])
    size = found["pull"][0]["size"] / MEGABYTE
    peaks = {side: max(run["peak"] for run in found[side]) / MEGABYTE for side in ("pull", "snapshot")}
    print_table(
        f"pull of {size:.0f} MB, seconds",
        ["side", "time", "to snapshot_download", "target", "peak memory, MB", "target"],
        [
            [
                "pull, every byte verified, on the disk", spread(seconds["pull"], ".2f"), f"{ratio:.2f}",
                verdict(ratio, MAX_TO_SNAPSHOT), f"{peaks['pull']:.0f}", verdict(peaks["pull"], MAX_PEAK, ".0f"),
            ],
            ["snapshot_download", spread(seconds["snapshot"], ".2f"), "", "", f"{peaks['snapshot']:.0f}", ""],
        ],
    )  # fmt: skip
    rows = []
    for name, what in (("push", "first version"), ("push again", "second: another graph, the same weights")):
        run = found[name]
        sent, peak = run["received"] / MEGABYTE, run["peak"] / MEGABYTE
        target = verdict(sent, MAX_DELTA) if name != "push" else ""
        rows.append(
            [what, f"{run['seconds']:.2f}", f"{sent:.3f}", target, f"{peak:.0f}", verdict(peak, MAX_PEAK, ".0f")]
        )
    print_table("push", ["", "seconds", "MB sent", "target", "peak memory, MB", "target"], rows)


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__ or "", runs=5)
    parser.add_argument("--size", type=int, default=SIZE, metavar="MB", help="of the weights (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    size, runs = (SMOKE_SIZE, 1) if arguments.smoke else (arguments.size, arguments.runs)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = measure(Path(folder), size * MEGABYTE, runs)
    if arguments.json:
        print_json(found)
        return
    print_header(smoke=arguments.smoke)
    show(found)


if __name__ == "__main__":
    main()
