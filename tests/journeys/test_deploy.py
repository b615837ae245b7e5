"""The deploy side's journey: bundles that another process persisted, loaded and called where there is no torch.

`.ci/run` sets PERSISTED_STORE to what `tests.support.persisted` made where torch is installed, and runs these in one
without. Where torch is installed they make the bundles themselves, in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import npu_persist
from npu_persist.bundle.graph_records import TensorNode
from npu_persist.bundle.signature import ModelOutput, rebuild
from npu_persist.bundle.weights import read_header
from npu_persist.cli.main import main
from tests.support.processes import poison, run_python

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = np.ndarray[Any, Any]

VARIABLE = "PERSISTED_STORE"
NAMES = (
    "bert",
    "clip",
    "dynamic",
    "gpt2",
    "resnet",
    "structured",
    "t5",
    "unet_condition",
    "vit",
    "whisper_decoder",
    "whisper_encoder",
)


@pytest.fixture(scope="session")
def persisted(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the bundles of `tests.support.persisted`."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    if pytestconfig.getoption("--deploy") or importlib.util.find_spec("torch") is None:
        pytest.skip(f"{VARIABLE} is not set, and without torch no bundle can be made; .ci/run sets it")
    store = tmp_path_factory.mktemp("persisted")
    done = run_python("-m", "tests.support.persisted", str(store))
    assert done.returncode == 0, done.stderr
    return store


def read_golden(bundle: npu_persist.Bundle, kind: str) -> list[Array]:
    """Read the golden sample's inputs or outputs, in the order of the graph's."""
    graph, golden = bundle.graph(), bundle.manifest.golden
    assert golden is not None
    path = bundle.file(golden.path)
    tensors = read_header(path).tensors
    arrays = []
    for port in graph.inputs if kind == "input" else graph.outputs:
        tensor = tensors[f"{kind}.{port.name}"]
        data = path.read_bytes()[tensor.start : tensor.start + tensor.size]
        arrays.append(np.frombuffer(data, port.dtype).reshape(tensor.shape))
    return arrays


def golden_call(bundle: npu_persist.Bundle) -> tuple[list[Any], dict[str, Any]]:
    """Return the call that the bundle was persisted with, as the module's user would write it."""
    signature, tensors = bundle.graph().signature, read_golden(bundle, "input")
    values = {name: rebuild(tree, tensors) for name, tree in signature.arguments}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    is_positional = True
    for parameter in signature.parameters:
        if parameter.name not in values:
            is_positional = False
        elif parameter.kind == "var_positional":
            args.extend(values[parameter.name])
        elif parameter.kind == "var_keyword":
            kwargs.update(values[parameter.name])
        elif is_positional and parameter.kind != "keyword_only":
            args.append(values[parameter.name])
        else:
            kwargs[parameter.name] = values[parameter.name]
    return args, kwargs


def leaves(value: Any) -> Iterator[Any]:
    """Everything in a nested result that is no container, with the containers' types between."""
    if isinstance(value, ModelOutput):
        for name in value._fields:
            yield name
            yield from leaves(getattr(value, name))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        yield type(value).__name__
        for item in value:
            yield from leaves(item)
    else:
        yield value


def assert_close(bundle: npu_persist.Bundle, found: Array, wanted: Array) -> None:
    golden = bundle.manifest.golden
    assert golden is not None
    assert golden.tolerance is not None
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    scale = float(np.abs(wanted.astype(np.float64)).max(initial=0.0)) or 1.0
    difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0)
    assert difference <= golden.tolerance.max_relative * scale


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_answers_as_torch_did(name: str, persisted: Path) -> None:
    model = npu_persist.load(name, "CPU", config={"INFERENCE_PRECISION_HINT": "f32"}, store=persisted)
    args, kwargs = golden_call(model.bundle)
    result = model(*args, **kwargs)
    wanted = rebuild(model.signature.result, read_golden(model.bundle, "output"))
    pairs = list(zip(leaves(result), leaves(wanted), strict=True))
    assert any(isinstance(found, np.ndarray) for found, _ in pairs)
    for found, expected in pairs:
        if isinstance(expected, np.ndarray):
            assert_close(model.bundle, found, expected)
        else:
            assert type(found) is type(expected)
            assert found == expected


def test_the_structure_comes_back_as_a_record(persisted: Path) -> None:
    model = npu_persist.load("structured", "CPU", store=persisted)
    args, kwargs = golden_call(model.bundle)
    found = model(*args, **kwargs)
    assert found.scores is found["scores"]
    assert found.nothing is None
    assert found.parts["number"] == 7
    assert found.parts["pair"].second.shape == (2, 4)
    assert not isinstance(model.signature.result, TensorNode)


def test_a_dynamic_axis_takes_every_size_in_its_bounds(persisted: Path) -> None:
    model = npu_persist.load("dynamic", "CPU", store=persisted)
    for batch in (1, 2, 8):
        assert model(np.ones((batch, 4), np.float32)).shape == (batch, 2)
    with pytest.raises(npu_persist.errors.InputError, match=r"axis 0.*9"):
        model(np.ones((9, 4), np.float32))


def test_the_whole_store_verifies_and_lists(persisted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--store", str(persisted), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert {result["reference"].split(":")[0] for result in results} == set(NAMES)
    assert all(result["ok"] for result in results)


def test_loading_and_running_never_imports_torch(persisted: Path, tmp_path: Path) -> None:
    poisoned = poison(tmp_path, "torch", "safetensors", "transformers", "diffusers")
    command = ("-m", "npu_persist", "run", "unet_condition", "--device", "CPU", "--store", str(persisted), "--json")
    done = run_python(*command, path=poisoned)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["outputs"]


def test_a_bundle_is_a_folder_that_can_be_carried_away(persisted: Path, tmp_path: Path) -> None:
    bundle = npu_persist.open("resnet", store=persisted)
    carried = tmp_path / "carried"
    shutil.copytree(bundle.path, carried)
    model = npu_persist.load(carried, "CPU")
    assert model.bundle.digest == bundle.digest
    args, kwargs = golden_call(bundle)
    assert list(leaves(model(*args, **kwargs)))


def test_stock_openvino_opens_the_folder_as_it_is(persisted: Path) -> None:
    import openvino

    bundle = npu_persist.open("vit", store=persisted)
    # No weights path: OpenVINO looks for model.bin beside model.xml.
    model = openvino.Core().read_model(bundle.path / "model.xml")
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(read_golden(bundle, "input"))
    for index, wanted in enumerate(read_golden(bundle, "output")):
        assert_close(bundle, found[index], wanted)
