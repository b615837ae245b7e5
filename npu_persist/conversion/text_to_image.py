"""A pipeline of diffusers from text to image: an example of each of its models, and the files of its other parts.

Graphs, inputs, outputs and files have the names by which OpenVINO GenAI and optimum-intel know them. All floats that go
in and come out are float32, whatever the models compute in.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.export import Dim

from npu_persist.bundle.assets import MODEL_INDEX
from npu_persist.conversion.assets import convert_tokenizer, save_files
from npu_persist.conversion.examples import Example
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BASE = "diffusers.pipelines.pipeline_utils", "DiffusionPipeline"

_PARTS: dict[str, dict[str, str]] = {
    "StableDiffusionPipeline": {"text_encoder": "CLIPTextModel"},
    "LatentConsistencyModelPipeline": {"text_encoder": "CLIPTextModel"},
    "StableDiffusionXLPipeline": {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"},
}
"""The pipelines, and the class of each of their text encoders: what OpenVINO GenAI has pipelines for."""
_DENOISERS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
"""The class of what all of them have."""

_SCHEDULERS = (
    "DDIMScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
)
"""Those of OpenVINO GenAI, for these pipelines."""

_BATCH, _TOKENS = 2, 7
_LATENT = 9, 11
"""Height and width of the example's latents. They are odd, so that the UNet computes the size of each part from another
one's, which is right for every size; for multiples of its factor it doubles them."""
_MOST = 63
"""Latents in one call: from 64 on, diffusers' upsampling takes another way, which persist would warn of."""
_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that no pipeline of OpenVINO GenAI has."""
_TIME_IDS = 6
"""SDXL's sizes: of the original, of the corner that was cut out, and of the target."""


class Pipeline(NamedTuple):
    """What a bundle is made of.

    Attributes:
        examples: An example of each model, by the name of its graph.
        assets: The files of the other parts.
        notes: What the bundle lacks.
    """

    examples: dict[str, Example]
    assets: dict[str, bytes]
    notes: tuple[str, ...]


def is_pipeline(value: object) -> bool:
    """Tell whether a value is a pipeline of diffusers, which need not be installed."""
    return any((base.__module__, base.__qualname__) == _BASE for base in type(value).__mro__)


def read_pipeline(pipeline: Any, given: Mapping[str, Any]) -> Pipeline:
    """Return what a bundle of a pipeline is made of.

    Args:
        pipeline: The pipeline.
        given: The arguments of `persist` that say how one module is called, or what its tokenizer is.

    Raises:
        UsageError: It is of another class, or made of other parts, than OpenVINO GenAI runs; or an argument is given.
    """
    kind = type(pipeline).__name__
    if (kind not in _PARTS) or not type(pipeline).__module__.startswith("diffusers."):
        raise UsageError(
            f"{kind} cannot be persisted whole: expected one of {', '.join(_PARTS)}, of diffusers itself. Give the "
            'models that it is made of, as in {"transformer": Example(pipeline.transformer, kwargs=...)}.'
        )
    if names := [name for name, value in given.items() if value is not None and value != ()]:
        raise UsageError(
            f"{', '.join(names)}: leave it out. A pipeline has its tokenizers, and how its models are called is known."
        )
    encoders = _PARTS[kind]
    for name, expected in {**encoders, **_DENOISERS}.items():
        if (found := type(getattr(pipeline, name, None)).__name__) != expected:
            raise UsageError(f"{kind}: expected a {expected} as its {name}; got {found}.")
    examples = {name: _text_example(getattr(pipeline, name), name, all_layers=len(encoders) > 1) for name in encoders}
    examples["unet"] = _unet_example(pipeline.unet)
    examples |= _vae_examples(pipeline.vae)
    lacking = [name for name in _LEFT_OUT if name != "feature_extractor" and getattr(pipeline, name, None) is not None]
    notes = [f"{kind}: its {name} is left out, since OpenVINO GenAI has none" for name in lacking]
    if problem := _scheduler_problem(pipeline.scheduler):
        notes.append(f"{kind}: `pipeline` cannot run it, since OpenVINO GenAI has {problem}")
    return Pipeline(examples, _collect_files(pipeline, encoders), tuple(notes))


