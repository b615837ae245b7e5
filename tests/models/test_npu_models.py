"""Real models through Intel's NPU compiler: a blob for each platform, whose own description agrees with its target."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import npu_persist
from npu_persist.artifact.artifact import BLOB_FILE
from npu_persist.artifact.blob import read_blob
from npu_persist.device.machine import Machine
from npu_persist.device.platforms import PLATFORMS
from npu_persist.errors import CompilationError
from npu_persist.runtime.golden import read_golden_inputs
from tests.models.architectures import ARCHITECTURES

TARGETS = [f"NPU:{number}" for number in PLATFORMS]
MODELS = {"resnet": "a convolutional net", "bert": "BERT", "vit": "ViT", "unet_condition": "a UNet"}
MODELS |= {"whisper_encoder": "Whisper's encoder"}

ON_THE_CPU = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE"}
"""The real NPU plugin, on the CPU, in one piece: split in two, BERT does not fit together there, or is wrong."""

pytestmark = pytest.mark.usefixtures("wine")


def persist(name: str) -> npu_persist.Bundle:
    module, args, kwargs = next(one for one in ARCHITECTURES if one.name == name).build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the trace freezes
        return npu_persist.persist(module, name, args, kwargs)


@pytest.mark.parametrize("name", MODELS)
def test_each_model_compiles_for_each_platform_and_still_loads_here(name: str) -> None:
    bundle = persist(name)
    results = npu_persist.compile(bundle.path, TARGETS, toolchain="wine", jobs=2)
    assert [result.target for result in results] == TARGETS
    seen = set()
    for result in results:
        assert result.artifact is not None
        assert result.path is not None
        blob = read_blob(result.path / BLOB_FILE)
        needs = blob.requirements
        assert needs is not None
        assert (blob.kind, blob.is_elf, f"NPU:{needs.platform}") == ("NPU", True, result.target)
        assert str(result.artifact.requirements) == needs.text
        assert result.artifact.weightless == blob.weightless
        assert (result.artifact.peak_memory or 0) > 1_000_000
        # The driver of the day loads what is made for it, and nothing else.
        machine = Machine("NPU", platform=needs.platform, tiles=6, elf=needs.elf, mi=needs.mi, openvino=needs.openvino)
        seen.add(tuple(entry.verdict.status for entry in npu_persist.compatibility(bundle.path, machine)))
    assert len(seen) == len(TARGETS)
    assert npu_persist.open(bundle.path).digest == bundle.digest
    npu_persist.verify(bundle.reference)
    # No NPU is here: the blobs are passed over, each with its reason, and the bundle runs.
    model = npu_persist.load(bundle.path, "NPU", config=ON_THE_CPU)
    passed_over = [attempt for attempt in model.report.attempts if attempt.source == "attached"]
    assert passed_over
    assert not any(attempt.is_used for attempt in passed_over)
    assert all(attempt.reason for attempt in passed_over)
    inputs = read_golden_inputs(bundle, model.graph)
    for found, expected in zip(model.infer(inputs), npu_persist.load(bundle.path, "CPU").infer(inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * float(np.abs(expected).max()))


def test_optimization_levels_are_options_of_the_compiler() -> None:
    bundle = persist("resnet")
    config = {"NPU_COMPILATION_MODE_PARAMS": "optimization-level=0"}
    (result,) = npu_persist.compile(bundle.path, ["NPU:4000"], config=config, toolchain="wine")
    assert result.artifact is not None
    assert dict(result.artifact.properties) == config


def test_an_operation_that_the_compiler_refuses_is_named_with_its_place_in_the_module() -> None:
    import torch

    class Sampler(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            drawn: torch.Tensor = torch.multinomial(x, 3, replacement=True)
            return drawn

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Linear(8, 8)
            self.sampler = Sampler()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            drawn: torch.Tensor = self.sampler(self.body(x).softmax(-1))
            return drawn

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle = npu_persist.persist(Net(), "sampler", (torch.randn(2, 8),), check=False)
    with pytest.raises(CompilationError, match=r"(?s)convert_type.*Multinomial.*sampler"):
        npu_persist.compile(bundle.path, ["NPU:4000"], toolchain="wine")


def test_a_cache_with_a_position_is_compiled_as_a_state() -> None:
    import torch

    class Memory(torch.nn.Module):
        def forward(self, x: torch.Tensor, past: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, ...]:
            past = past.index_copy(1, position, x)
            return past.mean(1), past, position + 1

    example = torch.randn(1, 1, 8), torch.zeros(1, 16, 8), torch.zeros(1, dtype=torch.int64)
    states = {"past": "output.1", "position": "output.2"}
    bundle = npu_persist.persist(Memory(), "memory", example, states=states, targets=TARGETS)
    entries = npu_persist.compatibility(bundle.path, "NPU:4000")
    assert [entry.artifact.target for entry in entries if entry.artifact is not None] == TARGETS


def test_persist_compiles_at_once() -> None:
    import torch

    bundle = npu_persist.persist(torch.nn.Linear(8, 4), "linear", (torch.zeros(1, 8),), targets=["lunar-lake"])
    (entry,) = npu_persist.compatibility(bundle.path, "NPU:4000")
    assert entry.artifact is not None
    assert entry.artifact.target == "NPU:4000"
    assert npu_persist.load(bundle.path, "CPU")(np.zeros((1, 8), np.float32)).shape == (1, 4)


def test_grouped_queries_without_a_cache() -> None:
    """Where heads of queries share one of keys, the compiler takes no boolean masks."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 96}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, use_cache=False)
    ids = torch.randint(0, 96, (1, 64))
    module = LlamaForCausalLM(config).eval()
    for mask in ({}, {"attention_mask": torch.ones_like(ids)}):
        bundle = npu_persist.persist(module, "grouped", kwargs={"input_ids": ids, **mask})
        results = npu_persist.compile(bundle.path, ["NPU:4000", "NPU:5010"], toolchain="wine", jobs=2)
        assert [result.error for result in results] == [None, None]
