"""One side of `hub.py` in a process of its own; it prints what it measured as JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

REPO = "bench/model"
PIECE = 64 * 1024 * 1024


def serve(folder: str) -> None:
    """Serve a hub; for each line of stdin tell how many bytes of requests came since the last one."""
    from tests.support.hub_server import HubServer

    Path(folder).mkdir(parents=True, exist_ok=True)
    with HubServer(Path(folder)) as hub:
        print(hub.url, flush=True)
        for _ in sys.stdin:
            print(hub.received(), flush=True)
            hub.forget()


def make(home: str, size: str) -> None:
    """Publish a bundle with random weights of so many bytes, and one with another graph and the same weights."""
    from npu_persist.bundle.manifest import FileEntry, Weights
    from npu_persist.files.digest import digest_file
    from npu_persist.store import Store
    from tests.support.bundles import tiny_files, tiny_manifest

    store = Store(home)
    for graph in (b"<net name='first'/>\n", b"<net name='second'/>\n" * 1000):
        with store.stage() as staging:
            for path, data in tiny_files(model=graph).items():
                (staging / path).write_bytes(data)
            weights = staging / "weights.safetensors"
            if store.names():
                weights.unlink()
                os.link(store.resolve("tiny").path / weights.name, weights)
            else:
                with weights.open("wb") as file:
                    file.write(b"\0" * 4096)
                    for start in range(0, int(size), PIECE):
                        file.write(os.urandom(min(PIECE, int(size) - start)))
            manifest = tiny_manifest()
            files = {path: _entry(staging / path, FileEntry, digest_file) for path in manifest.files}
            manifest = replace(manifest, files=files, weights=Weights(weights.name, 4096, int(size), 1))
            (staging / "manifest.json").write_bytes(manifest.to_json())
            store.publish(staging)


def push(home: str, reference: str) -> None:
    """Push a bundle."""
    import huggingface_hub  # noqa: F401 (imported before the clock starts, on both sides)

    import npu_persist

    began = time.perf_counter()
    pushed = npu_persist.push(reference, REPO, store=home)
    report(began, uploaded=pushed.uploaded_bytes, commit=pushed.commit)


def pull(home: str, revision: str) -> None:
    """Pull a bundle; every byte is compared with its digest."""
    import huggingface_hub  # noqa: F401

    from npu_persist.hub.pull import pull as pull_bundle

    began = time.perf_counter()
    bundle = pull_bundle(REPO, revision=revision, compiled="none", store=home)
    report(began, size=bundle.size)


def snapshot(folder: str, revision: str) -> None:
    """Download the same files with huggingface_hub; it compares sizes."""
    from huggingface_hub import snapshot_download

    patterns = ["manifest.json", "model.xml", "*.safetensors"]
    began = time.perf_counter()
    snapshot_download(REPO, revision=revision, local_dir=folder, allow_patterns=patterns)
    report(began, size=sum(path.stat().st_size for path in Path(folder).glob("*.*")))


def report(began: float, **more: Any) -> None:
    """Print what was measured."""
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "cpu": time.process_time(), "peak": peak, **more}))


def _entry(path: Path, kind: Any, digest: Any) -> Any:
    return kind(path.stat().st_size, digest(path))


if __name__ == "__main__":
    sides: dict[str, Any] = {"serve": serve, "make": make, "push": push, "pull": pull, "snapshot": snapshot}
    sides[sys.argv[1]](*sys.argv[2:])