def _scheduler_problem(scheduler: Any) -> str | None:
    kind = type(scheduler).__name__
    if kind not in _SCHEDULERS:
        advice = "pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)"
        return f"no {kind}, but {', '.join(_SCHEDULERS)}. Set another one first, such as {advice}"
    if kind == "PNDMScheduler" and not scheduler.config.skip_prk_steps:
        return "PNDMScheduler with skip_prk_steps=True only. Set one first, as Stable Diffusion's checkpoints have it"
    return None


class TextEncoder(torch.nn.Module):
    """A text encoder of CLIP."""

    def __init__(self, model: torch.nn.Module, name: str, *, all_layers: bool) -> None:
        super().__init__()
        self.add_module(name, model)  # so its weights have the name that the pipeline gives them
        self._name = name
        self._all_layers = all_layers

    def forward(self, input_ids: torch.Tensor) -> dict[str, Any]:
        """Encode tokens."""
        model = self.get_submodule(self._name)
        found = model(input_ids, output_hidden_states=self._all_layers, return_dict=True)
        names = ("last_hidden_state", "pooler_output")
        if "text_embeds" in found:  # of the encoder with a projection
            names = ("text_embeds", "last_hidden_state")
        results: dict[str, Any] = {name: found[name].float() for name in names}
        if self._all_layers:
            results["hidden_states"] = tuple(states.float() for states in found["hidden_states"])
        return results


