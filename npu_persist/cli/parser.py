"""The command line's grammar: one subparser a verb.

The promise: what does not parse is a `UsageError`, shown like every other error. Verbs are imported when they run.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import npu_persist
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.cli.output import Output

    Verb = Callable[[argparse.Namespace, Output], "int | None"]

_REFERENCE = "unet, unet:3, unet:prod, unet@<digest prefix> or a bundle's directory"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().rstrip()}")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; what it parses has `run`, the verb to call with the arguments and an `Output`."""
    parser = _Parser(
        prog="npu-persist",
        description="Persist PyTorch modules as bundles, and look at, check and run bundles.",
        epilog="exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 integrity, 5 incompatible, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"npu-persist {npu_persist.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_persist(verbs)
    _add_run(verbs)
    _add_showing(verbs)
    _add_keeping(verbs)
    return parser


def _add(verbs: Any, name: str, run: str, text: str) -> argparse.ArgumentParser:
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


def _add_persist(verbs: Any) -> None:
    parser = _add(
        verbs, "persist", "persist:run_persist", "convert a PyTorch module, check it and publish it as a bundle"
    )
    parser.add_argument(
        "factory",
        metavar="module.path:factory",
        help="a torch.nn.Module, or a function that returns a module, (module, args) or (module, args, kwargs); the "
        "current directory is importable",
    )
    parser.add_argument("--name", required=True, help="name of the bundle")
    parser.add_argument(
        "--precision", choices=["fp16", "fp32"], default="fp16", help="of float weights (default: fp16)"
    )
    parser.add_argument("--alias", help="point this alias to the new version")
    parser.add_argument(
        "--inputs", metavar="FILE.npz", help="example inputs by argument name, in place of the factory's args"
    )
    parser.add_argument(
        "--no-check", dest="check", action="store_false", help="do not run the bundle and compare it with torch"
    )
    parser.add_argument(
        "--tolerance", type=float, metavar="T", help="largest difference from torch, relative to an output's scale"
    )
    parser.add_argument(
        "--metadata", metavar="KEY=VALUE", action="append", default=[], help="kept in the manifest; may be repeated"
    )


def _add_run(verbs: Any) -> None:
    parser = _add(verbs, "run", "run:run_run", "run a bundle once and print what its outputs look like")
    parser.add_argument("reference", metavar="REF", help=_REFERENCE)
    parser.add_argument(
        "--device", default="AUTO", help="OpenVINO's device string: NPU, GPU, CPU, AUTO (default: AUTO)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--inputs", metavar="FILE.npz", help="inputs by name (default: those of the golden sample)")
    source.add_argument("--random", action="store_true", help="random inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default: 0)")
    parser.add_argument("--output", metavar="FILE.npz", help="save the outputs by name")


def _add_showing(verbs: Any) -> None:
    parser = _add(verbs, "list", "show:run_list", "list the bundles in the store")
    parser.add_argument("name", metavar="NAME", nargs="?", help="only the versions of this one")
    parser = _add(verbs, "inspect", "show:run_inspect", "show what is in a bundle")
    parser.add_argument("reference", metavar="REF", help=_REFERENCE)
    parser = _add(verbs, "path", "show:run_path", "print the directory of a bundle")
    parser.add_argument("reference", metavar="REF", help=_REFERENCE)


def _add_keeping(verbs: Any) -> None:
    parser = _add(verbs, "tag", "keep:run_tag", "point an alias to a version, or remove an alias")
    parser.add_argument("reference", metavar="REF", help="the version; with --remove NAME:ALIAS")
    parser.add_argument("alias", metavar="ALIAS", nargs="?")
    parser.add_argument("--remove", action="store_true", help="remove the alias")
    parser = _add(verbs, "verify", "keep:run_verify", "compare every byte with the manifest")
    parser.add_argument(
        "reference", metavar="REF", nargs="?", help=f"{_REFERENCE} (default: every version in the store)"
    )
    parser = _add(verbs, "remove", "keep:run_remove", "remove a version from the store")
    parser.add_argument("reference", metavar="REF", help="the version: unet:3, unet:prod or unet@<digest prefix>")
    parser.add_argument("--force", action="store_true", help="and the aliases that point to it")
    _add(verbs, "prune", "keep:run_prune", "remove what crashed publishes left behind")
