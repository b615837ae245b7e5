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

_REFERENCE = "unet, unet:3, unet:prod, unet@<digest prefix>, hf://org/unet@v3 or a bundle's directory"


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
    _add_compile(verbs)
    _add_run(verbs)
    _add_bench(verbs)
    _add_showing(verbs)
    _add_compatibility(verbs)
    _add_machine(verbs)
    _add_keeping(verbs)
    _add_trust(verbs)
    _add_layout(verbs)
    _add_push(verbs)
    _add_pull(verbs)
    _add_cache(verbs)
    _add_toolchain(verbs)
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
    parser.add_argument(
        "--bucket",
        metavar="INPUT=SHAPE",
        action="append",
        default=[],
        help="sizes that calls are filled up to, such as input_ids=1x128,attention_mask=1x128; axes that differ from "
        "the example's may vary; may be repeated",
    )
    parser.add_argument(
        "--pad",
        metavar="INPUT=VALUE[:left]",
        action="append",
        default=[],
        help="what an input is filled up with, and on which side (default: 0, on the right); may be repeated",
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
    parser.add_argument(
        "--target",
        metavar="T",
        action="append",
        default=[],
        help="compile the bundle ahead of time, as `compile` does: NPU:4000; may be repeated",
    )


def _add_compile(verbs: Any) -> None:
    parser = _add(
        verbs, "compile", "compile:run_compile", "compile a bundle ahead of time, for other machines too, and attach it"
    )
    parser.add_argument("reference", metavar="REF", help=_REFERENCE)
    parser.add_argument(
        "--target",
        metavar="T",
        action="append",
        required=True,
        help="NPU:4000 or a processor such as lunar-lake, which need not be here; or what this machine has: NPU, GPU, "
        "CPU; may be repeated",
    )
    parser.add_argument("--graph", metavar="NAME", help="one of the bundle's graphs (default: all)")
    parser.add_argument(
        "--config", metavar="KEY=VALUE", nargs="+", default=[], help="OpenVINO properties, such as NPU_TURBO=YES"
    )
    parser.add_argument(
        "--bucket",
        metavar="INPUT=SHAPE",
        action="append",
        default=[],
        help="sizes for a graph whose axes vary, such as input_ids=1x128,attention_mask=1x128; may be repeated "
        "(default: the bundle's own)",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--weightless",
        dest="weightless",
        action="store_const",
        const=True,
        help="leave the weights to the bundle's weights file (default: what is smaller)",
    )
    weights.add_argument(
        "--full", dest="weightless", action="store_const", const=False, help="put the weights into the blob"
    )
    parser.add_argument(
        "--toolchain", metavar="NAME", help="plugin, libraries or wine (default: the first that can be used)"
    )
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds for each compilation (default: no limit)")
    parser.add_argument("--memory-limit", metavar="SIZE", help="for each compilation, such as 8G (default: no limit)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="compilations side by side (default: 1)")


def _add_run(verbs: Any) -> None:
    parser = _add(verbs, "run", "run:run_run", "run a bundle once and print what its outputs look like")
    parser.add_argument("reference", metavar="REF", help=_REFERENCE)
    parser.add_argument(
        "--device", default="AUTO", help="OpenVINO's device string: NPU, GPU, CPU, AUTO (default: AUTO)"
    )
    _add_inputs(parser)
    parser.add_argument("--output", metavar="FILE.npz", help="save the outputs by name")
    parser.add_argument("--report", action="store_true", help="show how it was loaded: from where, for what, how fast")
    parser.add_argument("--hint", metavar="H", help="LATENCY, THROUGHPUT or CUMULATIVE_THROUGHPUT")
    parser.add_argument(
        "--verify", choices=["full", "stamp", "none"], default="full", help="how files are checked (default: full)"
    )
    parser.add_argument(
        "--fallback", nargs="+", default=[], metavar="D", help="devices to try where the first cannot be used"
    )
    parser.add_argument("--no-cache", dest="cache", action="store_false", help="neither use nor fill the compile cache")
    parser.add_argument(
        "--compile-timeout", type=float, metavar="S", help="end a compilation after so many seconds (default: never)"
    )
    parser.add_argument(
        "--trust",
        metavar="REPO",
        action="append",
        default=[],
        help="import what was compiled elsewhere and pulled from org/name or org/*, or from anywhere: all; the device "
        "runs what is in it; may be repeated (default: only what a known key signed, see `keys`)",
    )
    parser.add_argument(
        "--require-signature", action="store_true", help="refuse a bundle whose manifest no known key signed"
    )


def _add_bench(verbs: Any) -> None:
    parser = _add(verbs, "bench", "bench:run_bench", "measure frames per second and latency of bundles on devices")
    parser.add_argument("reference", metavar="REF", nargs="+", help=_REFERENCE)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--compare", action="store_true", help="measure in rounds that alternate, and show ratios to the first"
    )
    kind.add_argument(
        "--fil", action="store_true", help="first-inference latency: from the start of a process, cold and warm cache"
    )
    kind.add_argument("--profile", action="store_true", help="time layer by layer")
    parser.add_argument(
        "--device", nargs="+", metavar="D", help="OpenVINO's device strings (default: AUTO; with --fil all there are)"
    )
    parser.add_argument(
        "--hint",
        nargs="+",
        metavar="H",
        help="LATENCY, THROUGHPUT, CUMULATIVE_THROUGHPUT (default: the first two; with --fil and --profile none)",
    )
    parser.add_argument(
        "--seconds", type=float, default=10, metavar="S", help="to measure each configuration for (default: 10)"
    )
    parser.add_argument("--interval", type=float, default=1, metavar="S", help="between reports (default: 1)")
    parser.add_argument(
        "--requests", type=int, metavar="N", help="in flight at a time (default: 1 for LATENCY, else what is optimal)"
    )
    parser.add_argument(
        "--runs",
        type=int,
        metavar="N",
        help="with --fil processes for each cache state (default: 5), with --profile inferences (default: 20)",
    )
    parser.add_argument("--plot", nargs="+", default=[], metavar="FILE", help="draw bar charts into .png or .svg files")
    parser.add_argument(
        "--config", metavar="KEY=VALUE", nargs="+", default=[], help="OpenVINO properties, such as NUM_STREAMS=2"
    )
    _add_inputs(parser)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--inputs", metavar="FILE.npz", help="inputs by name (default: those of the golden sample)")
    source.add_argument("--random", action="store_true", help="random inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default: 0)")


def _add_showing(verbs: Any) -> None:
    parser = _add(verbs, "list", "show:run_list", "list the bundles in the store")
    parser.add_argument("name", metavar="NAME", nargs="?", help="only the versions of this one")
    parser = _add(verbs, "inspect", "show:run_inspect", "show what is in a bundle")
    parser.add_argument("reference", metavar="REF", help=_REFERENCE)
    parser = _add(verbs, "path", "show:run_path", "print the directory of a bundle")
    parser.add_argument("reference", metavar="REF", help=_REFERENCE)


def _add_compatibility(verbs: Any) -> None:
    parser = _add(
        verbs,
        "compatibility",
        "compatibility:run_compatibility",
        "tell which attached artifacts run on a device, and why",
    )
    parser.add_argument("reference", metavar="REF", help=_REFERENCE)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", default="NPU", help="a device of this machine (default: NPU)")
    where.add_argument("--target", metavar="T", help="another machine's NPU: NPU:4000, lunar-lake")
    parser.add_argument(
        "--elf", metavar="V", help="with --target: newest ELF version that its driver takes, such as 1.2"
    )
    parser.add_argument("--mi", metavar="V", help="with --target: newest mapped inference that its driver takes: 11.4")
    parser.add_argument("--openvino", metavar="V", help="with --target: version of its OpenVINO, such as 2026.4.1")


def _add_machine(verbs: Any) -> None:
    _add(verbs, "devices", "devices:run_devices", "list the devices of this machine that models can be loaded on")
    _add(
        verbs,
        "doctor",
        "devices:run_doctor",
        "look for what devices, store, cache and toolchains lack, and say what to do",
    )
    _add(verbs, "targets", "toolchain:run_targets", "list what can be compiled for, and the toolchain that would do it")


def _add_keeping(verbs: Any) -> None:
    parser = _add(verbs, "tag", "keep:run_tag", "point an alias to a version, or remove an alias")
    parser.add_argument("reference", metavar="REF", help="the version; with --remove NAME:ALIAS")
    parser.add_argument("alias", metavar="ALIAS", nargs="?")
    parser.add_argument("--remove", action="store_true", help="remove the alias")
    parser = _add(verbs, "verify", "keep:run_verify", "compare every byte with the manifest")
    parser.add_argument(
        "reference", metavar="REF", nargs="?", help=f"{_REFERENCE} (default: every version in the store)"
    )
    signed = parser.add_mutually_exclusive_group()
    signed.add_argument(
        "--signed", action="store_true", help="and that a known key signed the manifest and what is attached"
    )
    signed.add_argument("--key", metavar="KEY", help="and that this public key did: a file, or the key itself")
    parser = _add(verbs, "remove", "keep:run_remove", "remove a version from the store")
    parser.add_argument("reference", metavar="REF", help="the version: unet:3, unet:prod or unet@<digest prefix>")
    parser.add_argument("--force", action="store_true", help="and the aliases that point to it")
    _add(verbs, "prune", "keep:run_prune", "remove what interrupted runs left in the store and the compile cache")


def _add_push(verbs: Any) -> None:
    parser = _add(verbs, "push", "push:run_push", "send a bundle to a repository on the hub, in one commit")
    parser.add_argument("reference", metavar="REF", help=_REFERENCE)
    parser.add_argument("repo", metavar="REPO", help="the repository: org/unet; made if it is missing")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch; made if it is missing (default: main)")
    parser.add_argument("--tag", help="for the commit (default: v3 for version 3)")
    parser.add_argument("--message", help="of the commit (default: the bundle and its digest)")
    parser.add_argument("--private", action="store_const", const=True, help="make a new repository private")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request; no branch changes")
    parser.add_argument("--no-compiled", dest="compiled", action="store_false", help="without attached artifacts")


def _add_pull(verbs: Any) -> None:
    parser = _add(verbs, "pull", "pull:run_pull", "bring a bundle from a repository on the hub into the store")
    parser.add_argument("repo", metavar="REPO", help="org/unet, hf://org/unet@v3 or hf://org/unet@v3#<digest>")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit (default: the default branch)")
    of_what = parser.add_mutually_exclusive_group()
    of_what.add_argument(
        "--device", metavar="D", help="with the artifacts that may run on this device (default: on any that is here)"
    )
    of_what.add_argument("--target", metavar="T", help="with those that may run on another machine's: NPU:4000")
    of_what.add_argument("--all", dest="compiled", action="store_const", const="all", help="with all artifacts")
    of_what.add_argument("--no-compiled", dest="compiled", action="store_const", const="none", help="without any")
    parser.set_defaults(compiled="fitting")
    parser.add_argument("--alias", help="point this alias to the version")
    parser.add_argument("--dry-run", action="store_true", help="change nothing; show files and bytes")


def _add_trust(verbs: Any) -> None:
    parser = _add(verbs, "sign", "trust:run_sign", "sign a bundle's manifest and everything that is attached to it")
    parser.add_argument("reference", metavar="REF", help=_REFERENCE)
    parser.add_argument(
        "--key",
        metavar="FILE",
        required=True,
        help="the private key, such as `openssl genpkey -algorithm ed25519 -out FILE` makes; its password is asked "
        "for, or in NPU_PERSIST_KEY_PASSWORD",
    )
    text = "look after the public keys that are known here: devices run what their owners signed"
    keys = verbs.add_parser("keys", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verbs = keys.add_subparsers(metavar="VERB", required=True)
    parser = _add(verbs, "add", "trust:run_keys_add", "make a key known")
    parser.add_argument("name", metavar="NAME", help="what to call its owner")
    parser.add_argument(
        "key",
        metavar="KEY",
        help="a PEM file (`openssl pkey -in PRIVATE -pubout`), OpenSSH's .pub file, or the key itself in hex",
    )
    _add(verbs, "list", "trust:run_keys_list", "list the keys that are known")
    parser = _add(verbs, "remove", "trust:run_keys_remove", "forget a key")
    parser.add_argument("name", metavar="NAME")


def _add_layout(verbs: Any) -> None:
    parser = _add(verbs, "export", "layout:run_export", "write a bundle as a folder that OpenVINO's own tools read")
    parser.add_argument("reference", metavar="REF", help=_REFERENCE)
    parser.add_argument("directory", metavar="DIR", help="the folder to make")
    parser.add_argument(
        "--layout",
        choices=["openvino", "ovms", "genai"],
        default="openvino",
        help="openvino: model.xml and model.bin; ovms: the same in DIR/1, as OpenVINO Model Server wants them; genai: "
        "openvino_model.xml and .bin, for a part of an OpenVINO GenAI pipeline (default: openvino)",
    )
    parser.add_argument("--graph", metavar="NAME", help="one of the bundle's graphs, where there are several")


def _add_cache(verbs: Any) -> None:
    text = "look after the compile cache: what this machine's devices compiled, which may be removed at any time"
    cache = verbs.add_parser("cache", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verbs = cache.add_subparsers(metavar="VERB", required=True)
    _add(verbs, "list", "cache:run_list", "list what is compiled here: bundle, device, size, last use")
    parser = _add(verbs, "verify", "cache:run_verify", "compare every byte with its digest")
    parser.add_argument("--repair", action="store_true", help="put damaged entries aside; they are compiled again")
    parser = _add(
        verbs, "prune", "cache:run_prune", "remove entries that are not in use, the least recently used first"
    )
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        help="until so much is left: 5GB; 0 removes all (default: NPU_PERSIST_CACHE_QUOTA)",
    )
    parser.add_argument("--older-than", metavar="AGE", help="what was not used for so long: 30d, 12h")
    parser.add_argument("--device", help="only what was compiled for this device, all of it by default: NPU")
    key = "first digits of a key, or " + _REFERENCE
    parser = _add(verbs, "export", "cache:run_export", "copy an entry to a folder, for an identical machine")
    parser.add_argument("entry", metavar="KEY|REF", help=key)
    parser.add_argument("directory", metavar="DIR", help="the folder to make")
    parser = _add(
        verbs,
        "import",
        "cache:run_import",
        "take in an exported entry; a device runs what is in it, so import only what you trust",
    )
    parser.add_argument("directory", metavar="DIR", help="what `cache export` made")


def _add_toolchain(verbs: Any) -> None:
    text = "look after what compiles for an NPU that is not in this machine"
    toolchain = verbs.add_parser("toolchain", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verbs = toolchain.add_subparsers(metavar="VERB", required=True)
    _add(
        verbs,
        "install",
        "toolchain:run_install",
        "install the NPU compiler of OpenVINO's Windows wheel under wine: NPU_PERSIST_TOOLCHAINS, or the store's home",
    )
    _add(verbs, "list", "toolchain:run_list", "list the toolchains, and what each lacks")
    parser = _add(verbs, "remove", "toolchain:run_remove", "remove what was installed, and what interrupted runs left")
    parser.add_argument("version", metavar="VERSION", nargs="?", help="OpenVINO's version (default: all)")
    parser = _add(verbs, "check", "toolchain:run_check", "compare every byte, and compile one operation")
    parser.add_argument("name", metavar="NAME", nargs="?", help="plugin, libraries or wine (default: all usable ones)")
