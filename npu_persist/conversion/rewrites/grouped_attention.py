"""Let grouped attention add its mask, in place of a boolean one.

Intel's NPU compiler of OpenVINO 2026.4 fails for NPU:4000 and NPU:5010 where heads of keys are repeated and the mask
is boolean: "Value 'Operation result #1 for 'async.execute' ...' is not covered by aliases analysis". It takes the same
mask as numbers: 0 for a key, -inf for none, which is what the operation's specification makes of a boolean one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from npu_persist.conversion.rewrites.masked_attention import masked_attentions

if TYPE_CHECKING:
    from collections.abc import Iterator

_QUERY, _KEY, _MASK = 0, 1, 3
_MOVES = frozenset({"Convert", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operations between the repetition of heads and the attention."""


def add_masks_of_grouped_attention(model: ov.Model) -> None:
    """Give each attention whose keys are repeated a mask of numbers; one that layers share is made once."""
    added: dict[tuple[str, int], Any] = {}
    for attention in masked_attentions(model):
        mask = attention.input_value(_MASK)
        if mask.get_element_type() != ov.Type.boolean or not _is_repeated(attention.input_value(_KEY)):
            continue
        dtype = attention.input_value(_QUERY).get_element_type()
        key = (mask.get_node().get_name(), mask.get_index())
        if key not in added:
            values = [ops.constant(np.array(value, np.float32)) for value in (0, -np.inf)]
            if dtype != ov.Type.f32:  # OpenVINO makes no constant of -inf in bfloat16
                values = [ops.convert(value, dtype) for value in values]
            added[key] = ops.select(mask, *values)
        attention.input(_MASK).replace_source_output(added[key].output(0))
    if added:
        model.validate_nodes_and_infer_types()


def _is_repeated(value: ov.Output) -> bool:
    return next((kind for kind in _kinds(value) if kind not in _MOVES), None) in {"Broadcast", "Tile"}


def _kinds(value: ov.Output) -> Iterator[str]:
    """Yield the kinds of operations that a value comes from, along their first inputs."""
    while (node := value.get_node()).get_input_size():
        yield node.get_type_name()
        value = node.input_value(0)
