"""The verbs `persist` and `refresh`, which make a bundle of a PyTorch module, and `run`, which runs a bundle once."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import npu_persist
from npu_persist.cli.arguments import (
    add_inputs,
    add_load_options,
    add_reference,
    add_verb,
    parse_buckets,
    parse_image_size,
    parse_padding,
    parse_pairs,
    read_arrays,
    read_load_options,
    write_arrays,
)
from npu_persist.cli.bundles import check_lines, describe_bundle, head_lines, read_manifest
from npu_persist.cli.output import section, table
from npu_persist.cli.pipelines import add_pipeline_options, run_pipeline
from npu_persist.errors import MissingExtraError, NpuPersistError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import numpy as np

    from npu_persist.cli.output import Output

    Array = np.ndarray[Any, Any]

_TRAINING_SIDE = frozenset({"torch", "safetensors"})
"""What the `export` extra installs."""

_EXPECTED = (
    "expected a torch.nn.Module, or a function without arguments that returns a module, (module, args), "
    "(module, args, kwargs), an Example of each graph by its name, or a pipeline of diffusers"
)


def add_verbs(verbs: Any) -> None:
    """Add them."""
    add_persist(verbs)
    add_refresh(verbs)
    add_run(verbs)


def add_persist(verbs: Any) -> None:
    """Add `persist`."""
    parser = add_verb(verbs, "persist", run_persist, "convert a PyTorch module, check it and publish it as a bundle")
    parser.add_argument(
        "factory",
        metavar="module.path:factory",
        help="a torch.nn.Module, or a function that returns a module, (module, args), (module, args, kwargs) or a "
        "pipeline of diffusers; the current directory is importable",
    )
    parser.add_argument("--name", required=True, help="name of the bundle")
    parser.add_argument(
        "--precision",
        choices=["fp16", "fp32", "int8", "int4"],
        default="fp16",
        help="precision of the weights (default: fp16); int8 and int4 compress linear layers, embeddings and "
        "convolutions",
    )
    parser.add_argument(
        "--group-size", type=int, metavar="N", help="with int4: number of inputs that share a scale, for example 128"
    )
    parser.add_argument(
        "--keep",
        metavar="PATTERN=PRECISION",
        action="append",
        default=[],
        help="with int8 and int4: how to store weights that match a pattern, such as lm_head=fp16; may be repeated",
    )
    parser.add_argument(
        "--by-layer",
        action="store_true",
        help="with int8 and int4: find the layers with the largest loss, and report them as a warning",
    )
    parser.add_argument(
        "--bucket",
        metavar="INPUT=SHAPE",
        action="append",
        default=[],
        help="sizes that calls are padded to, such as input_ids=1x128,attention_mask=1x128; axes that differ from the "
        "example's become dynamic; may be repeated",
    )
    parser.add_argument(
        "--pad",
        metavar="INPUT=VALUE[:left]",
        action="append",
        default=[],
        help="the value and side to pad an input with (default: 0, on the right); may be repeated",
    )
    parser.add_argument("--alias", help="point this alias to the new version")
    parser.add_argument(
        "--inputs", metavar="FILE.npz", help="example inputs by argument name, instead of the factory's args"
    )
    parser.add_argument("--no-check", dest="check", action="store_false", help="do not compare the bundle with torch")
    parser.add_argument(
        "--tolerance", type=float, metavar="T", help="largest difference from torch, relative to an output's scale"
    )
    parser.add_argument(
        "--metadata", metavar="KEY=VALUE", action="append", default=[], help="stored in the manifest; may be repeated"
    )
    parser.add_argument(
        "--asset",
        metavar="NAME=FILE",
        action="append",
        default=[],
        help="a file to store in the bundle for the deployed program; may be repeated",
    )
    parser.add_argument(
        "--target",
        metavar="T",
        action="append",
        default=[],
        help="compile the bundle ahead of time, as `compile` does, for example NPU:4000; may be repeated",
    )
    parser.add_argument(
        "--force", action="store_true", help="make a new version even if the newest one has the same content"
    )
    parser.add_argument(
        "--max-prompt", type=int, metavar="N", help="with --target: as for `compile`, for a model that generates"
    )
    parser.add_argument("--min-response", type=int, metavar="M", help="likewise")
    parser.add_argument(
        "--image-size", metavar="HxW", help="with --target: as for `compile`, for a pipeline of diffusers"
    )


def run_persist(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist persist module.path:factory --name NAME`."""
    metadata = parse_pairs("--metadata", arguments.metadata)
    inputs = read_arrays(arguments.inputs) if arguments.inputs else None
    keep: Any = parse_pairs("--keep", arguments.keep) or None
    with contextlib.redirect_stdout(sys.stderr):  # what the user's code prints is not our data
        made = make_model(arguments.factory)
        args, kwargs = made.args, made.kwargs
        if inputs is not None:
            torch: Any = sys.modules["torch"]
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            args, kwargs = None, {**(kwargs or {}), **tensors}
        store = npu_persist.Store(arguments.store)
        before = store.versions(arguments.name)
        bundle = npu_persist.persist(
            made.model,
            arguments.name,
            args,
            kwargs,
            buckets=parse_buckets(arguments.bucket),
            padding=parse_padding(arguments.pad),
            precision=arguments.precision,
            group_size=arguments.group_size,
            keep=keep,
            by_layer=arguments.by_layer,
            alias=arguments.alias,
            metadata=metadata,
            assets=parse_pairs("--asset", arguments.asset),
            store=store,
            check=arguments.check,
            tolerance=arguments.tolerance,
            targets=arguments.target or None,
            max_prompt=arguments.max_prompt,
            min_response=arguments.min_response,
            image_size=parse_image_size(arguments.image_size, "--image-size"),
            force=arguments.force,
            progress=output.progress,
        )
    aliases = [alias for alias, version in store.aliases(bundle.name).items() if version == bundle.version]
    is_new = bundle.version not in before
    output.show(
        {**describe_bundle(bundle, aliases), "is_new": is_new, "manifest": read_manifest(bundle)},
        lambda: section(bundle.reference, [*head_lines(bundle, aliases), "", *check_lines(bundle.manifest)]),
    )