class Unet(torch.nn.Module):
    """A UNet: the conditions of SDXL and of latent consistency models are arguments beside the others."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.unet: Any = model

    def forward(  # noqa: PLR0913, PLR0917 - the names and the order of OpenVINO GenAI
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        text_embeds: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        timestep_cond: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Predict the noise."""
        dtype = self.unet.dtype
        added = None
        if text_embeds is not None and time_ids is not None:
            added = {"text_embeds": text_embeds.to(dtype), "time_ids": time_ids.to(dtype)}
        (found,) = self.unet(
            sample.to(dtype),
            timestep,
            encoder_hidden_states.to(dtype),
            timestep_cond=None if timestep_cond is None else timestep_cond.to(dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )
        return {"out_sample": found.float()}


class VaeEncoder(torch.nn.Module):
    """The autoencoder's half from pixels to the distribution of latents, without tiles or slices."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.vae: Any = model

    def forward(self, sample: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode images, whose values are from -1 to 1."""
        found = self.vae.encoder(sample.to(self.vae.dtype))
        found = found if self.vae.quant_conv is None else self.vae.quant_conv(found)
        return {"latent_parameters": found.float()}


class VaeDecoder(torch.nn.Module):
    """The autoencoder's half from latents to pixels, without tiles or slices."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.vae: Any = model

    def forward(self, latent_sample: torch.Tensor) -> dict[str, torch.Tensor]:
        """Decode latents to images, whose values are from -1 to 1."""
        latent = latent_sample.to(self.vae.dtype)
        latent = latent if self.vae.post_quant_conv is None else self.vae.post_quant_conv(latent)
        return {"sample": self.vae.decoder(latent).float()}


def _text_example(model: Any, name: str, *, all_layers: bool) -> Example:
    config = model.config
    length = min(_TOKENS, config.max_position_embeddings)
    ids = torch.randint(config.vocab_size, (_BATCH, length), generator=_generator())
    ids[0, length // 2 :] = ids[1, -1:] = min(config.eos_token_id, config.vocab_size - 1)  # what texts are padded with
    axes = {0: Dim("batch", min=1), 1: Dim("tokens", min=1, max=config.max_position_embeddings)}
    module = TextEncoder(model, name, all_layers=all_layers)
    return Example(module, kwargs={"input_ids": ids}, dynamic_shapes={"input_ids": axes})


def _unet_example(model: Any) -> Example:
    config, generator = model.config, _generator()
    if config.addition_embed_type not in {None, "text_time"}:
        raise UsageError(
            f"the UNet's addition_embed_type is {config.addition_embed_type!r}: expected None, or SDXL's 'text_time'."
        )
    width = config.cross_attention_dim
    width = width[0] if isinstance(width, (tuple, list)) else width
    kwargs = {
        "sample": torch.randn(_BATCH, config.in_channels, *_LATENT, generator=generator),
        "timestep": torch.tensor([1]),
        "encoder_hidden_states": torch.randn(_BATCH, _TOKENS, width, generator=generator),
    }
    batch = Dim("batch", min=1, max=_MOST)
    axes: dict[str, dict[int, Any]] = {
        "sample": {0: batch, 2: Dim("height", min=1), 3: Dim("width", min=1)},
        "encoder_hidden_states": {0: batch, 1: Dim("tokens", min=1)},
    }
    if config.addition_embed_type is not None:
        embedded = config.projection_class_embeddings_input_dim - _TIME_IDS * config.addition_time_embed_dim
        kwargs["text_embeds"] = torch.randn(_BATCH, embedded, generator=generator)
        kwargs["time_ids"] = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(_BATCH, 1)
        axes |= {"text_embeds": {0: batch}, "time_ids": {0: batch}}
    if config.time_cond_proj_dim is not None:
        kwargs["timestep_cond"] = torch.randn(_BATCH, config.time_cond_proj_dim, generator=generator)
        axes["timestep_cond"] = {0: batch}
    return Example(Unet(model), kwargs=kwargs, dynamic_shapes=axes)


def _vae_examples(model: Any) -> Iterator[tuple[str, Example]]:
    if model.config.force_upcast and model.dtype is torch.float16:  # it overflows in half precision, and says so
        model = copy.deepcopy(model).float()
    config, generator = model.config, _generator()
    axes = {0: Dim("batch", min=1, max=_MOST), 2: Dim("height", min=1), 3: Dim("width", min=1)}
    latent = torch.randn(_BATCH, config.latent_channels, *_LATENT, generator=generator)
    yield (
        "vae_decoder",
        Example(VaeDecoder(model), kwargs={"latent_sample": latent}, dynamic_shapes={"latent_sample": axes}),
    )
    factor = 2 ** (len(config.block_out_channels) - 1)
    pixels = torch.rand(_BATCH, config.in_channels, *(factor * size for size in _LATENT), generator=generator) * 2 - 1
    halves = {0: axes[0], 2: factor * Dim("rows", min=1), 3: factor * Dim("columns", min=1)}
    yield "vae_encoder", Example(VaeEncoder(model), kwargs={"sample": pixels}, dynamic_shapes={"sample": halves})


def _collect_files(pipeline: Any, encoders: Mapping[str, str]) -> dict[str, bytes]:
    """Return what the pipeline's parts save, each in the folder that has its graph."""
    (index,) = save_files(pipeline, "pipeline", method="save_config").values()
    found = {MODEL_INDEX: _without_left_out(index)}
    configs = {name: getattr(pipeline, name).config for name in encoders}
    for name, one in configs.items():
        found |= _below(name, save_files(one, name))
    found |= _below("scheduler", save_files(pipeline.scheduler, "scheduler"))
    found |= _below("unet", save_files(pipeline.unet, "unet", method="save_config"))
    for name in ("vae_decoder", "vae_encoder"):
        found |= _below(name, save_files(pipeline.vae, "vae", method="save_config"))
    for name in encoders:
        tokenizer = name.replace("text_encoder", "tokenizer")
        one = getattr(pipeline, tokenizer)
        found |= _below(tokenizer, {**save_files(one, tokenizer), **convert_tokenizer(one)})
    return found


def _without_left_out(index: bytes) -> bytes:
    """Return the pipeline's list of parts without those that the bundle lacks: optimum-intel would look for them."""
    listed = json.loads(index)
    listed |= {name: [None, None] for name in _LEFT_OUT if name in listed}
    if "requires_safety_checker" in listed:
        listed["requires_safety_checker"] = False
    return (json.dumps(listed, indent=2, sort_keys=True) + "\n").encode()


def _below(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
