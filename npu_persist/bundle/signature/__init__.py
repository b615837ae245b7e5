"""How a persisted module is called: nested arguments to a flat list of tensors, and a flat list back to nested results.

The promise: the loaded model is called exactly like the module it was made from. What is no tensor (None, flags,
numbers, strings) was fixed when the module was traced; a call that brings another value is refused, never ignored.
"""

from __future__ import annotations

from npu_persist.bundle.signature.describe import (
    describe_bounds,
    describe_port,
    describe_shape,
    describe_tree,
    describe_value,
)
from npu_persist.bundle.signature.plan import CallPlan
from npu_persist.bundle.signature.record import Record
from npu_persist.bundle.signature.symbols import find_root, read_symbol, size_of, write_symbol
from npu_persist.bundle.signature.tree import rebuild

__all__ = [
    "CallPlan",
    "Record",
    "describe_bounds",
    "describe_port",
    "describe_shape",
    "describe_tree",
    "describe_value",
    "find_root",
    "read_symbol",
    "rebuild",
    "size_of",
    "write_symbol",
]
