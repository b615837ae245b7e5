"""Finds the example inputs that a module is traced with.

In this order: given by the caller; seen by `record`; the module's own `example_input_array` (Lightning); made from its
`config` where its main input is known (transformers, diffusers); its own `dummy_inputs` (transformers). Made ones are
seeded, so that equal modules give equal bundles.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from npu_persist.conversion.structure import forward_signature
from npu_persist.errors import ExampleInputsError

if TYPE_CHECKING:
    from npu_persist.bundle.graph_records import Padding

_SEED = 0
_TOKENS = 77
"""Length of a text condition: that of CLIP's text encoder, which Stable Diffusion uses."""


@dataclass(frozen=True, eq=False)
class Example:
    """A module and its example call: one graph of a bundle that has several.

    The attributes are the same as the arguments of `persist`, which takes them itself for a single graph.

    Attributes:
        module: The module.
        args: Positional arguments of the example call.
        kwargs: Keyword arguments of the example call.
        dynamic_shapes: Axes that may vary.
        buckets: Sizes to compile the graph for when it is loaded.
        padding: The value and side to pad inputs with.
        states: Arguments that take a result of the previous call.
        initial: Initial values of states.
        calibration: Calls with real data, from which NNCF chooses int4 weights or ranges of activations.
        evaluate: Other calls to compare with torch.
        metrics: Functions of the results of these calls.
    """

    module: torch.nn.Module
    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    _: KW_ONLY
    dynamic_shapes: Any = None
    buckets: Sequence[Mapping[str, Sequence[int]]] | None = None
    padding: Mapping[str, Padding] | None = None
    states: Mapping[str, str] | None = None
    initial: Mapping[str, Any] | None = None
    calibration: Iterable[Sequence[Any] | Mapping[str, Any]] = ()
    evaluate: Iterable[Sequence[Any] | Mapping[str, Any]] | None = None
    metrics: Mapping[str, Callable[[list[Any]], float]] | None = None


class FoundExample(NamedTuple):
    """One call: positional and keyword arguments, and where they are from."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    source: str


_recorded: weakref.WeakKeyDictionary[torch.nn.Module, FoundExample] = weakref.WeakKeyDictionary()


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """Return the module behind `torch.compile` and the data-parallel wrappers that training puts around it."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, torch.nn.Module):
            return model
        model = inner


@contextlib.contextmanager
def record(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Record copies of the inputs of the module's last forward, as the example for `persist`.

    Args:
        model: The module that will be persisted.

    Yields:
        The module itself.

    Example:
        >>> import torch, npu_persist
        >>> model = torch.nn.Linear(4, 2)
        >>> with npu_persist.record(model):
        ...     _ = model(torch.zeros(1, 4))
    """

    def remember(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        copied_args, copied_kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (args, kwargs))
        _recorded[unwrap(model)] = FoundExample(copied_args, copied_kwargs, "record")

    hook = model.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        yield model
    finally:
        hook.remove()


def find_example(model: torch.nn.Module, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> FoundExample:
    """Return the call to trace, or raise ExampleInputsError with every way to give one."""
    if args is not None or kwargs is not None:
        return FoundExample(() if args is None else args, {} if kwargs is None else kwargs, "given")
    if model in _recorded:
        return _recorded[model]
    array = getattr(model, "example_input_array", None)
    if array is not None:
        return _as_call(array, "example_input_array")
    accepted = set(forward_signature(model.forward).parameters)
    made = _from_diffusers_config(model, accepted) or _from_transformers_config(model, accepted)
    if made:
        return FoundExample((), made, "config")
    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, Mapping) and set(dummy) <= accepted:
        return FoundExample((), dummy, "dummy_inputs")
    if dummy is not None and not isinstance(dummy, Mapping):
        return _as_call(dummy, "dummy_inputs")
    raise ExampleInputsError(
        f"no example inputs for {type(model).__name__}. Give them in one of four ways: pass args=(...) and "
        "kwargs={...} to persist; set model.example_input_array (as Lightning does); give the model "
        "dummy_inputs (as transformers does); or run the model once inside `with npu_persist.record(model):`."
    )


def has_example(example: Example) -> bool:
    """Tell whether somebody said how a module is called: the caller, `record`, or the module."""
    given = (example.args, example.kwargs, example.dynamic_shapes, example.buckets, example.states)
    module = example.module
    recorded = module in _recorded or getattr(module, "example_input_array", None) is not None
    return recorded or any(one is not None for one in given)


def describe_guess(example: FoundExample, shapes: Mapping[str, tuple[int, ...]], *, are_fixed: bool) -> str | None:
    """Return what a caller should know about an example that `persist` chose; None if the caller gave one."""
    origin = {"config": "the module's config", "dummy_inputs": "the module's dummy_inputs"}.get(example.source)
    if origin is None:
        return None
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    text = f"no example was given; it was made from {origin}, {listed}"
    if not are_fixed:
        return text
    return (
        f"{text}. The loaded model accepts only these shapes: pass args= or kwargs= of the size that you need, or "
        "buckets= or dynamic_shapes= for several"
    )


def _as_call(value: Any, source: str) -> FoundExample:
    if isinstance(value, Mapping):
        return FoundExample((), value, source)
    return FoundExample(tuple(value) if isinstance(value, (tuple, list)) else (value,), {}, source)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(_SEED)


def _from_transformers_config(model: torch.nn.Module, accepted: set[str]) -> dict[str, torch.Tensor]:
    """Make the main input of a transformers model that does not take tokens: an image, a spectrogram, a waveform."""
    config, main = getattr(model, "config", None), getattr(model, "main_input_name", "input_ids")
    if config is None or main not in accepted:
        return {}
    dtype = _dtype(model)
    if main == "pixel_values":
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", 224)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        channels = getattr(vision, "num_channels", 3)
        return {main: torch.randn(1, channels, height, width, generator=_generator()).to(dtype)}
    if main == "input_features" and hasattr(config, "max_source_positions"):
        frames = config.max_source_positions * 2
        made = {main: torch.randn(1, config.num_mel_bins, frames, generator=_generator()).to(dtype)}
        if "decoder_input_ids" in accepted:
            made["decoder_input_ids"] = torch.tensor([[config.decoder_start_token_id]])
        return made
    if main == "input_values" and not hasattr(config, "max_length"):
        return {main: torch.randn(1, 16000, generator=_generator()).to(dtype)}
    return {}


def _from_diffusers_config(model: torch.nn.Module, accepted: set[str]) -> dict[str, torch.Tensor]:
    """Make the inputs of a diffusers denoiser or autoencoder: latents, a timestep, a text condition."""
    config = getattr(model, "config", None)
    if not isinstance(config, Mapping) or "sample" not in accepted:
        return {}
    dtype, generator = _dtype(model), _generator()
    size = config.get("sample_size") or 64
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    channels = config.get("in_channels", 4)
    made = {"sample": torch.randn(1, channels, height, width, generator=generator).to(dtype)}
    if "timestep" in accepted:
        made["timestep"] = torch.tensor([1])
    width = config.get("cross_attention_dim")
    if "encoder_hidden_states" in accepted and width is not None:
        width = width[0] if isinstance(width, (tuple, list)) else width
        made["encoder_hidden_states"] = torch.randn(1, _TOKENS, width, generator=generator).to(dtype)
    return made


def _dtype(model: torch.nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
