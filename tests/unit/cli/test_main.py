from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import npu_persist
from npu_persist.cli.main import make_parser
from npu_persist.store import Store
from tests.support.bundles import publish_tiny
from tests.support.processes import ROOT, poison, run_python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("lst",),
        ("inspect",),
        ("list", "--colour"),
        ("run", "tiny", "--random", "--inputs", "x.npz"),
        ("inspect", "tiny:0"),
        ("inspect", "two words"),
        ("alias", "tiny:1"),
        ("alias", "tiny:1", "7"),
        ("unalias", "tiny"),
        ("unalias", "tiny:prod", "prod"),
        ("remove", "tiny"),
        ("persist", "nowhere", "--name", "x"),
        ("persist", "no.such.module:make", "--name", "x"),
        ("persist", "json:nothing", "--name", "x"),
        ("persist", "json:decoder", "--name", "x"),
        ("persist", "json:JSONDecoder", "--name", "x"),
        ("persist", "json:JSONDecoder", "--name", "x", "--metadata", "no-equals-sign"),
        ("persist", "json:JSONDecoder", "--name", "x", "--metadata", "a=1", "--metadata", "a=2"),
        ("persist", "json:JSONDecoder", "--name", "x", "--precision", "int3"),
    ],
)
def test_usage_errors_are_2(run: Run, arguments: tuple[str, ...]) -> None:
    publish_tiny(Store())
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_an_unexpected_error_has_no_traceback_unless_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object, reference: str) -> None:
        raise RuntimeError(f"no {reference} today")

    monkeypatch.setattr(Store, "resolve", fail)
    code, out, err = run("path", "tiny")
    assert (code, out) == (1, "")
    assert err.startswith("error: RuntimeError: no tiny today\n")
    assert "Traceback" not in err
    monkeypatch.setenv("NPU_PERSIST_TRACEBACK", "1")
    code, _, err = run("path", "tiny")
    assert code == 1
    assert "Traceback" in err


def test_interrupted_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object, reference: str) -> None:
        raise KeyboardInterrupt(reference)

    monkeypatch.setattr(Store, "resolve", interrupt)
    assert run("path", "tiny") == (130, "", "error: interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_of_a_whole_process_is_130(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\nprint('started', flush=True)\ntime.sleep(60)\n")
    # A shell that runs this suite in the background has its children ignore Ctrl-C.
    heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    run = "from npu_persist.cli.main import main; sys.exit(main(['persist', 'slow:make', '--name', 'slow']))"
    command = [sys.executable, "-c", heed + run]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        # What the user's code prints is no data of ours: it comes on stderr.
        assert process.stderr.readline() == "started\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize(
    "arguments", [("list",), ("inspect", "tiny"), ("verify",), ("path", "tiny"), ("alias", "tiny", "prod"), ("prune",)]
)
def test_verbs_that_keep_a_store_import_no_openvino(arguments: tuple[str, ...], tmp_path: Path) -> None:
    publish_tiny(Store())
    poisoned = poison(tmp_path / "poisoned", "openvino", "torch", "numpy")
    done = run_python("-m", "npu_persist", *arguments, path=poisoned)
    assert (done.returncode, done.stderr) == (0, "")


def test_persist_without_torch_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    (tmp_path / "mine.py").write_text("import torch\n")
    done = run_python("-m", "npu_persist", "persist", "mine:make", "--name", "x", path=tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "error: persist needs torch, which is not installed here: python -m pip install 'npu_persist[export]'\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_closed_pipe_is_no_traceback() -> None:
    publish_tiny(Store())
    with subprocess.Popen(
        [sys.executable, "-m", "npu_persist", "list"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_help_names_every_verb_and_exit_code() -> None:
    text = run_python("-m", "npu_persist", "--help").stdout
    for verb in ("persist", "list", "inspect", "path", "run", "alias", "unalias", "verify", "remove", "prune"):
        assert verb in text
    assert "4 integrity" in text


def test_the_version_is_printed() -> None:
    assert run_python("-m", "npu_persist", "--version").stdout == f"npu-persist {npu_persist.__version__}\n"


def test_json_is_on_every_verb_that_shows_something(run: Run) -> None:
    publish_tiny(Store())
    shown: list[Any] = [
        json.loads(run(*arguments, "--json")[1])
        for arguments in (("list",), ("inspect", "tiny"), ("path", "tiny"), ("verify",), ("prune",))
    ]
    assert all(data is not None for data in shown)


def test_the_page_has_every_verb_and_no_other() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `") and "NPU_PERSIST" not in line]
    documented = {verb for row in rows for verb in re.findall(r"`([a-z-]+)(?=[ `\\])", row.replace("\\|", " "))}
    subparsers = next(action for action in make_parser()._actions if isinstance(action.choices, dict))
    assert subparsers.choices is not None
    assert documented == set(subparsers.choices)
