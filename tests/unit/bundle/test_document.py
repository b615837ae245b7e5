from __future__ import annotations

from pathlib import Path

from tests.support.processes import run_python

MANIFEST = Path(__file__).parents[2] / "data" / "bundles" / "1.0" / "nested" / "manifest.json"

READ_IN_THREADS = """
import sys, threading
from pathlib import Path
from npu_persist.bundle.manifest import Manifest

sys.setswitchinterval(1e-5)
data, barrier, read = Path(sys.argv[1]).read_bytes(), threading.Barrier(8), []

def run():
    barrier.wait()
    read.append(Manifest.from_json(data))

threads = [threading.Thread(target=run) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert read == read[:1] * 8
"""


def test_threads_may_be_the_first_to_read_a_document() -> None:
    # Where each thread lets msgspec analyse the records by itself, the process crashes in nine of ten runs.
    for _ in range(3):
        done = run_python("-c", READ_IN_THREADS, str(MANIFEST))
        assert (done.returncode, done.stderr) == (0, "")
