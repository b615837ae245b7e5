"""Somebody publishes a recurrent layer whose weights are smaller than its hidden size says.

Before: SIGSEGV, for the CPU's kernels read the weights as far as the hidden size goes. Now the sizes of states, weights
and biases, as OpenVINO infers them, must be those that the hidden size asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import attack
from tests.support.operations import make_operation

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from pathlib import Path


@pytest.mark.parametrize("name", ["rnn_cell", "gru_cell", "lstm_cell", "rnn", "gru", "lstm", "lstm-both"])
@pytest.mark.parametrize("hidden", ["1", "3", "400", "100000000"])
def test_a_hidden_size_is_that_of_the_weights(tmp_path: Path, name: str, hidden: str) -> None:
    def change(root: ET.Element) -> None:
        next(data for data in root.iter("data") if "hidden_size" in data.attrib).set("hidden_size", hidden)

    error = attack(tmp_path, *make_operation(name), change)
    assert error.startswith(("GraphIntegrityError: ", "CompilationError: ")), error


@pytest.mark.parametrize("name", ["rnn_cell", "gru_cell", "lstm_cell", "rnn", "gru", "lstm"])
def test_weights_are_as_large_as_the_hidden_size_says(tmp_path: Path, name: str) -> None:
    def change(root: ET.Element) -> None:
        for layer in root.iter("layer"):
            data = layer.find("data")
            if layer.get("type") == "Const" and data is not None and data.get("element_type") == "f32":
                axes = data.get("shape", "").split(",")
                axes[-1] = "1"
                data.set("shape", ",".join(axes))
                size = 4
                for axis in axes:
                    size *= int(axis)
                data.set("size", str(size))

    error = attack(tmp_path, *make_operation(name), change)
    assert error.startswith(("GraphIntegrityError: ", "CompilationError: ")), error
