"""Modules that draw random numbers: torch is run twice, and what differs is said."""

from __future__ import annotations

import random
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import npu_persist
from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import trace
from npu_persist.errors import ParityError, RandomnessWarning

if TYPE_CHECKING:
    from collections.abc import Callable

X = torch.arange(12.0).reshape(3, 4) / 6 - 1


class Body(torch.nn.Module):
    def __init__(self, body: Callable[..., Any]) -> None:
        super().__init__()
        self.body = body
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(self, x)


def draws(body: Callable[..., Any]) -> list[str]:
    caveats = trace(bind_call(Body(body).eval(), (X,), {}), fix_sizes=True).caveats
    return [str(caveat) for caveat in caveats if isinstance(caveat, RandomnessWarning)]


@pytest.mark.parametrize(
    ("body", "function"),
    [
        (lambda _, x: x + torch.randn_like(x), "randn_like"),
        (lambda _, x: x + torch.rand(4), "rand"),
        (lambda _, x: x + torch.empty_like(x).exponential_(), "exponential_"),
        (lambda _, x: functional.dropout(x, training=True), "dropout"),
        (lambda _, x: functional.gumbel_softmax(x), "gumbel_softmax"),
        (lambda _, x: torch.multinomial(x.softmax(-1), 2), "multinomial"),
        (lambda _, x: x[torch.randperm(3)], "randperm"),
        (lambda _, x: torch.bernoulli(x.sigmoid()), "bernoulli"),
        (lambda _, x: torch.distributions.Normal(x, 1.0).sample(), "normal"),  # type: ignore[no-untyped-call]
        (lambda _, x: functional.rrelu(x, training=True), "rrelu"),
        (lambda _, x: functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5), "scaled_dot_product_attention"),
        (lambda m, x: x + torch.randn(4, generator=m.generator), "randn"),
        (lambda _, x: x * 2 if torch.rand(()) < 0.5 else x, "rand"),
        (lambda _, x: x * random.random(), "Python's or numpy's"),  # noqa: S311
        (lambda _, x: x * float(np.random.rand()), "Python's or numpy's"),  # noqa: NPY002 - what modules do
    ],
)
def test_random_numbers_are_found_with_function_and_line(body: Callable[..., Any], function: str) -> None:
    (text,) = draws(body)
    assert text.startswith("output output depends on random numbers, which the forward draws itself: ")
    assert function in text
    assert "test_repeat.py:" in text or "Python" in function


@pytest.mark.parametrize(
    "body",
    [
        lambda _, x: functional.dropout(x, training=False),
        lambda m, x: x + 1 if m.training and torch.rand(()) < 0.5 else x,
        lambda _, x: functional.scaled_dot_product_attention(x, x, x),
    ],
)
def test_what_no_answer_depends_on_is_not(body: Callable[..., Any]) -> None:
    assert draws(body) == []


def test_numbers_of_a_seed_in_the_forward() -> None:
    (text,) = draws(lambda _, x: x + torch.randn(4, generator=torch.Generator().manual_seed(3)))
    assert "random numbers from a seed in the forward: the module itself: randn" in text


class Sampler(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, deviation = self.encoder(x).chunk(2, -1)
        return mean + torch.randn_like(mean) * deviation.exp(), mean


def test_the_check_says_that_torch_is_not_repeatable() -> None:
    match = r"output output\.0: torch itself returns different results .*randn_like, at test_repeat\.py:.*check=False"
    with pytest.raises(ParityError, match=match):
        npu_persist.persist(torch.nn.Sequential(Sampler()), "sampler", (X,))


def test_without_a_check_it_is_published_with_a_warning() -> None:
    with pytest.warns(RandomnessWarning, match=r"output output\.0 depends on .*: 0: randn_like"):
        bundle = npu_persist.persist(torch.nn.Sequential(Sampler()), "sampler", (X,), check=False)
    assert "pass them as an argument" in bundle.manifest.warnings[0]


def test_noise_within_the_tolerance_is_published() -> None:
    with pytest.warns(RandomnessWarning):
        npu_persist.persist(Body(lambda _, x: x + 1e-3 * torch.rand(4)), "little", (X,))


def test_the_random_state_is_the_callers_again() -> None:
    torch.manual_seed(5)
    random.seed(5)
    states = torch.get_rng_state(), random.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        npu_persist.persist(Body(lambda _, x: x * random.gauss(0, 1) + torch.rand(4)), "state", (X,), check=False)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
