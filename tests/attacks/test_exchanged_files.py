"""Somebody who may rename files in the store exchanges them while they are loaded.

Attack: the weights (or the graph) are the right ones when the verification opens them, others when OpenVINO opens them,
and the right ones again before the load ends. The timing is perfect, by a hook before OpenVINO opens a file; and then
it is left to chance, with a process that does nothing else.

Before: the verification and OpenVINO each opened the file by its name, and only inode, size and time of modification
were compared at the end: wrong weights were loaded in 14 of 60 tries with verify="full". Now the file is opened once,
and OpenVINO reads that open file; of a graph it reads a copy in memory, which nobody can write to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from npu_persist import load
from npu_persist.bundle.verification import Verification
from npu_persist.compilation import local
from npu_persist.device.core import get_core
from npu_persist.errors import IntegrityError, NpuPersistError
from npu_persist.store import Store
from tests.support.graphs import AFFINE_OF_GRID, GRID, WEIGHTS, XML, publish_affine

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES = 40

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="without /proc an exchange is an error, see tests/unit/bundle"
)

_EXCHANGE = """
import os, sys
right, wrong, path = sys.argv[1:]
print("ready", flush=True)
while True:
    for source in (wrong, right):
        try:
            os.link(source, path + ".new")
            os.replace(path + ".new", path)
        except OSError:
            pass
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "home")
    publish_affine(found)
    return found


@pytest.fixture
def bundle(store: Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store.resolve("affine").path, tmp_path / "a" / "bundle", copy_function=shutil.copyfile))


def make_wrong_weights(bundle: Path, to: Path) -> Path:
    """Weights of the same size and header; every number is another one."""
    data = bytearray((bundle / WEIGHTS).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    numbers = np.frombuffer(data, np.float32, offset=start)
    numbers += 1000
    to.write_bytes(data)
    return to


def make_wrong_graph(bundle: Path, to: Path) -> Path:
    text = (bundle / XML).read_text()
    assert text.count('"Multiply"') == 1
    to.write_text(text.replace('"Multiply"', '"Subtract"'))
    return to


def exchange(path: Path, other: Path) -> Callable[[], Callable[[], object]]:
    def begin() -> Callable[[], object]:
        aside = path.with_name("aside")
        path.rename(aside)
        os.link(other, path)
        return lambda: aside.replace(path)

    return begin


def exchange_folder(folder: Path, other: Path, name: str) -> Callable[[], Callable[[], object]]:
    """Not even the time of a file's inode changes."""
    false = folder.with_name("false")
    shutil.copytree(folder, false, copy_function=shutil.copyfile)
    shutil.copyfile(other, false / name)
    aside = folder.parent / "aside"

    def begin() -> Callable[[], object]:
        folder.rename(aside)
        false.rename(folder)

        def end() -> None:
            folder.rename(false)
            aside.rename(folder)

        return end

    return begin


def overwrite(path: Path, other: Path) -> Callable[[], Callable[[], object]]:
    def begin() -> Callable[[], object]:
        data, found = path.read_bytes(), path.stat()
        path.write_bytes(other.read_bytes())

        def end() -> None:
            path.write_bytes(data)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

        return end

    return begin


def while_openvino_reads(monkeypatch: pytest.MonkeyPatch, begin: Callable[[], Callable[[], object]]) -> list[str]:
    """Exchange something right before OpenVINO opens files, and put it back right after; return when it was done."""
    done: list[str] = []

    class Core:
        def __getattr__(self, name: str) -> Any:
            real = getattr(get_core(), name)
            if name not in {"read_model", "import_model"}:
                return real

            def call(*arguments: Any) -> Any:
                done.append(name)
                end = begin()
                try:
                    return real(*arguments)
                finally:
                    end()

            return call

    monkeypatch.setattr(local, "get_core", Core)
    return done


@pytest.mark.parametrize("source", ["graph", "cache"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_other_weights_at_the_moment_in_which_openvino_opens_them(  # noqa: PLR0913, PLR0917 (fixtures)
    store: Store, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, what: str
) -> None:
    other = make_wrong_weights(bundle, tmp_path / "other")
    if source == "cache":
        load(bundle, "CPU", store=store).close()
    begin = exchange(bundle / WEIGHTS, other) if what == "file" else exchange_folder(bundle, other, WEIGHTS)
    done = while_openvino_reads(monkeypatch, begin)
    with load(bundle, "CPU", store=store) as model:
        assert model.report.from_cache == (source == "cache")
        assert np.allclose(model(GRID), AFFINE_OF_GRID)
    assert done == ["read_model" if source == "graph" else "import_model"]


@pytest.mark.parametrize("how", [exchange, overwrite])
def test_another_graph_at_that_moment(
    store: Store,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: Callable[[Path, Path], Callable[[], Callable[[], object]]],
) -> None:
    begin = how(bundle / XML, make_wrong_graph(bundle, tmp_path / "other"))
    done = while_openvino_reads(monkeypatch, begin)
    with load(bundle, "CPU", store=store) as model:
        assert np.allclose(model(GRID), AFFINE_OF_GRID)
    assert done == ["read_model"]


def test_weights_that_were_written_to_are_verified_again(store: Store, bundle: Path, tmp_path: Path) -> None:
    """Its size and time of modification are as before; what no program can set is the inode's own time."""
    other = make_wrong_weights(bundle, tmp_path / "other")
    found = store.resolve("affine")
    with Verification("full", store.home) as verification:
        verification.start(bundle / WEIGHTS, found.manifest.files[WEIGHTS])
        verification.finish()
        before = (bundle / WEIGHTS).stat()
        (bundle / WEIGHTS).write_bytes(other.read_bytes())
        os.utime(bundle / WEIGHTS, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(IntegrityError, match=WEIGHTS):
            verification.finish()


@pytest.mark.parametrize("cache", [False, True])
def test_a_process_that_does_nothing_else(store: Store, bundle: Path, tmp_path: Path, cache: bool) -> None:  # noqa: FBT001
    other = make_wrong_weights(bundle, tmp_path / "other")
    right = tmp_path / "right"
    os.link(bundle / WEIGHTS, right)
    if cache:
        load(bundle, "CPU", store=store).close()
    command = [sys.executable, "-c", _EXCHANGE, str(right), str(other), str(bundle / WEIGHTS)]
    loaded = refused = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker:
        try:
            assert attacker.stdout is not None
            assert attacker.stdout.readline()
            while loaded + refused < TRIES or not loaded:
                try:
                    with load(bundle, "CPU", cache=cache, store=store) as model:
                        answer = model(GRID)
                except NpuPersistError:
                    refused += 1
                else:
                    loaded += 1
                    assert np.allclose(answer, AFFINE_OF_GRID), f"wrong weights after {loaded} loads"
        finally:
            attacker.kill()
