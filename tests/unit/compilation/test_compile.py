"""Compiling ahead of time: what is attached is what load looks for, and nothing starts that is known to fail."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import npu_persist
from npu_persist.artifact.artifact import BLOB_FILE
from npu_persist.artifact.attached import list_attached
from npu_persist.bundle.bundle import Bundle
from npu_persist.errors import (
    BundleNotFoundError,
    CompilationError,
    CompileMemoryError,
    CompileTimeoutError,
    DeviceNotFoundError,
    DynamicShapeError,
    FileIntegrityError,
    NotFoundError,
    PropertyError,
    StoreError,
    TargetError,
    UsageError,
)
from tests.support.graphs import publish_affine, publish_dynamic, publish_power, publish_scaled, publish_text
from tests.support.loads import attempts, is_right, spoil
from tests.support.processes import crash
from tests.support.second_device import SECOND

if TYPE_CHECKING:
    import openvino as ov

    from npu_persist.progress import Progress
    from npu_persist.store import Store

NPUW = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU"}
"""The NPU's plugin without an NPU."""


def inside(bundle: Bundle) -> list[str]:
    compiled = bundle.path / "compiled"
    return sorted(path.name for path in compiled.glob("[!.]*"))


def test_load_takes_what_was_compiled_for_this_machine(store: Store) -> None:
    bundle = publish_affine(store)
    (result,) = npu_persist.compile("affine", "CPU", store=store)
    artifact = result.artifact
    assert artifact is not None
    assert result.error is None
    assert result.path == bundle.path / "compiled" / "cpu"
    assert (result.label, result.target, result.shapes) == ("affine:1 for CPU", "CPU", None)
    assert (artifact.target, artifact.device, artifact.toolchain) == ("CPU", "CPU", "plugin")
    assert artifact.inputs == bundle.graph().inputs
    assert result.peak_memory is None or result.peak_memory == artifact.peak_memory
    assert result.seconds >= artifact.seconds > 0
    model = npu_persist.load("affine", "CPU", store=store)
    assert attempts(model) == [("attached", "CPU", True)]
    assert model.report.key == artifact.key
    assert is_right(model)
    assert not (store.home / "compile-cache").exists()
    assert store.resolve("affine").digest == bundle.digest
    store.verify()


def test_properties_are_part_of_what_is_looked_for(store: Store) -> None:
    bundle = publish_affine(store)
    config = {"NUM_STREAMS": 2, "PERFORMANCE_HINT": "THROUGHPUT"}
    npu_persist.compile("affine", "CPU", config=config, store=store)
    npu_persist.compile("affine", "cpu", store=store)
    assert len(inside(bundle)) == 2
    for given in (config, None):
        model = npu_persist.load("affine", "CPU", config=given, store=store)
        assert attempts(model)[-1] == ("attached", "CPU", True)
        assert is_right(model)


def test_another_devices_plugin_is_a_target_too(store: Store, second_device: ov.Core, tmp_path: Path) -> None:
    from tests.support.processes import run_python
    from tests.support.second_device import on_path

    bundle = publish_affine(store)
    code = f"import npu_persist; print(npu_persist.compile('affine', ['{SECOND}'], store={str(store.home)!r})[0].path)"
    done = run_python("-c", code, path=on_path(tmp_path / "second"))
    assert done.stdout.strip() == str(bundle.path / "compiled" / "npu-cpu"), done.stderr
    model = npu_persist.load("affine", SECOND, store=store)
    assert attempts(model) == [("attached", SECOND, True)]
    assert is_right(model)
    assert second_device.available_devices


def test_the_npus_own_plugin_compiles_for_this_machine(store: Store) -> None:
    publish_affine(store)
    (result,) = npu_persist.compile("affine", "NPU", config=NPUW, store=store)
    assert result.artifact is not None
    assert result.artifact.target == "NPU"
    model = npu_persist.load("affine", "NPU", config=NPUW, store=store)
    assert attempts(model) == [("attached", "NPU", True)]
    assert is_right(model)


def test_weights_are_inside_where_that_is_asked_for(store: Store) -> None:
    bundle = publish_scaled(store, 64)
    sizes = {}
    for weightless in (True, False, None):
        (result,) = npu_persist.compile("scaled", "CPU", weightless=weightless, store=store)
        assert result.artifact is not None
        sizes[weightless] = result.artifact.size
        assert result.artifact.weightless is (weightless is not False)
        model = npu_persist.load("scaled", "CPU", store=store)
        assert attempts(model) == [("attached", "CPU", True)]
        assert np.array_equal(model(np.ones((1, 64), np.float32)), np.full((1, 64), 64, np.float32))
    assert sizes[None] == sizes[True] <= sizes[False] - bundle.manifest.weights.data_size // 2


