"""Random modules with a call: a few operations on a few tensors, drawn one after the other and run while drawing.

What torch refuses is not kept, so that each module works for its own example. `Random` may be hypothesis' own, which
shrinks, or the standard library's.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from torch import Tensor

    Operation = Callable[..., Tensor | tuple[Tensor, ...]]
    Maker = Callable[[Random, Tensor], Operation]

FLOATS = (torch.float32, torch.float32, torch.float32, torch.float64, torch.float16)
INTEGERS = (torch.int64, torch.int64, torch.int32, torch.uint8, torch.int8, torch.bool)
_LARGEST = 4096
"""Elements of a tensor that a module may make."""


class RandomCall(NamedTuple):
    """A module, its example, and another call with the same shapes."""

    module: torch.nn.Module
    example: tuple[Tensor, ...]
    other: tuple[Tensor, ...]


class Step(torch.nn.Module):
    """One operation on some of the values so far."""

    def __init__(self, name: str, operation: Operation, arguments: list[int]) -> None:
        super().__init__()
        self.name, self.arguments = name, arguments
        self.operation = operation  # a submodule where it has weights

    def forward(self, values: list[Tensor]) -> list[Tensor]:
        result = self.operation(*(values[index] for index in self.arguments))
        return [*values, *(result if isinstance(result, tuple) else (result,))]


class RandomModule(torch.nn.Module):
    """Steps in a row, some of them in a submodule of their own, and a structure of results."""

    def __init__(self, steps: list[torch.nn.Module], results: list[int], structure: str) -> None:
        super().__init__()
        self.steps = torch.nn.ModuleList(steps)
        self.results, self.structure = results, structure

    def forward(self, *inputs: Tensor) -> Any:
        values = [*inputs]
        for step in self.steps:
            values = step(values)
        chosen = [values[index] for index in self.results]
        if self.structure == "one":
            return chosen[0]
        if self.structure == "dict":
            return {f"y{number}": value for number, value in enumerate(chosen)} | {"none": None, "number": 3}
        if self.structure == "nested":
            return chosen[0], [chosen, {"a": chosen[-1]}], values[0]
        return tuple(chosen)

    def __repr__(self) -> str:
        names = " ".join(f"{step.name}{step.arguments}" for step in self.steps)
        return f"{names} -> {self.structure} {self.results}"


def draw_call(random: Random, *, steps: int = 8) -> RandomCall:
    """Draw a module with its example."""
    inputs = [_draw_tensor(random) for _ in range(random.randint(1, 3))]
    values, kept = [*inputs], []
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(random.randint(1, steps)):
            name = random.choice([*OPERATIONS])
            # The newest values come first, so that modules are deep rather than wide.
            index = max(random.randrange(len(values)), random.randrange(len(values)))
            try:
                operation = OPERATIONS[name](random, values[index])
                arguments = [index] if name not in BINARY else [index, random.randrange(len(values))]
                step = Step(name, operation, arguments).eval()
                found = step([value.clone() for value in values])[len(values) :]
            except Exception:  # noqa: BLE001, S112 - whatever torch raises, the operation does not fit
                continue
            if all(one.numel() <= _LARGEST and not one.is_complex() and not one.isnan().any() for one in found):
                kept.append(step)
                values += [one.clone() for one in found]
        count = random.randint(1, 3)
        # A result that no step made would leave nothing to test.
        results = [len(values) - 1, *(random.randrange(len(values)) for _ in range(count - 1))]
        structure = random.choice(["one", "tuple", "dict", "nested"])
        module = RandomModule([*kept], results, structure).eval()
    return RandomCall(module, tuple(inputs), tuple(_other(random, tensor) for tensor in inputs))


def _draw_tensor(random: Random) -> Tensor:
    shape = [random.choice([1, 2, 3, 4, 5, 8]) for _ in range(random.choice([0, 1, 2, 2, 3, 3, 4]))]
    dtype = random.choice([*FLOATS, *FLOATS, *INTEGERS])
    return _values(random, shape, dtype)


def _values(random: Random, shape: list[int], dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(random.randrange(1 << 30))
    if dtype.is_floating_point:
        return (torch.randn(shape, generator=generator) * scale).to(dtype)
    low = 0 if dtype in {torch.uint8, torch.bool} else -4
    return torch.randint(low, 2 if dtype is torch.bool else 8, shape, generator=generator).to(dtype)


def _other(random: Random, tensor: Tensor) -> Tensor:
    return _values(random, [*tensor.shape], tensor.dtype, random.choice([0.5, 1.0, 2.0]))


def _dim(random: Random, x: Tensor) -> int:
    return random.randrange(-x.ndim, x.ndim)


def _plain(function: Operation) -> Maker:
    return lambda _random, _x: function


def _with_dim(function: Operation) -> Maker:
    def make(random: Random, x: Tensor) -> Operation:
        dim = _dim(random, x)
        return lambda x: function(x, dim)

    return make


def _with_dim_keep(function: Operation) -> Maker:
    def make(random: Random, x: Tensor) -> Operation:
        dim, keep = _dim(random, x), random.random() < 0.5
        return lambda x: function(x, dim=dim, keepdim=keep)

    return make


def _with_number(function: Operation, numbers: tuple[float, ...]) -> Maker:
    def make(random: Random, _x: Tensor) -> Operation:
        number = random.choice(numbers)
        return lambda x: function(x, number)

    return make


def _layer(make: Callable[[Random, Tensor], torch.nn.Module]) -> Maker:
    def maker(random: Random, x: Tensor) -> Operation:
        torch.manual_seed(random.randrange(1 << 30))
        return make(random, x).to(x.dtype if x.is_floating_point() else torch.float32)

    return maker


def _index(random: Random, x: Tensor) -> Operation:
    dim = _dim(random, x)
    size = x.shape[dim]
    picked = torch.tensor([random.randrange(-size, size) for _ in range(random.randint(1, 4))])
    kind = random.choice(["int", "slice", "list", "select", "narrow", "none", "ellipsis"])
    before = (slice(None),) * (dim % x.ndim)
    if kind == "int":
        return lambda x: x[(*before, int(picked[0]))]
    if kind == "slice":
        start, stop, step = int(picked[0]), random.choice([None, size, -1]), random.choice([1, 1, 2])
        return lambda x: x[(*before, slice(start, stop, step))]
    if kind == "list":
        return lambda x: x[(*before, picked)]
    if kind == "select":
        return lambda x: x.index_select(dim, picked % size)
    if kind == "narrow":
        return lambda x: x.narrow(dim, int(picked[0]), 1)
    return (lambda x: x[None]) if kind == "none" else (lambda x: x[..., 0])


def _reshape(random: Random, x: Tensor) -> Operation:
    kind = random.choice(["flatten", "minus one", "unsqueeze", "squeeze", "permute", "transpose", "expand", "repeat"])
    dims = random.sample(range(x.ndim), x.ndim)
    dim, other = _dim(random, x), _dim(random, x)
    return {
        "flatten": lambda x: x.flatten(dim),
        "minus one": lambda x: x.reshape(-1, x.shape[-1]),
        "unsqueeze": lambda x: x.unsqueeze(dim),
        "squeeze": lambda x: x.squeeze(dim),
        "permute": lambda x: x.permute(dims),
        "transpose": lambda x: x.transpose(dim, other),
        "expand": lambda x: x.expand(2, *x.shape),
        "repeat": lambda x: x.repeat(2, *[1] * x.ndim),
    }[kind]


def _cast(random: Random, _x: Tensor) -> Operation:
    dtype = random.choice([*FLOATS, torch.float32, torch.int64, torch.int32, torch.bool])
    return lambda x: x.to(dtype)


def _pad(random: Random, x: Tensor) -> Operation:
    mode = random.choice(["constant", "reflect", "replicate", "circular"])
    pads = [random.randint(-1, 2) for _ in range(2 * random.randint(1, min(x.ndim, 2)))]
    return lambda x: functional.pad(x, pads, mode=mode)


def _assign(random: Random, x: Tensor) -> Operation:
    dim, value = _dim(random, x), random.choice([0, 1, 2])
    kind = random.choice(["select", "mask", "slice", "fill", "scatter"])

    def assign(x: Tensor) -> Tensor:
        x = x.clone()
        if kind == "select":
            x.select(dim, 0).fill_(value)
        elif kind == "mask":
            x[x > 0] = value
        elif kind == "slice":
            x[..., 1:] = value
        elif kind == "fill":
            x.masked_fill_(x < 0, value)
        else:
            x.scatter_(dim, torch.zeros_like(x, dtype=torch.int64), x)
        return x

    return assign


def _branch(random: Random, _x: Tensor) -> Operation:
    kind = random.choice(["shape", "dim", "where"])
    if kind == "where":
        return lambda x: torch.where(x > 0, x, -x)
    if kind == "dim":
        return lambda x: x.sum(-1) if x.ndim > 2 else x * 2
    return lambda x: x * x.shape[0] if x.ndim else x


def _roll(random: Random, x: Tensor) -> Operation:
    dim, by = _dim(random, x), random.randint(-2, 2)
    return lambda x: x.roll(by, dim)


def _softplus(random: Random, _x: Tensor) -> Operation:
    beta, threshold = random.choice([1, 2, 0.5]), random.choice([20, 3])
    return lambda x: functional.softplus(x, beta, threshold)


def _chunk(random: Random, x: Tensor) -> Operation:
    count, dim, method = random.randint(1, 3), _dim(random, x), random.choice(["chunk", "split"])
    return lambda x: tuple(getattr(x, method)(count, dim))


def _sorted(random: Random, x: Tensor) -> Operation:
    dim, descending = _dim(random, x), random.random() < 0.5
    k = random.randint(1, x.shape[dim])
    return random.choice(
        [
            lambda x: torch.sort(x, dim=dim, descending=descending, stable=True).values,
            lambda x: torch.topk(x, k, dim=dim, largest=descending).values,
            lambda x: torch.max(x, dim=dim).values,
            lambda x: torch.argmax(x, dim=dim),
            lambda x: torch.argmin(x, dim=dim, keepdim=True),
        ]
    )


def _convolution(random: Random, x: Tensor) -> torch.nn.Module:
    kind = {2: torch.nn.Conv1d, 3: torch.nn.Conv1d, 4: torch.nn.Conv2d}[x.ndim]
    channels = x.shape[-2] if x.ndim <= 3 else x.shape[1]
    options = {"stride": random.randint(1, 2), "padding": random.randint(0, 2), "dilation": random.randint(1, 2)}
    mode: Any = random.choice(["zeros", "zeros", "circular", "reflect"])
    return kind(channels, 4, random.randint(1, 3), bias=random.random() < 0.5, padding_mode=mode, **options)


def _pool(random: Random, _x: Tensor) -> Operation:
    size, stride, padding = random.randint(1, 3), random.randint(1, 2), random.randint(0, 1)
    ceil = random.random() < 0.3
    return random.choice(
        [
            lambda x: functional.max_pool1d(x, size, stride, min(padding, size // 2), ceil_mode=ceil),
            lambda x: functional.max_pool2d(x, size, stride, min(padding, size // 2), ceil_mode=ceil),
            lambda x: functional.avg_pool1d(
                x, size, stride, min(padding, size // 2), ceil_mode=ceil, count_include_pad=False
            ),
            lambda x: functional.avg_pool2d(x, size, stride, min(padding, size // 2), ceil_mode=ceil),
            lambda x: functional.adaptive_avg_pool1d(x, size),
            lambda x: functional.adaptive_max_pool1d(x, size),
            lambda x: functional.interpolate(x[None], scale_factor=2.0, mode="nearest")[0],
            lambda x: functional.interpolate(x, size=size + 2, mode="linear", align_corners=ceil),
        ]
    )


def _attention(random: Random, _x: Tensor) -> Operation:
    causal = random.random() < 0.5
    return lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=causal)


def _functions(place: Any, names: str) -> dict[str, Operation]:
    return {name: getattr(place, name) for name in names.split()}


def _makers(maker: Callable[[Operation], Maker], functions: dict[str, Operation]) -> dict[str, Maker]:
    return {name: maker(function) for name, function in functions.items()}


_UNARY = _functions(
    torch,
    "abs neg sign relu sigmoid tanh exp log1p sqrt rsqrt square sin cos atan erf floor ceil round trunc frac isnan "
    "isinf isfinite logical_not reciprocal expm1 log2 selu celu signbit positive t deg2rad sinc logit asinh acosh "
    "atanh bitwise_not nan_to_num",
)
_ACTIVATIONS = "gelu silu mish hardswish hardsigmoid softsign elu leaky_relu tanhshrink logsigmoid relu6"
_REDUCTIONS = "sum mean prod amax amin any all var std logsumexp argmax nanmean nansum"
_WITH_NUMBER = "add sub mul div pow fmod remainder floor_divide clamp_min clamp_max eq lt ge"
_OF_TWO = _functions(
    torch,
    "add sub mul div maximum minimum eq lt ge atan2 matmul fmod remainder floor_divide logical_and logical_or "
    "logical_xor bitwise_and bitwise_or pow",
)

OPERATIONS: dict[str, Maker] = {
    **_makers(_plain, _UNARY | _functions(functional, _ACTIVATIONS) | _OF_TWO),
    **_makers(_with_dim, _functions(torch, "cumsum cumprod softmax log_softmax unbind")),
    "diff": _with_dim(lambda x, dim: torch.diff(x, dim=dim)),
    **_makers(_with_dim_keep, _functions(torch, _REDUCTIONS)),
    **{
        f"{name} number": _with_number(function, (2, 3, -1, 0.5, 1.5))
        for name, function in _functions(torch, _WITH_NUMBER).items()
    },
    "flip": _with_dim(torch.Tensor.flip),
    "roll": _roll,
    "norm": _with_dim_keep(lambda x, dim, keepdim: torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)),
    "sum all": _plain(torch.sum),
    "mean all": _plain(torch.mean),
    "max all": _plain(torch.max),
    "softplus": _softplus,
    "clamp": _plain(lambda x: x.clamp(-1, 1)),
    "cat": _plain(lambda x, y: torch.cat([x, y])),
    "cat last": _plain(lambda x, y: torch.cat([x, y], -1)),
    "stack": _plain(lambda x, y: torch.stack([x, y])),
    "where": _plain(lambda x, y: torch.where(x > 0, x, y)),
    "gather": _plain(lambda x, y: torch.gather(x, -1, y.long() % x.shape[-1])),
    "take": _plain(lambda x, y: x[y.long() % x.shape[0]]),
    "index two": _plain(lambda x, y: x[y.long() % x.shape[0], y.long() % x.shape[1]]),
    "mask": _plain(lambda x, y: x.masked_fill(y > 0, 1)),
    "einsum": _plain(lambda x, y: torch.einsum("...i,...i->...", x, y)),
    "outer": _plain(lambda x, y: x[..., None] * y.flatten()[:4]),
    "chunk": _chunk,
    "tril": _with_number(torch.tril, (-1, 0, 1)),
    "one hot": _plain(lambda x: functional.one_hot(x.long() % 5, 5)),
    "arange": _plain(lambda x: x + torch.arange(x.shape[-1])),
    "like": _plain(lambda x: x + torch.ones_like(x)),
    "meshgrid": _plain(
        lambda x: torch.meshgrid(torch.arange(x.shape[0]), torch.arange(3), indexing="ij")[0] + x[..., :1]
    ),
    "index": _index,
    "reshape": _reshape,
    "cast": _cast,
    "pad": _pad,
    "assign": _assign,
    "branch": _branch,
    "sorted": _sorted,
    "pool": _pool,
    "attention": _attention,
    "in place": _plain(lambda x: x.add_(1).mul_(2)),
    "linear": _layer(lambda random, x: torch.nn.Linear(x.shape[-1], random.randint(1, 6), bias=random.random() < 0.5)),
    "linear of floats": lambda random, x: _Floats(torch.nn.Linear(x.shape[-1], random.randint(1, 6))),
    "convolution": _layer(_convolution),
    "transposed convolution": _layer(
        lambda random, x: torch.nn.ConvTranspose1d(x.shape[-2], 3, 3, stride=random.randint(1, 2))
    ),
    "layer norm": _layer(lambda _, x: torch.nn.LayerNorm(x.shape[-1])),
    "batch norm": _layer(lambda _, x: torch.nn.BatchNorm1d(x.shape[1])),
    "group norm": _layer(lambda _, x: torch.nn.GroupNorm(1, x.shape[1])),
    "rms norm": _layer(lambda _, x: torch.nn.RMSNorm(x.shape[-1])),
    "embedding": lambda random, _: _Embed(random.randint(2, 6)),
    "gru": _layer(lambda random, x: torch.nn.GRU(x.shape[-1], 4, batch_first=random.random() < 0.5)),
    "self-attention": _layer(lambda _, x: _SelfAttention(x.shape[-1])),
}
"""Makers of operations, by name: given a tensor, each draws an operation that may take it."""

BINARY = frozenset(_OF_TWO) | {
    "cat",
    "cat last",
    "stack",
    "where",
    "gather",
    "take",
    "index two",
    "mask",
    "einsum",
    "outer",
}
"""Those that take two tensors."""


class _Floats(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x.float())


class _Embed(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(7, width)

    def forward(self, x: Tensor) -> Any:
        return self.table(x.long() % 7)


class _SelfAttention(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(width, 1, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x)[0]
