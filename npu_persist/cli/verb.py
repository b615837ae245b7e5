"""What every verb of the command line has: its subparser with the common options, and the function that runs it.

The promise: what does not parse is a `UsageError`, shown like every other error. Verbs are imported when they run.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.cli.output import Output

    Verb = Callable[[argparse.Namespace, Output], "int | None"]

REFERENCE = "unet, unet:3, unet:prod, unet@<digest prefix>, hf://org/unet@v3 or a bundle's directory"
"""What help says of a reference."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UsageError(f"{message}\n{self.format_usage().rstrip()}")


def add_verb(verbs: Any, name: str, run: str, text: str) -> argparse.ArgumentParser:
    """Add a verb with the options that all have.

    Args:
        verbs: What to add it to.
        name: Its name.
        run: What runs it: `module:function` of this package.
        text: What help says of it.
    """
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument(
        "--store", metavar="DIR", help="the store's directory (default: NPU_PERSIST_HOME, or the user's data directory)"
    )
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.set_defaults(run=_later(run))
    return parser


def _later(name: str) -> Verb:
    module, _, function = name.partition(":")

    def run(arguments: argparse.Namespace, output: Output) -> int | None:
        verb: Verb = getattr(import_module(f"npu_persist.cli.{module}"), function)
        return verb(arguments, output)

    return run
