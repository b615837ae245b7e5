"""The real NPU compiler, under wine: skipped where it is not installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from npu_persist.artifact.blob import read_blob
from npu_persist.compilation.process.supervisor import Limits, supervise
from npu_persist.compilation.toolchains.available import probe
from npu_persist.compilation.toolchains.toolchain import CompilerRequest
from npu_persist.compilation.toolchains.wine import compile_in, wine_environment
from npu_persist.device.core import get_version
from npu_persist.errors import CompilationError, CompileMemoryError, CompileTimeoutError, StoreError
from tests.support.processes import ROOT, is_alive, wait_for

if TYPE_CHECKING:
    from npu_persist.compilation.toolchains.wine import WineToolchain


def make_job(folder: Path, output: Path | None = None, **members: Any) -> CompilerRequest:
    """Write a product of a matrix and return the job to compile it."""
    folder.mkdir(parents=True, exist_ok=True)
    x = op.parameter([-1, 16], np.float32, name="x")
    x.output(0).tensor.set_names({"x", "input = é"})
    product = op.matmul(x, op.constant(np.ones((16, 4), np.float32)), transpose_a=False, transpose_b=False)
    ov.save_model(ov.Model([product], [x], "product"), folder / "model.xml", compress_to_fp16=False)
    members = {"platform": "4000", "shapes": {"x": (4, 16)}, **members}
    output = output or folder / "model.blob"
    return CompilerRequest(str(folder / "model.xml"), str(folder / "model.bin"), str(output), **members)


@pytest.mark.parametrize("platform", ["3720", "4000", "5010", "5020"])
def test_compiles_for(wine: WineToolchain, platform: str) -> None:
    outcome = probe(wine.compile, platform)
    assert f"npu={platform}" in str(outcome.requirements)
    assert outcome.openvino == get_version()
    assert outcome.compiler is not None
    assert outcome.peak_memory is not None
    assert outcome.peak_memory > 50_000_000


def test_takes_shapes_properties_and_any_folder(wine: WineToolchain, tmp_path: Path) -> None:
    # Names that are none on Windows, not ASCII, and longer than the 259 characters of a Windows path.
    folder = tmp_path.joinpath("ünï:cødé ?", *["x" * 60] * 5, "con ")
    reported: list[str] = []
    properties = {"NPU_COMPILATION_MODE_PARAMS": "optimization-level=0", "NPU_TURBO": "YES"}
    job = make_job(folder, shapes={"input = é": (4, 16)}, properties=properties)
    wine.compile(job, Limits(report=reported.append))
    blob = read_blob(Path(job.output), "NPU")
    assert blob.is_elf
    assert blob.size == Path(job.output).stat().st_size
    assert reported[-1]


def test_a_scalar_stays_one(wine: WineToolchain, tmp_path: Path) -> None:
    x, y = (op.parameter(ov.PartialShape(shape), np.float32, name=name) for name, shape in (("x", []), ("y", [-1])))
    for parameter in (x, y):
        parameter.output(0).tensor.set_names({parameter.friendly_name})
    ov.save_model(ov.Model([op.add(x, y)], [x, y], "sum"), tmp_path / "model.xml")
    graph, weights = str(tmp_path / "model.xml"), str(tmp_path / "model.bin")
    job = CompilerRequest(graph, weights, str(tmp_path / "a.blob"), "4000", {"x": (), "y": (3,)})
    assert wine.compile(job).requirements is not None
    job = CompilerRequest(graph, weights, str(tmp_path / "b.blob"), "4000", {"y": ()})
    with pytest.raises(CompilationError, match="host: y is no scalar, and cannot be made one"):
        wine.compile(job)


def test_weightless(wine: WineToolchain, tmp_path: Path) -> None:
    job = make_job(tmp_path, weightless=True)
    wine.compile(job)
    assert read_blob(Path(job.output), "NPU").kind == "NPU"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"shapes": None}, "rejected the graph: Missing upper bound"),
        ({"shapes": {"x": (4, 17)}}, "rejected the graph: While validating node(.|\n)*Incompatible MatMul"),
        ({"shapes": {"y" * 100_000: (4, 17)}}, "rejected the graph: Input for tensor name 'yyy"),
        ({"platform": "1234"}, "Unknown value for platform: 1234"),
        ({"properties": {"NO_SUCH": "1"}}, "rejects a property: Unsupported configuration key: NO_SUCH"),
    ],
)
def test_refuses_in_its_own_words(wine: WineToolchain, tmp_path: Path, members: dict[str, Any], message: str) -> None:
    job = make_job(tmp_path, **members)
    with pytest.raises(CompilationError, match=message):
        wine.compile(job)
    assert not Path(job.output).exists()


def test_a_graph_that_is_none(wine: WineToolchain, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    Path(job.graph).write_text("<net")
    with pytest.raises(CompilationError, match="rejected the graph"):
        wine.compile(job)


def test_a_full_disk(wine: WineToolchain, tmp_path: Path, small_disk: Path) -> None:
    (small_disk / "others").write_bytes(bytes(1_000_000))
    with pytest.raises(StoreError, match="the disk is full"):
        wine.compile(make_job(tmp_path / "graph", small_disk / "model.blob"))
    assert [path.name for path in small_disk.iterdir()] == ["others"]


def test_a_memory_limit_is_that_of_the_compiler(wine: WineToolchain, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    with pytest.raises(CompileMemoryError, match="more than its limit of 50 MB"):
        wine.compile(job, Limits(memory_limit=50_000_000))
    assert not Path(job.output).exists()


CALLER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job has not
from pathlib import Path
from npu_persist.compilation.process.supervisor import Limits
from npu_persist.compilation.toolchains.toolchain import CompilerRequest
from npu_persist.compilation.toolchains.wine import WineToolchain
graph, output = sys.argv[1:]
job = CompilerRequest(graph, str(Path(graph).with_suffix(".bin")), output, "4000", {"x": (4, 16)})
WineToolchain().compile(job, Limits(report=lambda text: print(text, flush=True)))
"""


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (b"", "the request has no end"),
        (b"model=m.xml", "the request has no end"),
        (b"model\nend\n", "a line of the request has no '='"),
        (b"\nend\n", "a line of the request has no '='"),
        (b"x" * 3_000_000, "the request has no end"),
    ],
)
def test_the_host_program_refuses_other_requests(wine: WineToolchain, request_: bytes, words: str) -> None:
    command = ["wine", str(wine.folder / "bin" / "host.exe")]
    environment = wine_environment(wine.folder / "prefix")
    done = subprocess.run(command, input=request_, capture_output=True, env=environment, check=False, timeout=60)
    assert words in done.stderr.decode()
    assert done.returncode == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "host: the request lacks output"),
        *(
            (f"output=o\nshape.x={shape}\n", "host: a shape ")
            for shape in ("1,x", "1;2", ",", "1,,2", ",".join("1" * 33))
        ),
    ],
)
def test_the_host_program_refuses_other_fields(wine: WineToolchain, tmp_path: Path, line: str, words: str) -> None:
    make_job(tmp_path)
    shape = "" if "shape" in line else "shape.x=4,16\n"
    request = f"model=model.xml\nweights=model.bin\nproperty.NPU_PLATFORM=4000\n{shape}{line}end\n"
    command = ["wine", str(wine.folder / "bin" / "host.exe")]
    with pytest.raises(CompilationError, match=f"exit code 3 .*{words}"):
        supervise(command, request.encode(), env=wine_environment(wine.folder / "prefix"), cwd=str(tmp_path))


