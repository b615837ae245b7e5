"""The golden sample's file: a tensor `input.NAME` for each input of the graph and `output.NAME` for each output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.bundle.manifest import Dimension
from npu_persist.bundle.signature import describe_port
from npu_persist.bundle.weights import malformed, read_header
from npu_persist.files.filesystem import store_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from npu_persist.bundle.manifest import Graph, Port
    from npu_persist.bundle.weights import Tensor


def read_golden_tensors(path: Path, graph: Graph) -> Mapping[str, Tensor]:
    """Return where the tensors of a golden sample are, by name.

    Raises:
        GraphIntegrityError: The file is malformed, or its tensors do not fit the graph's inputs and outputs.
        StoreError: It cannot be read.
    """
    with store_errors(f"read {path}"):
        tensors = read_header(path).tensors
    for kind, ports in (("input", graph.inputs), ("output", graph.outputs)):
        for port in ports:
            name = f"{kind}.{port.name}"
            tensor = tensors.get(name)
            got = "none" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"
            # An output of other sizes than its port's is a wrong answer, which `check` reports.
            if (
                tensor is None
                or tensor.dtype != _stored(port.dtype)
                or (kind == "input" and not fits(tensor.shape, port))
            ):
                raise malformed(path, f"a tensor {name!r} of {describe_port(port)}", got)
    return tensors


def _stored(dtype: str) -> str:
    """Return safetensors' name of a dtype.

    >>> _stored("float32"), _stored("uint8"), _stored("bool")
    ('F32', 'U8', 'BOOL')
    """
    return dtype.upper().replace("FLOAT", "F").replace("INT", "I").replace("UI", "U")


def fits(shape: tuple[int, ...], port: Port) -> bool:
    """Tell whether an input may have a shape.

    >>> from npu_persist.bundle.manifest import Port
    >>> port = Port("x", "float32", (Dimension("batch", 1, 8), 4))
    >>> fits((8, 4), port), fits((9, 4), port)
    (True, False)
    """
    return len(shape) == len(port.shape) and all(
        axis.min <= size and (axis.max is None or size <= axis.max) if isinstance(axis, Dimension) else size == axis
        for size, axis in zip(shape, port.shape, strict=True)
    )