def add_refresh(verbs: Any) -> None:
    """Add `refresh`."""
    parser = add_verb(verbs, "refresh", run_refresh, "publish a bundle's graph with the new weights of its module")
    add_reference(parser)
    parser.add_argument(
        "factory",
        metavar="module.path:factory",
        help="as for `persist`: a torch.nn.Module with the new weights, or a function that returns one",
    )
    parser.add_argument("--alias", help="point this alias to the new version")
    parser.add_argument("--no-check", dest="check", action="store_false", help="do not compare the bundle with torch")
    parser.add_argument(
        "--tolerance", type=float, metavar="T", help="largest difference from torch (default: the bundle's)"
    )
    parser.add_argument(
        "--metadata",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="stored in the manifest instead of the bundle's metadata; may be repeated",
    )


def run_refresh(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist refresh REF module.path:factory`."""
    metadata = parse_pairs("--metadata", arguments.metadata)
    with contextlib.redirect_stdout(sys.stderr):  # what the user's code prints is not our data
        bundle = npu_persist.refresh(
            arguments.reference,
            make_model(arguments.factory).model,
            alias=arguments.alias,
            metadata=metadata or None,
            store=arguments.store,
            check=arguments.check,
            tolerance=arguments.tolerance,
            progress=output.progress,
        )
    aliases = [arguments.alias] if arguments.alias else []
    output.show(
        {**describe_bundle(bundle, aliases), "manifest": read_manifest(bundle)},
        lambda: section(bundle.reference, [*head_lines(bundle, aliases), "", *check_lines(bundle.manifest)]),
    )


def add_run(verbs: Any) -> None:
    """Add `run`."""
    parser = add_verb(verbs, "run", run_run, "run a bundle once and print a summary of its outputs")
    add_reference(parser)
    parser.add_argument(
        "--device", default="AUTO", help="OpenVINO's device string: NPU, GPU, CPU, AUTO (default: AUTO)"
    )
    parser.add_argument("--graph", metavar="NAME", help="the graph to run, if the bundle has several")
    add_inputs(parser)
    add_pipeline_options(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="save the outputs, by name, to this .npz file; with --prompt, the image to this .png file",
    )
    parser.add_argument("--report", action="store_true", help="show how the model was loaded: source, device, time")
    parser.add_argument(
        "--fallback", nargs="+", default=[], metavar="D", help="devices to try if the first cannot be used"
    )
    add_load_options(parser)
    parser.add_argument(
        "--no-check-values",
        dest="check_values",
        action="store_false",
        help="do not check that integers fit int32 and indices are in range",
    )


def run_run(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist run REF`."""
    if arguments.prompt is not None or arguments.audio is not None:
        run_pipeline(arguments, output)
        return
    from npu_persist.runtime.golden import make_random, read_golden_inputs

    given = read_arrays(arguments.inputs) if arguments.inputs else None
    model = npu_persist.load(
        arguments.reference,
        arguments.device,
        graph=arguments.graph,
        fallback=arguments.fallback,
        check_values=arguments.check_values,
        progress=output.progress,
        **read_load_options(arguments),
    )
    if len(model.graphs) > 1:
        raise UsageError(f"{model.bundle.reference} has several graphs: give --graph, one of {', '.join(model.graphs)}")
    if given is not None:
        inputs = given
    elif arguments.random:
        inputs = make_random(model.inputs, arguments.seed)
    else:
        inputs = read_golden_inputs(model.bundle, model.graph)
    outputs = dict(zip([port.name for port in model.outputs], model.infer(inputs), strict=True))
    if arguments.output:
        write_arrays(arguments.output, outputs)
    results = [summarize(name, array) for name, array in outputs.items()]
    data = {
        "reference": model.bundle.reference,
        "outputs": results,
        "saved": arguments.output,
        "report": model.report.to_dict(),
    }
    output.show(data, lambda: _run_text(results))
    if arguments.report:
        output.note(str(model.report))
    if arguments.output:
        output.note(f"saved to {arguments.output}")


def summarize(name: str, array: Array) -> dict[str, Any]:
    """Return an output's name, dtype, shape, smallest, largest and mean value; None for those of an empty array."""
    summary: dict[str, Any] = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    for measure in ("min", "max", "mean"):
        summary[measure] = _measure(array, measure) if array.size else None
    return summary


def _measure(array: Array, measure: str) -> float | int | str:
    import numpy as np

    # In float64: the sum of many float16 overflows in its own type. NaN and infinity are text: JSON does not have them.
    value = array.mean(dtype=np.float64) if measure == "mean" else getattr(array, measure)()
    if not np.isfinite(value):
        return str(float(value))
    return float(value) if isinstance(value, np.floating) else int(value)


def _run_text(results: Sequence[dict[str, Any]]) -> list[str]:
    def show(value: float | str | None) -> str:
        return "-" if value is None else value if isinstance(value, str) else f"{value:.6g}"

    measures = ["MIN", "MAX", "MEAN"]
    rows = [
        [one["name"], one["dtype"], str(one["shape"]), *(show(one[measure.lower()]) for measure in measures)]
        for one in results
    ]
    return table(["OUTPUT", "DTYPE", "SHAPE", *measures], rows, right=measures)


class MadeModel(NamedTuple):
    """What a factory returned: the module, and the example call if there was one; or the examples of several."""

    model: Any
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] | None


