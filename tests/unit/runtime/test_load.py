from __future__ import annotations

import gc
import os
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import npu_persist
from npu_persist import load
from npu_persist.bundle.graph_records import Dimension, Parameter, Port, Signature, TensorNode, ValueNode
from npu_persist.bundle.manifest import Manifest
from npu_persist.compilation.local import check_ports
from npu_persist.device import core
from npu_persist.errors import (
    BundleNotFoundError,
    CompilationError,
    DeviceNotFoundError,
    FileIntegrityError,
    GraphIntegrityError,
    IncompatibleError,
    IntegrityError,
    ManifestError,
    NpuPersistError,
    OpenVINOVersionError,
    PropertyError,
    UsageError,
)
from npu_persist.store import Store
from tests.support.graphs import (
    BATCH,
    WEIGHTS,
    XML,
    constant,
    make_model,
    parameter,
    publish_affine,
    publish_dynamic,
    write_graph,
    write_manifest,
)
from tests.support.processes import poison, run_python

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle

GRID = np.arange(6, dtype=np.float32).reshape(2, 3)
AFFINE_OF_GRID = GRID * [1, 2, 3] + 0.5
DATA_START = 4096


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with affine:1, affine:2 and affine:3 (alias prod is 2), and dynamic:1."""
    found = Store(tmp_path_factory.mktemp("store"))
    for version in ("2026.4.1", "2026.4.0", "2026.3.0"):
        publish_affine(found, openvino=version)
    found.alias("affine:2", "prod")
    publish_dynamic(found)
    return found


@pytest.fixture
def bundle(store: Store, tmp_path: Path) -> Path:
    """A directory with a copy of affine that may be spoiled."""
    return copy_of(store, "affine", tmp_path)


def copy_of(store: Store, reference: str, tmp_path: Path) -> Path:
    directory = tmp_path / "copy"
    shutil.copytree(store.resolve(reference).path, directory, copy_function=shutil.copyfile)
    (directory / "model.bin").unlink()
    return directory


def rewrite(directory: Path, **changes: Any) -> None:
    """Write the manifest anew, for the files as they are now: changes to the graph, or `weights=`."""
    manifest = Manifest.from_json((directory / "manifest.json").read_bytes())
    weights = replace(manifest.weights, **changes.pop("weights", {}))
    write_manifest(directory, replace(manifest.graphs[0], **changes), weights)


def edit_graph(directory: Path, *changes: tuple[str, str]) -> None:
    """Replace texts in the graph's xml, so that its digest is right again."""
    text = (directory / XML).read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (directory / XML).write_text(text, encoding="utf-8")
    rewrite(directory)


