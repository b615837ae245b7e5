from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import npu_persist
from npu_persist.cli.main import main
from npu_persist.store import Store
from tests.support.bundles import publish_tiny
from tests.support.processes import ROOT, poison, run_python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process; gives its exit code, stdout and stderr."""

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


def damage(path: Path) -> None:
    """Change one byte of a read-only file, in a copy that takes its place."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)


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


def test_list_shows_every_version(run: Run) -> None:
    store = Store()
    publish_tiny(store, alias="prod")
    publish_tiny(store, "other", weights=b"\0" * 4096 + b"x" * 4)
    publish_tiny(store)
    code, out, err = run("list")
    assert (code, err) == (0, "")
    header, *rows = out.splitlines()
    assert header.split() == ["REFERENCE", "ALIASES", "SIZE", "CREATED", "DIGEST"]
    assert [row.split()[0] for row in rows] == ["other:1", "tiny:1", "tiny:2"]
    assert rows[1].split()[1] == "prod"
    # Aligned: the digests start in one column.
    assert len({row.index("blake3:") for row in rows}) == 1


def test_list_of_a_name_and_as_json(run: Run) -> None:
    store = Store()
    publish_tiny(store, "other")
    bundle = publish_tiny(store, alias="prod")
    code, out, _ = run("list", "tiny", "--json")
    assert code == 0
    (entry,) = json.loads(out)
    assert entry == {
        "reference": "tiny:1",
        "name": "tiny",
        "version": 1,
        "aliases": ["prod"],
        "digest": bundle.digest,
        "size": bundle.size,
        "created": bundle.created.isoformat(timespec="seconds"),
        "path": str(bundle.path),
        "problem": None,
    }
    assert run("list", "absent")[0] == 3


def test_an_empty_store_lists_nothing_on_stdout(run: Run, store_home: Path) -> None:
    code, out, err = run("list")
    assert (code, out) == (0, "")
    assert str(store_home) in err
    assert json.loads(run("list", "--json")[1]) == []


def test_a_damaged_version_is_listed_with_a_warning(run: Run) -> None:
    store = Store()
    publish_tiny(store)
    damage(publish_tiny(store).path / "manifest.json")
    code, out, err = run("list")
    assert code == 0
    assert [row.split()[0] for row in out.splitlines()[1:]] == ["tiny:1", "tiny:2"]
    assert err.startswith("warning: tiny:2 is damaged: ")


def test_inspect_shows_what_is_in_the_bundle(run: Run) -> None:
    bundle = publish_tiny(Store(), alias="prod")
    code, out, err = run("inspect", "tiny:prod")
    assert (code, err) == (0, "")
    for shown in (
        "tiny:1",
        bundle.digest,
        str(bundle.path),
        "prod",
        "batch:1..8",
        "BaseModelOutput(",
        "fp16",
        "torch.jit.trace",
        "0.99999",
        "a branch was frozen",
        "author=Ada",
        *(entry.digest for entry in bundle.manifest.files.values()),
    ):
        assert shown in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_inspect_as_json_is_the_manifest_and_where_it_is(run: Run) -> None:
    bundle = publish_tiny(Store())
    data = json.loads(run("inspect", "tiny", "--json")[1])
    assert data.pop("manifest") == json.loads((bundle.path / "manifest.json").read_bytes())
    assert data["digest"] == bundle.digest
    assert data["version"] == 1
    assert data["path"] == str(bundle.path)


def test_inspect_of_a_directory_has_no_version(run: Run) -> None:
    bundle = publish_tiny(Store())
    assert json.loads(run("inspect", str(bundle.path), "--json")[1])["version"] is None


def test_path_is_one_line(run: Run) -> None:
    bundle = publish_tiny(Store())
    assert run("path", "tiny") == (0, f"{bundle.path}\n", "")
    assert json.loads(run("path", "tiny", "--json")[1]) == {"path": str(bundle.path)}


