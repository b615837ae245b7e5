"""A bundle of a hub has a graph that OpenVINO dies of, works on without end, or fills the memory with.

Attack: `load("hf://evil/bundle")`, which reads and compiles the graph; and a call of what was loaded.

Before: in the process that called `load`, which died with it. Now the graph of a bundle that was pulled, and that no
known key signed, is first read, compiled and called once in a process of its own, with limits of time and memory. That
costs once: what is in the compile cache was compiled so. It is no protection from a graph that takes OpenVINO over and
survives.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

import npu_persist
from npu_persist import check, load
from npu_persist.bundle.document import dump
from npu_persist.bundle.graph_records import Dimension, Port
from npu_persist.bundle.manifest import MANIFEST_FILE
from npu_persist.compilation import local, probe
from npu_persist.compilation.process import python
from npu_persist.device.core import get_core
from npu_persist.errors import CompilationError, CompileCrashError, CompileMemoryError, CompileTimeoutError
from npu_persist.files.digest import digest_file
from npu_persist.trust.signing import sign_bundle
from tests.support.graphs import AFFINE_OF_GRID, GRID, XML, make_model, parameter, publish_affine, publish_graph
from tests.support.loads import attempts, spoil
from tests.support.processes import run_python
from tests.support.signers import know, private_key, pulled

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store

DEATHS = {
    "dies": ("os.kill(os.getpid(), 11)", CompileCrashError, "signal 11|exit code 11"),
    "exits": ("os._exit(0)", CompileCrashError, "exit code 0"),
    "hangs": ("time.sleep(600)", CompileTimeoutError, "was not done"),
    "fills the memory": ("fill(); time.sleep(600)", CompileMemoryError, "more than its limit"),
}
"""What OpenVINO does with the graph in the process of its own, and the caller's error."""

_PATCHED = """
import os, time, openvino
def fill():
    global held
    held = b"x" * 2_000_000_000
def attacked(*_):
    {code}
openvino.{name} = attacked
"""


@pytest.fixture
def bundle(store: Store) -> Bundle:
    found = publish_affine(store)
    pulled(found.path)
    return found


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let OpenVINO do something in processes of their own, when it reads, compiles or calls."""

    def patch(code: str, name: str = "Core.read_model") -> None:
        first, last = python._START.split("import runpy")
        monkeypatch.setattr(python, "_START", f"{first}\n{_PATCHED.format(code=code, name=name)}\nimport runpy{last}")

    return patch


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What OpenVINO read in this process."""
    found: list[str] = []

    class Core:
        def __getattr__(self, name: str) -> Any:
            if name in {"read_model", "compile_model"}:
                found.append(name)
            return getattr(get_core(), name)

    monkeypatch.setattr(local, "get_core", Core)
    return found


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("options", [{}, {"cache": False}, {"verify": "none"}, {"config": {"PERFORMANCE_HINT": 1}}])
@pytest.mark.usefixtures("bundle")
def test_this_process_survives_and_says_what_happened(  # noqa: PLR0913, PLR0917 (fixtures)
    store: Store,
    elsewhere: Callable[..., None],
    read_here: list[str],
    monkeypatch: pytest.MonkeyPatch,
    death: str,
    options: dict[str, Any],
) -> None:
    code, kind, words = DEATHS[death]
    elsewhere(code)
    monkeypatch.setattr(probe, "SECONDS", 6 if death == "hangs" else 120)
    monkeypatch.setattr(probe, "read_total", lambda: 10**9 if death == "fills the memory" else None)
    if "config" in options:
        options = {"config": {"PERFORMANCE_HINT": ov.properties.hint.PerformanceMode.LATENCY}}
    with pytest.raises(CompilationError, match=words) as caught:
        load("affine", "CPU", store=store, **options)
    assert type(caught.value) is kind
    assert "pulled from org/unet, and no known key signed it" in str(caught.value)
    assert "trust='org/unet'" in str(caught.value)
    assert read_here == []


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize("name", ["Core.compile_model", "CompiledModel.create_infer_request"])
def test_one_that_dies_when_it_is_compiled_or_called(
    store: Store, elsewhere: Callable[..., None], read_here: list[str], name: str
) -> None:
    elsewhere(DEATHS["dies"][0], name)
    for cache in (True, True, False):  # nothing was kept by the first
        with pytest.raises(CompileCrashError, match=DEATHS["dies"][2]):
            load("affine", "CPU", cache=cache, store=store)
    with pytest.raises(CompileCrashError, match=DEATHS["dies"][2]):
        check("affine", "CPU", store=store)
    with pytest.raises(CompileCrashError, match=DEATHS["dies"][2]):
        npu_persist.compile("affine", ["CPU"], store=store)
    assert read_here == []