class TestReferences:
    def test_every_kind(self, store: Store) -> None:
        digest = store.resolve("affine:1").digest
        path = store.resolve("affine:1").path
        references: list[tuple[str | Path, int | None]] = [
            ("affine", 3),
            ("affine:1", 1),
            ("affine:prod", 2),
            (f"affine@{digest}", 1),
            (f"affine@{digest.removeprefix('blake3:')[:12]}", 1),
            (path, None),
            (f"{path}{os.sep}", None),
        ]
        for reference, version in references:
            model = load(reference, "CPU", store=store)
            assert model.bundle.version == version
            assert np.array_equal(model(GRID), AFFINE_OF_GRID)

    def test_a_store_is_given_as_itself_or_its_directory_or_found(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for given_store in (store, store.home, str(store.home)):
            assert load("affine", "CPU", store=given_store).bundle.version == 3
        monkeypatch.setenv("NPU_PERSIST_HOME", str(store.home))
        assert load("affine", "CPU").bundle.version == 3

    @pytest.mark.parametrize("reference", ["nothing", "affine:9", "affine:stage", "affine@0000", "./nowhere"])
    def test_that_lead_nowhere(self, store: Store, reference: str) -> None:
        with pytest.raises(BundleNotFoundError):
            load(reference, "CPU", store=store)

    def test_a_path_object(self, bundle: Path) -> None:
        assert np.array_equal(load(bundle, "CPU")(GRID), AFFINE_OF_GRID)


class TestTampering:
    @pytest.mark.parametrize("name", [XML, WEIGHTS])
    def test_a_changed_bit_anywhere_is_seen(self, bundle: Path, name: str) -> None:
        content = bytearray((bundle / name).read_bytes())
        for position in (0, 11, len(content) // 2, len(content) - 1):
            changed = bytearray(content)
            changed[position] ^= 1
            (bundle / name).write_bytes(changed)
            with pytest.raises(FileIntegrityError, match="expected blake3:") as caught:
                load(bundle, "CPU")
            assert caught.value.path == str(bundle / name)
            del caught
            gc.collect()  # on Windows, what the error's frames map cannot be written to
        (bundle / name).write_bytes(content)
        assert np.array_equal(load(bundle, "CPU")(GRID), AFFINE_OF_GRID)

    @pytest.mark.parametrize("name", [XML, WEIGHTS])
    @pytest.mark.parametrize("length", [0, 1, -1])
    def test_a_truncated_file_is_seen(self, bundle: Path, name: str, length: int) -> None:
        path = bundle / name
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(FileIntegrityError, match=r"expected \d+ bytes; got \d+ bytes"):
            load(bundle, "CPU")

    @pytest.mark.parametrize("name", [XML, WEIGHTS, "manifest.json"])
    def test_a_link_in_place_of_a_file_is_refused(self, bundle: Path, name: str) -> None:
        moved = bundle.with_name("moved")
        (bundle / name).rename(moved)
        (bundle / name).symlink_to(moved)
        with pytest.raises(FileIntegrityError, match="expected a regular file; got a symbolic link"):
            load(bundle, "CPU")

    @pytest.mark.parametrize("name", [XML, WEIGHTS])
    def test_a_missing_file_is_seen(self, bundle: Path, name: str) -> None:
        (bundle / name).unlink()
        with pytest.raises(FileIntegrityError, match="expected a regular file; got nothing"):
            load(bundle, "CPU")

    def test_other_weights_beside_the_graph_are_not_read(self, bundle: Path) -> None:
        (bundle / "model.bin").write_bytes((bundle / WEIGHTS).read_bytes()[:-1] + b"\0")
        assert np.array_equal(load(bundle, "CPU")(GRID), AFFINE_OF_GRID)
        with pytest.raises(FileIntegrityError, match=r"model\.bin"):
            npu_persist.verify(bundle)

    def test_a_broken_manifest_is_refused(self, bundle: Path) -> None:
        (bundle / "manifest.json").write_bytes(b"{}")
        with pytest.raises(ManifestError):
            load(bundle, "CPU")


class TestHostileGraphs:
    """What the digests vouch for may still have been written by a stranger."""

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ('offset="4096"', 'offset="0"', "got 12 bytes at 0"),
            ('offset="4096"', 'offset="999999"', "got 12 bytes at 999999"),
            ('size="12"', 'size="99999999"', "99999999 bytes at 4096"),
            ('shape="1, 3"', 'shape="1, 30000"', "as large as its shape"),
            ('shape="1, 3"', 'shape="4611686018427387904, 4"', "a value of shape"),
            ('offset="4096"', 'offset="4096" value="x"', "the attributes"),
            ("<net ", '<!DOCTYPE net [<!ENTITY a "0">]><net ', "without a document type"),
            ('offset="4096"', 'offset="&a;"', "well-formed XML"),
            ("</net>", "", "well-formed XML"),
            ("<rt_info>", "<rt_info>" + "<a>" * 200 + "</a>" * 200, "elements of an IR"),
        ],
    )
    def test_a_graph_beyond_its_weights_is_refused(self, bundle: Path, old: str, new: str, reason: str) -> None:
        edit_graph(bundle, (old, new))
        with pytest.raises(GraphIntegrityError, match=reason) as caught:
            load(bundle, "CPU")
        assert caught.value.exit_code == IntegrityError.exit_code

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('type="Multiply"', 'type="Divination"'),
            ('version="opset1"', 'version="opset999"'),
            ('to-port="1"', 'to-port="7"'),
            ('from-layer="0"', 'from-layer="77"'),
            ('version="11"', 'version="9999"'),
        ],
    )
    def test_a_graph_that_openvino_cannot_read_is_an_error_of_ours(self, bundle: Path, old: str, new: str) -> None:
        edit_graph(bundle, (old, new))
        with pytest.raises((CompilationError, GraphIntegrityError), match=r"model\.xml") as caught:
            load(bundle, "CPU")
        assert str(bundle) in str(caught.value)

    @pytest.mark.parametrize(
        "header",
        [b"", b"{}", b"\xff" * 3000, b"[" * 4000, b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 15]}}'],
    )
    def test_a_broken_weights_file_is_refused(self, bundle: Path, header: bytes) -> None:
        data = (bundle / WEIGHTS).read_bytes()[DATA_START:]
        text = header.ljust(DATA_START - 8) if header else b""
        (bundle / WEIGHTS).write_bytes((DATA_START - 8).to_bytes(8, "little") + text.ljust(DATA_START - 8) + data)
        rewrite(bundle)
        with pytest.raises(GraphIntegrityError, match=r"weights\.safetensors"):
            load(bundle, "CPU")

    def test_weights_that_are_not_as_described_are_refused(self, bundle: Path) -> None:
        rewrite(bundle, weights={"tensors": 7})
        with pytest.raises(GraphIntegrityError, match=r"has 7 tensors from byte 4096 on; it has 2 from byte 4096 on"):
            load(bundle, "CPU")

    def test_a_signature_that_cannot_be_is_refused(self, bundle: Path) -> None:
        signature = Signature((Parameter("a b", "keyword_only", None),), (("a b", TensorNode(0)),), TensorNode(0))
        rewrite(bundle, signature=signature)
        with pytest.raises(ManifestError, match="impossible for a module"):
            load(bundle, "CPU")