def test_each_bucket_has_an_artifact(store: Store) -> None:
    bundle = publish_dynamic(store)
    buckets = [{"x": (2, 4), "y": (2, 3)}, {"x": (4, 4), "y": (4, 3)}]
    first, second = npu_persist.compile("dynamic", "CPU", buckets=buckets, store=store)
    assert first.artifact is not None
    assert first.artifact.shapes == {"x": (2, 4), "y": (2, 3), "z": (5,)}  # z follows by the name of its axis
    assert [port.shape for port in first.artifact.inputs] == [(2, 4), (2, 3), (5,)]
    assert [port.shape for port in first.artifact.outputs] == [(2, 4), (2, 3), ()]
    assert second.shapes == {"x": (4, 4), "y": (4, 3), "z": (9,)}
    assert first.label == "dynamic:1 for CPU, x=2x4,y=2x3,z=5"
    assert len(inside(bundle)) == 2
    store.verify()


def test_the_bundles_own_buckets_are_compiled_and_load_takes_each(store: Store) -> None:
    bundle = publish_text(store, buckets=[(1, 8), (2, 16)])
    results = npu_persist.compile("text", "CPU", jobs=2, store=store)
    assert [result.shapes and result.shapes["ids"] for result in results] == [(1, 8), (2, 16)]
    assert len(inside(bundle)) == 2
    model = npu_persist.load("text", "CPU", store=store)
    assert {attempt.source for attempt in model.report.attempts if attempt.is_used} == {"attached"}
    assert sum(attempt.is_used for attempt in model.report.attempts) == 2


def test_a_dynamic_graph_is_compiled_as_it_is_where_that_works(store: Store) -> None:
    publish_dynamic(store)
    npu_persist.compile("dynamic", "CPU", store=store)
    model = npu_persist.load("dynamic", "CPU", store=store)
    assert attempts(model) == [("attached", "CPU", True)]


def test_an_axis_without_a_largest_size_is_refused_for_an_npu_before_anything_starts(store: Store) -> None:
    bundle = publish_dynamic(store)
    for target in ("NPU", "NPU:4000", "lunar-lake"):
        with pytest.raises(DynamicShapeError, match=r"input y .* buckets=\[\{'y': \(8, 128\)\}\]") as caught:
            npu_persist.compile("dynamic", target, store=store)
        assert (caught.value.input, caught.value.axis) == ("y", 1)
    assert inside(bundle) == []


def test_buckets_that_do_not_fit_are_refused(store: Store) -> None:
    publish_dynamic(store)
    with pytest.raises(DynamicShapeError, match="axis 1 of y"):
        npu_persist.compile("dynamic", "CPU", buckets=[{"x": (2, 4)}], store=store)
    publish_affine(store)
    with pytest.raises(DynamicShapeError, match="fixed"):
        npu_persist.compile("affine", "CPU", buckets=[{"x": (2, 3)}], store=store)


def test_progress_has_the_label_and_how_far_it_is(store: Store) -> None:
    publish_affine(store)
    events: list[Progress] = []
    npu_persist.compile("affine", "CPU", progress=events.append, store=store)
    assert {(event.stage, event.total, event.unit) for event in events} == {("compile", 1, "compilations")}
    assert (events[0].detail, events[0].done, events[-1].done) == ("", 0, 1)
    assert all(event.detail.startswith("affine:1 for CPU, ") for event in events[1:])
    assert [event.seconds for event in events] == sorted(event.seconds for event in events)


def test_an_error_in_progress_ends_the_compilation(store: Store) -> None:
    bundle = publish_power(store, 64, 2000)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        npu_persist.compile("power", "CPU", progress=fail, store=store)
    assert inside(bundle) == []


def test_limits_end_the_compilation_and_leave_nothing(store: Store) -> None:
    bundle = publish_power(store, 64, 2000)
    with pytest.raises(CompileTimeoutError, match=r"limit: 0\.2 s"):
        npu_persist.compile("power", "CPU", timeout=0.2, store=store)
    with pytest.raises(CompileMemoryError, match="MB"):
        npu_persist.compile("power", "CPU", memory_limit=20_000_000, store=store)
    assert inside(bundle) == []


@pytest.mark.parametrize("relative", ["model.xml", "weights.safetensors"])
def test_a_damaged_bundle_is_not_compiled(store: Store, relative: str) -> None:
    bundle = publish_affine(store)
    spoil(bundle.path / relative)
    with pytest.raises(FileIntegrityError, match="expected blake3:"):
        npu_persist.compile("affine", "CPU", store=store)
    assert inside(bundle) == []


def test_a_disk_that_is_full_leaves_nothing(store: Store, small_disk: Path) -> None:
    large = publish_scaled(store, 400)  # 640 kB
    bundle = Bundle.open(shutil.copytree(large.path, small_disk / "copy", ignore=shutil.ignore_patterns("model.bin")))
    with pytest.raises(StoreError, match="No space left") as caught:
        npu_persist.compile(bundle.path, "CPU", weightless=False)
    assert caught.value.errno == errno.ENOSPC
    assert inside(bundle) == []
    npu_persist.compile(bundle.path, "CPU")
    assert inside(bundle) == ["cpu"]


