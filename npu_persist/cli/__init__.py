"""The command `npu-persist`: thin verbs over the package's own functions.

The promise: data on stdout, everything else on stderr, one exit code for each kind of failure (see `cli.errors`), and
no module is imported that the verb at hand does not need.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from npu_persist.cli.errors import EXIT_FAILED, report
from npu_persist.cli.output import Output
from npu_persist.cli.parser import make_parser

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Its arguments, without the program's name; None for the process's own.

    Returns:
        The exit code.
    """
    output = Output(as_json=False)
    try:
        arguments = make_parser().parse_args(argv)
        output.as_json = arguments.json
        with warnings.catch_warnings():
            warnings.showwarning = _shower(output)
            code: int | None = arguments.run(arguments, output)
        output.finish()
    except BrokenPipeError:
        # Whoever reads stdout has had enough (`npu-persist list | head`). Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (the table's last line is for any error)
        return report(error, output)
    return code or 0


def _shower(output: Output) -> Any:
    """Return a `warnings.showwarning` that shows this package's warnings without a line of its source."""
    show_others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if category.__module__ == "npu_persist.errors":
            output.warning(str(message))
        else:
            show_others(message, category, *rest)

    return show
