"""Arguments that verbs share: options of every verb, and the forms in which names, shapes and arrays are given."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Any, NoReturn

from npu_persist.errors import NotFoundError, StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from npu_persist.bundle.graph_records import Padding
    from npu_persist.cli.output import Output

    Run = Callable[[argparse.Namespace, Output], "int | None"]
    Arrays = Mapping[str, np.ndarray[Any, Any]]

REFERENCE = "unet, unet:3, unet:prod, unet@<digest prefix>, hf://org/unet@v3 or a bundle's directory"
"""Help text of a reference."""

BUCKET_FORM = "NAME=1x128[,NAME=1x128...]"
PADDING_FORM = "NAME=VALUE[:left|:right]"

_SHAPE = re.compile(r"[0-9]{1,18}(x[0-9]{1,18})*", re.ASCII)


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UsageError(f"{message}\n{self.format_usage().rstrip()}")


def add_verb(verbs: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    """Add a verb, with the options that every verb has."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=_sentence(text))
    parser.add_argument(
        "--store", metavar="DIR", help="the store's directory (default: NPU_PERSIST_HOME, or the user's data directory)"
    )
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.set_defaults(run=run)
    return parser


def add_group(verbs: Any, name: str, text: str) -> Any:
    """Add a verb that has verbs of its own, and return the subparsers for them."""
    return verbs.add_parser(name, help=text, description=_sentence(text)).add_subparsers(metavar="VERB", required=True)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def add_reference(parser: argparse.ArgumentParser, **options: Any) -> None:
    """Add the argument that names a bundle."""
    parser.add_argument("reference", **{"metavar": "REF", "help": REFERENCE, **options})


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model's inputs."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--inputs", metavar="FILE.npz", help="inputs by name (default: those of the golden sample)")
    source.add_argument("--random", action="store_true", help="use random inputs")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random inputs, or of an image's noise (default: 0)"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option for OpenVINO properties, which `parse_pairs` reads."""
    parser.add_argument(
        "--config", metavar="KEY=VALUE", nargs="+", default=[], help="OpenVINO properties, such as NUM_STREAMS=2"
    )


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `load` that several verbs take, which `read_load_options` reads."""
    parser.add_argument("--hint", metavar="H", help="LATENCY, THROUGHPUT or CUMULATIVE_THROUGHPUT")
    parser.add_argument(
        "--verify", choices=["full", "stamp", "none"], default="full", help="how files are verified (default: full)"
    )
    parser.add_argument(
        "--no-cache", dest="cache", action="store_false", help="neither read nor write the compile cache"
    )
    parser.add_argument(
        "--compile-timeout", type=float, metavar="S", help="end a compilation after this many seconds (default: never)"
    )
    parser.add_argument(
        "--trust",
        metavar="REPO",
        action="append",
        default=[],
        help="run blobs that were compiled elsewhere and pulled from org/name or org/* on Hugging Face's hub, from "
        "https://hub.example.com/org/* on another hub, or from anywhere (all); blobs are executed on the "
        "device; may be "
        "repeated (default: only blobs that a known key signed, see `keys`)",
    )
    parser.add_argument(
        "--require-signature", action="store_true", help="refuse a bundle if no known key signed its manifest"
    )


def read_load_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `load` that `add_load_options` and `--store` give."""
    return {
        "hint": arguments.hint,
        "verify": arguments.verify,
        "cache": arguments.cache,
        "compile_timeout": arguments.compile_timeout,
        "trust": True if "all" in arguments.trust else tuple(arguments.trust) or None,
        "require_signature": arguments.require_signature,
        "store": arguments.store,
    }


def parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Return `KEY=VALUE` texts as a dict; values stay text, since `1.10` may be a version."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError(f"{option}: expected KEY=VALUE; got {text!r}")
        if key in pairs:
            raise UsageError(f"{option}: {key!r} is given twice")
        pairs[key] = value
    return pairs


def parse_image_size(text: str | None, option: str) -> tuple[int, int] | None:
    """Return height and width from text such as `512x768`."""
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(f"{option}: expected height and width in pixels, such as 512x768; got {text}")
    return int(height), int(width)


def parse_buckets(texts: Sequence[str]) -> list[dict[str, tuple[int, ...]]] | None:
    """Return the values of `--bucket`, such as `input_ids=1x128,attention_mask=1x128`; None without any."""
    return [_parse_bucket(text) for text in texts] or None


def _parse_bucket(text: str) -> dict[str, tuple[int, ...]]:
    bucket: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        name, _, shape = part.strip().rpartition("=")
        if not name or name in bucket or not _SHAPE.fullmatch(shape):
            raise UsageError(
                f"--bucket: expected {BUCKET_FORM}, such as input_ids=1x128,attention_mask=1x128; got {text!r}"
            )
        bucket[name] = tuple(map(int, shape.split("x")))
    return bucket


def parse_padding(texts: Sequence[str]) -> dict[str, Padding] | None:
    """Return the values of `--pad`, such as `input_ids=0:left`; None without any."""
    from npu_persist.bundle.graph_records import Padding

    padding: dict[str, Padding] = {}
    for text in texts:
        name, _, rest = text.rpartition("=")
        value, _, side = rest.partition(":")
        try:
            number = float(value)
        except ValueError as error:
            raise UsageError(f"--pad: expected {PADDING_FORM}, such as input_ids=0:left; got {text!r}") from error
        if not name or name in padding or side not in {"", "left", "right"}:
            raise UsageError(f"--pad: expected {PADDING_FORM}, once for each input; got {text!r}")
        padding[name] = Padding(number, "left" if side == "left" else "right")
    return padding or None


def read_arrays(path: str) -> dict[str, np.ndarray[Any, Any]]:
    """Read every array of an `.npz` file; pickled objects are refused."""
    import zipfile
    from pathlib import Path

    import numpy as np

    expected = f"{path}: expected an .npz file of named arrays, as numpy.savez(path, name=array) writes it"
    magic = b""
    try:
        # Not numpy.load: it takes a file that is not a zip archive for a pickle, and advises to allow that.
        with Path(path).open("rb") as source:
            magic = source.read(len(np.lib.format.MAGIC_PREFIX))
            with np.lib.npyio.NpzFile(source, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {path}") from error
    except (EOFError, zipfile.BadZipFile, OSError) as error:
        is_npy = magic == np.lib.format.MAGIC_PREFIX
        got = "got a .npy file, which holds one array without a name" if is_npy else str(error)
        raise UsageError(f"{expected}; {got}") from error
    except ValueError as error:  # numpy's own message advises to allow pickle
        raise UsageError(f"{expected}; got an array of Python objects, or a damaged one") from error


def write_arrays(path: str, arrays: Arrays) -> None:
    """Write arrays to an `.npz` file, whole or not at all; an existing file is replaced.

    Tools that unpack such a file take its arrays' names for paths. In a name from a bundle, what separates folders or
    drives, `%` and what is invisible is written as in a URL: `../x` is the array `..%2Fx`.
    """
    import zipfile
    from pathlib import Path

    import numpy as np

    from npu_persist.files.filesystem import check_path

    # Not numpy.savez: it takes the arrays as keyword arguments, and an output may be called `file` or `allow_pickle`.
    check_path(path, "--output")
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(part, "x") as archive:
            for name, array in arrays.items():
                with archive.open(f"{_member(name)}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
        part.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}", errno=error.errno) from error
    finally:
        part.unlink(missing_ok=True)


def _member(name: str) -> str:
    from urllib.parse import quote

    return "".join(one if one.isprintable() and one not in "%/\\:" else quote(one, safe="") for one in name)