def port(dtype: Any = "float32", shape: tuple[int | Dimension, ...] = (2, 3), name: str = "x") -> Port:
    return Port(name, dtype, shape)


class TestDisagreement:
    """A manifest that promises another graph than the one it names."""

    @pytest.mark.parametrize(
        ("inputs", "outputs", "reason"),
        [
            ((port("float16"),), None, r"input x is float16\[2, 3\]; model\.xml has f32\[2,3\]"),
            ((port("int32"),), None, r"input x is int32\[2, 3\]; model\.xml has f32"),
            ((port(shape=(2, 4)),), None, r"input x is float32\[2, 4\]; model\.xml has f32\[2,3\]"),
            ((port(shape=(3, 2)),), None, r"input x is float32\[3, 2\]"),
            ((port(shape=(2,)),), None, r"input x is float32\[2\]"),
            ((port(shape=(2, 3, 1)),), None, r"input x is float32\[2, 3, 1\]"),
            ((port(shape=(BATCH, 3)),), None, r"input x is float32\[batch:1\.\.8, 3\]; model\.xml has f32\[2,3\]"),
            ((port(), port(name="y")), None, r"the manifest says 2 inputs; model\.xml has 1"),
            (None, (port("float64", name="y"),), r"output y is float64\[2, 3\]; model\.xml has f32\[2,3\]"),
            (None, (port(shape=(2, 4), name="y"),), r"output y is float32\[2, 4\]; model\.xml has f32\[2,3\]"),
            (None, (port(shape=(6,), name="y"),), r"output y is float32\[6\]"),
            (None, (port(shape=(Dimension("n", 3, 9), 3), name="y"),), r"output y is float32\[n:3\.\.9, 3\]"),
            (None, (port(name="y"), port(name="z")), r"the manifest says 2 outputs; model\.xml has 1"),
        ],
    )
    def test_is_refused(self, bundle: Path, inputs: Any, outputs: Any, reason: str) -> None:
        changes: dict[str, Any] = {}
        if inputs is not None:
            names = [given_port.name for given_port in inputs]
            changes["inputs"] = inputs
            changes["signature"] = Signature(
                tuple(Parameter(name, "keyword_only", None) for name in names),
                tuple((name, TensorNode(index)) for index, name in enumerate(names)),
                ValueNode(None),
            )
        if outputs is not None:
            changes["outputs"] = outputs
        rewrite(bundle, **changes)
        with pytest.raises(GraphIntegrityError, match=reason):
            load(bundle, "CPU")

    @pytest.mark.parametrize(
        "shape",
        [
            (2, 4),
            (Dimension("batch", 1, 9), 4),
            (Dimension("batch", 2, 8), 4),
            (Dimension("batch", 1, None), 4),
            (BATCH, Dimension(None, 4, 5)),
        ],
    )
    def test_other_bounds_of_an_input_are_refused(
        self, store: Store, tmp_path: Path, shape: tuple[int | Dimension, ...]
    ) -> None:
        directory = copy_of(store, "dynamic", tmp_path)
        graph = store.resolve("dynamic").graph()
        rewrite(directory, inputs=(replace(graph.inputs[0], shape=shape), *graph.inputs[1:]))
        with pytest.raises(GraphIntegrityError, match=r"input x is .*has f32\[1\.\.8,4\]"):
            load(directory, "CPU")

    def test_an_output_may_be_known_less_exactly(self, store: Store, tmp_path: Path) -> None:
        directory = copy_of(store, "dynamic", tmp_path)
        graph = store.resolve("dynamic").graph()
        wide, narrow = (Dimension(None, 0, None), Dimension(None, 4, 4)), (Dimension(None, 2, 3), 7)
        outputs = (replace(graph.outputs[0], shape=wide), replace(graph.outputs[1], shape=narrow), graph.outputs[2])
        rewrite(directory, outputs=outputs)
        load(directory, "CPU")

    @pytest.mark.parametrize("kind", ["bf16", "i4", "u4", "u1", "nf4", "f8e4m3", "string", "dynamic"])
    def test_a_type_that_numpy_lacks_is_refused(self, tmp_path: Path, kind: str) -> None:
        node = ops.parameter([2, 3], getattr(ov.Type, kind), name="x")
        for dtype in ("float16", "int8", "uint8", "float32"):
            directory = tmp_path / dtype
            directory.mkdir()
            ports = [port(dtype)]
            write_graph(directory, make_model([node], [("y", node)]), ports, ports)
            with pytest.raises((GraphIntegrityError, CompilationError), match=r"model\.xml"):
                load(directory, "CPU")

    def test_an_input_of_any_rank_is_refused(self, tmp_path: Path) -> None:
        node = ops.parameter(ov.PartialShape.dynamic(), ov.Type.f32, name="x")
        ports = [port(shape=(Dimension(None, 0, None),))]
        write_graph(tmp_path, make_model([node], [("y", ops.relu(node))]), ports, ports)
        with pytest.raises(GraphIntegrityError, match=r"input x is float32\[\?:0\.\.\]; model\.xml has f32\[\.\.\.\]"):
            load(tmp_path, "CPU")

    def test_an_output_of_any_rank_is_no_disagreement(self, store: Store) -> None:
        x, ranks = parameter(port()), parameter(port("int64", (Dimension(None, 0, 4),), "shape"))
        unknown = ov.Model([ops.result(ops.reshape(x, ranks, special_zero=False))], [x, ranks])
        graph = replace(
            store.resolve("affine").graph(),
            inputs=(port(), port("int64", (Dimension(None, 0, 4),), "shape")),
            outputs=(port(shape=(Dimension(None, 0, None),) * 2, name="y"),),
        )
        assert unknown.outputs[0].get_partial_shape().rank.is_dynamic
        check_ports("affine", graph, unknown)


