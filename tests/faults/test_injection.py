"""The injector itself: it sees the calls of threads, children and open folders, and the n-th one meets the fault."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.injection import UNTYPED, Fault, Injector, Run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def injector() -> Iterator[Injector]:
    with Injector(__name__) as found:
        if found.problem is not None:
            pytest.skip(found.problem)
        yield found


def write_three(folder: str) -> None:
    for name in ("a", "b", "c"):
        Path(folder, name).write_text(name)


def write_in_many_ways(folder: str) -> None:
    threads = [threading.Thread(target=Path(folder, name).mkdir) for name in ("t1", "t2")]
    for thread in threads:
        thread.start()
        thread.join()
    subprocess.run([sys.executable, "-c", "import os, sys; os.mkdir(sys.argv[1] + '/child')", folder], check=True)
    descriptor = os.open(folder, os.O_RDONLY)
    os.mkdir("at", dir_fd=descriptor)
    os.chdir(folder)
    Path("relative").mkdir()
    os.rename("relative", "../outside")  # noqa: PTH104


def survive(folder: str) -> int:
    try:
        write_three(folder)
    except OSError as error:
        return error.errno or 0
    return 0


def start_child(folder: str) -> int:
    code = "import os, sys; os.mkdir(sys.argv[1] + '/child')"
    return -subprocess.run([sys.executable, "-c", code, folder], check=False).returncode


def call(injector: Injector, name: str, folder: Path, fault: Fault | None = None) -> Run:
    return injector.run(f"{__name__}:{name}", [folder], roots=[folder], fault=fault)


def test_it_sees_threads_children_descriptors_and_relative_paths(injector: Injector, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    run = call(injector, "write_in_many_ways", root)
    assert run.code == 0, run.output
    made = [Path(path).name for name, path in run.calls if name.startswith("mkdir")]
    assert made == ["t1", "t2", "child", "at", "relative"]
    assert run.changed_elsewhere == [str(tmp_path / "outside")]


def test_it_kills_at_each_call(injector: Injector, tmp_path: Path) -> None:
    count = call(injector, "write_three", tmp_path).count("kill")
    assert count == 6
    left = []
    for number in range(1, count + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = call(injector, "write_three", folder, Fault("kill", number))
        assert run.code == -signal.SIGKILL
        left.append([(path.name, path.read_text()) for path in sorted(folder.iterdir())])
    a, b = ("a", "a"), ("b", "b")
    assert left == [[], [("a", "")], [a], [a, ("b", "")], [a, b], [a, b, ("c", "")]]


def test_a_call_that_fails_does_not_happen(injector: Injector, tmp_path: Path) -> None:
    run = call(injector, "survive", tmp_path, Fault("EDQUOT", 3))
    assert run.code == errno.EDQUOT
    assert run.met == ("create", str(tmp_path / "b"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_lasts_meets_later_calls(injector: Injector, tmp_path: Path) -> None:
    assert call(injector, "survive", tmp_path, Fault("full disk", 2)).code == errno.ENOSPC
    assert (tmp_path / "a").read_bytes() == b""


def test_an_interrupted_call_that_python_repeats_happens(injector: Injector, tmp_path: Path) -> None:
    assert call(injector, "survive", tmp_path, Fault("EINTR", 2)).code == 0
    assert (tmp_path / "a").read_text() == "a"


def test_it_interrupts_as_ctrl_c_does(injector: Injector, tmp_path: Path) -> None:
    assert call(injector, "write_three", tmp_path, Fault("interrupt", 3)).code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_it_kills_the_child_that_makes_the_call(injector: Injector, tmp_path: Path) -> None:
    assert call(injector, "start_child", tmp_path, Fault("kill", 1)).code == signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_told_apart(injector: Injector, tmp_path: Path) -> None:
    run = call(injector, "write_three", tmp_path, Fault("EIO", 1))
    assert run.code == UNTYPED
    assert "OSError: [Errno 5]" in run.output
