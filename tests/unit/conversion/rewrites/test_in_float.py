"""Models in half precision that generate become graphs in float32, on the weights as they are."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest
import torch

import npu_persist
from npu_persist.store import Store
from tests.models.generation.decoders import VOCABULARY, make_decoder
from tests.models.generation.encoder_decoders import make_encoder_decoder
from tests.support.generation import generate, prompts

if TYPE_CHECKING:
    from npu_persist import Bundle


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.mark.filterwarnings("ignore:.*int4 costs output:npu_persist.errors.PrecisionWarning")  # of random weights
@pytest.mark.parametrize("precision", ["fp16", "int4"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_graph_is_that_of_the_module_in_float(dtype: torch.dtype, precision: Any, store: Store) -> None:
    half = make_decoder("llama").to(dtype)
    bundle = npu_persist.persist(half, "half", store=store, precision=precision)
    in_float = npu_persist.persist(make_decoder("llama").to(dtype).float(), "float", store=store, precision=precision)
    assert _operations(bundle) == _operations(in_float)
    assert bundle.manifest.graphs[0].states == in_float.manifest.graphs[0].states
    found, expected = npu_persist.weights(bundle.path), npu_persist.weights(in_float.path)
    assert {*found} == {*expected}
    assert any(np.ndim(tensor) > 1 for tensor in found.values())
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    ids, mask = prompts(VOCABULARY)[2]
    with npu_persist.load(bundle.path, device="CPU") as one, npu_persist.load(in_float.path, device="CPU") as other:
        np.testing.assert_array_equal(generate(one, ids, mask, 12), generate(other, ids, mask, 12))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_encoder_takes_and_gives_float32_too(dtype: torch.dtype, store: Store) -> None:
    model = make_encoder_decoder("whisper")
    bundle = npu_persist.persist(model.to(dtype), "whisper", store=store)
    ports = [port for graph in bundle.manifest.graphs for port in (*graph.inputs, *graph.outputs)]
    assert {port.dtype for port in ports} == {"float32", "int64", "int32"}
    in_float = npu_persist.persist(model.float(), "float", store=store)
    shape = (1, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    heard = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    hidden = []
    for path in (bundle.path, in_float.path):
        with npu_persist.load(path, graph="encoder", device="CPU") as encoder:
            hidden.append(encoder(input_features=heard).last_hidden_state)
    np.testing.assert_allclose(hidden[0], hidden[1], atol=1e-5)


def _operations(bundle: Bundle) -> Counter[tuple[str, str]]:
    model = ov.Core().read_model(bundle.path / "model.xml")
    return Counter(
        (operation.get_type_name(), str(operation.get_output_element_type(0))) for operation in model.get_ordered_ops()
    )