class TestVersions:
    def test_an_openvino_that_is_too_old_is_refused(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(core, "get_version", lambda: "2026.3.9-1-abc")
        with pytest.raises(OpenVINOVersionError, match=r"affine:1 was written by OpenVINO 2026\.4\.1") as caught:
            load("affine:1", "CPU", store=store)
        assert isinstance(caught.value, IncompatibleError)
        assert (caught.value.found, caught.value.required) == ("2026.3.9-1-abc", "2026.4.1")
        assert load("affine:3", "CPU", store=store).bundle.version == 3

    def test_it_is_said_rather_than_what_else_is_wrong(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        directory = copy_of(store, "affine:1", tmp_path)
        (directory / XML).write_bytes(b"damaged")
        monkeypatch.setattr(core, "get_version", lambda: "2025.1.0")
        with pytest.raises(OpenVINOVersionError):
            load(directory, "CPU")


def executes_on(model: npu_persist.Model) -> str:
    return str(model.compiled.get_property("EXECUTION_DEVICES"))


class TestDevices:
    @pytest.mark.parametrize(
        "device", ["CPU", "AUTO", "AUTO:CPU", "AUTO:NPU,CPU", "HETERO:CPU", "MULTI:CPU", "BATCH:CPU"]
    )
    @pytest.mark.filterwarnings("ignore::npu_persist.errors.DeviceWarning")
    def test_that_have_a_cpu_run_on_it(self, store: Store, device: str) -> None:
        model = load("affine", device, store=store)
        assert "CPU" in executes_on(model) or "NPU" in executes_on(model)
        assert np.array_equal(model(GRID), AFFINE_OF_GRID)
        assert np.array_equal(model(GRID + 1), (GRID + 1) * [1, 2, 3] + 0.5)

    @pytest.mark.parametrize(
        ("device", "missing"),
        [
            ("GPU.7", "no GPU.7 on this machine"),
            ("CPU.3", "no CPU.3 on this machine"),
            ("cpu", "no device called 'cpu'; did you mean 'CPU'?"),
            ("TPU", "no device called 'TPU'"),
            ("AUTO:TPU", "no device called 'TPU'"),
            ("HETERO:GPU.7,CPU", "no GPU.7 on this machine"),
            ("BATCH:TPU(4)", "no device called 'TPU'"),
            ("", "no device called ''"),
            ("CPU\0", "CPU"),
        ],
    )
    def test_that_are_not_there(self, store: Store, device: str, missing: str) -> None:
        with pytest.raises(DeviceNotFoundError) as caught:
            load("affine", device, store=store)
        message = str(caught.value)
        assert missing in message
        assert "CPU" in message
        assert isinstance(pickle.loads(pickle.dumps(caught.value)), FileNotFoundError)  # noqa: S301 - our own bytes

    def test_npu_never_runs_on_the_cpu(self, store: Store) -> None:
        if any(name.startswith("NPU") for name in core.get_core().available_devices):
            pytest.skip("this machine has an NPU")
        with pytest.raises(DeviceNotFoundError, match=r"device 'NPU': OpenVINO has no NPU on this machine"):
            load("affine", "NPU", store=store)

    def test_the_npus_plugin_runs_on_the_cpu_when_told_to(self, store: Store) -> None:
        model = load("affine", "NPU", config={"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU"}, store=store)
        assert np.array_equal(model(GRID), AFFINE_OF_GRID)
        assert np.array_equal(model(GRID + 1), (GRID + 1) * [1, 2, 3] + 0.5)

    @pytest.mark.parametrize("device", [None, 3, ["CPU"]])
    def test_must_be_text(self, store: Store, device: Any) -> None:
        with pytest.raises(UsageError, match="device: expected OpenVINO's device string"):
            load("affine", device, store=store)


class TestConfig:
    def test_reaches_the_device(self, store: Store) -> None:
        model = load("affine", "CPU", config={"INFERENCE_NUM_THREADS": 1, "PERF_COUNT": True}, store=store)
        assert model.compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert model.compiled.get_property("PERF_COUNT") in {True, "YES"}

    @pytest.mark.parametrize("device", ["CPU", "AUTO", "AUTO:CPU", "AUTO:NPU,CPU", "HETERO:CPU", "MULTI:CPU"])
    def test_a_misspelt_name_is_refused_by_every_device(self, store: Store, device: str) -> None:
        with pytest.raises(PropertyError, match="PERFORMANCE_HNT"):
            load("affine", device, config={"PERFORMANCE_HNT": "LATENCY"}, store=store)

    def test_the_right_spelling_is_suggested(self, store: Store) -> None:
        with pytest.raises(PropertyError, match=r"AUTO has no property 'NUM_STREAM'; did you mean 'NUM_STREAMS'\?"):
            load("affine", "AUTO", config={"NUM_STREAM": 1}, store=store)

    @pytest.mark.parametrize("device", ["AUTO", "AUTO:CPU"])
    def test_known_and_device_specific_names_pass(self, store: Store, device: str) -> None:
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NPU_COMPILATION_MODE_PARAMS": "optimization-level=2",
            "NUM_STREAMS": 1,
        }
        assert np.array_equal(load("affine", device, config=config, store=store)(GRID), AFFINE_OF_GRID)

    def test_a_value_that_the_device_refuses(self, store: Store) -> None:
        with pytest.raises(PropertyError, match="CPU rejects the value 'FAST' of the property 'PERFORMANCE_HINT'"):
            load("affine", "CPU", config={"PERFORMANCE_HINT": "FAST"}, store=store)

    @pytest.mark.parametrize("config", [{1: 2}, ["PERFORMANCE_HINT"], "LATENCY", 3])
    def test_must_be_properties_by_name(self, store: Store, config: Any) -> None:
        with pytest.raises(UsageError, match="config: expected OpenVINO properties by name"):
            load("affine", "CPU", config=config, store=store)

    @pytest.mark.parametrize("name", ["NUM_STREAMS", "DEVICE_PROPERTIES"])
    def test_that_contains_itself_is_refused(self, store: Store, name: str) -> None:
        config: dict[str, Any] = {}
        config[name] = config
        with pytest.raises(UsageError, match="config: expected values that do not contain themselves"):
            load("affine", "CPU", config=config, store=store)

    @pytest.mark.parametrize("config", [{"NUM_STREAMS": "\ud800"}, {"\ud800": "1"}, {"NUM_STREAMS": {"\ud800": 1}}])
    def test_text_that_is_none_is_refused(self, store: Store, config: Any) -> None:
        with pytest.raises(NpuPersistError):
            load("affine", "CPU", config=config, store=store)

    def test_is_not_changed(self, store: Store) -> None:
        config = {"PERFORMANCE_HINT": "LATENCY"}
        load("affine", "CPU", config=config, store=store)
        assert config == {"PERFORMANCE_HINT": "LATENCY"}


LOAD_AND_CALL = """
import sys
import numpy
import npu_persist
model = npu_persist.load("affine", "CPU", store=sys.argv[1])
print(model(numpy.ones((2, 3), "float32")).tolist())
try:
    model(numpy.ones(3))
except npu_persist.errors.InputError as error:
    print(type(error).__name__)
print(sorted({"torch", "safetensors", "transformers", "npu_persist.progress"} & set(sys.modules)))
"""


class TestWithoutTorch:
    expected = "[[1.5, 2.5, 3.5], [1.5, 2.5, 3.5]]\nInputError\n[]\n"

    def test_torch_and_the_printer_are_not_imported(self, store: Store) -> None:
        done = run_python("-W", "error", "-c", LOAD_AND_CALL, str(store.home))
        assert (done.stdout, done.stderr) == (self.expected, "")

    def test_a_torch_that_must_not_be_imported_is_not(self, store: Store, tmp_path: Path) -> None:
        poisoned = poison(tmp_path, "torch", "safetensors", "transformers")
        done = run_python("-c", "import torch", path=poisoned)
        assert "torch was imported" in done.stderr
        done = run_python("-c", LOAD_AND_CALL, str(store.home), path=poisoned)
        assert (done.stdout, done.stderr) == (self.expected, "")


def fuzzed(bundle: Bundle, directory: Path, name: str, data: st.DataObject) -> None:
    """Write a copy of a bundle with some bytes of a file changed, and its digests right."""
    shutil.copytree(bundle.path, directory, copy_function=shutil.copyfile, dirs_exist_ok=True)
    (directory / "model.bin").unlink()
    content = bytearray((directory / name).read_bytes())
    used = len(content.rstrip()) if name == XML else content.index(b"}}") + 2
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, used - 1))
        content[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(list(b'0129"<>[]{},:-'))))
    (directory / name).write_bytes(content)
    rewrite(directory)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from([XML, WEIGHTS]))
