"""What NNCF makes of some matrices, as digests: what `tests/unit/conversion/test_nncf_integers.py` expects of us.

`python -m tests.support.nncf_integers` writes the digests again; that needs nncf and openvino, the tests do not.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).parents[1] / "data" / "nncf_integers.json"
SHAPES = ((7, 32), (64, 64), (100, 256), (384, 1536), (1000, 128), (33, 65))
SCALES = (1e-5, 0.02, 1.0, 300.0)
MODES = {"int8": (8, None), "int4": (4, None), "int4 in groups of 32": (4, 32)}


def matrices() -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield matrices with their names: bell-shaped, some with outliers, an empty row and equal extremes."""
    random = np.random.RandomState(7)
    for rows, columns in SHAPES:
        for scale in SCALES:
            matrix = (random.standard_normal((rows, columns)) * scale).astype(np.float32)
            matrix[0] = 0
            matrix[1, :2] = 5 * scale, -5 * scale
            matrix[2] *= 20
            yield f"{rows}x{columns} {scale:g}", matrix


def digest(values: np.ndarray[Any, Any], scale: np.ndarray[Any, Any]) -> str:
    """Return a digest of the packed integers and of the scales in half precision."""
    return blake3(values.tobytes() + scale.astype(np.float16).tobytes()).hexdigest()[:16]


def _compress(matrix: np.ndarray[Any, Any], bits: int, group: int | None) -> str:
    import nncf
    import openvino as ov
    from openvino import opset13 as ops

    x = ops.parameter([1, matrix.shape[1]], ov.Type.f32)
    model = ov.Model([ops.matmul(x, ops.constant(matrix), transpose_a=False, transpose_b=True)], [x])
    modes = nncf.CompressWeightsMode
    four = {"mode": modes.INT4_SYM, "ratio": 1.0, "all_layers": True, "group_size": group or -1}
    compressed = nncf.compress_weights(model, **(four if bits == 4 else {"mode": modes.INT8_SYM}))
    found = {op.get_element_type(): op for op in compressed.get_ordered_ops() if op.get_type_name() == "Constant"}
    values = found[ov.Type.i8 if ov.Type.i8 in found else ov.Type.i4].data
    return digest(np.asarray(values).reshape(-1).view(np.uint8), np.asarray(found[ov.Type.f16].data).reshape(-1))


def main() -> None:
    """Write the file."""
    found = {
        f"{name} {mode}": _compress(matrix, bits, group)
        for name, matrix in matrices()
        for mode, (bits, group) in MODES.items()
        if group is None or matrix.shape[1] % group == 0
    }
    FILE.write_text(json.dumps({"nncf": metadata.version("nncf"), "digests": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
