"""The journey: persist a module, load the bundle, get the module's own answers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.export import Dim

import npu_persist
from npu_persist.bundle.golden_records import Tolerance
from npu_persist.bundle.graph_records import RecordNode, ValueNode
from npu_persist.bundle.signature import ModelOutput
from npu_persist.errors import (
    ConversionError,
    ExampleInputsError,
    ExampleWarning,
    FrozenControlFlowWarning,
    InputError,
    ParityError,
    PrecisionWarning,
    StateWarning,
    UsageError,
)
from npu_persist.store import Store
from tests.support.modules import (
    Affine,
    Branch,
    CustomFunction,
    FrozenLoop,
    Leaves,
    Nested,
    NotANumber,
    ShapeBranch,
)
from tests.support.processes import ROOT, poison, run_python
from tests.support.stores import files_below

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.progress import Progress

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def numpy_of(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value


def nested_call(module: Nested) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = module.example()
    options = {"pair": (args[1]["pair"].first.numpy(), np.ones(3, np.float32)), "list": [args[0].numpy()]}
    return (args[0].numpy(), options, np.ones(2, np.float32)), {key: value.numpy() for key, value in kwargs.items()}


class TestStructure:
    def test_comes_back_as_it_was_given(self) -> None:
        module = Nested()
        args, kwargs = module.example()
        npu_persist.persist(module, "nested", args, kwargs, precision="fp32")
        model = npu_persist.load("nested", device="CPU")
        args, kwargs = nested_call(module)
        result = model(*args, **kwargs)
        with torch.no_grad():
            expected = module.eval()(*module.example()[0], **module.example()[1])
        assert list(result) == list(expected)
        np.testing.assert_allclose(result["y"], expected["y"], atol=1e-2)
        np.testing.assert_array_equal(result["same"], result["y"])
        np.testing.assert_array_equal(result["input"], expected["input"])
        assert isinstance(result["tuple"], tuple)
        assert result["tuple"][1:3] == (None, 3)
        np.testing.assert_array_equal(result["tuple"][3][0], expected["tuple"][3][0])
        assert isinstance(result["answer"], ModelOutput)
        np.testing.assert_allclose(result["answer"].value, expected["answer"].value, atol=1e-2)
        assert (result["answer"].missing, result["answer"].count) == (None, 3)
        np.testing.assert_array_equal(result["pair"].first, expected["pair"].first)
        np.testing.assert_array_equal(result["pair"].second, [2.0, 3.0])
        assert result["old"].right == "text"
        assert result["size"] == expected["size"] == 8

    def test_other_inputs_than_the_example_give_the_module_s_answers(self) -> None:
        module = Nested()
        args, kwargs = module.example()
        npu_persist.persist(module, "nested", args, kwargs)
        model = npu_persist.load("nested", device="CPU")
        other = torch.randn(2, 4, 8)
        call_args = (
            other,
            {"pair": type(args[1]["pair"])(other * 2, torch.ones(3)), "list": [other + 1]},
            torch.zeros(2),
        )
        call_kwargs = {"mask": other < 0, "unused": torch.ones(5), "extra": torch.tensor([5, 6])}
        with torch.no_grad():
            expected = module.eval()(*call_args, **call_kwargs)
        result = model(*call_args, **call_kwargs)
        np.testing.assert_allclose(result["y"], expected["y"], atol=2e-2)
        np.testing.assert_array_equal(result["pair"].second, [5.0, 6.0])

    def test_one_tensor_passed_twice_is_two_inputs(self) -> None:
        npu_persist.persist(Affine(), "twice", (X, X))
        model = npu_persist.load("twice", device="CPU")
        assert len(model.inputs) == 2
        zero, one = np.zeros((2, 4), np.float32), np.ones((2, 4), np.float32)
        np.testing.assert_allclose(model(zero, one) - model(zero, zero), one, atol=1e-3)

    def test_a_fixed_value_is_part_of_the_graph_and_another_is_refused(self) -> None:
        module = Affine()
        npu_persist.persist(module, "scaled", (X,), {"scale": 3.0})
        model = npu_persist.load("scaled", device="CPU")
        with torch.no_grad():
            np.testing.assert_allclose(model(X, scale=3.0), module(X, scale=3.0), atol=1e-2)
        with pytest.raises(InputError, match="scale"):
            model(X)

    def test_transformers_output_is_a_record_of_its_fields(self) -> None:
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
        module = BertModel(config)
        with pytest.warns(ExampleWarning, match=r"made from the module's dummy_inputs, input_ids \[3, 5\]"):
            bundle = npu_persist.persist(module, "bert")
        model = npu_persist.load("bert", device="CPU")
        result = model(input_ids=module.dummy_inputs["input_ids"].numpy())
        assert isinstance(bundle.graph().signature.result, RecordNode)
        assert list(result) == ["last_hidden_state", "pooler_output"]
        assert result[0] is result.last_hidden_state is result["last_hidden_state"]
        assert result.past_key_values is None


class TestExamples:
    def test_recorded_inputs_are_those_of_the_last_forward(self) -> None:
        module = Affine()
        with npu_persist.record(module):
            module(torch.zeros(1, 4))
            module(torch.zeros(3, 4), y=torch.zeros(3, 4))
        bundle = npu_persist.persist(module, "recorded")
        assert [port.shape for port in bundle.graph().inputs] == [(3, 4), (3, 4)]
        assert not module._forward_pre_hooks

    def test_example_input_array(self) -> None:
        module = Affine()
        module.example_input_array = torch.zeros(5, 4)
        assert npu_persist.persist(module, "lightning").graph().inputs[0].shape == (5, 4)

    def test_diffusers_model_needs_nothing(self) -> None:
        from diffusers import UNet2DConditionModel

        module = UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
            attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        with pytest.warns(ExampleWarning, match="made from the module's config, sample"):
            bundle = npu_persist.persist(module, "unet")
        assert [(port.name, port.shape) for port in bundle.graph().inputs] == [
            ("sample", (1, 4, 8, 8)),
            ("timestep", (1,)),
            ("encoder_hidden_states", (1, 77, 8)),
        ]

    def test_none_found_names_all_four_ways(self) -> None:
        with pytest.raises(ExampleInputsError) as caught:
            npu_persist.persist(Affine(), "none")
        for way in ("args=", "example_input_array", "dummy_inputs", "npu_persist.record(model)"):
            assert way in str(caught.value)


class TestShapes:
    def test_bounds_are_in_the_ir_and_in_the_manifest(self) -> None:
        batch = Dim("batch", min=1, max=8)
        bundle = npu_persist.persist(Affine(), "dynamic", (X, X), dynamic_shapes={"x": {0: batch}, "y": {0: batch}})
        axis = bundle.graph().inputs[0].shape[0]
        assert (axis.name, axis.min, axis.max) == ("batch", 1, 8)  # type: ignore[union-attr]
        read = ov.Core().read_model(bundle.path / "model.xml")
        assert str(read.inputs[0].get_partial_shape()) == "[1..8,4]"

    def test_every_size_within_bounds_gives_the_module_s_answer(self) -> None:
        module = Affine()
        npu_persist.persist(module, "dynamic", (X,), dynamic_shapes=({0: Dim("batch", min=1, max=8)},))
        model = npu_persist.load("dynamic", device="CPU")
        for size in (1, 2, 5, 8):
            x = torch.randn(size, 4)
            with torch.no_grad():
                np.testing.assert_allclose(model(x), module(x), atol=1e-2)

    def test_a_call_outside_of_the_bounds_names_argument_axis_bound_and_value(self) -> None:
        npu_persist.persist(Affine(), "dynamic", (X,), dynamic_shapes=({0: Dim("batch", min=1, max=8)},))
        with pytest.raises(InputError, match=r"argument x: expected size 1\.\.8 on axis 0 \(batch\); got 9"):
            npu_persist.load("dynamic", device="CPU")(np.zeros((9, 4), np.float32))

    def test_equal_names_must_have_equal_sizes(self) -> None:
        batch = Dim("batch", min=1, max=8)
        npu_persist.persist(Affine(), "dynamic", (X, X), dynamic_shapes={"x": {0: batch}, "y": {0: batch}})
        with pytest.raises(InputError, match=r"argument y: expected batch = 3 on axis 0.*; got 1"):
            npu_persist.load("dynamic", device="CPU")(np.zeros((3, 4), np.float32), np.zeros((1, 4), np.float32))

    def test_a_size_that_the_trace_froze_is_found_out(self) -> None:
        with pytest.raises(ConversionError, match="not with inputs of shape"):
            npu_persist.persist(FrozenLoop(), "loop", (X,), dynamic_shapes=({0: Dim("n", min=2, max=8)},))

    def test_bounds_that_exclude_the_example_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"dynamic_shapes of x, axis 0: the example has 2, outside of 4 to 8"):
            npu_persist.persist(Affine(), "dynamic", (X,), dynamic_shapes=({0: Dim("n", min=4, max=8)},))

    def test_an_unknown_argument_is_refused(self) -> None:
        with pytest.raises(UsageError, match="names 'z'"):
            npu_persist.persist(Affine(), "dynamic", (X,), dynamic_shapes={"z": {0: Dim("n")}})


class TestDtypes:
    @pytest.mark.parametrize("precision", ["fp16", "fp32"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_weights_keep_their_names_and_values(self, dtype: torch.dtype, precision: str) -> None:
        module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 2)).to(dtype)
        bundle = npu_persist.persist(module, "half", (torch.randn(2, 8).to(dtype),), precision=precision)  # type: ignore[arg-type]
        stored = load_file(bundle.path / "weights.safetensors")
        half = torch.float16 if precision == "fp16" or dtype is torch.float16 else torch.float32
        for name, tensor in module.state_dict().items():
            kept = torch.float32 if dtype is torch.float32 and tensor.ndim == 1 else half
            assert stored[name].dtype is kept
            assert torch.equal(stored[name], tensor.to(kept)), name
        boundary = np.float16 if dtype is torch.float16 else np.float32
        result = npu_persist.load("half", device="CPU")(np.ones((2, 8), boundary))
        assert result.dtype == boundary
        with torch.no_grad():
            np.testing.assert_allclose(result, module(torch.ones(2, 8).to(dtype)).float(), atol=2e-2)

    @pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel])
    def test_wrappers_of_training_are_looked_through(self, wrap: Any) -> None:
        module = Affine()
        wrapped = wrap(module)
        wrapped.train()
        bundle = npu_persist.persist(wrapped, "wrapped", (X,))
        assert bundle.digest == npu_persist.persist(module, "wrapped", (X,)).digest
        assert wrapped.training

    @pytest.mark.parametrize(
        "dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float64]
    )
    def test_inputs_and_outputs_of_every_dtype(self, dtype: torch.dtype) -> None:
        class Echo(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return x.flip(0), x.float() + 1

        bundle = npu_persist.persist(Echo(), "echo", (torch.tensor([0, 1, 1]).to(dtype),))
        assert bundle.graph().inputs[0].dtype == bundle.graph().outputs[0].dtype == str(dtype).removeprefix("torch.")
        value = torch.tensor([1, 0, 0]).to(dtype).numpy()
        flipped, added = npu_persist.load("echo", device="CPU")(value)
        np.testing.assert_array_equal(flipped, value[::-1])
        np.testing.assert_array_equal(added, value.astype(np.float32) + 1)


class _NearTies(torch.nn.Module):
    """Half of the rows of its weight have two columns that fp16 cannot tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(64, 8, generator=torch.Generator().manual_seed(0)))
        self.weight.data[::2, 5] = 3.0001
        self.weight.data[::2, 2] = 3.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.weight).argmax(-1)


