from __future__ import annotations

import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from npu_persist.device import core
from npu_persist.errors import IncompatibleError, OpenVINOVersionError
from tests.support.processes import run_python

if TYPE_CHECKING:
    from pathlib import Path

FULL = "2026.4.1-22982-e213a147257-releases/2026/4"


def test_threads_that_ask_at_once_make_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class SlowCore:
        def __init__(self) -> None:
            made.append(self)
            time.sleep(0.1)

    monkeypatch.setattr(core, "_cores", [])
    monkeypatch.setattr("openvino.Core", SlowCore)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: core.get_core(), range(4)))
    assert len(made) == 1
    assert found == made * 4


def test_openvino_is_imported_on_first_use() -> None:
    code = (
        "import sys; import npu_persist.device.core as core, npu_persist.runtime; print('openvino' in sys.modules);"
        "core.get_version(); print('openvino' in sys.modules)"
    )
    done = run_python("-c", code)
    assert (done.stdout.split(), done.stderr) == (["False", "True"], "")


def run_lean(code: str, path: Path | None = None) -> str:
    """Run code after the lean import, with every warning an error, and return what it prints."""
    lean = "import sys, npu_persist.device.core as core; ov = core.import_openvino(); before = set(sys.modules)\n"
    done = run_python("-W", "error", "-c", lean + code, path=path)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_converter_and_the_telemetry_are_left_out() -> None:
    shown = run_lean(
        "print([name for name in before if name.startswith(('openvino.tools.ovc', 'openvino_telemetry'))])"
    )
    assert shown == "[]\n"


@pytest.mark.parametrize(
    "use",
    [
        "ov.convert_model",
        "getattr(__import__('openvino', fromlist=['convert_model']), 'convert_model')",
        "ov.tools.ovc.convert_model",
        "__import__('openvino.tools.ovc').tools.ovc.convert_model",
        "__import__('importlib').import_module('openvino.tools.ovc.convert').convert_model",
    ],
)
def test_the_converter_is_there_when_it_is_used(use: str) -> None:
    convert = "import numpy; x = ov.opset13.parameter([1], numpy.float32); model = ov.Model([x], [x])"
    same = "from openvino.tools.ovc.convert import convert_model as real"
    code = f"found = {use}; {same}; print(found is real, ov.convert_model is real, ov.tools.ovc.convert_model is real)"
    assert run_lean(f"{convert}; {code}") == "True True True\n"


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_modules_are_persisted_after_it(store_home: Path) -> None:
    code = "import npu_persist, torch; print(npu_persist.persist(torch.nn.Linear(2, 2), 'linear', (torch.ones(1, 2),)))"
    done = run_python("-c", f"from npu_persist.device.core import get_core; get_core(); {code}")
    assert done.returncode == 0, done.stderr
    assert (store_home / "bundles" / "linear" / "1").is_dir()


def test_other_names_are_missing_as_ever() -> None:
    code = (
        "print(hasattr(ov, 'convert'), hasattr(ov.tools, 'convert'), [name for name in sys.modules if 'ovc' in name])"
    )
    assert run_lean(code) == "False False []\n"


def test_a_program_that_imported_openvino_keeps_it_as_it_is() -> None:
    code = "import openvino; from npu_persist.device import core; print(core.import_openvino() is openvino)\n"
    code += "print('convert_model' in vars(openvino), '__getattr__' in vars(openvino))"
    assert run_python("-c", code).stdout == "True\nTrue False\n"


IMPORT_AT_ONCE = """
import json, sys, threading, time
from npu_persist.device import core
start = threading.Barrier(6)
found = []

def ours():
    return core.import_openvino().convert_model

def our_core():
    return core.get_core() and ours()

def plain():
    import openvino
    return openvino.convert_model

def converter():
    from openvino.tools.ovc import convert_model
    return convert_model

def see(way, seconds):
    start.wait()
    time.sleep(seconds)
    found.append(globals()[way]())

threads = [threading.Thread(target=see, args=arguments) for arguments in json.loads(sys.argv[1])]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(found), len(set(found)), found[0].__module__)
"""


