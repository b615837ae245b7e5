"""The integers and scales are NNCF's, byte for byte."""

from __future__ import annotations

import json

import numpy as np
import torch

from npu_persist.conversion.compress import pack, quantize
from tests.support.nncf_integers import FILE, MODES, digest, matrices


def test_integers_and_scales_are_those_of_nncf() -> None:
    expected = json.loads(FILE.read_text())["digests"]
    assert len(expected) == 68
    for name, matrix in matrices():
        for mode, (bits, group) in MODES.items():
            if (digests := expected.get(f"{name} {mode}")) is None:
                continue
            weight = torch.from_numpy(matrix)
            if group is not None:
                weight = weight.reshape(len(matrix), -1, group)
            values, scale = quantize(weight, bits, (weight.ndim - 1,))
            packed = pack(values).numpy() if bits == 4 else values.numpy().reshape(-1).view(np.uint8)
            assert digest(packed, scale.numpy().reshape(-1)) == digests, f"{name} {mode}"
