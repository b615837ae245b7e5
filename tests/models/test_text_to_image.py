"""Pipelines of diffusers, persisted whole: OpenVINO GenAI makes the image that diffusers makes of the same noise."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest

pytest.importorskip("torch", reason="persisting needs torch")
pytest.importorskip("diffusers", reason="the pipelines are those of diffusers")
pytest.importorskip("openvino_genai", reason="needs the extra genai")

import openvino_genai as genai
import torch

import npu_persist
from npu_persist.artifact.artifact import Artifact
from npu_persist.artifact.attached import list_attached
from npu_persist.errors import PersistWarning
from npu_persist.store import Store
from tests.support.loads import attempts
from tests.support.stable_diffusion import PROMPT, make_latents, make_pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist import Bundle

pytestmark = pytest.mark.filterwarnings("ignore")  # third parties' deprecations, and what a trace froze

STEPS = 3
ROUNDING = 1.1
"""GenAI cuts a pixel off to an integer; both compute in float32."""


class Noise(genai.Generator):  # type: ignore[misc]
    """Gives a pipeline of GenAI the noise that diffusers begins with."""

    def __init__(self, latents: torch.Tensor) -> None:
        super().__init__()
        self.latents = latents.numpy()

    def randn_tensor(self, shape: Any) -> ov.Tensor:
        assert tuple(shape) == self.latents.shape
        return ov.Tensor(self.latents)


def compare(pipeline: Any, loaded: Any, height: int, width: int, count: int = 1, **more: Any) -> None:
    """Make images by both and compare them."""
    latents = make_latents(height, width, count)
    given = {"num_inference_steps": STEPS, "height": height, "width": width, "num_images_per_prompt": count}
    expected = pipeline(PROMPT, **given, **more, latents=latents.clone(), output_type="np").images
    given |= {name: value for name, value in more.items() if "size" not in name}
    found = loaded.generate(PROMPT, **given, generator=Noise(latents)).data
    assert found.shape == expected.shape == (count, height, width, 3)
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, 255 * expected, atol=ROUNDING)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def stable_diffusion() -> Any:
    return make_pipeline()


@pytest.fixture(scope="module")
def bundle(stable_diffusion: Any, store: Store) -> Bundle:
    return npu_persist.persist(stable_diffusion, "sd", store=store, precision="fp32")


def test_stable_diffusion_makes_the_images_of_diffusers(stable_diffusion: Any, bundle: Bundle, store: Store) -> None:
    loaded = npu_persist.pipeline(bundle.reference, store=store)
    compare(stable_diffusion, loaded, 16, 16)
    compare(stable_diffusion, loaded, 24, 40, count=2)
    compare(stable_diffusion, loaded, 16, 16, guidance_scale=1.0)
    compare(stable_diffusion, loaded, 16, 16, negative_prompt="dog")


@pytest.mark.parametrize(
    ("scheduler", "options"), [("PNDMScheduler", {"skip_prk_steps": True}), ("EulerDiscreteScheduler", {})]
)
@pytest.mark.usefixtures("bundle")
def test_stock_genai_runs_the_exported_folder_with_other_schedulers(
    store: Store, tmp_path: Path, scheduler: str, options: Any
) -> None:
    pipeline = make_pipeline(scheduler=scheduler, **options)
    npu_persist.export("sd", "genai", tmp_path / "out", store=store)
    pipeline.scheduler.save_pretrained(tmp_path / "out" / "scheduler")
    compare(pipeline, genai.Text2ImagePipeline(tmp_path / "out", "CPU", INFERENCE_PRECISION_HINT="f32"), 16, 24)


def test_the_xl_pipeline_makes_the_images_of_diffusers(store: Store) -> None:
    pipeline = make_pipeline("StableDiffusionXLPipeline", "EulerDiscreteScheduler")
    bundle = npu_persist.persist(pipeline, "sdxl", store=store, precision="fp32")
    loaded = npu_persist.pipeline(bundle.reference, store=store)
    compare(pipeline, loaded, 16, 16)
    # GenAI tells the UNet the width first.
    compare(pipeline, loaded, 24, 40, negative_prompt="dog", original_size=(40, 24), target_size=(40, 24))


def test_a_latent_consistency_model_in_half_precision_computes_in_full(store: Store) -> None:
    pipeline = make_pipeline("LatentConsistencyModelPipeline", "LCMScheduler").to(torch.float16)
    pipeline.safety_checker = torch.nn.Linear(1, 1)
    with pytest.warns(PersistWarning, match="its safety_checker is left out"):
        bundle = npu_persist.persist(pipeline, "lcm", store=store)
    pipeline.safety_checker = None
    assert any("safety_checker" in text for text in bundle.manifest.warnings)
    assert pipeline.vae.dtype is torch.float16
    ports = {port.dtype for graph in bundle.manifest.graphs for port in (*graph.inputs, *graph.outputs)}
    assert ports == {"float32", "int64"}
    loaded = npu_persist.pipeline(bundle.reference, store=store, config={"INFERENCE_PRECISION_HINT": "f32"})
    latents, pipeline = make_latents(16, 24), pipeline.to(torch.float32)
    given = {"num_inference_steps": 1, "height": 16, "width": 24}  # further steps draw noise of their own
    expected = pipeline(PROMPT, **given, latents=latents.clone(), output_type="np").images
    found = loaded.generate(PROMPT, **given, generator=Noise(latents)).data
    np.testing.assert_allclose(found, 255 * expected, atol=ROUNDING)


def test_each_graph_answers_as_its_model_at_odd_sizes(stable_diffusion: Any, bundle: Bundle) -> None:
    generator = torch.Generator().manual_seed(1)
    sample, context = torch.randn(3, 4, 13, 6, generator=generator), torch.randn(3, 12, 16, generator=generator)
    with npu_persist.load(bundle.path, device="CPU") as model, torch.no_grad():
        noise = model.graphs["unet"](sample, torch.tensor([17]), context)["out_sample"]
        expected = stable_diffusion.unet(sample, 17, context).sample
        np.testing.assert_allclose(noise, expected, atol=1e-4)
        pixels = model.graphs["vae_decoder"](sample)["sample"]
        np.testing.assert_allclose(pixels, stable_diffusion.vae.decode(sample).sample, atol=1e-4)
        moments = model.graphs["vae_encoder"](torch.from_numpy(pixels))["latent_parameters"]
        expected = stable_diffusion.vae.encode(torch.from_numpy(pixels)).latent_dist.parameters
        np.testing.assert_allclose(moments, expected, atol=1e-4)


@pytest.mark.usefixtures("exact_cpu")  # NPUW hands no precision on, and a CPU may have bf16
def test_targets_are_compiled_for_one_image(
    stable_diffusion: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the NPU plugin, whose wrapper runs on a CPU here."""
    on_the_cpu = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE"}
    monkeypatch.setattr(
        "npu_persist.conversion.persist.compile_bundle", partial(npu_persist.compile, config=on_the_cpu)
    )
    store = Store(tmp_path)
    bundle = npu_persist.persist(
        stable_diffusion, "sd", store=store, precision="fp32", targets=["NPU"], image_size=(16, 24)
    )
    attached = [artifact for _, artifact in list_attached(bundle) if isinstance(artifact, Artifact)]
    assert {artifact.graph: artifact.shapes for artifact in attached} == {
        "text_encoder": {"input_ids": (2, 12)},
        "unet": {"sample": (1, 4, 8, 12), "encoder_hidden_states": (1, 12, 16)},
        "vae_decoder": {"latent_sample": (1, 4, 8, 12)},
        "vae_encoder": {"sample": (1, 3, 16, 24)},
    }
    generator = torch.Generator().manual_seed(1)
    sample, context = torch.randn(1, 4, 8, 12, generator=generator), torch.randn(1, 12, 16, generator=generator)
    with npu_persist.load("sd", "NPU", graph="unet", config=on_the_cpu, store=store) as model, torch.no_grad():
        assert attempts(model)[-1] == ("attached", "NPU", True)
        noise = model(sample, torch.tensor([17]), context)["out_sample"]
        np.testing.assert_allclose(noise, stable_diffusion.unet(sample, 17, context).sample, atol=1e-3)


def test_names_are_those_of_optimum_intel(stable_diffusion: Any, bundle: Bundle) -> None:
    found = {
        graph.name: ([port.name for port in graph.inputs], [port.name for port in graph.outputs])
        for graph in bundle.manifest.graphs
    }
    assert found == {
        "text_encoder": (["input_ids"], ["last_hidden_state", "pooler_output"]),
        "unet": (["sample", "timestep", "encoder_hidden_states"], ["out_sample"]),
        "vae_decoder": (["latent_sample"], ["sample"]),
        "vae_encoder": (["sample"], ["latent_parameters"]),
    }
    weights = npu_persist.weights(bundle.path)
    for part in ("text_encoder", "unet", "vae"):
        for name, tensor in getattr(stable_diffusion, part).state_dict().items():
            if tensor.ndim > 1 and tensor.is_floating_point():
                np.testing.assert_array_equal(weights[f"{part}.{name}"], tensor.numpy(), err_msg=name)