def test_a_bundle_with_changed_bytes_loads_or_is_an_error_of_ours(
    store: Store, tmp_path: Path, data: st.DataObject, name: str
) -> None:
    fuzzed(store.resolve("affine"), tmp_path, name, data)
    try:
        model = load(tmp_path, "CPU")
    except NpuPersistError:
        return
    assert model(GRID).shape == (2, 3)


def test_constants_are_read_from_the_safetensors_file(tmp_path: Path) -> None:
    # Many types and sizes, so that a wrong offset or order gives another answer.
    rng = np.random.default_rng(0)
    values = {
        "float32": rng.standard_normal((3, 5)),
        "float16": rng.standard_normal(7),
        "int64": rng.integers(-9, 9, 4),
        "uint8": rng.integers(0, 255, 5),
        "bool": rng.integers(0, 2, 3),
    }
    x = parameter(port(shape=()))
    outputs, ports = [], []
    for dtype, value in values.items():
        converted = ops.convert(constant(value, dtype), ov.Type.f32)
        outputs.append((dtype, ops.multiply(converted, x)))
        ports.append(port(shape=value.shape, name=dtype))
    write_graph(tmp_path, make_model([x], outputs), [port(shape=())], ports)
    model = load(tmp_path, "CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    for found, (dtype, value) in zip(model(2), values.items(), strict=True):
        assert np.array_equal(found, 2 * value.astype(dtype).astype(np.float32))
