"""One measurement of benchmarks/load.py in a process of its own: prints one line of JSON.

Seconds are counted from when the parent started the process: Python's own start and every import are part of them.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

DEVICE = "CPU"


def ours(store: str, name: str, *, verify: Any) -> dict[str, float]:
    """Load and call a bundle."""
    import npu_persist

    model = npu_persist.load(name, DEVICE, verify=verify, store=store)
    loaded = time.monotonic()
    model.infer(inputs([(port.dtype, port.shape) for port in model.inputs]))
    done = time.monotonic()
    report = model.report
    return {"loaded": loaded, "done": done, "from_cache": report.from_cache, "verified": report.verified_bytes}


def stock(directory: str, cache: str, *, by_path: bool) -> dict[str, float]:
    """Load and call the same files as OpenVINO's documentation does it."""
    import openvino as ov

    core = ov.Core()
    xml = f"{directory}/model.xml"
    compiled = core.compile_model(xml if by_path else core.read_model(xml), DEVICE, {"CACHE_DIR": cache})
    loaded = time.monotonic()
    compiled(inputs([(port.get_element_type().to_dtype(), list(port.shape)) for port in compiled.inputs]))
    done = time.monotonic()
    return {"loaded": loaded, "done": done, "from_cache": compiled.get_property("LOADED_FROM_CACHE")}


def with_torch(name: str, checkpoint: str, *, tiny: bool) -> dict[str, float]:
    """Build a model, load its checkpoint, convert, compile and call it, as a program without a bundle does."""
    import openvino as ov
    import torch
    from _models import MODELS

    model, args = MODELS[name](tiny=tiny)
    model.load_state_dict(torch.load(checkpoint, mmap=True, weights_only=True))
    shapes = [list(tensor.shape) for tensor in args]
    converted = ov.convert_model(model.eval(), example_input=args, input=shapes)
    compiled = ov.Core().compile_model(converted, DEVICE)
    loaded = time.monotonic()
    compiled([tensor.numpy() for tensor in args])
    return {"loaded": loaded, "done": time.monotonic()}


def inputs(ports: list[tuple[Any, Any]]) -> list[Any]:
    """Return the same arrays on every side."""
    import numpy as np

    random = np.random.default_rng(0)
    return [
        random.integers(0, 2, shape).astype(dtype)
        if np.dtype(dtype).kind in "iu"
        else random.standard_normal(shape).astype(dtype)
        for dtype, shape in ports
    ]


def read_once(path: str | Path) -> float:
    """Return the seconds that it takes to read a file from the disk once, its pages dropped before."""
    drop(path)
    began = time.monotonic()
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        buffer = bytearray(8 << 20)
        while file.readinto(buffer):
            pass
    return time.monotonic() - began


def drop(path: str | Path) -> None:
    """Take a file's pages out of the page cache."""
    import os

    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def make(store: str, names: list[str], *, tiny: bool) -> None:
    """Persist the models and save their checkpoints; runs where torch is."""
    import warnings

    import torch
    from _models import MODELS

    import npu_persist

    warnings.simplefilter("ignore")
    for name in names:
        torch.manual_seed(0)
        model, args = MODELS[name](tiny=tiny)
        npu_persist.persist(model.eval(), name, args, check=False, store=store)
        torch.save(model.state_dict(), f"{store}/{name}.pt")


def main(side: str, started: float, *arguments: str) -> None:
    """Run one side."""
    match side:
        case "ours" | "none":
            found = ours(arguments[0], arguments[1], verify="full" if side == "ours" else "none")
        case "model" | "path":
            found = stock(*arguments, by_path=side == "path")
        case "torch":
            found = with_torch(*arguments[:2], tiny=arguments[2:] == ("tiny",))
        case _:
            make(arguments[0], arguments[1].split(","), tiny=arguments[2:] == ("tiny",))
            return
    found["loaded"] -= started
    found["done"] -= started
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
