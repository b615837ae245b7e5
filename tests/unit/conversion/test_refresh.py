"""`refresh`: the same graph with new weights is what `persist` would make, or a RefreshError that says why not."""

from __future__ import annotations

import contextlib
import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

import npu_persist
from npu_persist.bundle.manifest import FileEntry
from npu_persist.cache import CompileCache
from npu_persist.conversion import compile_as_loaded
from npu_persist.device.core import get_core
from npu_persist.device.devices import PRECISION, name_precision, read_property
from npu_persist.device.precision import FULL
from npu_persist.errors import (
    FileIntegrityError,
    NotFoundError,
    ParityError,
    RefreshError,
    StoreError,
    UsageError,
)
from npu_persist.files.digest import digest_bytes
from npu_persist.store import Store
from tests.support.refreshed import WIDE, Uses, Wide, train

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.bundle.bundle import Bundle

X = torch.linspace(-1, 1, 8).reshape(2, 4)
IDS = torch.tensor([[1, 2, 3]])


class Encoder(torch.nn.Module):
    """Tokens and their positions, normalized, scaled queries, tied weights: what language models are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(10, 8)
        self.positions = torch.nn.Embedding(6, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.query = torch.nn.Linear(8, 8)
        self.head = torch.nn.Linear(8, 10, bias=False)
        self.head.weight = self.tokens.weight
        self.unused = torch.nn.Linear(2, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1])
        x = self.norm(self.tokens(ids) + self.positions(places))
        answer: torch.Tensor = self.head(self.query(x) * 0.3 + x)
        return answer


class Picture(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.GroupNorm(2, 4)
        self.slope = torch.nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.slope(self.norm(self.conv(x)))
        return answer


def refuse(module: torch.nn.Module, reference: str = "m") -> RefreshError:
    with pytest.raises(RefreshError) as caught:
        npu_persist.refresh(reference, module)
    assert npu_persist.open("m").version == 1
    assert "Persist the module instead" in str(caught.value)
    return caught.value


MODULES: list[tuple[Callable[[], torch.nn.Module], torch.Tensor]] = [
    (Encoder, IDS),
    (Picture, torch.randn(1, 3, 8, 8)),
    (lambda: torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(1, 5, 8)),
    (lambda: torch.nn.Sequential(torch.nn.Conv1d(4, 4, 1, groups=2), torch.nn.GELU()), torch.randn(1, 4, 6)),
]


class TestAnswers:
    @pytest.mark.parametrize(("make", "example"), MODULES, ids=["encoder", "picture", "transformer", "groups"])
    @pytest.mark.parametrize("precision", ["fp16", "fp32"])
    def test_is_what_persist_makes_of_the_new_weights(
        self, make: Callable[[], torch.nn.Module], example: torch.Tensor, precision: Any
    ) -> None:
        module = train(make().eval())
        first = npu_persist.persist(module, "m", (example,), precision=precision)
        refreshed = npu_persist.refresh("m", train(module, 2))
        persisted = npu_persist.persist(module, "m", (example,), precision=precision, force=True)
        assert persisted.version == 3
        for path in ("weights.safetensors", "golden.safetensors"):
            assert refreshed.manifest.files[path] == persisted.manifest.files[path]
            assert refreshed.manifest.files[path] != first.manifest.files[path]
        assert refreshed.manifest.golden == persisted.manifest.golden
        assert refreshed.manifest.refresh == persisted.manifest.refresh
        assert (refreshed.path / "model.xml").samefile(first.path / "model.xml")

    def test_answers_as_torch_on_other_inputs(self) -> None:
        module = train(Encoder())
        npu_persist.persist(module, "m", (IDS,), precision="fp32")
        optimizer = torch.optim.Adam(module.parameters(), 0.1)
        for _ in range(5):
            optimizer.zero_grad()
            module(IDS).square().mean().backward()
            optimizer.step()
        npu_persist.refresh("m", module, alias="prod")
        for ids in (IDS, torch.tensor([[9, 0, 4]])):
            with npu_persist.load("m:prod", device="CPU") as model:
                np.testing.assert_allclose(model(ids.numpy()), module(ids).detach().numpy(), rtol=1e-4, atol=1e-4)

    def test_the_old_version_answers_as_before(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        old = copy.deepcopy(module)
        npu_persist.persist(module, "m", (X,), precision="fp32")
        npu_persist.refresh("m", train(module, 2))
        with npu_persist.load("m:1", device="CPU") as model:
            np.testing.assert_allclose(model(X.numpy()), old(X).detach().numpy(), rtol=1e-5)

    def test_the_same_weights_make_no_new_version(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        npu_persist.persist(module, "m", (X,))
        assert npu_persist.refresh("m", module, alias="prod").reference == "m:1"
        assert npu_persist.open("m:prod").version == 1

    def test_a_module_in_training_is_given_back_so(self) -> None:
        module = torch.nn.Sequential(train(torch.nn.Linear(4, 4)), torch.nn.Dropout(0.5)).train()
        npu_persist.persist(module, "m", (X,))
        npu_persist.refresh("m", module)
        assert all(part.training for part in module.modules())

    def test_frozen_parameters_are_no_other_program(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        npu_persist.persist(module, "m", (X,))
        assert npu_persist.refresh("m", train(module.requires_grad_(requires_grad=False), 2)).version == 2

    def test_tensors_without_use_may_change(self) -> None:
        module = Encoder()
        npu_persist.persist(train(module), "m", (IDS,))
        torch.nn.init.ones_(module.unused.weight)
        assert npu_persist.refresh("m", module).version == 1

    def test_a_dynamic_axis_and_buckets_stay(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        first = npu_persist.persist(module, "m", (X,), buckets=[{"input": (2, 4)}, {"input": (8, 4)}])
        refreshed = npu_persist.refresh("m", train(module, 2))
        assert refreshed.graph() == first.graph()
        with npu_persist.load("m", device="CPU") as model:
            assert model(np.ones((5, 4), np.float32)).shape == (5, 2)

    def test_half_precision_modules(self) -> None:
        module = train(torch.nn.Linear(4, 2)).half()
        npu_persist.persist(module, "m", (X.half(),))
        assert (
            npu_persist.refresh("m", train(module, 2)).manifest
            == npu_persist.persist(module, "m", (X.half(),)).manifest
        )


class TestOptions:
    def test_metadata_is_kept_or_replaced(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        npu_persist.persist(module, "m", (X,), metadata={"epoch": 1})
        assert npu_persist.refresh("m", module).manifest.metadata == {"epoch": 1}
        assert npu_persist.refresh("m", module, metadata={"epoch": 2}).manifest.metadata == {"epoch": 2}

    def test_other_files_are_kept(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        bundle = npu_persist.persist(module, "m", (X,))
        (bundle.path / "assets").mkdir()
        (bundle.path / "assets/labels.txt").write_bytes(b"cat\n")
        files = {**bundle.manifest.files, "assets/labels.txt": FileEntry(4, digest_bytes(b"cat\n"))}
        (bundle.path / "manifest.json").chmod(0o600)
        (bundle.path / "manifest.json").write_bytes(replace(bundle.manifest, files=files).to_json())
        refreshed = npu_persist.refresh("m", train(module, 2))
        refreshed.verify()
        assert refreshed.file("assets/labels.txt").read_bytes() == b"cat\n"

    def test_without_check(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        npu_persist.persist(module, "m", (X,))
        golden = npu_persist.refresh("m", train(module, 2), check=False).manifest.golden
        assert golden is not None
        assert golden.tolerance is None

    def test_a_store_and_a_path(self, tmp_path: Path) -> None:
        module = train(torch.nn.Linear(4, 2))
        path = npu_persist.persist(module, "m", (X,), store=tmp_path / "one").path
        assert npu_persist.refresh(path, module, store=tmp_path / "two").reference == "m:1"
        assert Store(tmp_path / "one").versions("m") == (1,)

    def test_reports_its_stages(self) -> None:
        module, stages = train(torch.nn.Linear(4, 2)), []
        npu_persist.persist(module, "m", (X,))
        npu_persist.refresh("m", module, progress=lambda event: stages.append(event.stage))
        assert list(dict.fromkeys(stages)) == ["trace", "write", "check", "publish"]

    def test_what_is_no_module_or_bundle(self) -> None:
        with pytest.raises(UsageError):
            npu_persist.refresh("m", object())  # type: ignore[arg-type]
        with pytest.raises(NotFoundError):
            npu_persist.refresh("m", torch.nn.ReLU())

    def test_a_damaged_bundle(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        path = npu_persist.persist(module, "m", (X,)).path / "weights.safetensors"
        data = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(FileIntegrityError):
            npu_persist.refresh("m", module)


class TestRefusals:
    def test_a_renamed_layer(self) -> None:
        module = torch.nn.Sequential(train(torch.nn.Linear(4, 2)))
        npu_persist.persist(module, "m", (X,))
        error = refuse(torch.nn.Sequential(torch.nn.Identity(), module[0]))
        assert error.tensor == "0.bias"
        assert "it has 1.bias" in str(error)

    def test_another_shape(self) -> None:
        npu_persist.persist(train(torch.nn.Linear(4, 2)), "m", (X,))
        error = refuse(torch.nn.Linear(4, 3))
        assert error.tensor == "weight"
        assert "has shape [3, 4], and had [2, 4]" in str(error)

    def test_another_dtype(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        npu_persist.persist(module, "m", (X,))
        error = refuse(module.double())
        assert error.tensor == "weight"
        assert "is float64, and was float32" in str(error)

    def test_weights_that_are_no_longer_tied(self) -> None:
        module = train(Encoder())
        npu_persist.persist(module, "m", (IDS,))
        module.head.weight = torch.nn.Parameter(module.head.weight + 1)
        error = refuse(module)
        assert error.tensor in {"head.weight", "tokens.weight"}
        assert "is no longer equal to" in str(error)

    def test_a_batch_normalization_that_only_counted_on(self) -> None:
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        npu_persist.persist(train(module), "m", (torch.randn(1, 3, 8, 8),))
        module.state_dict()["1.num_batches_tracked"] += 1
        assert npu_persist.refresh("m", module).version == 1

    def test_a_bias_of_zeros_that_was_left_out(self) -> None:
        module = torch.nn.Linear(4, 2)
        torch.nn.init.zeros_(module.bias)
        npu_persist.persist(module, "m", (X,))
        torch.nn.init.constant_(module.bias, 0.001)  # which the tolerance would let through
        assert refuse(module).tensor == "bias"

    @pytest.mark.parametrize(
        "function",
        [
            lambda x, w: x * w.exp(),
            lambda x, w: x + w.clamp(min=0.1),  # the constant equals the weight, now
            lambda x, w: x * w + w.abs(),
            lambda x, w: x + w[torch.tensor([0, 1, 2, 3])],
            lambda x, w: x * w.sum() + w,
            lambda x, w: x * float(w[0]) + w,
            lambda x, w: x + w if w[0] > 1 else x - w,
            lambda x, w: torch.where(w > 1, x, -x),
            lambda x, w: x @ torch.linalg.inv(torch.diag(w)),
            lambda x, w: x[:, w.argsort()],
            lambda x, w: (x + w) * w.max(),
        ],
    )
    def test_a_constant_that_is_computed_from_weights(
        self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> None:
        """It is refused, or the answers are right."""
        module = Uses(function)
        npu_persist.persist(module, "m", (X,), precision="fp32")
        with torch.no_grad():
            module.weight.copy_(torch.tensor([1.5, -0.7, 0.3, -2.0]))
        with contextlib.suppress(RefreshError):
            npu_persist.refresh("m", module, check=False)
            with torch.no_grad(), npu_persist.load("m", device="CPU") as model:
                np.testing.assert_allclose(model(X.flip(0).numpy()), module(X.flip(0)).numpy(), rtol=1e-5, atol=1e-6)

    def test_another_configuration(self) -> None:
        npu_persist.persist(train(torch.nn.LayerNorm(4)), "m", (X,))
        refuse(train(torch.nn.LayerNorm(4, eps=1e-3)))

    def test_another_class_with_the_same_tensors(self) -> None:
        class Other(torch.nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x).tanh()

        npu_persist.persist(train(torch.nn.Linear(4, 2)), "m", (X,))
        refuse(train(Other(4, 2)))

    def test_other_arguments(self) -> None:
        class Two(torch.nn.Linear):
            def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
                return super().forward(x) + y

        npu_persist.persist(train(torch.nn.Linear(4, 2)), "m", (X,))
        with pytest.raises(RefreshError, match="takes other arguments"):
            npu_persist.refresh("m", train(Two(4, 2)))

    def test_values_beyond_half_precision(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        npu_persist.persist(module, "m", (X,))
        with torch.no_grad():
            module.weight.fill_(1e6)
        assert refuse(module).tensor == "weight"

    def test_results_that_are_beyond_tolerance(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        npu_persist.persist(module, "m", (X,))
        with pytest.raises(ParityError):
            npu_persist.refresh("m", train(module, 2), tolerance=1e-9)
        assert npu_persist.open("m").version == 1

    def test_a_bundle_without_the_record(self) -> None:
        module = train(torch.nn.Linear(4, 2))
        bundle = npu_persist.persist(module, "m", (X,))
        manifest = replace(bundle.manifest, refresh=None)
        (bundle.path / "manifest.json").chmod(0o600)
        (bundle.path / "manifest.json").write_bytes(manifest.to_json())
        assert "does not say what refresh needs to know" in str(refuse(module))

    def test_a_tensor_that_is_too_small_for_its_integers(self) -> None:
        first = train(torch.nn.Linear(64, 4))
        module = torch.nn.Sequential(first, torch.nn.Linear(4, 2))
        npu_persist.persist(module, "m", (WIDE,), precision="int8")
        with torch.no_grad():
            first.weight.mul_(2e-4)
        assert "now has a different graph than m:1: its layer" in str(refuse(module))

    def test_calibrated_weights_without_data(self) -> None:
        pytest.importorskip("nncf", reason="the extra `compress` is not installed")
        module = Wide()
        npu_persist.persist(train(module), "m", (WIDE,), precision="int4", calibration=[(WIDE,)])
        with pytest.raises(RefreshError, match="Give calibration= again"):
            npu_persist.refresh("m", train(module, 2))

    def test_data_for_weights_that_need_none(self) -> None:
        pytest.importorskip("nncf", reason="the extra `compress` is not installed")
        npu_persist.persist(train(Wide()), "m", (WIDE,), precision="int4")
        with pytest.raises(UsageError, match="persisted without calibration"):
            npu_persist.refresh("m", train(Wide(), 2), calibration=[(WIDE,)])


class TestArtifacts:
    def test_none_of_the_old_weights_answers_for_the_new_ones(self) -> None:
        """A weightless blob of the CPU holds what was computed from weights (biases in float32, fused scales)."""
        module = train(Encoder())
        npu_persist.persist(module, "m", (IDS,), precision="fp32", targets=["CPU"])
        npu_persist.load("m:1", device="CPU").close()
        npu_persist.refresh("m", train(module, 2), check=False)
        with npu_persist.load("m:2", device="CPU") as model:
            assert [attempt.source for attempt in model.report.attempts][-1] == "graph"
            np.testing.assert_allclose(model(IDS.numpy()), module(IDS).detach().numpy(), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(("make", "example"), MODULES, ids=["encoder", "picture", "transformer", "groups"])
    @pytest.mark.filterwarnings("ignore:.*stay in half precision")
    @pytest.mark.parametrize("precision", ["fp16", "fp32", "int8"])
    def test_the_next_load_takes_what_the_check_compiled(
        self, make: Callable[[], torch.nn.Module], example: torch.Tensor, precision: Any
    ) -> None:
        is_bf16 = name_precision(read_property(get_core(), "CPU", PRECISION)) != FULL  # then `load` compiles again
        module = train(make().eval())
        npu_persist.persist(module, "m", (example,), precision=precision)
        npu_persist.refresh("m", train(module, 2))
        others = [example, example.flip(-1)]
        with npu_persist.load("m:2", device="CPU") as model:
            assert model.report.from_cache is (precision == "fp32" or not is_bf16)
            found = [model(other.numpy()) for other in others]
        with npu_persist.load("m:2", device="CPU", cache=False) as model:
            for one, other in zip(found, others, strict=True):
                np.testing.assert_array_equal(one, model(other.numpy()))

    @pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is mapped")
    def test_nothing_of_the_folder_that_is_renamed_is_mapped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Windows renames no folder with an open file."""
        publish, mapped = Store.publish, []

        def publish_and_look(store: Store, *args: Any, **options: Any) -> Bundle:
            mapped.append(str(store.home / "staging") in Path("/proc/self/maps").read_text(encoding="utf-8"))
            return publish(store, *args, **options)

        monkeypatch.setattr(Store, "publish", publish_and_look)
        module = train(Encoder())
        npu_persist.persist(module, "m", (IDS,))
        npu_persist.refresh("m", train(module, 2))
        assert mapped == [False, False]

    def test_a_cpu_that_computes_in_bf16_compiles_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The check is in float32, which such a load is not."""
        monkeypatch.setattr(compile_as_loaded, "name_precision", lambda _: "bf16")
        module = train(torch.nn.Linear(4, 2))
        npu_persist.persist(module, "m", (X,))
        npu_persist.refresh("m", train(module, 2))
        with npu_persist.load("m:2", device="CPU") as model:
            assert not model.report.from_cache

    def test_a_cache_that_cannot_be_written_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse_to(*_: object) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr(CompileCache, "stage", refuse_to)
        module = train(torch.nn.Linear(4, 2))
        npu_persist.persist(module, "m", (X,))
        assert npu_persist.refresh("m", train(module, 2)).version == 2