def test_several_at_once(wine: WineToolchain) -> None:
    with ThreadPoolExecutor(4) as executor:
        outcomes = list(executor.map(lambda platform: probe(wine.compile, platform), ["3720", "4000"] * 2))
    assert ["npu=3720" in str(each.requirements) for each in outcomes] == [True, False] * 2


@pytest.mark.usefixtures("wine")
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_ends_with_its_caller(tmp_path: Path, name: str) -> None:
    job = make_job(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", CALLER, job.graph, job.output],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as caller:
        assert caller.stdout is not None
        caller.stdout.readline()
        hosts = find_children(caller.pid)
        caller.send_signal(signal.Signals[name])
    assert hosts
    for pid in hosts:
        assert wait_for(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]


@pytest.mark.parametrize("moment", [0.05, 0.15, 0.25])
def test_ended_while_wine_starts_it_leaves_wine_sound(wine: WineToolchain, tmp_path: Path, moment: float) -> None:
    """The first program starts wine's own: without them, the next would wait for five minutes."""
    (tmp_path / "bin").symlink_to(wine.folder / "bin")
    shutil.copytree(wine.folder / "prefix", tmp_path / "prefix", symlinks=True)
    job = make_job(tmp_path / "job")
    try:
        with pytest.raises(CompileTimeoutError):
            compile_in(tmp_path, job, Limits(timeout=moment))
        compile_in(tmp_path, job, Limits(timeout=60))
    finally:
        environment = wine_environment(tmp_path / "prefix")
        subprocess.run(["wineserver", "-k"], env=environment, check=False, timeout=60)  # noqa: S607


def find_children(parent: int) -> list[int]:
    """Return the children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found
