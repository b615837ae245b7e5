"""Collects a bundle's assets: files of the caller's, and what a tokenizer, a processor and a model's config save.

A tokenizer is also written as the two graphs that OpenVINO GenAI reads, `openvino_tokenizer.xml` and
`openvino_detokenizer.xml`, where the package openvino_tokenizers is installed.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openvino as ov

from npu_persist.bundle.assets import name_problem
from npu_persist.errors import ConversionError, UsageError
from npu_persist.files.filesystem import store_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

log = logging.getLogger(__name__)

_RESERVED = frozenset({"openvino_model", "openvino_encoder_model", "openvino_decoder_model"})
"""What `export` calls the graphs."""

_COUNTED = re.compile(r"[A-Za-z0-9]+_[0-9]+(\.[0-9]+)?", re.ASCII)
"""A name that OpenVINO gives by a counter of the process: the same tokenizer would make other bytes each time."""


def collect_assets(
    module: torch.nn.Module,
    assets: Mapping[str, bytes | str | os.PathLike[str]] | None,
    tokenizer: Any = None,
    processor: Any = None,
    others: Mapping[str, bytes] | None = None,
) -> dict[str, bytes]:
    """Return the content of each asset by its name.

    Args:
        module: Its `config` and `generation_config` are saved beside a tokenizer or a processor.
        assets: Files by name: bytes, or the path of a file.
        tokenizer: What has `save_pretrained`, as the tokenizers of transformers.
        processor: The same, such as a feature extractor; its own `tokenizer` counts as the tokenizer.
        others: Assets that are there already.

    Raises:
        UsageError: An asset's name or file cannot be used, two have one name, or a tokenizer cannot be saved.
        ConversionError: openvino_tokenizers cannot convert the tokenizer.
    """
    found = {**(others or {}), **_save_all(module, tokenizer, processor)}
    for name, given in (assets or {}).items():
        if (problem := name_problem(name)) is not None:
            raise UsageError(f"assets: {name!r}: {problem}; a name is a relative path such as labels.txt")
        if _RESERVED & {part.split(".")[0] for part in (name.split("/")[0], name.split("/")[-1])}:
            raise UsageError(f"assets: {name} is the name of an exported graph's file; choose another name")
        if name in found:
            raise UsageError(f"assets: {name} is already added by the tokenizer, the processor or the model")
        found[name] = _read(name, given)
    return found


def write_assets(assets: Mapping[str, bytes], folder: Path) -> None:
    """Write assets below a folder."""
    for name, data in assets.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _save_all(module: torch.nn.Module, tokenizer: Any, processor: Any) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if tokenizer is not None or processor is not None:
        for one in (getattr(module, "config", None), getattr(module, "generation_config", None)):
            if hasattr(one, "save_pretrained"):
                found |= save_files(one, "config")
    if processor is not None:
        found |= save_files(processor, "processor")
        for part in ("feature_extractor", "image_processor"):  # in a file of their own, where GenAI looks for it
            if (one := getattr(processor, part, None)) is not None:
                found |= save_files(one, "processor")
        tokenizer = getattr(processor, "tokenizer", None) if tokenizer is None else tokenizer
    if tokenizer is not None:
        found |= save_files(tokenizer, "tokenizer")
        found |= convert_tokenizer(tokenizer)
    return found


def _read(name: str, given: bytes | str | os.PathLike[str]) -> bytes:
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    if not isinstance(given, (str, os.PathLike)):
        raise UsageError(f"assets: expected bytes or the path of a file for {name}; got {type(given).__name__}")
    try:
        return Path(given).read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"assets: could not read {name} from {os.fspath(given)}: {error}") from error


def save_files(saved: Any, what: str, method: str = "save_pretrained") -> dict[str, bytes]:
    """Return the files that a method of an object writes into a folder.

    Raises:
        UsageError: It has no such method, or the method failed.
    """
    if not hasattr(saved, method):
        raise UsageError(f"{what}: expected an object with `{method}`, as in transformers; got {type(saved).__name__}")
    with tempfile.TemporaryDirectory(prefix="npu_persist.") as temporary, store_errors(f"write {temporary}"):
        folder = Path(temporary)
        try:
            getattr(saved, method)(temporary)
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise UsageError(f"{what}: `{method}` of {type(saved).__name__} failed: {error}") from error
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


def convert_tokenizer(tokenizer: Any) -> dict[str, bytes]:
    """Return a tokenizer and its detokenizer as OpenVINO GenAI reads them; nothing without openvino_tokenizers.

    Raises:
        ConversionError: openvino_tokenizers cannot convert it.
    """
    if importlib.util.find_spec("openvino_tokenizers") is None:
        log.warning(
            "the tokenizer is stored, but not in the form that OpenVINO GenAI needs: openvino_tokenizers is not "
            "installed: "
            "pip install 'npu_persist[genai]'"
        )
        return {}
    import openvino_tokenizers

    try:
        graphs = openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:
        raise ConversionError(
            f"openvino_tokenizers cannot convert {type(tokenizer).__name__}: {error}. Pass its files as assets "
            "instead, and tokenize in the program that loads the bundle."
        ) from error
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="npu_persist.") as temporary, store_errors(f"write {temporary}"):
        for name, graph in zip(("openvino_tokenizer", "openvino_detokenizer"), graphs, strict=True):
            _name_by_place(graph)
            path = Path(temporary) / f"{name}.xml"
            ov.save_model(graph, path, compress_to_fp16=False)
            found |= {file.name: file.read_bytes() for file in (path, path.with_suffix(".bin"))}
    return found


def _name_by_place(graph: ov.Model) -> None:
    for index, operation in enumerate(graph.get_ordered_ops()):
        place = f"{operation.get_type_name()}#{index}"
        if _COUNTED.fullmatch(operation.get_friendly_name()):
            operation.set_friendly_name(place)
        for output in operation.outputs():
            names = output.get_names()
            kept = {name for name in names if not _COUNTED.fullmatch(name)}
            if kept != names:
                output.set_names(kept or {place})
