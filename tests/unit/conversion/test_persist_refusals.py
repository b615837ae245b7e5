"""What `persist` refuses, before it publishes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest
import torch

import npu_persist
from npu_persist.errors import (
    ConversionError,
    InvalidNameError,
    StoreError,
    UsageError,
)
from tests.support.modules import (
    Affine,
    Raises,
)
from tests.support.stores import files_below

if TYPE_CHECKING:
    from pathlib import Path


X = torch.linspace(-1, 1, 8).reshape(2, 4)


class TestBadInput:
    @pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "C:x", "CON", "com1.txt", "", "x" * 300, ".hidden"])
    def test_name(self, name: str, store_home: Path) -> None:
        with pytest.raises(InvalidNameError):
            npu_persist.persist(Affine(), name, (X,))
        assert files_below(store_home) == []

    def test_name_that_differs_in_case_only_is_refused_before_the_work(self) -> None:
        npu_persist.persist(Affine(), "affine", (X,))
        with pytest.raises(InvalidNameError, match="the same on Windows"):
            npu_persist.persist(Raises(), "Affine", (X,))

    def test_precision(self) -> None:
        with pytest.raises(UsageError, match="'fp16', 'fp32', 'int8', 'int4'; got 'int2'"):
            npu_persist.persist(Affine(), "affine", (X,), precision="int2")  # type: ignore[arg-type]

    def test_an_openvino_model(self) -> None:
        parameter = ov.opset13.parameter([1], np.float32)
        model = ov.Model([ov.opset13.relu(parameter)], [parameter])
        with pytest.raises(UsageError, match="already an OpenVINO model"):
            npu_persist.persist(model, "affine", (X,))

    def test_no_module(self) -> None:
        with pytest.raises(UsageError, match=r"torch\.nn\.Module; got builtins\.function"):
            npu_persist.persist(lambda x: x, "affine", (X,))  # type: ignore[arg-type]

    def test_a_tensor_in_place_of_the_arguments(self) -> None:
        with pytest.raises(UsageError, match=r"args must be a tuple"):
            npu_persist.persist(Affine(), "affine", X)  # type: ignore[arg-type]

    def test_arguments_that_do_not_fit(self) -> None:
        with pytest.raises(UsageError, match="do not fit Affine"):
            npu_persist.persist(Affine(), "affine", (X, X, X))

    @pytest.mark.parametrize(
        "metadata", [{"x": object()}, {1: 2}, {"a": 10**400}, {"a": "\ud800"}, {"a": float("nan")}]
    )
    def test_metadata_that_would_not_come_back(self, metadata: Any) -> None:
        with pytest.raises(UsageError, match="metadata"):
            npu_persist.persist(Affine(), "affine", (X,), metadata=metadata)

    def test_a_result_without_a_class_at_deploy_time(self) -> None:
        class Strange(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> Any:
                return {"ok": x, "bad": object()}

        with pytest.raises(ConversionError, match=r"\.bad is a builtins\.object"):
            npu_persist.persist(Strange(), "strange", (X,))

    def test_a_full_disk(self, monkeypatch: pytest.MonkeyPatch, store_home: Path) -> None:
        def full(*_: Any, **__: Any) -> str:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("npu_persist.bundle.weights.write", full)
        with pytest.raises(StoreError, match="No space left"):
            npu_persist.persist(Affine(), "affine", (X,))
        assert npu_persist.list() == []
        assert files_below(store_home / "staging") == []

    def test_a_lazy_module(self) -> None:
        with pytest.raises(UsageError, match="weight has no shape yet"):
            npu_persist.persist(torch.nn.LazyLinear(4), "lazy", (X,))

    def test_a_meta_example(self) -> None:
        with pytest.raises(ConversionError, match="x is on the meta device"):
            npu_persist.persist(Affine(), "affine", (X.to("meta"),))

    def test_a_tolerance_that_is_no_number(self) -> None:
        with pytest.raises(UsageError, match="tolerance"):
            npu_persist.persist(Affine(), "affine", (X,), tolerance="x")  # type: ignore[arg-type]

    def test_a_traced_module_is_called_by_its_own_names(self) -> None:
        traced = torch.jit.trace(torch.nn.Linear(4, 2), X)  # type: ignore[no-untyped-call]
        bundle = npu_persist.persist(traced, "traced", (X,))
        assert [port.name for port in bundle.graph().inputs] == ["input"]
