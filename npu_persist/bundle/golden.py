"""The golden sample's file: a tensor `input.NAME` for each input of the graph and `output.NAME` for each output.

With states it has several consecutive calls: the tensors of the second are `input1.NAME` and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.bundle.graph_records import Dimension
from npu_persist.bundle.signature import describe_port
from npu_persist.bundle.weights import malformed, read_header
from npu_persist.files.filesystem import store_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from npu_persist.bundle.graph_records import Graph, Port
    from npu_persist.bundle.weights import Tensor


def tensor_name(kind: str, name: str, step: int = 0) -> str:
    """Return the name of a tensor in the file.

    >>> tensor_name("input", "x"), tensor_name("output", "y", 2)
    ('input.x', 'output2.y')
    """
    return f"{kind}{step or ''}.{name}"


def read_golden_tensors(path: Path, graph: Graph, steps: int = 1) -> Mapping[str, Tensor]:
    """Return where the tensors of a golden sample are, by name.

    Args:
        path: The file.
        graph: What it is called with.
        steps: How many calls it has.

    Raises:
        GraphIntegrityError: The file is malformed, or its tensors do not fit the graph's inputs and outputs.
        StoreError: It cannot be read.
    """
    with store_errors(f"read {path}"):
        tensors = read_header(path).tensors
    sides = [("input", port) for port in graph.inputs] + [("output", port) for port in graph.outputs]
    for step in range(steps):
        for kind, port in sides:
            name = tensor_name(kind, port.name, step)
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

    >>> from npu_persist.bundle.graph_records import Port
    >>> port = Port("x", "float32", (Dimension("batch", 1, 8), 4))
    >>> fits((8, 4), port), fits((9, 4), port)
    (True, False)
    """
    return len(shape) == len(port.shape) and all(
        axis.min <= size and (axis.max is None or size <= axis.max) if isinstance(axis, Dimension) else size == axis
        for size, axis in zip(shape, port.shape, strict=True)
    )
