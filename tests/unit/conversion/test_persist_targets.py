"""`persist(..., targets=...)`: compiled at once, or refused before the work; and published all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.export import Dim

import npu_persist
from npu_persist.errors import (
    CompilationError,
    DeviceNotFoundError,
    DynamicShapeError,
    JobsError,
    TargetError,
    ToolchainError,
    UsageError,
)
from tests.support.loads import attempts

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.store import Store


class Net(torch.nn.Module):
    """A linear layer; `calls` is filled by a hook, for persist puts back what a forward changes."""

    def __init__(self, calls: list[int] | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        if calls is not None:
            self.register_forward_pre_hook(lambda *_: calls.append(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)
        return result


EXAMPLE = (torch.zeros(2, 4),)


def test_it_is_compiled_at_once(store: Store) -> None:
    stages: list[str] = []
    bundle = npu_persist.persist(
        Net(), "net", EXAMPLE, targets=["CPU"], store=store, progress=lambda event: stages.append(event.stage)
    )
    assert bundle.reference == "net:1"
    assert attempts(npu_persist.load("net", "CPU", store=store)) == [("attached", "CPU", True)]
    assert stages[-1] == "compile"
    store.verify()


def test_without_targets_nothing_is_compiled(store: Store) -> None:
    bundle = npu_persist.persist(Net(), "net", EXAMPLE, store=store)
    assert not (bundle.path / "compiled").exists()


def test_targets_that_are_none_are_refused_before_the_module_is_traced(store: Store) -> None:
    calls: list[int] = []
    net = Net(calls)
    with pytest.raises(TargetError, match="moon-lake"):
        npu_persist.persist(net, "net", EXAMPLE, targets=["moon-lake"], store=store)
    assert not calls
    assert store.names() == ()


def test_a_missing_toolchain_is_said_before_the_module_is_traced(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPU_PERSIST_TOOLCHAINS", str(tmp_path / "none"))
    monkeypatch.setattr("npu_persist.compilation.toolchains.available.PluginToolchain", Unusable)
    calls: list[int] = []
    net = Net(calls)
    with pytest.raises(ToolchainError, match="no toolchain can compile"):
        npu_persist.persist(net, "net", EXAMPLE, targets=["NPU:4000"], store=store)
    assert not calls


class Unusable:
    name = "plugin"

    def examine(self) -> object:
        from npu_persist.compilation.toolchains.toolchain import State

        return State(usable=False, reason="not on this machine")


def test_an_axis_without_a_largest_size_is_refused_before_the_module_is_traced(store: Store) -> None:
    calls: list[int] = []
    net = Net(calls)
    shapes = ({0: Dim("batch", min=1)},)
    with pytest.raises(DynamicShapeError, match=r"axis 0 \(batch\) of input x .*buckets=\[\{'x': \(128, 4\)\}\]"):
        npu_persist.persist(net, "net", EXAMPLE, dynamic_shapes=shapes, targets=["NPU"], store=store)
    assert not calls
    bundle = npu_persist.persist(net, "net", EXAMPLE, dynamic_shapes=shapes, targets=["CPU"], store=store)
    assert calls, "a traced module is seen"
    assert (bundle.path / "compiled" / "cpu").is_dir()


def test_no_graph_is_traced_if_another_one_is_refused(store: Store) -> None:
    calls: list[int] = []
    first = npu_persist.Example(Net(calls), EXAMPLE)
    shapes = ({0: Dim("batch", min=1)},)
    second = npu_persist.Example(Net(), EXAMPLE, dynamic_shapes=shapes)
    with pytest.raises(DynamicShapeError, match=r"^net second: axis 0 \(batch\) of input x has no largest size"):
        npu_persist.persist({"first": first, "second": second}, "net", targets=["CPU", "NPU"], store=store)
    assert not calls
    bounded = npu_persist.Example(Net(), EXAMPLE, dynamic_shapes=shapes, buckets=[{"x": (1, 4)}, {"x": (8, 4)}])
    bundle = npu_persist.persist({"first": first, "second": bounded}, "net", targets=["CPU"], store=store)
    assert len([*(bundle.path / "compiled").glob("cpu-first*")]) == 1
    assert len([*(bundle.path / "compiled").glob("cpu-second*")]) == 2


def test_an_image_size_is_for_a_pipeline_of_diffusers(store: Store) -> None:
    with pytest.raises(UsageError, match="image_size: expected a pipeline of diffusers and targets"):
        npu_persist.persist(Net(), "net", EXAMPLE, targets=["CPU"], image_size=(16, 16), store=store)


def test_each_bucket_is_compiled(store: Store) -> None:
    buckets = [{"x": (1, 4)}, {"x": (8, 4)}]
    bundle = npu_persist.persist(Net(), "net", EXAMPLE, buckets=buckets, targets=["CPU"], store=store)
    assert len(list((bundle.path / "compiled").glob("cpu*"))) == 2
    model = npu_persist.load("net", "CPU", store=store)
    assert [attempt.shapes for attempt in model.report.attempts if attempt.is_used] == [{"x": (1, 4)}, {"x": (8, 4)}]
    assert {attempt.source for attempt in model.report.attempts if attempt.is_used} == {"attached"}


@pytest.mark.usefixtures("wine")
def test_buckets_let_an_npu_take_axes_without_a_largest_size(store: Store) -> None:
    shapes = ({0: Dim("batch", min=1)},)
    buckets = [{"x": (1, 4)}, {"x": (8, 4)}]
    bundle = npu_persist.persist(
        Net(), "net", EXAMPLE, dynamic_shapes=shapes, buckets=buckets, targets=["NPU:4000"], store=store
    )
    assert len(list((bundle.path / "compiled").glob("npu*"))) == 2


def test_a_compilation_that_fails_leaves_the_bundle_published(store: Store) -> None:
    command = r"net:1 is published, but .*`npu-persist compile net:1 --target GPU\.7`"
    with pytest.raises(DeviceNotFoundError, match=command):
        npu_persist.persist(Net(), "net", EXAMPLE, targets="GPU.7", store=store)
    assert store.versions("net") == (1,)
    store.verify()
    with pytest.raises(JobsError, match="net:2 is published") as caught:
        npu_persist.persist(Net(), "net", EXAMPLE, targets=["GPU.7", "CPU"], force=True, store=store)
    assert [result.artifact is not None for result in caught.value.results] == [False, True]
    assert (store.resolve("net:2").path / "compiled" / "cpu").is_dir()


@pytest.mark.filterwarnings("ignore::npu_persist.errors.RandomnessWarning")
@pytest.mark.usefixtures("wine")
def test_a_refused_operation_names_the_module_that_it_stands_in(store: Store) -> None:
    class Sampler(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.multinomial(x, 2)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4, 4)
            self.sampler = Sampler()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.sampler(torch.softmax(self.head(x), -1))
            return result

    with pytest.raises(CompilationError, match=r"convert_type is not supported.*Multinomial in sampler \(sampler/"):
        npu_persist.persist(Model(), "model", (torch.rand(1, 4),), check=False, targets=["NPU:4000"], store=store)
    assert store.versions("model") == (1,)
