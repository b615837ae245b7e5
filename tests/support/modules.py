"""Small torch modules, each with one property that a persist has to get right."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


OldPair = collections.namedtuple("OldPair", "left right")  # noqa: PYI024 - the untyped kind is what older code returns


@dataclasses.dataclass
class Answer:
    value: torch.Tensor
    missing: torch.Tensor | None = None
    count: int = 3


class Calls(torch.nn.Module):
    """Calls a function of tensors."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs)


class Affine(torch.nn.Module):
    """One linear layer and an optional second argument."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None, *, scale: float = 1.0) -> torch.Tensor:
        result: torch.Tensor = self.layer(x) * scale
        return result if y is None else result + y


class Nested(torch.nn.Module):
    """Takes and gives every structure; writes into a buffer, an attribute and a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)
        self.tied = torch.nn.Linear(8, 8)
        self.tied.weight = self.layer.weight
        self.convolution = torch.nn.Conv1d(4, 4, 3, padding=1)
        self.calls: torch.Tensor
        self.register_buffer("calls", torch.zeros(()))
        self.plain = torch.ones(8)
        self.history: list[int] = []

    def forward(
        self,
        x: torch.Tensor,
        options: dict[str, Any],
        *rest: torch.Tensor,
        flag: bool = True,
        mask: torch.Tensor | None = None,
        unused: torch.Tensor | None = None,
        **more: torch.Tensor,
    ) -> dict[str, Any]:
        del unused
        self.calls.add_(1)
        self.plain[0] = 7
        self.history.append(1)
        self.cache = x
        y = self.layer(x)
        if mask is not None:
            y = y.masked_fill(mask, -1.0)
        y = self.convolution(y + options["pair"].first + options["list"][0])
        if flag:
            y = y + 1
        return {
            "y": y,
            "same": y,
            "input": x,
            "tuple": (y.sum(), None, 3, [y.argmax(-1)]),
            "answer": Answer(self.tied(y)),
            "pair": Pair(y > 0, rest[0] + more["extra"]),
            "old": OldPair(y.mean(), "text"),
            "size": x.shape[1] * 2,
        }

    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 4, 8, generator=generator)
        args = (x, {"pair": Pair(x, torch.ones(3)), "list": [x]}, torch.ones(2))
        return args, {"mask": x > 0.5, "unused": torch.zeros(5), "extra": torch.tensor([1, 2])}


class Branch(torch.nn.Module):
    """Goes one way or the other, by its input's values."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(_Gate())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x)
        return result


class _Gate(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x - 1


class ShapeBranch(torch.nn.Module):
    """Looks at sizes only, which no trace can get wrong while shapes are fixed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 1 and len(x) > 1 and x.size(1) == 4:
            x = x.reshape(x.shape[0] * 2, -1)
        return x + torch.zeros_like(x)


class FrozenLoop(torch.nn.Module):
    """A loop over an axis: a trace holds as many rounds as the example had."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[i] * i for i in range(x.shape[0])]).sum(0)


class Leaves(torch.nn.Module):
    """Leaves torch on its way, so that a trace sees a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() * 2)


class Raises(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.outer = torch.nn.Sequential(Affine(), _Faulty())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.outer(x)
        return result


class _Faulty(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError(f"no entry for {tuple(x.shape)}")


class Overwrites(torch.nn.Module):
    """Changes its parameter behind autograd's back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.data.mul_(2)
        return x * 3


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 - autograd's signature
        return x * 2


class CustomFunction(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Doubling.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class LearnedQuery(torch.nn.Module):
    """Attention with a query that follows from parameters alone, as SigLIP pools."""

    def __init__(self) -> None:
        super().__init__()
        self.probe = torch.nn.Parameter(torch.randn(1, 1, 64))
        self.attention = torch.nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.attention(self.probe.repeat(x.shape[0], 1, 1), x, x)[0]
        return result


class NotANumber(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, torch.log(x - 100)


class IntegerDivision(torch.nn.Module):
    """Divisions that the CPU plugin rounds wrongly when it is left to itself."""

    def forward(self, a: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            (((a - 1) // 2 + 1) - 1) // 2 + 1,
            torch.div(a, 3, rounding_mode="trunc"),
            torch.div(a, 3, rounding_mode="floor"),
            a / 2,
            torch.diff(a, prepend=a[:1] - 1),
            torch.diff(a, n=2),
        )
