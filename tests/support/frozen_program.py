"""The program that the tests freeze: `program JOB REFERENCE` does one thing and prints JSON about it."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import npu_persist as npup

STARTS = "PROGRAM_STARTS"
"""Environment variable: a file that gets a line whenever this program's own code starts."""


def answer(model: npup.Model) -> list[float]:
    """Return what a model says to ones."""
    inputs = [np.ones([axis for axis in port.shape if isinstance(axis, int)], port.dtype) for port in model.inputs]
    return np.asarray(model(*inputs)).ravel().tolist()


def load(reference: str, **options: Any) -> dict[str, Any]:
    """Load, and note the progress."""
    seen: list[str] = []
    with npup.load(
        reference, "CPU", progress=lambda event: seen.append(f"{event.stage} {event.detail}"), **options
    ) as it:
        return {"answer": answer(it), "progress": seen}


def limited(reference: str) -> dict[str, Any]:
    """Compile in a process of its own, within a minute."""
    return load(reference, compile_timeout=60)


def late(reference: str) -> dict[str, Any]:
    """Compile in a process of its own that is ended before it begins."""
    try:
        return load(reference, compile_timeout=0.001)
    except npup.NpuPersistError as error:
        return {"error": type(error).__name__}


def ahead(reference: str) -> dict[str, Any]:
    """Compile ahead of time, and load what that made."""
    (result,) = npup.compile(reference, ["CPU"])
    return {**load(reference), "target": result.target, "blob": (result.path or Path()).name}


def children(reference: str) -> dict[str, Any]:
    """Do it in processes of multiprocessing's, which are this program, too."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(limited, [reference] * 2)
    return {"answer": first["answer"], "same": first["answer"] == second["answer"]}


def speak(reference: str) -> dict[str, Any]:
    """Let a language model answer."""
    pipe = npup.pipeline(reference, "CPU")
    return {"text": str(pipe.generate("Well", max_new_tokens=8, apply_chat_template=False))}


def store(_: str) -> dict[str, Any]:
    """Use what reads files of the package."""
    return {"devices": [device.name for device in npup.devices()], "bundles": len(npup.list())}


JOBS = {job.__name__: job for job in (load, limited, late, ahead, children, speak, store)}


def main() -> None:
    """Do the job that is asked for."""
    with open(os.environ[STARTS], "a", encoding="ascii") as file:  # noqa: PTH123
        file.write(f"{os.getpid()}\n")
    multiprocessing.freeze_support()
    began = time.perf_counter()
    found = JOBS[sys.argv[1]](sys.argv[2])
    sys.stdout.write(json.dumps({**found, "seconds": time.perf_counter() - began}) + "\n")


if __name__ == "__main__":
    main()
