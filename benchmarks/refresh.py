"""Time of `refresh` against `persist` of the same module, after each change of its weights.

Both take turns in one process, each on other weights. The table also has how long torch's forward takes, which no
golden sample can do without.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from _models import MODELS
from _report import make_parser, median, print_header, print_json, print_table, spread, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_MODELS = ("unet35", "bert", "whisper-encoder")
MAX_RATIO = 0.25


def change(module: torch.nn.Module) -> None:
    """Change all weights: those of a new module are zeros and ones, which a graph leaves out."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)


def timed(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(name: str, runs: int, *, tiny: bool) -> dict[str, list[float]]:
    """Return the seconds of each run, by side."""
    from npu_persist import persist, refresh

    torch.manual_seed(0)
    model, args = MODELS[name](tiny=tiny)
    model.eval()
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as store:
        change(model)
        persist(model, "measured", args, store=store)
        sides: dict[str, Callable[[], Any]] = {
            "persist": lambda: persist(model, "measured", args, store=store),
            "refresh": lambda: refresh("measured", model, store=store),
            "without check": lambda: refresh("measured", model, store=store, check=False),
            "forward": lambda: model(*args),
        }
        for _ in range(runs):
            for side, call in sides.items():
                change(model)
                with torch.no_grad():
                    found[side].append(timed(call))
    return found


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__ or "", runs=5)
    parser.add_argument("--model", action="append", choices=tuple(MODELS), help="may be given several times")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    models = options.model or list(DEFAULT_MODELS)
    found = {name: measure(name, 1 if options.smoke else options.runs, tiny=options.smoke) for name in models}
    if options.json:
        print_json(found)
        return
    print_header(smoke=options.smoke)
    rows = []
    for name, sides in found.items():
        whole = median(sides["persist"])
        ratio = median(sides["refresh"]) / whole
        columns = [spread(sides[side]) for side in ("persist", "refresh", "without check", "forward")]
        rows.append(
            [name, *columns, f"{ratio:.2f}", verdict(ratio, MAX_RATIO), f"{median(sides['forward']) / whole:.2f}"]
        )
    header = ("model", "persist, s", "refresh, s", "refresh without check, s", "torch's forward, s")
    print_table("Time of the call", (*header, "refresh ÷ persist", "target", "forward ÷ persist"), rows)


if __name__ == "__main__":
    main()
