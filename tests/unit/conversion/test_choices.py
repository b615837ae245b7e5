"""Choices that fp16 weights move are named; those that they do not, or that are only returned, are not."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

import pytest
import torch

from npu_persist import check, persist
from npu_persist.bundle.golden_records import Tolerance
from npu_persist.errors import ParityError, PrecisionWarning
from npu_persist.store import Store

if TYPE_CHECKING:
    from pathlib import Path

EXACT = 1.0
"""A weight that fp16 holds, and one that it does not: it rounds the second to the first."""
ROUNDED = 1.0 + 2.0**-13


class Quantizer(torch.nn.Module):
    """Looks up the code whose direction is the input's."""

    def __init__(self, codes: list[list[float]], *, looks_up: bool = True) -> None:
        super().__init__()
        self.scores = torch.nn.Linear(2, len(codes), bias=False)
        self.scores.weight.data[:] = torch.tensor(codes)
        self.codes = torch.nn.Embedding(len(codes), 3)
        self.looks_up = looks_up

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = self.scores(x).argmax(-1)
        codes: torch.Tensor = self.codes(chosen)
        return codes if self.looks_up else chosen


class Above(torch.nn.Module):
    """Picks the rows whose score is above one."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.score = torch.nn.Linear(2, 2, bias=False)
        self.score.weight.data[:] = torch.tensor([[weight, 0.0], [0.0, 0.5]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        picked: torch.Tensor = x[(self.score(x) > 1.0).any(-1)]
        return picked.sum(0)


class Model(torch.nn.Module):
    def __init__(self, part: torch.nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.part(x)
        return y


@pytest.fixture
def store(tmp_path: Path) -> Store:
    torch.manual_seed(0)
    return Store(tmp_path / "home")


def warned(store: Store, module: torch.nn.Module, x: torch.Tensor, **options: object) -> list[str]:
    """Return what persist warned of; whatever it looked up then passes the check."""
    options = {"tolerance": Tolerance(100, -1, 1), **options}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PrecisionWarning)
        bundle = persist(Model(module), "model", (x,), store=store, **options)  # type: ignore[arg-type]
    assert list(bundle.manifest.warnings) == [str(one.message).removeprefix("Model: ") for one in caught]
    return [str(one.message) for one in caught]


TIED = [[EXACT, 0.0], [ROUNDED, 0.0], [0.0, 1.0]]
"""The second code wins by 1e-4 in float32; in fp16 the first two are equal."""
APART = [[0.5, 0.0], [1.0, 0.0], [0.0, 1.0]]
ROWS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])


def test_a_choice_that_moves_is_named_with_its_module(store: Store) -> None:
    (text,) = warned(store, Quantizer(TIED), ROWS)
    assert re.match(r'Model: aten::argmax in part: precision="fp16" moves 2 of 3 choices', text)
    assert text.endswith('precision="fp32" keeps them')


def test_a_check_that_fails_because_of_it_names_it(store: Store) -> None:
    with pytest.raises(ParityError, match=r'aten::argmax in part: precision="fp16" moves 2 of 3 choices'):
        persist(Model(Quantizer(TIED)), "model", (ROWS,), store=store)


def test_fp32_moves_none(store: Store) -> None:
    assert warned(store, Quantizer(TIED), ROWS, precision="fp32") == []
    assert check("model", "CPU", store=store).is_right


def test_values_that_are_apart_are_no_reason(store: Store) -> None:
    assert warned(store, Quantizer(APART), ROWS) == []


def test_choices_that_another_input_may_move(store: Store) -> None:
    """Scores a little closer than what fp16 does to them, at inputs for which it happens to move none."""
    torch.manual_seed(1)
    module = Quantizer((torch.randn(64, 2) * 3).tolist())
    angles = torch.linspace(0, 6.28, 40000)
    x = torch.stack([angles.cos(), angles.sin()], -1)
    scores = module.scores(x).topk(2).values
    halved = Quantizer(module.scores.weight.half().float().tolist())
    steady = module.scores(x).argmax(-1) == halved.scores(x).argmax(-1)
    near = steady & (scores[:, 0] - scores[:, 1] < 1e-3)
    assert near.sum() > 5
    (text,) = warned(store, module, x[near])
    assert "changes none, but with other inputs may change" in text


def test_an_argmax_that_is_only_returned_is_its_callers(store: Store) -> None:
    """Where the example shows it to move, the check says so; here it does not reach that far."""
    assert not any("looked up" in text for text in warned(store, Quantizer(TIED, looks_up=False), ROWS))


def test_rows_that_a_threshold_picks(store: Store) -> None:
    (text,) = warned(store, Above(ROUNDED), ROWS)
    assert re.match(r'Model: aten::index in part: precision="fp16" moves 1 of 3 choices', text)
    assert warned(store, Above(1.5), ROWS) == []


def test_choices_by_inputs_alone_are_no_matter_of_weights(store: Store) -> None:
    class Largest(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            best = x.sum(-1).topk(2).indices
            y: torch.Tensor = self.layer(x[best])
            return y

    assert warned(store, Largest(), ROWS) == []


def test_what_sorts_the_indices_is_not_blamed(store: Store) -> None:
    class Sorted(Quantizer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            order = self.scores(x).argmax(-1).argsort()
            codes: torch.Tensor = self.codes(order)
            return codes

    (text,) = warned(store, Sorted(TIED), ROWS)
    assert text.startswith("Model: aten::argmax in part")


def test_a_choice_among_equal_values_is_said_to_be_torchs(store: Store) -> None:
    """torch's topk takes any of them, OpenVINO's the first."""

    class Untrained(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = torch.nn.Linear(8, 1)
            torch.nn.init.zeros_(self.score.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            best = self.score(x).squeeze(-1).topk(20).indices
            return x[best]

    module, x = Untrained(), torch.randn(500, 8)
    if torch.equal(module(x), x[:20]):
        pytest.skip("this torch takes the first of equal values, as OpenVINO does")
    with pytest.raises(ParityError, match=r"aten::topk in part chooses among equal values \(20 equal the next"):
        persist(Model(module), "model", (x,), precision="fp32", store=store)


def test_without_a_check_nothing_is_measured(store: Store) -> None:
    assert warned(store, Quantizer(TIED), ROWS, check=False) == []