@pytest.mark.parametrize(
    "threads",
    [
        [("ours", 0), ("our_core", 0), ("plain", 0), ("ours", 0), ("our_core", 0), ("plain", 0)],
        [("plain", 0), ("our_core", 0.02), ("ours", 0.04), ("ours", 0.06), ("plain", 0.07), ("ours", 0.1)],
        # Not first, for a converter and an openvino that two threads import plainly can wait for each other.
        [("ours", 0), ("converter", 0.02), ("our_core", 0.04), ("converter", 0.1), ("ours", 0.1), ("plain", 0.12)],
    ],
)
def test_threads_that_import_at_once_find_all_of_it(threads: list[tuple[str, float]]) -> None:
    done = run_python("-c", IMPORT_AT_ONCE, json.dumps(threads))
    assert (done.stdout, done.stderr) == ("6 1 openvino.tools.ovc.convert\n", "")


CONVERTER = "from openvino.tools.ovc import convert_model"
PASSED_OVER = f"try:\n    {CONVERTER}\nexcept ImportError: pass\n"


@pytest.mark.parametrize(
    ("package", "shown"),
    [
        (CONVERTER, "real\n"),  # a failure that it does not pass over
        (PASSED_OVER, "real\n"),
        (f"{PASSED_OVER}def __getattr__(name): raise AttributeError(name)", "real\n"),
        (f"def __getattr__(name): return name\n{PASSED_OVER}", "real\n"),
        ("convert_model = 'its own'", "its own\n"),
    ],
)
def test_an_openvino_that_is_made_otherwise(package: str, shown: str, tmp_path: Path) -> None:
    converter = tmp_path / "openvino" / "tools" / "ovc"
    converter.mkdir(parents=True)
    (tmp_path / "openvino" / "__init__.py").write_text(package)
    (converter.parent / "__init__.py").touch()
    (converter / "__init__.py").write_text("convert_model = 'real'")
    assert run_lean("print(ov.convert_model)", tmp_path) == shown


def test_an_openvino_without_a_converter(tmp_path: Path) -> None:
    # A slim build: OpenVINO itself passes over the missing converter.
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text(PASSED_OVER)
    assert run_lean("print(hasattr(ov, 'convert_model'))", tmp_path) == "False\n"


def test_a_broken_openvino_says_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("import nosuchlibrary")
    done = run_python("-c", "from npu_persist.device.core import get_core; get_core()", path=tmp_path)
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'nosuchlibrary'"


def test_the_installed_version_reads_as_one() -> None:
    assert core._release(core.get_version()) is not None


@pytest.mark.parametrize(
    ("installed", "written_by"),
    [
        (FULL, FULL),
        (FULL, "2026.4.1"),
        ("2026.4.0", "2026.4.9"),
        ("2026.5.0", "2026.4.1"),
        ("2026.10.0", "2026.4.1"),
        ("2027.0.0", "2026.4.1"),
        ("custom-master-1234", "2026.4.1"),
        ("2026.4.1", "custom-master-1234"),
        ("2026.4.1", "9" * 5000),
        ("2026.4.1", "\u0662\u0660\u0662\u0669.\u0661"),
    ],
)
def test_a_version_as_new_or_unknown_will_do(installed: str, written_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "get_version", lambda: installed)
    core.require_version(written_by, "unet:3")


@pytest.mark.parametrize("installed", ["2026.3.2", "2025.4.1", "2026.3.0-1-abc-releases/2026/3"])
def test_an_older_version_is_refused(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "get_version", lambda: installed)
    with pytest.raises(OpenVINOVersionError, match=r"unet:3 .*2026\.4\.1.*pip install 'openvino>=2026\.4'") as caught:
        core.require_version(FULL, "unet:3")
    assert isinstance(caught.value, IncompatibleError)
    restored = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (restored.found, restored.required) == (installed, FULL)


@pytest.mark.parametrize("was_enabled", [True, False])
def test_the_import_leaves_the_garbage_collector_as_it_was(was_enabled: bool) -> None:  # noqa: FBT001
    code = (
        f"import gc; from npu_persist.device import core; gc.enable() if {was_enabled} else gc.disable(); "
        "core.get_core(); print(gc.isenabled())"
    )
    assert run_python("-c", code).stdout.split() == [str(was_enabled)]
