"""The command line's grammar, as one parser: a subparser a verb."""

from __future__ import annotations

from typing import TYPE_CHECKING

import npu_persist
from npu_persist.cli.model_verbs import add_model_verbs
from npu_persist.cli.store_verbs import add_store_verbs
from npu_persist.cli.verb import Parser

if TYPE_CHECKING:
    import argparse


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; what it parses has `run`, the verb to call with the arguments and an `Output`."""
    parser = Parser(
        prog="npu-persist",
        description="Persist PyTorch modules as bundles, and look at, check and run bundles.",
        epilog="exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 integrity, 5 incompatible, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"npu-persist {npu_persist.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    add_model_verbs(verbs)
    add_store_verbs(verbs)
    return parser
