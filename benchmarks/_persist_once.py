"""One measurement of benchmarks/persist.py in a process of its own: prints one line of JSON."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import openvino as ov
import torch
from _models import MODELS, TRAINED

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.bundle.graph_records import Precision


def stock(model: torch.nn.Module, args: tuple[torch.Tensor, ...], directory: Path) -> Path:
    """Convert and save as OpenVINO's documentation does it, with the example's shapes fixed as persist fixes them."""
    converted = ov.convert_model(model, example_input=args, input=[list(tensor.shape) for tensor in args])
    ov.save_model(converted, directory / "model.xml")
    return directory


def ours(
    *, check: bool, precision: Precision = "fp16"
) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...], Path], Path]:
    """Return a function that persists into a new store."""
    from npu_persist import persist  # as openvino above: a script's imports are not part of the call

    return lambda model, args, directory: (
        persist(model, "measured", args, store=directory, check=check, precision=precision).path
    )


def peak_memory() -> int | None:
    """Return the largest resident memory of this process so far, in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        try:
            import psutil  # type: ignore[import-untyped]
        except ImportError:
            return None
        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def sizes_on_disk(directory: Path) -> dict[str, int]:
    """Return the bytes of every file; one that has several names is listed under one of them."""
    named = {entry.stat().st_ino: entry for entry in directory.iterdir() if entry.is_file()}
    return {entry.name: entry.stat().st_size for entry in named.values()}


def main(side: str, name: str, *, tiny: bool) -> None:
    """Build the model, then time one conversion of it."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    model, args = {**MODELS, **TRAINED}[name](tiny=tiny)
    model.eval()
    convert = {
        "stock": stock,
        "unchecked": ours(check=False),
        "checked": ours(check=True),
        "int8": ours(check=True, precision="int8"),
        "int4": ours(check=True, precision="int4"),
    }[side]
    built = peak_memory()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        started = time.perf_counter()
        made = convert(model, args, Path(directory))
        seconds = time.perf_counter() - started
        sizes = sizes_on_disk(made)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    memory = {"peak": peak_memory(), "peak_built": built}
    print(json.dumps({"seconds": seconds, **memory, "sizes": sizes, "parameters": parameters}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], tiny="--tiny" in sys.argv)
