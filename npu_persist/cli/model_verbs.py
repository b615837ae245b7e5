"""The grammar of the verbs that make bundles, look at them and run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist.cli.verb import REFERENCE, add_verb

if TYPE_CHECKING:
    import argparse


def add_model_verbs(verbs: Any) -> None:
    """Add them."""
    _add_persist(verbs)
    _add_compile(verbs)
    _add_run(verbs)
    _add_bench(verbs)
    _add_showing(verbs)
    _add_compatibility(verbs)
    _add_machine(verbs)


def _add_persist(verbs: Any) -> None:
    parser = add_verb(
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
    parser = add_verb(
        verbs, "compile", "compile:run_compile", "compile a bundle ahead of time, for other machines too, and attach it"
    )
    parser.add_argument("reference", metavar="REF", help=REFERENCE)
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
    parser = add_verb(verbs, "run", "run:run_run", "run a bundle once and print what its outputs look like")
    parser.add_argument("reference", metavar="REF", help=REFERENCE)
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
    parser = add_verb(verbs, "bench", "bench:run_bench", "measure frames per second and latency of bundles on devices")
    parser.add_argument("reference", metavar="REF", nargs="+", help=REFERENCE)
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
    parser = add_verb(verbs, "list", "show:run_list", "list the bundles in the store")
    parser.add_argument("name", metavar="NAME", nargs="?", help="only the versions of this one")
    parser = add_verb(verbs, "inspect", "show:run_inspect", "show what is in a bundle")
    parser.add_argument("reference", metavar="REF", help=REFERENCE)
    parser = add_verb(verbs, "path", "show:run_path", "print the directory of a bundle")
    parser.add_argument("reference", metavar="REF", help=REFERENCE)


def _add_compatibility(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "compatibility",
        "compatibility:run_compatibility",
        "tell which attached artifacts run on a device, and why",
    )
    parser.add_argument("reference", metavar="REF", help=REFERENCE)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", default="NPU", help="a device of this machine (default: NPU)")
    where.add_argument("--target", metavar="T", help="another machine's NPU: NPU:4000, lunar-lake")
    parser.add_argument(
        "--elf", metavar="V", help="with --target: newest ELF version that its driver takes, such as 1.2"
    )
    parser.add_argument("--mi", metavar="V", help="with --target: newest mapped inference that its driver takes: 11.4")
    parser.add_argument("--openvino", metavar="V", help="with --target: version of its OpenVINO, such as 2026.4.1")


def _add_machine(verbs: Any) -> None:
    add_verb(verbs, "devices", "devices:run_devices", "list the devices of this machine that models can be loaded on")
    add_verb(
        verbs,
        "doctor",
        "devices:run_doctor",
        "look for what devices, store, cache and toolchains lack, and say what to do",
    )
    add_verb(
        verbs, "targets", "toolchain:run_targets", "list what can be compiled for, and the toolchain that would do it"
    )
