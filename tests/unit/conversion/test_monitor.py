"""What a forward depends on, what it changes, and what a trace of it would freeze."""

from __future__ import annotations

import functools
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from npu_persist.conversion.monitor import ForwardMonitor
from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable


class Body(torch.nn.Module):
    def __init__(self, body: Callable[..., Any]) -> None:
        super().__init__()
        self.body = body
        self.counter: torch.Tensor
        self.register_buffer("counter", torch.zeros(4))
        self.plain = torch.zeros(4)
        self.weight = torch.nn.Parameter(torch.ones(4))

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.body(self, *inputs)


def watch(body: Callable[..., Any]) -> tuple[ForwardMonitor, Any, Body]:
    module, inputs = Body(body), [torch.ones(4), torch.ones(4)]
    watching = ForwardMonitor(module, inputs)
    with torch.no_grad(), watching:
        result = module(*inputs)
    return watching, result, module


@pytest.mark.parametrize(
    ("body", "mask"),
    [
        (lambda _, x, y: x + y, 0b11),
        (lambda _, x, _y: x * 2, 0b01),
        (lambda m, _x, y: m.weight * y.sum(), 0b10),
        (lambda m, _x, _y: m.weight * 2, 0b00),
        (lambda _, x, y: torch.zeros_like(x) + y, 0b10),
        (lambda _, x, y: x.new_ones(x.shape[0]) * y, 0b10),
        (lambda _, x, y: torch.where(x > 0, y, y), 0b11),
        (lambda _, x, _y: torch.zeros(4).copy_(x), 0b01),
        (lambda _, x, _y: x.view(2, 2)[0], 0b01),
    ],
)
def test_dependence_on_inputs(body: Callable[..., Any], mask: int) -> None:
    watching, result, _ = watch(body)
    assert watching.depends_on(result) == mask


def test_a_write_into_a_slice_makes_the_whole_depend() -> None:
    def body(_: Body, x: torch.Tensor, _y: torch.Tensor) -> torch.Tensor:
        result = torch.zeros(4)
        result[1:] = x[1:]
        return result

    watching, result, _ = watch(body)
    assert watching.depends_on(result) == 1


@pytest.mark.parametrize(
    "body",
    [
        lambda _, x, _y: bool(x.sum() > 0),
        lambda _, x, _y: x.max().item(),
        lambda _, x, _y: int(x[0]),
        lambda _, x, _y: float(x[0]),
        lambda _, x, _y: x.tolist(),
        lambda _, x, _y: x.numpy(),
        lambda _, x, y: torch.equal(x, y),
        lambda _, x, _y: 1.0 in x,
        lambda _, x, _y: [1, 2][x[0].long()],
    ],
)
def test_values_that_reach_python_are_reported(body: Callable[..., Any]) -> None:
    watching, _, _ = watch(body)
    (line,) = watching.frozen
    assert line.startswith("the module itself: ")
    assert "test_monitor.py" in line


@pytest.mark.parametrize(
    "body",
    [
        lambda _, x, _y: x.shape[0] > 1 and len(x) and x.numel() and x.dim(),
        lambda m, _x, _y: m.weight.sum().item(),
        lambda _, x, _y: torch.zeros_like(x).sum().item(),
        lambda _, x, _y: x.dtype is torch.float32 and x.device.type == "cpu" and x.is_floating_point(),
    ],
)
def test_sizes_and_constants_are_not(body: Callable[..., Any]) -> None:
    assert watch(body)[0].frozen == []


@pytest.mark.parametrize("name", ["counter", "plain", "weight"])
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.add_(1),
        lambda t: t.__setitem__(slice(1, 2), 5.0),
        lambda t: t.__iadd__(1),
        lambda t: t.data.mul_(3),
        lambda t: t[1:].zero_(),
        lambda t: torch.add(t, 1, out=t),
    ],
)
def test_changes_in_place_are_undone(name: str, change: Callable[[torch.Tensor], Any]) -> None:
    watching, _, module = watch(lambda m, _x, _y: change(getattr(m, name)))
    before = torch.ones(4) if name == "weight" else torch.zeros(4)
    changed = getattr(module, name)
    watching.undo_changes()
    assert getattr(module, name) is changed
    assert torch.equal(changed.detach(), before)


def test_a_change_that_was_not_seen_coming_is_an_error_and_not_silent() -> None:
    def body(module: Body, _x: torch.Tensor, _y: torch.Tensor) -> None:
        with torch._C.DisableTorchFunction():
            module.counter.add_(1)

    watching, _, _ = watch(body)
    with pytest.raises(ConversionError, match="writes into counter"):
        watching.undo_changes()


@pytest.mark.parametrize(
    "body",
    [
        lambda _, x, _y: len(x[x > 0]),
        lambda _, x, _y: len(x.nonzero() * 2),
        lambda _, x, _y: x * x.data,
        lambda _, x, _y: torch.utils.dlpack.from_dlpack(x.detach()),
        lambda _, x, _y: len(str(x)),
    ],
)
def test_ways_around_the_tracer_are_reported(body: Callable[..., Any]) -> None:
    assert watch(body)[0].frozen


def test_state_that_the_forward_writes_and_reads_is_told_from_what_it_only_writes() -> None:
    def body(module: Body, x: torch.Tensor, _y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        module.counter.add_(x)
        module.plain.copy_(x)
        return module.counter * 2, x * 2, module.plain * 2

    watching, results, _ = watch(body)
    assert [watching.depends_on_state(result) for result in results] == [True, False, False]
    watching.undo_changes()
    assert [text.partition(" (test_monitor.py:")[0] for text in watching.effects.written] == ["counter", "plain"]


def test_a_package_whose_name_begins_with_torch_is_not_torch() -> None:
    package = Path(torch.__file__).parent.with_name("torchfake")
    code = compile("def gate(x):\n    return bool(x.sum() > 0)\n", str(package / "gate.py"), "exec")
    namespace: dict[str, Any] = {}
    exec(code, namespace)  # noqa: S102 - a file of that name
    (line,) = watch(lambda _, x, _y: namespace["gate"](x))[0].frozen
    assert "gate.py:2" in line


def test_the_line_in_the_standard_library_is_not_the_one() -> None:
    def gate(x: torch.Tensor) -> Any:
        values: list[Any] = [x.sum() > 0, x.sum() < 0]
        return functools.reduce(lambda _, one: bool(one), values)

    (line,) = watch(lambda _, x, _y: statistics.median([x[0], x[1], x[2]]))[0].frozen
    assert "statistics.median" in line
    assert "lambda _, one" in watch(lambda _, x, _y: gate(x))[0].frozen[0]


@pytest.mark.parametrize(
    ("body", "mask"),
    [
        (lambda _, x, y: torch.vmap(lambda row: row * y.sum())(x), 0b11),
        (lambda _, x, _y: torch.func.jvp(torch.sin, (x,), (x,))[1], 0b01),
        (lambda _, x, _y: torch.func.grad(lambda one: (one * one).sum())(x), 0b01),
        (lambda _, x, y: torch.sparse.mm(torch.diag(x).to_sparse(), y[:, None]), 0b11),
        (lambda m, x, _y: m.counter.to_sparse().to_dense() * x, 0b01),
    ],
)
def test_tensors_without_storage_are_followed(body: Callable[..., Any], mask: int) -> None:
    watching, result, _ = watch(body)
    assert watching.depends_on(result) == mask
    assert watching.frozen == []