def test_one_whose_sizes_are_asked_for(store: Store, elsewhere: Callable[..., None], read_here: list[str]) -> None:
    """With buckets that the bundle was not persisted with the graph is read before it is compiled."""
    size = Dimension("n", 1, 8)
    x = parameter(port := Port("x", "float32", (size, 3)))
    out = Port("y", "float32", (Dimension(None, 1, 8), 3))
    bundle = publish_graph(store, make_model([x], [("y", ops.relu(x))]), [port], [out], name="relu")
    pulled(bundle.path)
    sizes = [{"x": (2, 3)}, {"x": (4, 3)}]
    with load(bundle.name, "CPU", buckets=sizes, store=store) as model:
        assert len(model.buckets) == 2
    assert read_here == []
    elsewhere(DEATHS["dies"][0])
    with pytest.raises(CompileCrashError, match=DEATHS["dies"][2]):
        load(bundle.name, "CPU", buckets=[{"x": (3, 3)}], store=store)
    assert read_here == []


@pytest.mark.usefixtures("bundle")
def test_the_process_of_its_own_costs_once(store: Store, elsewhere: Callable[..., None], read_here: list[str]) -> None:
    with load("affine", "CPU", store=store) as model:
        assert np.allclose(model(GRID), AFFINE_OF_GRID)
        assert any("was pulled from org/unet" in note for note in model.report.notes)
        assert attempts(model)[-1] == ("cache", "CPU", True)
        assert not model.report.from_cache
    elsewhere(DEATHS["dies"][0])  # no other process is started
    with load("affine", "CPU", store=store) as model:
        assert np.allclose(model(GRID), AFFINE_OF_GRID)
        assert attempts(model) == [("cache", "CPU", True)]
    assert read_here == []


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize("options", [{"cache": False}, {"verify": "none"}])
def test_what_is_not_kept_is_read_here_after_that(store: Store, read_here: list[str], options: dict[str, Any]) -> None:
    with load("affine", "CPU", store=store, **options) as model:
        assert np.allclose(model(GRID), AFFINE_OF_GRID)
        assert attempts(model)[-2:] == [("graph", "CPU", False), ("graph", "CPU", True)]
    assert read_here == ["read_model", "compile_model"]


@pytest.mark.usefixtures("bundle")
def test_a_cache_that_cannot_be_written_is_no_obstacle(store: Store) -> None:
    (store.home / "compile-cache").write_text("in the way")
    with load("affine", "CPU", store=store) as model:
        assert np.allclose(model(GRID), AFFINE_OF_GRID)


@pytest.mark.parametrize("trust", ["signed", "org/unet", "org/*", True, "not pulled"])
def test_what_is_trusted_is_read_here_at_once(
    store: Store, bundle: Bundle, elsewhere: Callable[..., None], read_here: list[str], trust: str
) -> None:
    elsewhere(DEATHS["dies"][0])
    if trust == "signed":
        know(store.home, "ada")
        list(sign_bundle(bundle, private_key("ada")))
    elif trust == "not pulled":
        (bundle.path / "origin.json").unlink()
    options: dict[str, Any] = {} if trust in {"signed", "not pulled"} else {"trust": trust}
    with load("affine", "CPU", store=store, **options) as model:
        assert np.allclose(model(GRID), AFFINE_OF_GRID)
        assert not any("pulled" in note for note in model.report.notes)
    assert read_here == ["read_model", "compile_model"]


@pytest.mark.parametrize("origin", [b"", b"{}", b"[" * 70_000])
def test_an_origin_that_cannot_be_read_is_not_trusted(
    store: Store, bundle: Bundle, elsewhere: Callable[..., None], read_here: list[str], origin: bytes
) -> None:
    (bundle.path / "origin.json").chmod(0o600)
    (bundle.path / "origin.json").write_bytes(origin)
    elsewhere(DEATHS["dies"][0])
    with pytest.raises(CompileCrashError, match="origin of affine:1 cannot be read"):
        load("affine", "CPU", store=store)
    assert read_here == []


@pytest.mark.parametrize("layer", ["Assign", "ReadValue"])
def test_a_real_one(store: Store, bundle: Bundle, layer: str) -> None:
    """OpenVINO 2026.4 reads a variable's name that is not there: signal 11."""
    spoil(
        bundle.path / XML,
        (bundle.path / XML)
        .read_bytes()
        .replace(b'"Multiply" version="opset1"', b'"%s" version="opset6"' % layer.encode()),
    )
    manifest = json.loads((bundle.path / MANIFEST_FILE).read_bytes())
    manifest["files"][XML] = {"size": (bundle.path / XML).stat().st_size, "digest": digest_file(bundle.path / XML)}
    spoil(bundle.path / MANIFEST_FILE, dump(manifest))
    code = f"""
import npu_persist
from npu_persist import errors
try:
    npu_persist.load("affine", "CPU", store={str(store.home)!r})
except (errors.CompileCrashError, errors.GraphIntegrityError) as error:
    print("refused")
"""
    done = run_python("-c", code)
    assert (done.returncode, done.stdout) == (0, "refused\n")
