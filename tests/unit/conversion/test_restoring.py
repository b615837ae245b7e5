"""`persist` leaves the module as it was."""

from __future__ import annotations

import concurrent.futures
import copy
import random
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import npu_persist
from npu_persist.conversion import restoring
from npu_persist.errors import (
    ConversionError,
    StateWarning,
)
from tests.support.modules import (
    Affine,
    Nested,
    Overwrites,
    Raises,
)

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class TestRestoring:
    def test_flags_tensors_attributes_hooks_and_random_states(self) -> None:
        module = Nested()
        module.layer.eval()
        seen: list[int] = []
        module.layer.register_forward_hook(lambda *_: seen.append(1))
        module.layer.weight.grad = torch.full_like(module.layer.weight, 5.0)
        identities = {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}
        before = copy.deepcopy(module.state_dict())
        plain, grad = module.plain.clone(), module.layer.weight.grad
        states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]  # noqa: NPY002
        args, kwargs = module.example()
        npu_persist.persist(module, "nested", args, kwargs)
        assert {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()} == identities
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        assert torch.equal(module.plain, plain)
        assert (module.training, module.layer.training, module.tied.training) == (True, False, True)
        assert module.layer.weight.requires_grad
        assert module.layer.weight.grad is grad
        assert torch.equal(grad, torch.full_like(grad, 5.0))
        assert module.history == []
        assert not hasattr(module, "cache")
        assert seen, "the user's own hook runs while the module is traced, as in any forward"
        assert len(module.layer._forward_hooks) == 1
        assert torch.equal(torch.random.get_rng_state(), states[0])
        np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # type: ignore[index]  # noqa: NPY002
        assert random.getstate() == states[2]

    def test_also_when_the_forward_raises(self) -> None:
        module = Raises()
        with pytest.raises(ConversionError, match=r"Raises\.outer\.1 raised KeyError") as caught:
            npu_persist.persist(module, "raises", (X,))
        assert caught.value.module_path == "outer.1"
        assert module.training
        assert module.outer[0].training
        assert not torch.nn.modules.module._global_forward_hooks

    def test_also_a_parameter_that_the_forward_overwrites(self) -> None:
        module = Overwrites()
        npu_persist.persist(module, "overwrites", (X,))
        assert torch.equal(module.weight.detach(), torch.ones(4))

    def test_on_another_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The CPU's tensors pass for those of another device: they are copied, and come back."""
        elsewhere = types.SimpleNamespace(device=torch.device("privateuseone"))
        monkeypatch.setattr(restoring, "_tensors", lambda _: iter([elsewhere]))
        module = Nested()
        identities = {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}
        args, kwargs = module.example()
        with restoring.restoring(module):
            assert id(module.layer.weight) != identities["layer.weight"]
            assert module.tied.weight is module.layer.weight
        bundle = npu_persist.persist(module, "elsewhere", args, kwargs)
        assert {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()} == identities
        assert "layer.weight" in load_file(bundle.path / "weights.safetensors")

    def test_on_the_meta_device_there_is_nothing_to_persist(self) -> None:
        with torch.device("meta"):
            module = Affine()
        with pytest.raises(ConversionError, match="meta"):
            npu_persist.persist(module, "meta", (X,))
        assert module.layer.weight.device.type == "meta"

    def test_nested_containers_come_back_as_they_were(self) -> None:
        class Cache(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.state = types.SimpleNamespace(last=None, seen={"deep": [[]]})

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.state.last = x if self.state.last is None else torch.cat([self.state.last, x])
                self.state.seen["deep"][0].append(1)
                return self.state.last.sum(0)  # type: ignore[no-any-return]

        module = Cache()
        state, deep = module.state, module.state.seen["deep"]
        with pytest.warns(StateWarning, match=r"writes into state\.last"):
            first = npu_persist.persist(module, "cache", (X,))
        assert module.state is state
        assert (state.last, state.seen["deep"] is deep, deep) == (None, True, [[]])
        with pytest.warns(StateWarning):
            assert npu_persist.persist(module, "cache", (X,)).digest == first.digest

    def test_threads_that_persist_one_module_leave_it_as_it_was(self) -> None:
        module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout())
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            bundles = list(pool.map(lambda _: npu_persist.persist(module, "threads", (X,)), range(3)))
        assert len({bundle.digest for bundle in bundles}) == 1
        assert module.training
        assert module[1].training