def test_a_folder_that_cannot_be_written_to_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = publish_affine(store)
    mkdir = Path.mkdir

    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        if "compiled" in path.parts:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match="Read-only file system"):
        npu_persist.compile("affine", "CPU", store=store)
    assert inside(bundle) == []


def test_a_bundle_outside_of_a_store_is_compiled_where_it_is(store: Store, tmp_path: Path) -> None:
    from tests.support.loads import copy_bundle

    publish_affine(store)
    directory = copy_bundle(store, tmp_path / "copy")
    (result,) = npu_persist.compile(directory, "CPU", store=tmp_path / "none")
    assert result.path == directory / "compiled" / "cpu"
    assert [path for path, _ in list_attached(npu_persist.open(directory))] == [result.path]
    assert (result.path / BLOB_FILE).stat().st_size > 0


def test_targets_that_are_none_are_refused(store: Store) -> None:
    publish_affine(store)
    with pytest.raises(TargetError, match="NPU:3720"):
        npu_persist.compile("affine", ["CPU", "NPU:1234"], store=store)
    for targets in ([], None, [1], 5):
        with pytest.raises(UsageError, match="expected at least one"):
            npu_persist.compile("affine", targets, store=store)  # type: ignore[arg-type]


def test_a_target_that_is_given_twice_is_compiled_once(store: Store) -> None:
    publish_affine(store)
    assert len(npu_persist.compile("affine", ["CPU", "cpu"], store=store)) == 1


def test_a_device_that_is_not_here_says_so(store: Store) -> None:
    bundle = publish_affine(store)
    with pytest.raises(DeviceNotFoundError, match=r"GPU\.7"):
        npu_persist.compile("affine", "GPU.7", store=store)
    assert inside(bundle) == []


def test_without_an_npu_here_the_kinds_of_others_are_named(store: Store) -> None:
    from npu_persist.device.core import get_core

    if any(name.startswith("NPU") for name in get_core().available_devices):
        pytest.skip("this machine has an NPU")
    publish_affine(store)
    with pytest.raises(DeviceNotFoundError, match=r"another machine, name it: NPU:3720, NPU:4000"):
        npu_persist.compile("affine", "NPU", store=store)


def test_what_a_device_cannot_do_is_said(store: Store) -> None:
    publish_affine(store)
    with pytest.raises(UsageError, match="always contain the weights"):
        npu_persist.compile("affine", "NPU", config=NPUW, weightless=True, store=store)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"config": {"CACHE_DIR": "cache"}}, PropertyError, "CACHE_DIR"),
        ({"config": {"PERFORMANCE_HITN": "LATENCY"}}, PropertyError, "did you mean 'PERFORMANCE_HINT'"),
        ({"config": {"NUM_STREAMS": "many"}}, PropertyError, "of the property 'NUM_STREAMS'"),
        ({"config": {"NUM_STREAMS": object()}}, UsageError, "is neither"),
        ({"config": "LATENCY"}, UsageError, "config: expected"),
        ({"weightless": "yes"}, UsageError, "weightless: expected"),
        ({"timeout": 0}, UsageError, "timeout: expected"),
        ({"memory_limit": 0.5}, UsageError, "memory_limit: expected"),
        ({"jobs": 0}, UsageError, "jobs: expected"),
        ({"executor": 3}, UsageError, "executor: expected"),
        ({"progress": 3}, UsageError, "progress: expected"),
        ({"graph": "other"}, NotFoundError, "no graph 'other'"),
        ({"reference": "none"}, BundleNotFoundError, "none"),
        ({"targets": "NPU:4000", "config": {"NPU_PLATFORM": "3720"}}, PropertyError, "comes from the target"),
        ({"targets": "NPU:4000", "config": {"ENABLE_WEIGHTLESS": "YES"}}, PropertyError, "weightless"),
    ],
)
def test_wrong_arguments_say_what_is_expected(
    store: Store, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    bundle = publish_affine(store)
    with pytest.raises(error, match=message):
        npu_persist.compile(**{"reference": "affine", "targets": "CPU", "store": store, **arguments})
    assert inside(bundle) == []


def test_a_compiler_that_crashes_is_an_error_with_its_last_words(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = publish_affine(store)
    monkeypatch.setattr("npu_persist.compilation.jobs.run_module", lambda *arguments: crash(arguments[-1]))
    with pytest.raises(CompilationError, match=r"signal 6|exit code 3"):
        npu_persist.compile("affine", "CPU", store=store)
    assert inside(bundle) == []


def test_a_system_without_memory_is_that_compilations_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = publish_affine(store)

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("npu_persist.compilation.jobs.run_module", fail)
    with pytest.raises(CompileMemoryError, match="affine:1 for CPU"):
        npu_persist.compile("affine", "CPU", store=store)
    assert inside(bundle) == []
