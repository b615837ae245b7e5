"""A child that was forked after its parent had loaded a model, as `multiprocessing` does on Linux before Python 3.14.

OpenVINO's threads are not in it. `load` waited for them for ever, and so did the end of the process.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from npu_persist.store import Store
from tests.support.graphs import publish_affine
from tests.support.processes import run_python

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

BEGIN = """
import os, signal, sys, threading
import numpy as np
import npu_persist
from npu_persist.errors import UsageError

signal.alarm(240)
x = np.ones((2, 3), np.float32)

def load(**options):
    return npu_persist.load("affine", "CPU", **options)

def refused(run):
    try:
        run()
    except UsageError as error:
        assert "multiprocessing.get_context('spawn')" in str(error), error
        return True
    return False

def fork(run):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        assert run()
        sys.exit(0)  # and not os._exit: OpenVINO's own clean-up may wait, too
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"the child ended with {code}"
"""

PROGRAMS = {
    "load after a closed model": "load(cache=False).close(); fork(lambda: refused(load))",
    "load beside a loaded model": "model = load(); fork(lambda: refused(load))",
    "load from the cache": "load().close(); load().close(); fork(lambda: refused(load))",
    "devices": "load().close(); fork(lambda: refused(npu_persist.devices))",
    "check": "load().close(); fork(lambda: refused(lambda: npu_persist.check('affine', 'CPU')))",
    "call": "model = load(); model(x); fork(lambda: refused(lambda: model(x)))",
    "infer": "model = load(); fork(lambda: refused(lambda: model.infer([x])))",
    "submit": "model = load(); model.submit(x).result(); fork(lambda: refused(lambda: model.submit(x)))",
    "map": "model = load(); fork(lambda: refused(lambda: list(model.map([x]))))",
    "start": "model = load(); fork(lambda: refused(lambda: model.start(x)))",
    "reset and warm_up": "model = load(); fork(lambda: model.reset() is None and refused(lambda: model.warm_up([x])))",
    "compiled": "model = load(); fork(lambda: refused(lambda: model.compiled))",
    "close": "model = load(); model(x); fork(lambda: model.close() is None and refused(lambda: model(x)))",
    "the report": "model = load(); fork(lambda: model.report.execution_devices is not None)",
    "nothing at all": "model = load(); model(x); fork(lambda: True)",
    "a thread that calls": (
        "model = load()\n"
        "threading.Thread(target=lambda: [model(x) for _ in range(20000)], daemon=True).start()\n"
        "for _ in range(20): fork(lambda: refused(lambda: model(x)) and refused(lambda: model.submit(x)))"
    ),
    "the exit status": (
        "model = load(); model(x); child = os.fork()\n"
        "if child == 0: sys.exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7"
    ),
    "a child of the child": "load().close(); fork(lambda: fork(lambda: refused(load)) is None)",
}

SOUND = {
    "forked first": "fork(lambda: load()(x)[0, 0] == 1.5)",
    "after a look at devices": "npu_persist.devices(); fork(lambda: load()(x)[0, 0] == 1.5)",
    "after a look at the cache": ("npu_persist.is_compiled('affine', 'CPU'); fork(lambda: load()(x)[0, 0] == 1.5)"),
    "the parent goes on": "model = load(); fork(lambda: True); assert model(x)[0, 0] == 1.5; load(cache=False)(x)",
    "spawned": (
        "import subprocess\n"
        "load()(x)\n"
        'code = \'import npu_persist; npu_persist.load("affine", "CPU")\'\n'
        "subprocess.run([sys.executable, '-c', code], check=True)"
    ),
}


def run(program: str, folder: Path) -> None:
    publish_affine(Store(folder))
    found = run_python("-W", "ignore", "-c", BEGIN + program, env={"NPU_PERSIST_HOME": str(folder)})
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("what", PROGRAMS)
def test_it_is_told_at_once(what: str, tmp_path: Path) -> None:
    run(PROGRAMS[what], tmp_path)


@pytest.mark.parametrize("what", SOUND)
def test_who_forks_first_or_spawns_may_load(what: str, tmp_path: Path) -> None:
    run(SOUND[what], tmp_path)
