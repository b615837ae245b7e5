from __future__ import annotations

import json
from typing import Any

import diffusers
import pytest
import torch

import npu_persist
from npu_persist.cli.models import make_model
from npu_persist.conversion.text_to_image import is_pipeline, read_pipeline
from npu_persist.errors import UsageError
from tests.support.stable_diffusion import make_pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # third parties' deprecations


@pytest.fixture(scope="module")
def stable_diffusion() -> Any:
    return make_pipeline()


def test_the_files_are_those_that_genai_and_optimum_intel_look_for(stable_diffusion: Any) -> None:
    assets = read_pipeline(stable_diffusion, {}).assets
    assert {
        "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "unet/config.json",
        "vae_decoder/config.json", "vae_encoder/config.json", "tokenizer/tokenizer.json",
        "tokenizer/openvino_tokenizer.xml", "tokenizer/openvino_detokenizer.bin",
    } <= set(assets)  # fmt: skip
    index = json.loads(assets["model_index.json"])
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert read_pipeline(make_pipeline(), {}).assets == assets


def test_the_command_takes_a_function_that_returns_a_pipeline() -> None:
    made = make_model("tests.support.stable_diffusion:make_pipeline")
    assert is_pipeline(made.model)
    assert (made.args, made.kwargs) == (None, None)


def test_what_genai_lacks_is_left_out_and_said() -> None:
    pipeline = make_pipeline(scheduler="PNDMScheduler")
    pipeline.register_modules(safety_checker=torch.nn.Linear(1, 1))
    found = read_pipeline(pipeline, {})
    assert json.loads(found.assets["model_index.json"])["safety_checker"] == [None, None]
    assert "its safety_checker is left out" in found.notes[0]
    assert "PNDMScheduler with skip_prk_steps=True only" in found.notes[1]
    (note,) = read_pipeline(make_pipeline(scheduler="HeunDiscreteScheduler"), {}).notes
    assert "no HeunDiscreteScheduler, but DDIMScheduler" in note


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kwargs": {"sample": torch.zeros(1)}}, "kwargs: leave it out"),
        ({"tokenizer": object(), "args": ()}, "tokenizer: leave it out"),
        ({"assets": {"unet/openvino_model.xml": b""}}, "is the name of an exported graph's file"),
        ({"assets": {"unet/config.json": b""}}, "is already added by the tokenizer, the processor or the model"),
    ],
)
def test_what_a_pipeline_decides_cannot_be_given(stable_diffusion: Any, given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        npu_persist.persist(stable_diffusion, "sd", **given)


def test_pipelines_that_genai_does_not_run_are_refused(stable_diffusion: Any) -> None:
    class Own(diffusers.StableDiffusionPipeline):  # type: ignore[misc]
        pass

    parts = stable_diffusion.components
    own = Own(**{name: parts[name] for name in parts if name != "image_encoder"}, requires_safety_checker=False)
    inpaint = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    for pipeline in (own, inpaint):
        assert is_pipeline(pipeline)
        with pytest.raises(UsageError, match=f"{type(pipeline).__name__} cannot be persisted whole.*Example"):
            npu_persist.persist(pipeline, "other")
    assert not is_pipeline(stable_diffusion.unet)


def test_other_parts_than_genai_knows_are_refused() -> None:
    pipeline = make_pipeline()
    pipeline.vae = diffusers.AutoencoderTiny()
    with pytest.raises(UsageError, match="expected a AutoencoderKL as its vae; got AutoencoderTiny"):
        npu_persist.persist(pipeline, "tiny")
    pipeline = make_pipeline()
    pipeline.unet.register_to_config(addition_embed_type="image")
    with pytest.raises(UsageError, match="addition_embed_type is 'image'"):
        npu_persist.persist(pipeline, "image")