def make_model(target: str) -> MadeModel:
    """Import `module.path:name` and call it, unless it is a module already.

    The current directory is importable, as with `python -m`.
    """
    found = _import_target(target)
    if _is_module(found) or _is_pipeline(found):
        return MadeModel(found, None, None)
    if not callable(found):
        raise UsageError(f"{target}: {_EXPECTED}; got {_describe_type(found)}")
    try:
        made = found()
    except Exception as error:
        raise NpuPersistError(f"{target} raised {type(error).__name__}: {error}") from error
    return _unpack(target, made)


def _import_target(target: str) -> Any:
    path, colon, name = target.partition(":")
    if not (colon and path and name) or path.endswith(".py"):
        raise UsageError(f"expected module.path:factory, such as mymodels.unet:make; got {target!r}")
    if os.getcwd() not in sys.path:  # noqa: PTH109 (sys.path holds strings)
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: Any = importlib.import_module(path)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing in _TRAINING_SIDE:
            raise MissingExtraError(
                f"persist needs {missing}, which is not installed here: python -m pip install 'npu_persist[export]'",
                extra="export",
                name=missing,
            ) from error
        if missing is not None and (path == missing or path.startswith(f"{missing}.")):
            raise UsageError(f"{target}: no module {missing!r} is installed or in the current directory") from error
        raise NpuPersistError(f"importing {path} raised {type(error).__name__}: {error}") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise UsageError(f"{target}: {path} has no {name!r}") from error
    return found


def _is_module(value: object) -> bool:
    # If value is a module, torch is imported. Importing it here would cost seconds for nothing.
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _is_pipeline(value: object) -> bool:
    if "diffusers" not in sys.modules:
        return False
    from npu_persist.conversion.text_to_image import is_pipeline

    return is_pipeline(value)


def _unpack(target: str, made: Any) -> MadeModel:
    if isinstance(made, dict) or _is_pipeline(made):
        return MadeModel(made, None, None)
    if not isinstance(made, tuple):
        made = (made,)
    model, args, kwargs = (*made, None, None)[:3] if 1 <= len(made) <= 3 else (None, None, None)  # noqa: PLR2004 (the three forms)
    if not _is_module(model):
        raise UsageError(f"{target}: {_EXPECTED}; it returned {_describe_type(made if len(made) > 1 else made[0])}")
    if args is not None and not isinstance(args, (tuple, list)):
        raise UsageError(f"{target}: expected args as a tuple; it returned {_describe_type(args)}")
    if kwargs is not None and not isinstance(kwargs, dict):
        raise UsageError(f"{target}: expected kwargs as a dict; it returned {_describe_type(kwargs)}")
    return MadeModel(model, None if args is None else tuple(args), kwargs)


def _describe_type(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_describe_type, value))})"
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