class TestCheck:
    def test_differences_are_in_the_manifest(self) -> None:
        golden = npu_persist.persist(Affine(), "affine", (X,)).manifest.golden
        assert golden is not None
        assert golden.tolerance == Tolerance(0.1, 0.999, 0.01)
        assert golden.differences is not None
        (difference,) = golden.differences
        assert 0 < difference.max_abs < 1e-2
        assert difference.cosine > 0.9999

    def test_beyond_tolerance_nothing_is_published_and_the_layer_is_named(self, store_home: Path) -> None:
        module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64))
        with pytest.raises(ParityError, match=r"first layer that differs is 0 ") as caught:
            npu_persist.persist(module, "strict", (torch.randn(4, 64),), tolerance=1e-7)
        assert (caught.value.output, caught.value.layer is None) == ("output", False)
        assert len(caught.value.differences) == 1
        assert not any("weights" in name or "manifest" in name for name in files_below(store_home))

    def test_a_choice_that_rounding_moved_warns_up_to_the_tolerance_and_fails_beyond(self) -> None:
        module, example = _NearTies(), (torch.eye(64),)
        with pytest.warns(PrecisionWarning, match=r"output output: OpenVINO differs from torch in .*argmax"):
            bundle = npu_persist.persist(module, "ties", example, tolerance=Tolerance(0.1, 0.999, mismatched=0.6))
        assert bundle.manifest.golden is not None
        assert bundle.manifest.golden.differences is not None
        assert bundle.manifest.golden.differences[0].mismatched == pytest.approx(0.5, abs=0.1)
        assert "argmax" in bundle.manifest.warnings[0]
        with pytest.raises(ParityError, match=r"return the floats.*mismatched=0\.\d+"):
            npu_persist.persist(module, "ties", example)
        npu_persist.persist(module, "ties", example, precision="fp32")

    def test_nan_is_refused_unless_unchecked(self) -> None:
        with pytest.raises(ParityError, match=r"output output\.1: torch itself returned NaN in 8 of 8"):
            npu_persist.persist(NotANumber(), "nan", (X,))
        golden = npu_persist.persist(NotANumber(), "nan", (X,), check=False).manifest.golden
        assert golden is not None
        assert (golden.differences, golden.tolerance) == (None, None)

    def test_a_graph_that_forgot_its_input_is_refused(self) -> None:
        with pytest.raises(ConversionError, match="no output of the graph depends on any input"):
            npu_persist.persist(Leaves(), "leaves", (X,))

    def test_a_branch_on_values_warns_with_module_and_line(self) -> None:
        with pytest.warns(FrozenControlFlowWarning, match=r"inner\.0: __bool__ reads .* x\.sum\(\) > 0"):
            bundle = npu_persist.persist(Branch(), "branch", (X + 1,))
        assert "inner.0" in bundle.manifest.warnings[0]

    def test_a_branch_on_sizes_does_not_warn(self) -> None:
        assert npu_persist.persist(ShapeBranch(), "sizes", (X,)).manifest.warnings == ()

    def test_an_autograd_function_is_traced_through(self) -> None:
        npu_persist.persist(CustomFunction(), "function", (X,))
        np.testing.assert_allclose(npu_persist.load("function", device="CPU")(X), X * 2)

    def test_a_custom_operation_is_named_with_its_module(self) -> None:
        @torch.library.custom_op("npu_persist_tests::triple", mutates_args=())
        def triple(x: torch.Tensor) -> torch.Tensor:
            return x * 3

        @triple.register_fake
        def _(x: torch.Tensor) -> torch.Tensor:
            return torch.empty_like(x)

        class Triple(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                result: torch.Tensor = triple(x)
                return result

        with pytest.raises(ConversionError, match=r"npu_persist_tests::triple in 1") as caught:
            npu_persist.persist(torch.nn.Sequential(torch.nn.ReLU(), Triple()), "custom", (X,))
        assert caught.value.module_path == "1"
        assert caught.value.operation == "npu_persist_tests::triple"


class TestBundle:
    def test_two_persists_of_one_model_have_one_digest_and_share_their_files(self) -> None:
        module = Nested()
        args, kwargs = module.example()
        first = npu_persist.persist(module, "nested", args, kwargs)
        npu_persist.persist(Affine(), "between", (X,))
        second = npu_persist.persist(module, "nested", args, kwargs, force=True)
        assert (first.version, second.version) == (1, 2)
        assert first.digest == second.digest
        assert (first.path / "weights.safetensors").samefile(second.path / "weights.safetensors")

    def test_two_processes_give_one_digest(self, tmp_path: Path) -> None:
        code = (
            "import torch, npu_persist; from tests.support.modules import Nested; torch.manual_seed(0); m = Nested(); "
            "args, kwargs = m.example(); "
            "exec({}); print(npu_persist.persist(m, 'n', args, kwargs, store={!r}).digest)"
        )
        # The second process has converted another model before, so OpenVINO's counters stand elsewhere.
        other = "npu_persist.persist(torch.nn.Linear(3, 3), 'other', (torch.ones(1, 3),), store={!r})"
        digests = [
            run_python("-c", code.format(repr(extra), str(tmp_path / name)), cwd=ROOT).stdout.strip()
            for name, extra in (("a", "pass"), ("b", other.format(str(tmp_path / "b"))))
        ]
        assert digests[0].startswith("blake3:")
        assert digests[0] == digests[1]

    def test_stock_tools_open_the_folder(self) -> None:
        module = Affine()
        bundle = npu_persist.persist(module, "stock", (X,))
        core = ov.Core()
        for weights in (bundle.path / "weights.safetensors", None):
            model = core.read_model(bundle.path / "model.xml", *([weights] if weights else []))
            with torch.no_grad():
                np.testing.assert_allclose(core.compile_model(model, "CPU")(X.numpy())[0], module(X), atol=1e-2)
            assert model.inputs[0].get_any_name() == "x"

    def test_stock_tools_find_inputs_and_outputs_by_name(self) -> None:
        class Same(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
                y = x + 1
                return {"y": y, "input": x, "again": y * 1}

        bundle = npu_persist.persist(Same(), "same", (X,))
        compiled = ov.Core().compile_model(bundle.path / "model.xml", "CPU")
        found = compiled({"x": X.numpy()})
        assert {name for port in compiled.outputs for name in port.names} >= {"y", "input", "again"}
        np.testing.assert_array_equal(found["y"], X + 1)
        np.testing.assert_array_equal(found["input"], X)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
    def test_everyone_may_read_what_was_published(self) -> None:
        bundle = npu_persist.persist(Affine(), "affine", (X,))
        modes = {path.name: path.stat().st_mode & 0o777 for path in bundle.path.iterdir()}
        assert set(modes.values()) == {0o444}, modes

    def test_tied_and_equal_tensors_are_stored_once(self) -> None:
        module = Nested()
        args, kwargs = module.example()
        bundle = npu_persist.persist(module, "nested", args, kwargs)
        with safe_open(bundle.path / "weights.safetensors", "pt") as file:
            assert file.metadata()["tied.weight"] == "layer.weight"
            assert "tied.weight" not in file.keys()  # noqa: SIM118 - safe_open is no dict

    def test_convolution_bias_keeps_its_name_and_shape(self) -> None:
        module = torch.nn.Conv2d(3, 8, 3)
        bundle = npu_persist.persist(module, "convolution", (torch.randn(1, 3, 8, 8),))
        stored = load_file(bundle.path / "weights.safetensors")
        assert torch.equal(stored["bias"], module.bias.detach())  # type: ignore[union-attr]
        assert stored["weight"].shape == (8, 3, 3, 3)

    def test_alias_metadata_and_producer(self) -> None:
        bundle = npu_persist.persist(Affine(), "affine", (X,), alias="prod", metadata={"run": [1, 2]})
        assert npu_persist.open("affine:prod").digest == bundle.digest
        assert list(bundle.manifest.metadata["run"]) == [1, 2]
        assert bundle.manifest.producer.torch == torch.__version__
        assert bundle.manifest.producer.openvino == ov.get_version()

    def test_default_arguments_are_in_the_signature(self) -> None:
        signature = npu_persist.persist(Affine(), "affine", (X,)).graph().signature
        assert [parameter.name for parameter in signature.parameters] == ["x", "y", "scale"]
        assert signature.parameters[1].default == ValueNode(None)


class TestProgress:
    def test_every_stage_begins_and_ends_in_order(self) -> None:
        events: list[Progress] = []
        npu_persist.persist(Affine(), "affine", (X,), progress=events.append)
        assert [event.stage for event in events if event.is_finished] == [
            "example", "trace", "convert", "write", "check", "publish",
        ]  # fmt: skip
        assert any(event.fraction == 1.0 for event in events if event.stage == "write")

    def test_an_interrupt_in_any_stage_leaves_the_store_as_it_was(self, store_home: Path) -> None:
        npu_persist.persist(Affine(), "affine", (X,))
        before = files_below(store_home)
        for stage in ("example", "trace", "convert", "write", "check", "publish"):

            def interrupt(event: Progress, stage: str = stage) -> None:
                if event.stage == stage:
                    raise KeyboardInterrupt

            module = Affine()
            with pytest.raises(KeyboardInterrupt):
                npu_persist.persist(module, "affine", (X,), progress=interrupt)
            assert module.training
            assert files_below(store_home) == before, stage

    @pytest.mark.parametrize("stage", ["trace", "convert", "write", "check", "publish"])
    def test_a_kill_in_any_stage_leaves_only_what_prune_removes(self, store_home: Path, stage: str) -> None:
        code = (
            "import sys, time, torch, npu_persist\n"
            "from tests.support.modules import Affine\n"
            "def stop(event):\n"
            f"    if event.stage == {stage!r}:\n"
            "        print('there', flush=True)\n"
            "        time.sleep(60)\n"
            "npu_persist.persist(Affine(), 'affine', (torch.ones(1, 4),), progress=stop)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "there"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert npu_persist.list() == []
        removed = npu_persist.prune()
        assert removed
        assert files_below(store_home / "staging") == []
        assert npu_persist.persist(Affine(), "affine", (X,)).version == 1


class TestDeploy:
    def test_the_bundle_runs_where_torch_cannot_be_imported(self, tmp_path: Path, store_home: Path) -> None:
        module = Affine()
        npu_persist.persist(module, "affine", (X,))
        poisoned = poison(tmp_path / "poison", "torch", "safetensors", "transformers")
        code = (
            "import numpy, sys, npu_persist; model = npu_persist.load('affine', device='CPU'); "
            "print(model(numpy.ones((2, 4), numpy.float32)).sum()); assert 'torch' not in sys.modules"
        )
        done = run_python("-c", code, path=poisoned, env={"NPU_PERSIST_HOME": str(store_home)})
        assert done.returncode == 0, done.stderr
        with torch.no_grad():
            assert float(done.stdout) == pytest.approx(float(module(torch.ones(2, 4)).sum()), abs=1e-2)


def test_a_store_object_and_a_path_name_the_same_store(tmp_path: Path) -> None:
    npu_persist.persist(Affine(), "affine", (X,), store=tmp_path)
    assert npu_persist.load("affine", device="CPU", store=Store(tmp_path)).bundle.version == 1
    assert time.time() - npu_persist.open("affine", store=tmp_path).created.timestamp() < 3600


class TestState:
    def test_an_output_that_depends_on_written_state_warns(self) -> None:
        class Average(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mean: torch.Tensor
                self.register_buffer("mean", torch.zeros(4))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.mean.mul_(0.5).add_(x[0])
                return self.mean + 0

        module = Average()
        with pytest.warns(StateWarning, match="depends on what the forward writes into mean"):
            npu_persist.persist(module, "average", (X,))
        assert torch.equal(module.mean, torch.zeros(4))

    def test_a_branch_on_the_count_of_nonzeros_warns(self) -> None:
        class Count(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * 2 if (x != 0).nonzero().shape[0] > 3 else x * 0

        with pytest.warns(FrozenControlFlowWarning, match="__bool__"):
            npu_persist.persist(Count(), "count", (X + 5,))
