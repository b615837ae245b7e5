"""Entry point of `npu-persist`: parse the arguments, run the verb, turn errors into messages and exit codes.

0  done                                   4  integrity: not what was persisted
1  failed                                 5  incompatible: sound, but not for this installation
2  usage                                  6  results differ from torch's beyond tolerance
3  not found                            130  interrupted
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli import (
    bench,
    bundles,
    cache,
    check,
    compile,  # noqa: A004 (the verb's name)
    devices,
    differences,
    hub,
    models,
    trust,
)
from npu_persist.cli.arguments import Parser
from npu_persist.cli.output import Output
from npu_persist.errors import NpuPersistError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EXIT_FAILED = NpuPersistError.exit_code
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as in shells."""

TRACEBACK_VARIABLE = "NPU_PERSIST_TRACEBACK"
"""Environment variable that shows tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    output = Output(as_json=False)
    failed = EXIT_FAILED
    try:
        arguments = make_parser().parse_args(argv)
        failed = getattr(arguments, "exit_failed", EXIT_FAILED)
        output.as_json = arguments.json
        with warnings.catch_warnings(), _shown_logs(output):
            warnings.showwarning = _make_showwarning(output)
            code: int | None = arguments.run(arguments, output)
        output.finish()
    except BrokenPipeError:
        # The reader of stdout has closed it (`npu-persist list | head`). Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failed
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (every error ends as a message and an exit code)
        code = report(error, output)
        return failed if code == EXIT_FAILED else code
    return code or 0


def make_parser() -> Parser:
    """Return the parser; the arguments it returns have `run`, the verb's function."""
    parser = Parser(
        prog="npu-persist",
        description="Persist PyTorch modules as bundles; inspect, check, run and share bundles.",
        epilog="exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 integrity, 5 incompatible, 6 results differ from "
        "torch's, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"npu-persist {npu_persist.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    models.add_verbs(verbs)
    check.add_verbs(verbs)
    compile.add_verbs(verbs)
    bench.add_verbs(verbs)
    bundles.add_verbs(verbs)
    differences.add_verbs(verbs)
    hub.add_verbs(verbs)
    trust.add_verbs(verbs)
    cache.add_verbs(verbs)
    devices.add_verbs(verbs)
    return parser


def report(error: BaseException, output: Output) -> int:
    """Show an error and return its exit code."""
    if isinstance(error, KeyboardInterrupt):
        output.error("interrupted")
        return EXIT_INTERRUPTED
    is_shown = os.environ.get(TRACEBACK_VARIABLE, "0") not in {"", "0"}
    if is_shown:
        import traceback

        output.note("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, NpuPersistError):
        output.error(str(error))
        return error.exit_code
    output.error(f"{type(error).__name__}: {error}")
    if not is_shown:
        output.note(f"{TRACEBACK_VARIABLE}=1 shows the traceback")
    return EXIT_FAILED


def _make_showwarning(output: Output) -> Any:
    """Return a `warnings.showwarning` that shows this package's warnings without a line of its source."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        if category.__module__ == "npu_persist.errors":
            output.warning(str(message))
        else:
            output.note(warnings.formatwarning(message, category, filename, lineno).rstrip())

    return show


@contextlib.contextmanager
def _shown_logs(output: Output) -> Iterator[None]:
    """Show the messages that Python would write to stderr as they are: those that no handler takes."""

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            output.note(self.format(record))

    before, logging.lastResort = logging.lastResort, Shown(logging.WARNING)
    try:
        yield
    finally:
        logging.lastResort = before