def test_another_store_by_option(run: Run, tmp_path: Path) -> None:
    publish_tiny(Store(tmp_path / "other"))
    assert run("path", "tiny")[0] == 3
    assert run("path", "tiny", "--store", str(tmp_path / "other"))[0] == 0


def test_alias_moves_an_alias_and_removes_it(run: Run) -> None:
    store = Store()
    publish_tiny(store)
    publish_tiny(store)
    assert run("alias", "tiny:1", "prod") == (0, "tiny:1 is prod\n", "")
    assert json.loads(run("alias", "tiny", "prod", "--json")[1]) == {"reference": "tiny:2", "alias": "prod"}
    assert store.aliases("tiny") == {"prod": 2}
    assert run("unalias", "tiny:prod")[0] == 0
    assert store.aliases("tiny") == {}
    assert run("unalias", "tiny:prod")[0] == 3


def test_verify_finds_the_damaged_one_and_goes_on(run: Run) -> None:
    store = Store()
    damage(publish_tiny(store, "a").path / "weights.safetensors")
    publish_tiny(store, "b", weights=b"\0" * 4096 + b"other")
    code, out, err = run("verify")
    assert code == 4
    assert [row.split()[0] + row.split()[-1] for row in out.splitlines()[1:]] == ["a:1FAILED", "b:1ok"]
    assert "weights.safetensors: expected blake3:" in err
    results = json.loads(run("verify", "--json")[1])
    assert [result["ok"] for result in results] == [False, True]
    assert run("verify", "a")[0] == 4
    assert run("verify", "b")[0] == 0
    assert run("verify", "absent")[0] == 3


def test_verify_of_all_sees_a_manifest_of_another_format(run: Run) -> None:
    manifest = publish_tiny(Store()).path / "manifest.json"
    data = manifest.read_bytes().replace(b'"format_version": "1.0"', b'"format_version": "2.0"')
    manifest.unlink()
    manifest.write_bytes(data)
    code, _, err = run("verify")
    assert code == 5
    assert "pip install --upgrade npu_persist" in err
    assert run("inspect", "tiny")[0] == 5


def test_remove_takes_one_version(run: Run) -> None:
    store = Store()
    publish_tiny(store)
    publish_tiny(store, alias="prod")
    assert run("remove", "tiny:1") == (0, "removed tiny:1\n", "")
    assert run("remove", "tiny:2")[0] == 2
    assert json.loads(run("remove", "tiny:2", "--force", "--json")[1]) == {"removed": "tiny:2"}
    assert store.names() == ()


def test_prune_says_what_it_removed(run: Run, store_home: Path) -> None:
    publish_tiny(Store())
    assert run("prune") == (0, "nothing to prune\n", "")
    leftover = store_home / "staging" / "0123456789abcdef"
    leftover.mkdir()
    code, out, _ = run("prune", "--json")
    assert code == 0
    assert json.loads(out) == {"removed": [str(leftover)]}
    assert not leftover.exists()


def test_a_missing_inputs_file_is_3(run: Run) -> None:
    assert run("run", "tiny", "--inputs", "absent.npz")[0] == 3


@pytest.mark.parametrize("verb", [("run", "tiny"), ("persist", "json:JSONDecoder", "--name", "x")])
def test_inputs_that_are_no_npz_are_a_usage_error(run: Run, tmp_path: Path, verb: tuple[str, ...]) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("1 2 3\n")
    (tmp_path / "empty.npz").touch()
    for name, got in {
        "one.npy": "got a .npy file, which holds one array without a name",
        "objects.npz": "got an array of Python objects",
        "text.npz": "File is not a zip file",
        "empty.npz": "File is not a zip file",
    }.items():
        code, out, err = run(*verb, "--inputs", str(tmp_path / name))
        assert (code, out) == (2, "")
        assert (
            f"{name}: expected an .npz file of named arrays, as numpy.savez(path, name=array) writes it; {got}" in err
        )
        assert "pickle" not in err


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
